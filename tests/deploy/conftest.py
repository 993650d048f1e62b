from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

import tiny
from facenet2expnet.predict.model_folder import Model, save_model
from facenet2expnet.predict.scores import class_probabilities


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
