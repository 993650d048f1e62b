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
    net.bridge.set_affine(torch.rand(8, 2, 2), torch.rand(8, 2, 2) + 1)
    module = ExpressionClassifier(net, contract.mean, contract.scale).eval()
    return Model(module, tiny.CLASSES, contract, {"method": "fn2en"})


@pytest.fixture
def saved(model: Model, tmp_path: Path) -> Path:
    save_model(model, tmp_path / "model")
    return tmp_path / "model"
