"""Trained small networks, made once."""

from __future__ import annotations

import pytest
from small_nets import Faces, expression_net, face_classifier, make_faces, trained

from facenet2expnet.nets.classifier import ExpressionClassifier, FaceClassifier


@pytest.fixture(scope="session")
def faces() -> Faces:
    return make_faces()


@pytest.fixture(scope="session")
def trained_expression_net(faces: Faces) -> ExpressionClassifier:
    model = trained(expression_net(), faces)
    assert isinstance(model, ExpressionClassifier)
    return model


@pytest.fixture(scope="session")
def trained_face_net(faces: Faces) -> FaceClassifier:
    model = trained(face_classifier(), faces)
    assert isinstance(model, FaceClassifier)
    return model
