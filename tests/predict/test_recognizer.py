"""Prediction from files, folders and arrays, with bounded memory."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny
from facenet2expnet.errors import UserError
from facenet2expnet.faces import prepare
from facenet2expnet.predict.model_folder import Model
from facenet2expnet.predict.recognizer import Recognizer
from facenet2expnet.predict.scores import class_probabilities


def test_files_arrays_and_folders_give_the_same_probabilities(saved: Path, tmp_path: Path) -> None:
    recognizer = Recognizer.load(saved)
    folder = tmp_path / "some pictures é"
    folder.mkdir()
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(3)]
    for number, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no")
    from_folder = recognizer.predict(folder)
    from_arrays = recognizer.predict(pictures)
    assert np.array_equal(from_folder.probabilities, from_arrays.probabilities)
    assert [skipped.image for skipped in from_folder.skipped] == [str(folder / "broken.png")]
    assert np.allclose(from_arrays.probabilities.sum(axis=1), 1)
    assert np.array_equal(recognizer.predict(np.stack(pictures)).probabilities, from_arrays.probabilities)
    table = from_folder.table()
    assert list(table.columns) == [
        "image",
        "predicted",
        "probability",
        *(f"p_{name}" for name in tiny.CLASSES),
    ]
    assert list(table["predicted"]) == from_folder.labels


def test_invalid_input(saved: Path, tmp_path: Path) -> None:
    recognizer = Recognizer.load(saved)
    with pytest.raises(UserError, match="there is no such picture or folder"):
        recognizer.predict("nowhere.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no pictures in this folder"):
        recognizer.predict(tmp_path / "empty")
    with pytest.raises(UserError, match=r"expected a picture \(H, W, 3\) uint8 RGB, got \(4, 4\) float64"):
        recognizer.predict([np.zeros((4, 4))])
    with pytest.raises(UserError, match=r"got \(0, 0, 3\) uint8"):
        recognizer.predict(np.zeros((0, 0, 3), np.uint8))
    assert recognizer.predict([]).probabilities.shape == (0, 3)
    (tmp_path / "bad.png").write_bytes(b"no")
    nothing = recognizer.predict(tmp_path / "bad.png")
    assert len(nothing) == 0
    assert len(nothing.table()) == 0
    tall = recognizer.predict([np.zeros((1, 90, 3), np.uint8), np.zeros((500, 7, 3), np.uint8)])
    assert len(tall) == 2


def test_memory_does_not_grow_with_the_number_of_pictures(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 2,000 crops, at most one batch and those that the threads work on are alive."""
    path = tmp_path / "face.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (44, 44, 3), dtype=np.uint8)).save(path)
    made, freed, most_alive = [], [], 0
    crop_file = prepare.crop_file

    def watched(*args, **kwargs):  # type: ignore[no-untyped-def]
        nonlocal most_alive
        result = crop_file(*args, **kwargs)
        assert result.crop is not None
        made.append(1)
        weakref.finalize(result.crop, freed.append, 1)
        most_alive = max(most_alive, len(made) - len(freed))
        return result

    monkeypatch.setattr(prepare, "crop_file", watched)
    found = Recognizer(model).predict([path] * 2000, workers=2)
    assert (len(found), len(made)) == (2000, 2000)
    assert most_alive <= 64 + 4 * 2 + 4


def test_batches_are_those_of_class_probabilities(model: Model) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (150, 40, 40, 3), dtype=np.uint8)
    found = Recognizer(model).predict(pictures).probabilities
    np.testing.assert_array_equal(found, class_probabilities(model.module, pictures, 32))
