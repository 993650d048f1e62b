"""Models on disk and at work: the same answer after saving, damaged files, every kind of picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from facenet2expnet.crop import CropContract
from facenet2expnet.errors import UserError
from facenet2expnet.nets.classifier import ExpressionClassifier, FaceClassifier
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.predict.model_folder import Model, find_model, load_model, save_model
from facenet2expnet.predict.recognizer import Recognizer

CONTRACT = CropContract(stored_px=40, crop_px=32)


def expression_model() -> Model:
    torch.manual_seed(0)
    net = ExpNet(3, input_px=32, bridge_chw=(8, 2, 2), width=0.1, hidden=8)
    net.bridge.set_affine(torch.rand(8, 2, 2), torch.rand(8, 2, 2) + 1)
    return Model(
        ExpressionClassifier(net, CONTRACT.mean, CONTRACT.scale).eval(),
        tiny.CLASSES,
        CONTRACT,
        {"method": "fn2en"},
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(expression_model(), tmp_path / "model")
    return tmp_path / "model"


def test_a_saved_model_gives_the_same_scores(saved: Path) -> None:
    crops = torch.rand(2, 3, 32, 32) * 255
    loaded = load_model(saved)
    assert torch.equal(loaded.module(crops), expression_model().module(crops))
    assert (loaded.classes, loaded.contract, loaded.metadata["method"]) == (tiny.CLASSES, CONTRACT, "fn2en")
    assert sorted(path.name for path in saved.iterdir()) == ["model.json", "model.safetensors"]


@pytest.mark.usefixtures("tiny_face_net")
def test_a_fine_tuned_face_net_is_saved_whole(tmp_path: Path) -> None:
    module = FaceClassifier(tiny.TinyFaceNet(), 3, head_norm=True, head_dropout=0.5).eval()
    with torch.no_grad():
        module.face_net.early.weight += 1
    save_model(Model(module, tiny.CLASSES, CONTRACT, {}), tmp_path)
    crops = torch.rand(2, 3, 32, 32) * 255
    assert torch.equal(load_model(tmp_path).module(crops), module(crops))


def test_damaged_models_are_named(saved: Path) -> None:
    weights, card = saved / "model.safetensors", saved / "model.json"
    whole, text = weights.read_bytes(), card.read_text()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"model\.safetensors: not a whole safetensors file"):
        load_model(saved)
    weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: there is no such file"):
        load_model(saved)
    weights.write_bytes(whole)
    card.write_text(text[: len(text) // 2])
    with pytest.raises(UserError, match=r"model\.json: can't be read"):
        load_model(saved)
    card.write_text(json.dumps({**json.loads(text), "classes": ["a", "b"]}))
    with pytest.raises(
        UserError, match=r"model\.safetensors: not the weights of this model: .*size mismatch"
    ):
        load_model(saved)
    card.write_text(json.dumps({k: v for k, v in json.loads(text).items() if k != "classes"}))
    with pytest.raises(UserError, match="'classes' is missing"):
        load_model(saved)


def test_find_model(saved: Path, tmp_path: Path) -> None:
    assert find_model(tmp_path) == saved
    with pytest.raises(UserError, match="there is no such model folder"):
        find_model(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no model\.json in it"):
        find_model(tmp_path / "empty")
    save_model(expression_model(), tmp_path / "fold-1" / "fn2en")
    assert find_model(tmp_path) == saved
    saved.rename(tmp_path / "other")
    with pytest.raises(UserError, match="2 models are below it"):
        find_model(tmp_path)


def test_files_arrays_and_folders_give_the_same(saved: Path, tmp_path: Path) -> None:
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


def test_odd_requests(saved: Path, tmp_path: Path) -> None:
    recognizer = Recognizer.load(saved)
    with pytest.raises(UserError, match="there is no such picture or folder"):
        recognizer.predict("nowhere.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no picture in this folder"):
        recognizer.predict(tmp_path / "empty")
    with pytest.raises(UserError, match=r"expected a picture \(H, W, 3\) uint8 RGB, got \(4, 4\) float64"):
        recognizer.predict([np.zeros((4, 4))])
    (tmp_path / "bad.png").write_bytes(b"no")
    nothing = recognizer.predict(tmp_path / "bad.png")
    assert len(nothing) == 0
    assert len(nothing.table()) == 0
    tall = recognizer.predict([np.zeros((1, 90, 3), np.uint8), np.zeros((500, 7, 3), np.uint8)])
    assert len(tall) == 2
