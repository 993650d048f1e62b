"""ONNX face nets as frozen teachers: agreement with PyTorch, inner tensors as taps, files that do not fit."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checks import refusal
from torch.nn import functional

from facenet2expnet.errors import UserError
from facenet2expnet.nets import face
from local_server import Server

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

MODEL = """<ir_version: 9, opset_import: ["" : 17]>
face ({inputs}) => ({outputs}) {{
    {first}
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
    large = Relu (c1)
    c2 = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (large, w2)
    small = Relu (c2)
    flat = Flatten (small)
    embedding = MatMul (flat, w3)
    {last}
}}"""
"""A small face net; `large` is 12x12, `small` 6x6."""


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"w1": (4, 3, 3, 3), "w2": (6, 4, 3, 3), "w3": (216, 5)}
    return {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}


def write(
    path: Path,
    settings: dict[str, Any] | None = None,
    *,
    inputs: str = "float[N,3,12,12] picture",
    outputs: str = "float[N,5] embedding",
    first: str = "x = Identity (picture)",
    last: str = "",
    **save: Any,
) -> Path:
    """Write an ONNX face net and, with settings, its JSON file."""
    model = onnx.parser.parse_model(MODEL.format(inputs=inputs, outputs=outputs, first=first, last=last))
    dtype = np.float16 if "float16" in inputs else np.float32
    for name, value in weights().items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(dtype), name))
    onnx.save(model, path, **save)
    if settings is not None:
        path.with_suffix(".json").write_text(json.dumps(settings))
    return path


def reference(inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    w1, w2, w3 = (torch.from_numpy(value) for value in weights().values())
    large = functional.relu(functional.conv2d(inputs, w1, padding=1))
    small = functional.relu(functional.conv2d(large, w2, stride=2, padding=1))
    return {"large": large, "small": small, "embedding": small.flatten(1) @ w3}


def arcface(crops: torch.Tensor) -> torch.Tensor:
    return (crops - 127.5) / 127.5


@pytest.fixture
def crops() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 12, 12), generator=torch.Generator().manual_seed(0)).float()


@pytest.mark.parametrize("kind", ["float", "float16"])
@pytest.mark.parametrize("layout", ["3,12,12", "12,12,3"])
@pytest.mark.parametrize("batch", ["N", 1])
def test_agrees_with_pytorch(tmp_path: Path, crops: torch.Tensor, kind: str, layout: str, batch: int | str) -> None:
    perm = [0, 1, 2, 3] if layout.startswith("3") else [0, 3, 1, 2]
    path = write(
        tmp_path / "face.onnx",
        {"taps": ["large", "small"]},
        inputs=f"{kind}[{batch},{layout}] picture",
        outputs=f"{kind}[{batch},5] embedding",
        first=f"x = Transpose <perm = {perm}> (picture)",
    )
    net = face.load(f"onnx:{path}")
    assert net.info.taps == {"large": (4, 12, 12), "small": (6, 6, 6), "embedding": (5,)}
    assert (net.info.input_px, net.info.embedding, net.info.default_tap) == (12, "embedding", "small")
    outputs = net(crops, ["embedding", "small", "large"])
    within = 1e-5 if kind == "float" else 1e-2
    for tap, value in reference(arcface(crops)).items():
        torch.testing.assert_close(outputs[tap], value, rtol=within, atol=within)
        torch.testing.assert_close(net(crops, [tap])[tap], outputs[tap])


def test_without_a_settings_file_it_is_a_frozen_arcface(tmp_path: Path, crops: torch.Tensor) -> None:
    path = write(tmp_path / "face.onnx")
    net = face.load("onnx", path)
    assert net.info.taps == {"embedding": (5,)}
    assert (net.info.name, net.info.default_tap, net.info.source) == (f"onnx:{path}", "embedding", str(path))
    assert net.info.notes == (
        f"{path.with_suffix('.json')} gives no mean_rgb or scale; ArcFace's preprocessing is used: "
        "(pixel - 127.5) / 127.5.",
    )
    assert list(net.parameters()) == []
    output = net(crops, ["embedding"])["embedding"]
    torch.testing.assert_close(output, reference(arcface(crops))["embedding"], rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="no gradient passes through an ONNX face net"):
        net(crops.requires_grad_(), ["embedding"])


def test_settings_beside_the_file(tmp_path: Path, crops: torch.Tensor) -> None:
    settings = {
        "mean_rgb": [1, 2, 3],
        "scale": 4,
        "colour": "bgr",
        "input_px": 12,
        "licence": "CC0",
        "source": "x",
    }
    net = face.load("onnx", write(tmp_path / "face.onnx", settings, inputs="float[N,3,H,W] picture"))
    assert (net.info.licence, net.info.source, net.info.colour, net.info.notes) == ("CC0", "x", "bgr", ())
    expected = reference(((crops - torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)) / 4).flip(1))["embedding"]
    torch.testing.assert_close(net(crops, ["embedding"])["embedding"], expected, rtol=1e-5, atol=1e-4)


def test_all_faults_of_the_settings_are_named(tmp_path: Path) -> None:
    settings = {"means": 1, "mean_rgb": [1, 2, 256], "scale": 0, "colour": "grey", "input_px": True}
    path = write(tmp_path / "face.onnx", settings)
    message = refusal("onnx", path)
    assert all(f"{key}: " in message for key in ("mean_rgb.2", "scale", "colour", "input_px", "means"))
    assert message.endswith("the keys are mean_rgb, scale, colour, input_px, licence, source, taps")
    path.with_suffix(".json").write_text("{")
    assert "face.json: : Invalid JSON" in refusal("onnx", path)


@pytest.mark.parametrize("settings", [{}, {"mean_rgb": [127.5] * 3}])
def test_preprocessing_inside_the_file_is_not_done_twice(
    tmp_path: Path, crops: torch.Tensor, settings: dict[str, Any]
) -> None:
    first = """mean = Constant <value_float = 100.0> ()
    scale = Constant <value_float = 0.01> ()
    shifted = Sub (picture, mean)
    x = Mul (shifted, scale)"""
    net = face.load("onnx", write(tmp_path / "face.onnx", settings, first=first))
    assert any("the file shifts and scales pixels itself" in note for note in net.info.notes) == (not settings)
    expected = reference(((arcface(crops) if settings else crops) - 100) * 0.01)["embedding"]
    torch.testing.assert_close(net(crops, ["embedding"])["embedding"], expected, rtol=1e-4, atol=1e-4)


def test_embedding_is_the_widest_vector_and_other_outputs_are_left_out(tmp_path: Path) -> None:
    path = write(
        tmp_path / "face.onnx",
        {"taps": ["large", "small"]},  # one of them is an output already
        outputs="float[N,1] norm, float[N,5] embedding, int64[N,5] whole, float[N,6,6,6] small",
        last="norm = ReduceMean <axes = [1]> (embedding)\nwhole = Cast <to = 7> (embedding)",
    )
    net = face.load("onnx", path)
    assert net.info.taps == {"large": (4, 12, 12), "small": (6, 6, 6), "norm": (1,), "embedding": (5,)}
    assert net.info.embedding == "embedding"


def test_weights_in_a_file_beside_it(tmp_path: Path, crops: torch.Tensor) -> None:
    data = tmp_path / "face.onnx.data"
    path = write(tmp_path / "face.onnx", save_as_external_data=True, location=data.name, size_threshold=0)
    assert path.stat().st_size < 2000 < data.stat().st_size
    net = face.load(f"onnx:{path}")
    expected = reference(arcface(crops))["embedding"]
    torch.testing.assert_close(net(crops, ["embedding"])["embedding"], expected, rtol=1e-5, atol=1e-5)
    assert face.weights_sha256(face.load(f"onnx:{path}")) == face.weights_sha256(net)
    data.write_bytes(bytes(data.stat().st_size))  # other weights, another hash
    assert face.weights_sha256(face.load(f"onnx:{path}")) != face.weights_sha256(net)
    data.unlink()
    assert "face.onnx.data" in refusal(f"onnx:{path}")


def test_from_a_url_and_from_hugging_face(hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACENET2EXPNET_CACHE", str(tmp_path / "cache"))
    content = write(tmp_path / "face.onnx").read_bytes()
    hub.files = {"face.onnx": content}
    sha256 = hashlib.sha256(content).hexdigest()
    for source in (f"{hub.url}/face.onnx#sha256={sha256}", "hf:owner/name@v1/face.onnx"):
        net = face.load("onnx", source)
        assert (net.info.name, net.info.source) == (f"onnx:{source}", source)
        assert face.load(net.info.name, face.GENERATED).info == net.info


@pytest.mark.parametrize(
    ("form", "settings", "message"),
    [
        ({"inputs": "float[N,3,12,12] picture, float[1] more"}, {}, "it takes [('picture', "),
        ({"inputs": "uint8[N,3,12,12] picture", "first": "x = Cast <to = 1> (picture)"}, {}, "'tensor(uint8)'"),
        ({"inputs": "float[N,3,H,W] picture"}, {}, "its sides are ['H', 'W', None]; give input_px in face.json"),
        ({}, {"input_px": 16}, "its sides are [12, 12, 16]"),
        ({"inputs": "float[N,3,H,W] picture"}, {"input_px": 20}, "MatMul"),
        ({"inputs": "float[4,3,12,12] picture"}, {}, "Got invalid dimensions for input: picture"),
        ({"outputs": "float[N,6,36] y", "last": "s = Constant <value_ints = [0, 6, 36]> ()\ny = Reshape (small, s)"},
         {}, "its outputs are [('y', 'tensor(float)', ['N', 6, 36])]"),
        ({}, {"taps": ["none"]}, "none"),
    ],
)  # fmt: skip
def test_files_of_another_form(tmp_path: Path, form: dict[str, str], settings: dict[str, Any], message: str) -> None:
    expected, _, found = refusal("onnx", write(tmp_path / "face.onnx", settings, **form)).partition("; ")
    assert "expected an ONNX model with all its weights (in it or beside it), one floating-point input" in expected
    assert message in found


def test_wrong_references(tmp_path: Path) -> None:
    (tmp_path / "face.onnx").write_bytes(b"no model")
    assert "expected an ONNX model" in refusal(f"onnx:{tmp_path / 'face.onnx'}")
    assert "no such file" in refusal("onnx:none.onnx")
    assert "expected onnx:PATH and no weights" in refusal("onnx")
    assert "expected onnx:PATH and no weights" in refusal("onnx:none.onnx", tmp_path / "face.onnx")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    path = write(tmp_path / "face.onnx")
    monkeypatch.setitem(sys.modules, package, None)
    assert refusal("onnx", path).endswith('needs ONNX Runtime; pip install "facenet2expnet[onnx]"')
