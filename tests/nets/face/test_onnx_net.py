"""ONNX face nets as frozen teachers: agreement with PyTorch, inner maps as taps, files that will not do."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from facenet2expnet.errors import UserError
from facenet2expnet.nets import face
from facenet2expnet.nets.face.download import file_sha256
from facenet2expnet.nets.face.onnx_net import OnnxNet, external_files
from local_server import Server

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SIDE = 12


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"w1": (4, 3, 3, 3), "w2": (6, 4, 3, 3), "w3": (216, 5)}
    return {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}


def write(
    path: Path, *, batch: int | str = "N", side: int | str = SIDE, layout: str = "NCHW", inputs: int = 1
) -> Path:
    """Convolution 12x12, ReLU, convolution to 6x6, ReLU, flatten, matrix product: an ONNX face net in small."""
    helper, kinds = onnx.helper, onnx.TensorProto
    shape = [batch, 3, side, side] if layout == "NCHW" else [batch, side, side, 3]
    picture = helper.make_tensor_value_info("picture", kinds.FLOAT, shape)
    more = [helper.make_tensor_value_info(f"more{k}", kinds.FLOAT, [1]) for k in range(inputs - 1)]
    nodes = [helper.make_node("Transpose", ["picture"], ["x"], perm=[0, 3, 1, 2])] if layout == "NHWC" else []
    nodes += [
        helper.make_node("Conv", ["x" if nodes else "picture", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Flatten", ["r2"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w3"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "face",
        [picture, *more],
        [helper.make_tensor_value_info("embedding", kinds.FLOAT, [batch, 5])],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights().items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def write_apart(path: Path) -> Path:
    """The same with its weights in a file beside it, as torch.onnx.export writes them."""
    model = onnx.load(write(path))
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)
    assert path.stat().st_size < 2000 < Path(f"{path}.data").stat().st_size
    return path


def write_half(path: Path) -> Path:
    """The same in half precision: its input, its weights and its output."""
    model, half = onnx.load(write(path)), onnx.TensorProto.FLOAT16
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = half
    for value in model.graph.initializer:
        numbers = onnx.numpy_helper.to_array(value).astype(np.float16)
        value.CopyFrom(onnx.numpy_helper.from_array(numbers, value.name))
    onnx.save(model, path)
    return path


def build(
    path: Path,
    tail: list[Any],
    constants: dict[str, Any],
    outputs: dict[str, list[Any]],
    batch: int | str = "N",
) -> Path:
    """The two convolutions of `write`, and other nodes behind their last map, r2."""
    helper, kinds = onnx.helper, onnx.TensorProto
    model = onnx.load(write(path, batch=batch))
    kept = list(model.graph.node)[:4]
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.extend([*kept, *(helper.make_node(*node[:3], **node[3]) for node in tail)])
    model.graph.output.extend(
        helper.make_tensor_value_info(name, kinds.FLOAT, shape) for name, shape in outputs.items()
    )
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    onnx.save(model, path)
    return path


FLAT = ("Flatten", ["r2"], ["flat"], {})
EMBEDDING = ("MatMul", ["flat", "w3"], ["embedding"], {})


def test_a_net_that_takes_no_two_pictures_is_run_on_one_at_a_time(
    tmp_path: Path, crops: torch.Tensor
) -> None:
    flat = ("Reshape", ["r2", "one row"], ["flat"], {})
    path = build(
        tmp_path / "face.onnx", [flat, EMBEDDING], {"one row": np.array([1, -1])}, {"embedding": ["N", 5]}
    )
    net = face.load("onnx", path)
    assert net.info.notes[1].startswith("Two pictures at once do not go through this net")
    expected = reference((crops - 127.5) / 127.5)
    assert net.info.taps.items() >= {tap: tuple(v.shape[1:]) for tap, v in expected.items()}.items()
    for tap, value in net(crops, list(expected)).items():
        torch.testing.assert_close(value, expected[tap], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", ["N", 1])
def test_outputs_that_are_not_numbers_of_each_picture_are_no_taps(tmp_path: Path, batch: int | str) -> None:
    tail = [
        FLAT,
        EMBEDDING,
        ("Reshape", ["r2", "sequence"], ["tokens"], {}),
        ("ReduceMean", ["embedding"], ["one"], {"keepdims": 0}),
        ("Cast", ["embedding"], ["whole"], {"to": onnx.TensorProto.INT64}),
    ]
    outputs = {"embedding": [batch, 5], "tokens": [batch, 6, 36], "one": []}
    path = build(tmp_path / "face.onnx", tail, {"sequence": np.array([0, 6, 36])}, outputs, batch)
    model = onnx.load(path)
    model.graph.output.append(onnx.helper.make_tensor_value_info("whole", onnx.TensorProto.INT64, [batch, 5]))
    onnx.save(model, path)
    net = face.load("onnx", path)
    assert {"tokens", "one", "whole"}.isdisjoint(net.info.taps)
    assert (net.info.embedding, net.info.taps["embedding"]) == ("embedding", (5,))
    assert net.info.notes[1:] == (
        "No taps, since they are not numbers of each picture, (pictures, U) or (pictures, C, H, W): "
        "tokens ['N', 6, 36], one [], whole ['N', 5].".replace("'N'", repr(batch)),
    )


def test_an_output_that_drops_the_pictures_is_refused(tmp_path: Path) -> None:
    squeeze = ("Squeeze", ["wide", "axis"], ["embedding"], {})
    wide = ("MatMul", ["flat", "w3"], ["wide"], {})
    path = build(
        tmp_path / "face.onnx", [FLAT, wide, squeeze], {"axis": np.array([0])}, {"embedding": [5]}, 1
    )
    with pytest.raises(
        UserError, match=r"expected an output of numbers of each picture, .*; there is embedding \[5\]"
    ):
        face.load("onnx", path)


@pytest.mark.parametrize("batch", ["N", 1])
def test_a_constant_is_no_tap(tmp_path: Path, batch: int | str) -> None:
    kernel = np.random.default_rng(0).normal(size=(1, 6, 3, 3)).astype(np.float32)
    tail = [
        ("Identity", ["kernel"], ["kept"], {}),
        ("Conv", ["r2", "kept"], ["c3"], {"strides": [3, 3]}),
        ("Flatten", ["c3"], ["embedding"], {}),
    ]
    net = face.load(
        "onnx", build(tmp_path / "face.onnx", tail, {"kernel": kernel}, {"embedding": [batch, 4]}, batch)
    )
    assert net.info.taps == {"map12": (4, 12, 12), "map6": (6, 6, 6), "map2": (1, 2, 2), "embedding": (4,)}


def test_the_embedding_is_the_widest_vector(tmp_path: Path) -> None:
    tail = [FLAT, EMBEDDING, ("ReduceMean", ["embedding"], ["norm"], {"axes": [1]})]
    outputs = {"embedding": ["N", 5], "norm": ["N", 1], "r2": ["N", 6, 6, 6]}
    net = face.load("onnx", build(tmp_path / "face.onnx", tail, {}, outputs))
    assert (net.info.embedding, net.info.taps["norm"]) == ("embedding", (1,))


@pytest.mark.parametrize("settings", [None, {"licence": "CC0"}, {"mean_rgb": [1, 2, 3]}])
@pytest.mark.parametrize("steps", [("Sub", "Mul"), ("Mul", "Sub"), ("Sub",)])
def test_preprocessing_inside_the_file_is_not_done_twice(
    tmp_path: Path, crops: torch.Tensor, steps: tuple[str, ...], settings: dict[str, Any] | None
) -> None:
    path = write(tmp_path / "face.onnx")
    model, fed = onnx.load(path), "picture"
    for place, step in enumerate(steps):
        node = onnx.helper.make_node(step, [fed, f"of {step}"], [f"after {step}"])
        value = np.float32(100 if step == "Sub" else 0.5)
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), f"of {step}"))
        model.graph.node.insert(place, node)
        fed = f"after {step}"
    model.graph.node[len(steps)].input[0] = fed
    onnx.save(model, path)
    if settings is not None:
        path.with_suffix(".json").write_text(json.dumps(settings))
    net = face.load("onnx", path)
    taken_as_they_are = len(steps) == 2 and "mean_rgb" not in (settings or {})
    assert (
        any(n.startswith("The file shifts and scales pixels itself") for n in net.info.notes)
        == taken_as_they_are
    )
    inputs = (
        crops if taken_as_they_are else (crops - torch.tensor(net.info.mean_rgb).view(1, 3, 1, 1)) / 127.5
    )
    for step in steps:
        inputs = inputs - 100 if step == "Sub" else inputs * 0.5
    torch.testing.assert_close(
        net(crops, ["embedding"])["embedding"], reference(inputs)["embedding"], rtol=1e-4, atol=1e-3
    )


def reference(inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    w1, w2, w3 = (torch.from_numpy(value) for value in weights().values())
    large = functional.relu(functional.conv2d(inputs, w1, padding=1))
    small = functional.relu(functional.conv2d(large, w2, stride=2, padding=1))
    return {"map12": large, "map6": small, "embedding": small.flatten(1) @ w3}


@pytest.fixture
def crops() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0)).float()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("batch", ["N", 1])
def test_agrees_with_pytorch(tmp_path: Path, crops: torch.Tensor, layout: str, batch: int | str) -> None:
    net = face.load(f"onnx:{write(tmp_path / 'face.onnx', layout=layout, batch=batch)}")
    assert net.info.input_px == SIDE
    assert net.info.embedding == "embedding"
    assert net.info.default_tap == "map6"
    expected = reference((crops - 127.5) / 127.5)
    outputs = net(crops, list(net.info.taps))
    assert {"map12", "map6", "embedding"} <= set(outputs)
    for tap, value in expected.items():
        torch.testing.assert_close(outputs[tap], value, rtol=1e-5, atol=1e-5)
        assert net.info.taps[tap] == tuple(value.shape[1:])
        torch.testing.assert_close(net(crops, [tap])[tap], outputs[tap])


def test_preprocessing_beside_the_file(tmp_path: Path, crops: torch.Tensor) -> None:
    path = write(tmp_path / "face.onnx", side="S")
    settings = {
        "mean_rgb": [1, 2, 3],
        "scale": 4,
        "colour": "bgr",
        "input_px": SIDE,
        "licence": "CC0",
        "source": "x",
    }
    path.with_suffix(".json").write_text(json.dumps(settings))
    net = face.load("onnx", path)
    assert (net.info.licence, net.info.source, net.info.colour) == ("CC0", "x", "bgr")
    expected = reference(((crops - torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)) / 4).flip(1))
    torch.testing.assert_close(
        net(crops, ["embedding"])["embedding"], expected["embedding"], rtol=1e-5, atol=1e-4
    )


def test_faults_of_the_settings_are_all_named(tmp_path: Path) -> None:
    path = write(tmp_path / "face.onnx")
    beside = path.with_suffix(".json")
    beside.write_text(
        '{"means": [1, 2, 3], "mean_rgb": [1, 2], "scale": 0, "colour": "grey", "input_px": [12, 12], "licence": 5, '
        '"source": ["x"]}'
    )
    with pytest.raises(UserError) as error:
        face.load("onnx", path)
    assert str(error.value) == (
        f"{beside}: unknown key means; the keys are mean_rgb, scale, colour, input_px, licence, source; "
        "mean_rgb is [1, 2], expected three numbers in 0..255; scale is 0, expected a number above 0; "
        'colour is "grey", expected rgb or bgr; input_px is [12, 12], expected a whole number in 1..4096; '
        'licence is 5, expected text; source is ["x"], expected text'
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected JSON"),
        ("null", "expected {…} with any of the keys mean_rgb, .*, got None"),
        ('{"input_px": "12"}', 'input_px is "12"'),
        ('{"input_px": 12.5}', "input_px is 12.5"),
        ('{"input_px": true}', "input_px is true"),
        ('{"input_px": -12}', "input_px is -12"),
        ('{"input_px": 16}', "input_px is 16, expected 12 as face.onnx has it; leave input_px out"),
        ('{"mean_rgb": [NaN, 1, 2]}', "mean_rgb is .NaN, 1, 2]"),
        ('{"mean_rgb": [1, 2, 256]}', "mean_rgb is .1, 2, 256]"),
        ('{"scale": Infinity}', "scale is Infinity"),
        ('{"scale": true}', "scale is true"),
        ('{"scale": "2"}', 'scale is "2"'),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, content: str, message: str) -> None:
    path = write(tmp_path / "face.onnx")
    path.with_suffix(".json").write_text(content)
    with pytest.raises(UserError, match=rf"face\.json: {message}"):
        face.load("onnx", path)


def test_is_frozen_and_passes_no_gradient(tmp_path: Path, crops: torch.Tensor) -> None:
    net = face.load("onnx", write(tmp_path / "face.onnx")).train()
    assert net.trainable() == []
    assert not net.training
    assert not net(crops, ["embedding"])["embedding"].requires_grad
    with pytest.raises(UserError, match="no gradient passes through an ONNX face net"):
        net(crops.requires_grad_(), ["embedding"])


def test_copies_and_its_hash_follows_the_file(tmp_path: Path, crops: torch.Tensor) -> None:
    path = write(tmp_path / "face.onnx")
    net = face.load("onnx", path)
    twin = copy.deepcopy(net)
    torch.testing.assert_close(twin(crops, ["embedding"]), net(crops, ["embedding"]))
    assert face.weights_sha256(twin) == face.weights_sha256(net)
    other = onnx.load(path)
    other.graph.initializer[0].raw_data = bytes(len(other.graph.initializer[0].raw_data))
    onnx.save(other, tmp_path / "other.onnx")
    assert face.weights_sha256(face.load("onnx", tmp_path / "other.onnx")) != face.weights_sha256(net)


@pytest.mark.parametrize("package", ["onnx", "no onnx"])
def test_weights_in_a_file_beside_it(
    tmp_path: Path, crops: torch.Tensor, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    path = write_apart(tmp_path / "face.onnx")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    if package == "no onnx":
        monkeypatch.setitem(sys.modules, "onnx", None)
    net = face.load("onnx:face.onnx")
    assert ("map6" in net.info.taps) == (package == "onnx")
    expected = reference((crops - 127.5) / 127.5)
    monkeypatch.chdir(tmp_path / "elsewhere")
    for twin in (net, copy.deepcopy(net), face.load(f"onnx:{path}")):
        for tap, value in twin(crops, list(net.info.taps)).items():
            torch.testing.assert_close(value, expected[tap], rtol=1e-5, atol=1e-5)
        assert face.weights_sha256(twin) == face.weights_sha256(net)
    data = Path(f"{path}.data")
    data.write_bytes(bytes(data.stat().st_size))
    assert face.weights_sha256(face.load(f"onnx:{path}")) != face.weights_sha256(net)
    data.unlink()
    with pytest.raises(UserError, match=r"face\.onnx: expected an ONNX model, .*face\.onnx\.data"):
        face.load(f"onnx:{path}")


@pytest.mark.parametrize("length", [1, 40, 110, 120, 127, 128, 200])
def test_names_of_files_beside_it_are_read_whatever_their_length(tmp_path: Path, length: int) -> None:
    model, names = onnx.load(write(tmp_path / "face.onnx")), []
    for number, tensor in enumerate(model.graph.initializer):
        names.append(f"{number}".ljust(length, "x"))
        onnx.external_data_helper.set_external_data(tensor, names[-1])
    model.metadata_props.add(key="location", value="of the photographer")
    (tmp_path / "face.onnx").write_bytes(model.SerializeToString())
    assert external_files(tmp_path / "face.onnx") == names
    assert external_files(write(tmp_path / "whole.onnx")) == []


def test_half_precision(tmp_path: Path, crops: torch.Tensor) -> None:
    net = face.load(f"onnx:{write_half(tmp_path / 'face.onnx')}")
    expected = reference((crops - 127.5) / 127.5)
    outputs = net(crops, list(net.info.taps))
    assert {"map6", "embedding"} <= set(outputs)
    for tap, value in outputs.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[tap], rtol=1e-2, atol=1e-2)


def test_input_of_whole_numbers(tmp_path: Path) -> None:
    model = onnx.load(write(tmp_path / "face.onnx"))
    model.graph.input[0].name = "bytes"
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    cast = onnx.helper.make_node("Cast", ["bytes"], ["picture"], to=onnx.TensorProto.FLOAT)
    model.graph.node.insert(0, cast)
    onnx.save(model, tmp_path / "face.onnx")
    with pytest.raises(UserError, match=r"expected a picture of tensor\(float\).* wants tensor\(uint8\)"):
        face.load("onnx", tmp_path / "face.onnx")


def test_size_that_the_net_does_not_take(tmp_path: Path) -> None:
    path = write(tmp_path / "face.onnx", side="S")
    path.with_suffix(".json").write_text('{"input_px": 20}')
    with pytest.raises(UserError, match="expected a net for a picture of 20 x 20, ONNX Runtime can't run it"):
        face.load("onnx", path)


def test_what_was_taken_for_granted_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "face.onnx")
    (note,) = face.load("onnx", path).info.notes
    assert note == (
        f"There is no {path.with_suffix('.json')}, so ArcFace's preprocessing was taken: RGB, (pixel - 127.5) / 127.5."
    )
    path.with_suffix(".json").write_text("{}")
    assert face.load("onnx", path).info.notes == ()


@pytest.mark.parametrize("how", ["name", "weights"])
def test_of_hugging_face_with_the_settings_beside_it(hub: Server, tmp_path: Path, how: str) -> None:
    hub.files = {"face.onnx": write(tmp_path / "face.onnx").read_bytes(), "face.json": b'{"colour": "bgr"}'}
    reference = f"hf:owner/name@v1/sub/face.onnx#sha256={file_sha256(tmp_path / 'face.onnx')}"
    net = face.load(f"onnx:{reference}") if how == "name" else face.load("onnx", reference)
    assert (net.info.colour, net.info.source, net.info.notes) == ("bgr", reference, ())
    assert any("/owner/name/resolve/v1/sub/face.json" in request for request in hub.requests)


def test_of_hugging_face_without_settings(hub: Server, tmp_path: Path) -> None:
    hub.files = {"face.onnx": write(tmp_path / "face.onnx").read_bytes()}
    net = face.load("onnx:hf:owner/name/face.onnx")
    assert net.info.colour == "rgb"
    assert "so ArcFace's preprocessing was taken" in net.info.notes[0]


def test_of_a_url(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACENET2EXPNET_CACHE", str(tmp_path / "cache"))
    path = write(tmp_path / "face.onnx")
    server.files = {"face.onnx": path.read_bytes()}
    reference = f"{server.url}/face.onnx#sha256={file_sha256(path)}"
    net = face.load(f"onnx:{reference}")
    assert net.info.source == reference
    settings = tmp_path / "cache" / "weights" / f"{file_sha256(path)[:16]}-face.json"
    assert f"There is no {settings}, so ArcFace's" in net.info.notes[0]
    settings.write_text('{"colour": "bgr"}')
    assert face.load(f"onnx:{reference}").info.colour == "bgr"


def test_fetched_without_its_weights(hub: Server, tmp_path: Path) -> None:
    hub.files = {"face.onnx": write_apart(tmp_path / "face.onnx").read_bytes()}
    with pytest.raises(UserError, match=r"keeps weights in face\.onnx\.data beside it; download all"):
        face.load("onnx:hf:owner/name/face.onnx")


def test_two_files_for_one_net(tmp_path: Path) -> None:
    path = write(tmp_path / "face.onnx")
    assert face.load(f"onnx:{path}", face.GENERATED).info.name == f"onnx:{path}"
    with pytest.raises(UserError, match="names its file, expected no weights beside it"):
        face.load(f"onnx:{path}", write(tmp_path / "other.onnx"))


def test_without_the_package_onnx_the_outputs_alone_are_taps(
    tmp_path: Path, crops: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "face.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    net = face.load("onnx", path)
    assert list(net.info.taps) == ["embedding"]
    expected = reference((crops - 127.5) / 127.5)["embedding"]
    torch.testing.assert_close(net(crops, ["embedding"])["embedding"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"inputs": 2}, "expected an ONNX face net with one input, a picture; it has picture, more0"),
        ({"side": "S"}, r"no size in the file; state input_px in face\.json"),
        ({"batch": 4}, "the file fixes it at 4"),
    ],
)
def test_files_of_another_form(tmp_path: Path, form: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        OnnxNet(write(tmp_path / "face.onnx", **form), "onnx:face")


def test_input_that_is_no_picture(tmp_path: Path) -> None:
    helper, kinds = onnx.helper, onnx.TensorProto
    entry = helper.make_tensor_value_info("x", kinds.FLOAT, ["N", 7])
    node = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph(
        [node], "g", [entry], [helper.make_tensor_value_info("y", kinds.FLOAT, ["N", 7])]
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9),
        tmp_path / "x.onnx",
    )
    with pytest.raises(UserError, match=r"expected an input \(batch, 3, height, width\)"):
        face.load("onnx", tmp_path / "x.onnx")


def test_file_that_is_no_onnx_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "face.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="expected an ONNX model, ONNX Runtime can't read it"):
        face.load(f"onnx:{tmp_path / 'face.onnx'}")
    with pytest.raises(UserError, match="no such file"):
        face.load("onnx:none.onnx")
    with pytest.raises(UserError, match="expected onnx:PATH"):
        face.load("onnx")


def test_without_onnx_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "face.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        UserError, match=r'needs ONNX Runtime, which is not here; pip install "facenet2expnet\[onnx\]"'
    ):
        face.load("onnx", path)
