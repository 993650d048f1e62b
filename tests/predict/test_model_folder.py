"""Models on disk: the same scores after saving, damaged files, finding the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tiny
from facenet2expnet.crop import CropContract
from facenet2expnet.errors import UserError
from facenet2expnet.nets.classifier import FaceClassifier
from facenet2expnet.predict.model_folder import Model, find_model, load_model, save_model


def test_saved_model_gives_the_same_scores(model: Model, saved: Path) -> None:
    crops = torch.rand(2, 3, 32, 32) * 255
    loaded = load_model(saved)
    assert torch.equal(loaded.module(crops), model.module(crops))
    assert (loaded.classes, loaded.contract, loaded.metadata["method"]) == (
        tiny.CLASSES,
        model.contract,
        "fn2en",
    )
    assert sorted(path.name for path in saved.iterdir()) == ["model.json", "model.safetensors"]


@pytest.mark.usefixtures("tiny_face_net")
def test_fine_tuned_face_net_is_saved_whole(tmp_path: Path) -> None:
    module = FaceClassifier(tiny.TinyFaceNet(), 3, head_norm=True, head_dropout=0.5).eval()
    with torch.no_grad():
        module.face_net.early.weight += 1
    save_model(Model(module, tiny.CLASSES, CropContract(stored_px=40, crop_px=32), {}), tmp_path)
    crops = torch.rand(2, 3, 32, 32) * 255
    assert torch.equal(load_model(tmp_path).module(crops), module(crops))


def test_damaged_files_are_named(saved: Path) -> None:
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
    with pytest.raises(UserError, match=r"model\.safetensors: not the weights of this model: .*size mismatch"):
        load_model(saved)
    card.write_text(json.dumps({k: v for k, v in json.loads(text).items() if k != "classes"}))
    with pytest.raises(UserError, match="'classes' is missing"):
        load_model(saved)
    for damaged in (
        [],
        {},
        {"architecture": {"kind": "expression-net", "depth": 3}},
        {"contract": {"stored_px": "72"}},
    ):
        card.write_text(json.dumps({**json.loads(text), **damaged} if damaged else damaged))
        with pytest.raises(UserError, match=r"model\.json: .*expected a"):
            load_model(saved)


@pytest.mark.parametrize(("contract", "side"), [({}, CropContract().crop_px), ({"crop_px": 64, "stored_px": 72}, 64)])
def test_crops_of_another_side_than_the_network_takes_are_refused(
    saved: Path, contract: dict[str, int], side: int
) -> None:
    """Most nets could not compute on them, and those with pooled maps would give other scores."""
    card = json.loads((saved / "model.json").read_text())
    (saved / "model.json").write_text(json.dumps(card | {"contract": contract}))
    with pytest.raises(UserError, match=rf"model\.json: input_px is 32, and the crops have {side} pixels; expected a"):
        load_model(saved)


def test_find_model(model: Model, saved: Path, tmp_path: Path) -> None:
    assert find_model(tmp_path) == saved
    with pytest.raises(UserError, match="there is no such model folder"):
        find_model(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no model\.json in it"):
        find_model(tmp_path / "empty")
    save_model(model, tmp_path / "fold-1" / "fn2en")
    assert find_model(tmp_path) == saved
    saved.rename(tmp_path / "other")
    with pytest.raises(UserError, match="2 models are below it"):
        find_model(tmp_path)


def test_model_of_an_earlier_version_is_loaded(model: Model, saved: Path) -> None:
    """Its contract has the key colour and no aligned_px."""
    card = json.loads((saved / "model.json").read_text())
    del card["contract"]["aligned_px"]
    card["contract"]["colour"] = "rgb"
    (saved / "model.json").write_text(json.dumps(card))
    assert load_model(saved).contract == model.contract


def test_saving_deletes_an_exported_file_of_the_model_before(model: Model, saved: Path) -> None:
    (saved / "model.onnx").write_bytes(b"another model's")
    save_model(model, saved)
    assert not (saved / "model.onnx").exists()


def test_a_file_is_not_taken_for_a_model_beside_it(saved: Path) -> None:
    (saved / "other.onnx").touch()
    with pytest.raises(UserError, match=r"other\.onnx: expected a model folder or a run folder, got a file"):
        find_model(saved / "other.onnx")
    assert find_model(saved / "model.json") == saved
