"""The models of the package: their answers on 64 faces of the bundled sample are pinned."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from facenet2expnet.data import bundled
from facenet2expnet.data.pictures import read_picture
from facenet2expnet.faces.prepare import whole_picture
from facenet2expnet.files import read_json, write_json
from facenet2expnet.nets.classifier import LUMINANCE
from facenet2expnet.predict.model_folder import ONNX, SHIPPED, SHIPPED_NAMES
from facenet2expnet.predict.recognizer import Recognizer

PINNED = Path(__file__).with_name("shipped.json")
"""Name -> hash of the crops and rounded probabilities; `python tests/predict/test_shipped.py` writes it."""
FACES = 64


def crops_of(recognizer: Recognizer) -> np.ndarray:
    """The stored faces (64, S, S, 3) uint8 of the sample's pictures, evenly spaced."""
    images = bundled.read_sample()["image"]
    chosen = images.iloc[np.linspace(0, len(images) - 1, FACES).astype(int)]
    folder = bundled.sample_folder()
    return np.stack([whole_picture(read_picture(folder / image), recognizer.contract) for image in chosen])


def answers(model: str | Path) -> tuple[str, np.ndarray]:
    """Return the hash of the crops, and the probabilities (64, K)."""
    recognizer = Recognizer.load(model, "cpu")
    crops = crops_of(recognizer)
    return sha256(crops.tobytes()).hexdigest(), recognizer.probabilities(crops)


@pytest.mark.parametrize("file", [".", ONNX])
@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_answers_are_the_pinned_ones(name: str, file: str) -> None:
    """By PyTorch and by ONNX Runtime."""
    (crops, found), pinned = answers(SHIPPED / name / file), read_json(PINNED)[name]
    assert crops == pinned["crops_sha256"]
    np.testing.assert_allclose(found, pinned["probabilities"], atol=1e-4)


@pytest.mark.parametrize("file", [".", ONNX])
@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_colour_does_not_matter(name: str, file: str) -> None:
    """They learned from grey pictures only; the grey versions are rounded, which moves a probability by up to 0.03."""
    recognizer = Recognizer.load(SHIPPED / name / file, "cpu")
    crops = crops_of(recognizer)
    grey = (crops @ np.array(LUMINANCE)).round().astype(np.uint8)[..., None].repeat(3, axis=3)
    assert np.abs(crops.astype(int) - grey).mean() > 10
    np.testing.assert_allclose(recognizer.probabilities(crops), recognizer.probabilities(grey), atol=0.05)


@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_cards_say_what_they_should(name: str) -> None:
    recognizer = Recognizer.load(name, "cpu")
    about = recognizer.metadata
    assert recognizer.classes == ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
    assert recognizer.contract.framing is not None  # photographs are cut as its training pictures were
    assert "FER2013" in about["licence"]
    assert "claim nothing" in about["licence"]
    assert {"temperature", "prior_strength", "prior"} <= set(about["calibration"])
    assert "/" not in about["recipe"]["expnet"]["start"]  # no path of the machine that trained it
    assert {"accuracy", "balanced_accuracy", "pictures"} <= set(about["results"]["FER2013 PublicTest, FER+ majority"])


if __name__ == "__main__":
    pinned = {}
    for name in SHIPPED_NAMES:
        crops, found = answers(name)
        pinned[name] = {"crops_sha256": crops, "probabilities": found.astype(float).round(6).tolist()}
    write_json(PINNED, pinned)
