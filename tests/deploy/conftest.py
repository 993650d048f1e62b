from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

import tiny
from facenet2expnet.crop import CropContract
from facenet2expnet.nets.classifier import ExpressionClassifier
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.predict.model_folder import Model, save_model
from facenet2expnet.predict.recognizer import Recognizer
from facenet2expnet.predict.scores import class_probabilities

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


@pytest.fixture(scope="session")
def model() -> Model:
    return tiny.sure_model()


@pytest.fixture
def saved(model: Model, tmp_path: Path) -> Path:
    save_model(model, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="session")
def faces(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 60 faces of 20 people; 45 labels are the model's answers, the others are no class of it."""
    folder = tmp_path_factory.mktemp("faces")
    answers = class_probabilities(model.module, tiny.faces(60), 32).argmax(axis=1)
    rows = []
    for number, (pixels, answer) in enumerate(zip(tiny.faces(60), answers, strict=True)):
        Image.fromarray(pixels).save(folder / f"{number}.png")
        label = "boredom" if number % 4 == 3 else model.classes[answer]
        rows.append((f"{number}.png", label, f"S{number % 20}"))
    pd.DataFrame(rows, columns=["image", "label", "subject"]).to_csv(folder / "faces.csv", index=False)
    return folder / "faces.csv"
