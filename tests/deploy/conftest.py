from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import tiny
from facenet2expnet.crop import CropContract
from facenet2expnet.nets.classifier import ExpressionClassifier
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.predict.model_folder import Model
from facenet2expnet.predict.recognizer import Recognizer

sys.path.insert(0, str(Path(__file__).parent.parent / "predict"))


@pytest.fixture(scope="session")
def recognizer() -> Recognizer:
    """An expression net of three classes with fixed random weights, for faces of 40 px."""
    contract = CropContract(stored_px=40, crop_px=32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = ExpNet(3, input_px=32, bridge_chw=(8, 2, 2), width=0.1, hidden=8)
        net.bridge.set_affine(torch.rand(8, 2, 2), torch.rand(8, 2, 2) + 1)
    module = ExpressionClassifier(net, contract.mean, contract.scale).eval()
    metadata = {"method": "fn2en", "command": "fn2en train /home/me/faces"}
    return Recognizer(Model(module, tiny.CLASSES, contract, metadata), "cpu")
