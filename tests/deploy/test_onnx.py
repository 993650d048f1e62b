"""Export to ONNX: the same answers as PyTorch, or nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tiny
from facenet2expnet.crop import CropContract
from facenet2expnet.deploy import agreement, onnx, quantise
from facenet2expnet.deploy import faces as real_faces
from facenet2expnet.deploy.onnx import export, to_graph, with_metadata
from facenet2expnet.errors import UserError
from facenet2expnet.nets.classifier import ExpressionClassifier, FaceClassifier
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.predict.model_folder import Model
from facenet2expnet.predict.onnx_model import load_onnx
from facenet2expnet.predict.scores import class_probabilities

onnx_package = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")


@pytest.fixture
def graph_once(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The graph of `model`, translated once for all tests."""
    monkeypatch.setattr(onnx, "to_graph", lambda model: tiny_onnx.read_bytes())
    return tiny_onnx.read_bytes()


@pytest.mark.usefixtures("graph_once")
def test_a_file_says_what_it_is_and_how_it_was_measured(saved: Path, model: Model, faces: Path) -> None:
    out = saved / "made" / "small.onnx"
    made = export(saved, out, data=faces)
    loaded = load_onnx(out)
    np.testing.assert_allclose(loaded(tiny.faces(60)), class_probabilities(model.module, tiny.faces(60), 32), atol=1e-5)
    assert (loaded.classes, loaded.contract) == (model.classes, model.contract)
    kept = loaded.session.get_modelmeta().custom_metadata_map
    assert kept["format"] == "facenet2expnet-onnx-1"
    assert kept["licence"] == "not stated"
    assert kept["origin"] == "fn2en of facenet2expnet, trained on unknown data"
    record = json.loads(kept["export"])
    assert record["precision"] == "float32"
    assert record["agreement"] == made.agreement.to_dict()
    assert made.agreement.faces == 60
    assert made.agreement.largest_difference <= 1e-5
    assert made.agreement.labelled == 45
    assert made.agreement.accuracy_after == 100
    assert made.size == out.stat().st_size
    assert [path.name for path in out.parent.iterdir()] == ["small.onnx"]


def test_any_number_of_uint8_crops_goes_in(tiny_onnx: Path) -> None:
    loaded = load_onnx(tiny_onnx)
    assert [(i.name, i.type, i.shape) for i in loaded.session.get_inputs()] == [
        ("crops", "tensor(uint8)", ["N", 32, 32, 3])
    ]
    assert [(o.name, o.type, o.shape) for o in loaded.session.get_outputs()] == [
        ("probabilities", "tensor(float)", ["N", 3])
    ]
    assert [loaded.probabilities(np.zeros((n, 32, 32, 3), np.uint8)).shape for n in (0, 1, 3)] == [
        (0, 3), (1, 3), (3, 3)
    ]  # fmt: skip


def test_no_path_of_this_machine_is_in_a_file(tiny_onnx: Path) -> None:
    assert str(Path(__file__).parent.parent.parent).encode() not in tiny_onnx.read_bytes()
    assert b"site-packages" not in tiny_onnx.read_bytes()


@pytest.mark.usefixtures("tiny_face_net")
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pooled", "residual", "face net"])
def test_every_kind_of_network(kind: str) -> None:
    """A pooling between sides that do not divide, batch norms and shortcuts, a fine-tuned face net."""
    torch.manual_seed(0)
    contract = CropContract(stored_px=40, crop_px=40 if kind == "pooled" else 32)
    if kind == "face net":
        module: nn.Module = FaceClassifier(tiny.TinyFaceNet(), 3, head_norm=True, head_dropout=0.5)
    else:
        bridge = (8, 3, 3) if kind == "pooled" else (8, 2, 2)
        blocks = "residual" if kind == "residual" else "plain"
        net = ExpNet(
            3, input_px=contract.crop_px, bridge_chw=bridge, width=0.1, hidden=8, blocks=blocks,
            batch_norm=kind == "residual", pool_to_tap=kind == "pooled",
        )  # fmt: skip
        module = ExpressionClassifier(net, (100.0, 127.5, 90.0), contract.scale)
    for name, value in module.named_buffers():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
    model = Model(module.eval(), tiny.CLASSES, contract, {})
    found = load_onnx(with_metadata(to_graph(model), model, {}), "cpu")(tiny.faces(5))
    np.testing.assert_allclose(found, class_probabilities(module, tiny.faces(5), contract.crop_px), atol=1e-5)


def test_a_file_that_differs_is_not_written(
    saved: Path, faces: Path, tmp_path: Path, graph_once: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = onnx_package.load_from_string(graph_once)
    (weights,) = (t for t in changed.graph.initializer if t.name.endswith("head.scores.bias"))
    values = onnx_package.numpy_helper.to_array(weights) + np.array([0.01, 0, 0], np.float32)
    weights.CopyFrom(onnx_package.numpy_helper.from_array(values, weights.name))
    monkeypatch.setattr(onnx, "to_graph", lambda model: changed.SerializeToString())
    with pytest.raises(UserError, match=r"nothing was written: the ONNX file differs from PyTorch by \d\.\de-03"):
        export(saved, tmp_path / "a.onnx", data=faces)
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.usefixtures("graph_once")
@pytest.mark.parametrize(("precision", "largest"), [("float16", 0.02), ("int8", 0.3)])
def test_fewer_bits(saved: Path, faces: Path, precision: str, largest: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "MAX_CHANGED", 10.0)  # of 30 faces one is more than a percent
    whole = export(saved, saved / "whole.onnx", data=faces)
    made = export(saved, saved / "made.onnx", precision=precision, data=faces, max_drop=10)
    assert made.size < 0.7 * whole.size
    assert (made.agreement.faces, made.calibrated_on) == ((60, 0) if precision == "float16" else (30, 30))
    assert whole.agreement.largest_difference < made.agreement.largest_difference < largest
    assert made.agreement.accuracy_after is not None
    loaded = load_onnx(made.path)
    assert loaded.metadata["export"]["precision"] == precision
    assert loaded.metadata["export"]["agreement"]["changed"] == made.agreement.changed
    assert loaded(tiny.faces(70)).dtype == np.float32


def test_int8_is_calibrated_on_some_people_and_measured_on_others(
    saved: Path, faces: Path, graph_once: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []
    measured: list[int] = []
    real = agreement.compare

    def to_int8(graph: bytes, crops: np.ndarray) -> bytes:
        seen.append(crops)
        return graph

    def compare(before: np.ndarray, after: np.ndarray, labels: np.ndarray, data: str) -> Any:
        measured.append(len(before))
        return real(before, after, labels, data)

    monkeypatch.setattr(quantise, "to_int8", to_int8)
    monkeypatch.setattr(agreement, "compare", compare)
    export(saved, saved / "a.onnx", precision="int8", data=faces)
    assert [crops.shape for crops in seen] == [(30, 32, 32, 3)]
    assert measured == [60, 30]
    assert all(any(np.array_equal(crop, face) for face in tiny.faces(60)[:, 4:36, 4:36]) for crop in seen[0])


def test_int8_that_changes_answers_is_not_written(
    saved: Path, faces: Path, graph_once: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (saved / "a.onnx").write_bytes(b"older")
    worse = quantise.to_int8(graph_once, np.full((2, 32, 32, 3), 128, np.uint8))  # every range is far too small
    monkeypatch.setattr(quantise, "to_int8", lambda graph, crops: worse)
    with pytest.raises(UserError, match=r"in int8, on faces of faces, accuracy falls by .* % of the answers change"):
        export(saved, saved / "a.onnx", precision="int8", data=faces)
    assert (saved / "a.onnx").read_bytes() == b"older"


@pytest.mark.usefixtures("graph_once")
def test_the_bundled_sample_is_used_without_data(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_faces, "_sample", lambda count, most: np.arange(0, count, max(1, count // 12)))
    made = export(saved, saved / "a.onnx")
    assert made.agreement.data == "the bundled sample"
    assert 12 <= made.agreement.faces <= 14


def test_bad_arguments(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"a\.bin: expected a name that ends in \.onnx"):
        export(saved, "a.bin")
    with pytest.raises(UserError, match="precision is 'int4', expected one of float32, float16, int8"):
        export(saved, "a.onnx", precision="int4")
    with pytest.raises(UserError, match="nowhere: there is no such model folder"):
        export("nowhere", "a.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(UserError, match=r'export needs the package onnxscript; pip install "facenet2expnet\[onnx\]"'):
        export(saved, "a.onnx")
