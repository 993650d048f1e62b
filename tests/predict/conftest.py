from __future__ import annotations

from pathlib import Path

import pytest

import tiny
from facenet2expnet.predict.model_folder import Model, save_model


@pytest.fixture
def model() -> Model:
    """An expression net of three classes with fixed random weights, for faces of 40 px."""
    return tiny.tiny_model()


@pytest.fixture
def saved(model: Model, tmp_path: Path) -> Path:
    save_model(model, tmp_path / "model")
    return tmp_path / "model"
