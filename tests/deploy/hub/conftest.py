from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tiny
from facenet2expnet.crop import CropContract
from facenet2expnet.nets.classifier import ExpressionClassifier
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.predict.model_folder import Model, save_model


@pytest.fixture
def model() -> Model:
    """An expression net of three classes with fixed random weights, for faces of 40 px."""
    contract = CropContract(stored_px=40, crop_px=32)
    torch.manual_seed(0)
    net = ExpNet(3, input_px=32, bridge_chw=(8, 2, 2), width=0.1, hidden=8)
    module = ExpressionClassifier(net, contract.mean, contract.scale).eval()
    metadata = {
        "recipe": {"name": "quick", "face_net": {"name": "dlib-resnet29"}},
        "trained_on": {"manifest": "my faces", "sha256": "12ab", "fold": "fold-1", "seed": 0, "pictures": 1184},
        "created": "2026-11-27T07:20:59+00:00",
        "versions": {"facenet2expnet": "0.1.0"},
        "protocol": "subject-groups",
        "method": "fn2en",
        "metrics": {"accuracy": 0.8359375},
    }
    return Model(module, tiny.CLASSES, contract, metadata)


@pytest.fixture
def saved(model: Model, tmp_path: Path) -> Path:
    save_model(model, tmp_path / "model")
    return tmp_path / "model"
