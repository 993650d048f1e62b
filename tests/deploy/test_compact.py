"""Compact ONNX files: weights of 8 bits, the answers of a model whose weights are rounded alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from facenet2expnet.crop import CropContract
from facenet2expnet.deploy.compact import compact, share_weights
from facenet2expnet.deploy.onnx import to_graph, with_metadata
from facenet2expnet.files import write_atomic
from facenet2expnet.nets.classifier import ExpressionClassifier
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.predict.model_folder import ONNX, WEIGHTS, Model, load_model, save_model
from facenet2expnet.predict.onnx_model import load_onnx
from facenet2expnet.predict.scores import class_probabilities

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with batch norms that count, saved with weights of 8 bits."""
    torch.manual_seed(0)
    net = ExpNet(3, input_px=32, bridge_chw=(8, 4, 4), width=0.2, hidden=8, batch_norm=True, blocks="residual")
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, -1.5, 1.5)
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.2)
    contract = CropContract(stored_px=36, crop_px=32)
    folder = tmp_path_factory.mktemp("compact")
    module = ExpressionClassifier(net, contract.mean, contract.scale).eval()
    save_model(Model(module, tiny.CLASSES, contract, {}), folder, int8=True)
    return folder


@pytest.fixture(scope="module")
def graph(folder: Path) -> bytes:
    return to_graph(load_model(folder))


def faces(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 36, 36, 3), dtype=np.uint8)


def test_a_compact_graph_answers_as_the_rounded_model(folder: Path, graph: bytes) -> None:
    model, small = load_model(folder), compact(graph)
    found = load_onnx(with_metadata(small, model, {}), "cpu")(faces(9))
    expected = class_probabilities(model.module, faces(9), 32)
    assert np.ptp(expected, axis=0).max() > 0.01  # the faces differ
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert len(small) < 0.5 * len(graph)
    kernels = [w for w in onnx.load_from_string(small).graph.initializer if list(w.dims[2:]) == [3, 3]]
    assert len(kernels) == 9
    kinds = {w.name: w.data_type for w in kernels if w.data_type != onnx.TensorProto.INT8}
    assert kinds == {"module.net.convolutions.conv1.weight": onnx.TensorProto.FLOAT}


def test_the_weights_lie_in_the_folder_once(folder: Path, graph: bytes) -> None:
    model = load_model(folder)
    whole = with_metadata(compact(graph), model, {})
    shared = share_weights(whole, folder / WEIGHTS)
    write_atomic(folder / ONNX, shared)
    assert len(whole) - len(shared) > 0.8 * sum(
        value.numel() for name, value in model.module.state_dict().items() if name.endswith("weight") and value.ndim > 1
    )
    found, expected = load_onnx(folder / ONNX, "cpu"), load_onnx(whole, "cpu")
    np.testing.assert_array_equal(found(faces(5)), expected(faces(5)))
    assert found.classes == tiny.CLASSES


def test_the_weights_of_another_model_are_refused(folder: Path, graph: bytes, tmp_path: Path) -> None:
    model = load_model(folder)
    with torch.no_grad():
        for value in model.module.parameters():
            value.add_(torch.rand_like(value))
    save_model(model, tmp_path, int8=True)
    with pytest.raises(ValueError, match="which are not in it"):
        share_weights(compact(graph), tmp_path / WEIGHTS)
