"""Small trained networks and their images, made once."""

from __future__ import annotations

import pytest
from small_nets import expression_net, face_classifier, make_inputs, trained

from facenet2expnet.analysis.inputs import EXPRESSION, FINE_TUNED, AnalysisInput


@pytest.fixture(scope="session")
def inputs() -> AnalysisInput:
    """The images with a trained face net and a trained expression net."""
    images = make_inputs()
    return make_inputs({FINE_TUNED: trained(face_classifier(), images), EXPRESSION: trained(expression_net(), images)})


@pytest.fixture(scope="session")
def student(inputs: AnalysisInput) -> AnalysisInput:
    """The images with the expression net."""
    return inputs.only(EXPRESSION)


@pytest.fixture(scope="session")
def teacher(inputs: AnalysisInput) -> AnalysisInput:
    """The images with the face net."""
    return inputs.only(FINE_TUNED)
