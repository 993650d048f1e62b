"""Any face net in an ONNX file, as a frozen teacher run by ONNX Runtime: onnx:PATH.

What the file does not say stands in a small JSON file of the same name beside it (face.onnx, face.json), with any of
the keys mean_rgb, scale, colour, input_px, licence, source. Without it ArcFace's preprocessing is taken, RGB,
(pixel - 127.5) / 127.5, or none where the file begins with such steps itself. The weights may lie in a file of their
own beside the model (face.onnx.data), as torch.onnx.export writes them.

Source: https://onnxruntime.ai
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facenet2expnet.errors import UserError
from facenet2expnet.nets.face.base import FaceNet, FaceNetInfo
from facenet2expnet.nets.face.download import file_sha256, first_line, from_hugging_face_if_there
from facenet2expnet.nets.face.weights import GENERATED, locate

INSTALL = 'pip install "facenet2expnet[onnx]"'
DEFAULTS: dict[str, Any] = {
    "mean_rgb": (127.5, 127.5, 127.5),
    "scale": 127.5,
    "colour": "rgb",
    "input_px": None,
    "licence": "of the file",
    "source": None,
}
LARGEST_INPUT_PX = 4096
LARGEST_NUMBER = 1e38
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
"""ONNX Runtime's name -> NumPy's, of the numbers that pictures may be given in."""
FIRST_NODES = 8
"""How many nodes at a file's beginning are looked at for preprocessing, as insightface's arcface_onnx.py does."""
EXTERNAL = re.compile(rb"j[\x80-\xff]?[\x00-\x7f]\n\x08location\x12([\x80-\xff]?[\x00-\x7f])")
"""Where a model names a file with weights of its own: TensorProto's field 13, its entry "location", before the name.

Read off the bytes, so that the package onnx is not needed to know whose weights these are.
"""


class OnnxNet(FaceNet):
    """A face net in an ONNX file. It has no parameters to train and passes no gradient.

    Its taps are the file's outputs and, where the package onnx is there, the last map of every size: map56 is the
    deepest layer of 56x56. Only numbers of each picture are taps, (pictures, U) or (pictures, C, H, W); two different
    pictures, at once or one by one, show which tensors hold such.

    Args:
        path: the .onnx file.
        name: what to call it.
        source: where it comes from, where the JSON file does not say; the file's name by default.
    Raises:
        UserError: If ONNX Runtime is missing, or the file is no ONNX model of one picture in, features out.
    """

    file_sha256: Tensor

    def __init__(self, path: Path, name: str, source: str = "") -> None:
        super().__init__()
        self.path = path.absolute()
        self.session = _session(path, path.read_bytes())
        if len(self.session.get_inputs()) != 1:
            names = ", ".join(entry.name for entry in self.session.get_inputs())
            raise UserError(f"{path}: expected an ONNX face net with one input, a picture; it has {names}")
        entry = self.session.get_inputs()[0]
        self.input_name = entry.name
        if entry.type not in DTYPES:
            raise UserError(f"{path}: expected a picture of {', '.join(DTYPES)}, the file wants {entry.type}")
        self.dtype = DTYPES[entry.type]
        model = _model(path)
        settings, notes = _settings(path, model is not None and _preprocesses(model, entry.name))
        self.channels_last, input_px, self.one_at_a_time = _input_form(
            path, entry.shape, settings["input_px"]
        )
        pixels = np.random.default_rng(0).uniform(0, 255, (2, 3, input_px, input_px))
        mean = np.reshape(settings["mean_rgb"], (3, 1, 1))
        pictures = ((pixels - mean) / settings["scale"]).astype(np.float32)
        outputs, said = self._outputs(pictures)
        self.content, maps = self._with_maps(model, pictures)
        self.session = _session(path, self.content)
        # Two nets are told apart by their parameters and buffers: here the hash of the files stands for them.
        sha256 = file_sha256(path, *(path.parent / other for other in external_files(path)))
        self.register_buffer("file_sha256", torch.tensor(list(bytes.fromhex(sha256)), dtype=torch.uint8))
        self.tensors = {f"map{_size(shape)}": tensor for tensor, shape in maps.items()}
        self.tensors |= {output: output for output in outputs}
        shapes = maps | outputs
        # A norm or an age may be given beside the embedding: that is the widest vector.
        embedding = max(outputs, key=lambda output: (len(outputs[output]) == 1, math.prod(outputs[output])))
        self.info = FaceNetInfo(
            name=name,
            input_px=input_px,
            mean_rgb=settings["mean_rgb"],
            scale=settings["scale"],
            colour=settings["colour"],
            taps={tap: shapes[tensor] for tap, tensor in self.tensors.items()},
            embedding=embedding,
            default_tap=f"map{_size(list(maps.values())[-1])}" if maps else embedding,
            licence=settings["licence"],
            source=settings["source"] or source or path.name,
            notes=(*notes, *said),
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"session": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.session = _session(self.path, self.content)

    def _outputs(self, pictures: np.ndarray) -> tuple[dict[str, tuple[int, ...]], list[str]]:
        """Output -> shape of what a picture has of it, where it can be a tap; notes on the others.

        Where two pictures at once do not go through the net and one does, it is run on one at a time from now on.

        Raises:
            UserError: If the net does not run on a picture, or has no output of this kind.
        """
        names = [output.name for output in self.session.get_outputs()]
        found: dict[str, np.ndarray] = {}
        notes = []
        if not self.one_at_a_time:
            with suppress(Exception):  # ONNX Runtime's own classes share no base of its own
                found = self._features(pictures, names)
            if not found:
                self.one_at_a_time = True
                notes = [
                    "Two pictures at once do not go through this net: it is run on one at a time, slowly."
                ]
        found = found or self._try(pictures, names)
        others = [f"{o.name} {o.shape}" for o in self.session.get_outputs() if o.name not in found]
        wanted = "numbers of each picture, (pictures, U) or (pictures, C, H, W)"
        if not found:
            raise UserError(f"{self.path}: expected an output of {wanted}; there is {', '.join(others)}")
        if others:
            notes.append(f"No taps, since they are not {wanted}: {', '.join(others)}.")
        return {name: values.shape[1:] for name, values in found.items()}, notes

    def _with_maps(self, model: Any, pictures: np.ndarray) -> tuple[bytes, dict[str, tuple[int, ...]]]:
        """The model with the last map of every size as a further output; tensor name -> (C, H, W), shallow to deep.

        What is the same for both pictures is a constant of the file, and no map.
        """
        if model is None:
            return self.path.read_bytes(), {}
        import onnx

        outputs = [output.name for output in self.session.get_outputs()]
        everything = [
            name for node in model.graph.node for name in node.output if name and name not in outputs
        ]
        probe = onnx.ModelProto()
        probe.CopyFrom(model)
        probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in everything)
        self.session = _session(self.path, probe.SerializeToString())
        shapes: dict[str, tuple[int, ...]] = {
            name: values.shape[1:]
            for name, values in self._try(pictures, everything).items()
            if values.ndim == 4 and max(values.shape[2:]) > 1 and not np.array_equal(values[0], values[1])
        }
        deepest = {_size(shape): name for name, shape in shapes.items()}
        chosen = [name for name in shapes if name in deepest.values()]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in chosen)
        return model.SerializeToString(), {name: shapes[name] for name in chosen}

    def _try(self, pictures: np.ndarray, tensors: list[str]) -> dict[str, np.ndarray]:
        """As `_features`.

        Raises:
            UserError: If the net does not run on the pictures.
        """
        try:
            return self._features(pictures, tensors)
        except Exception as error:  # ONNX Runtime's own classes share no base of its own
            side = pictures.shape[-1]
            raise UserError(
                f"{self.path}: expected a net for a picture of {side} x {side}, ONNX Runtime can't run it "
                f"({first_line(error)})"
            ) from error

    def _features(self, pictures: np.ndarray, tensors: list[str]) -> dict[str, np.ndarray]:
        """Those of the named tensors that hold numbers of each picture: (B, U) or (B, C, H, W)."""
        step = 1 if self.one_at_a_time else len(pictures)
        return {
            name: np.concatenate(values)
            for name, *values in zip(tensors, *self._parts(pictures, tensors), strict=True)
            if all(
                isinstance(value, np.ndarray)
                and value.dtype.kind == "f"
                and value.ndim in (2, 4)
                and len(value) == step
                and value.shape == values[0].shape
                for value in values
            )
        }

    def _parts(self, inputs: np.ndarray, tensors: list[str]) -> list[list[Any]]:
        """The named tensors for inputs (B, 3, H, W), in the file's own precision, run by run."""
        from onnxruntime import RunOptions

        options = RunOptions()
        options.only_execute_path_to_fetches = True
        if self.channels_last:
            inputs = np.ascontiguousarray(inputs.transpose(0, 2, 3, 1))
        inputs = inputs.astype(self.dtype, copy=False)
        step = 1 if self.one_at_a_time else max(len(inputs), 1)
        return [
            self.session.run(tensors, {self.input_name: inputs[start : start + step]}, options)
            for start in range(0, len(inputs), step)
        ]

    def _run(self, inputs: np.ndarray, tensors: list[str]) -> list[np.ndarray]:
        """The named tensors for inputs (B, 3, H, W), in the file's own precision."""
        parts = self._parts(inputs, tensors)
        return (
            parts[0] if len(parts) == 1 else [np.concatenate(values) for values in zip(*parts, strict=True)]
        )

    def features(self, inputs: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """Outputs of the named layers for preprocessed inputs; runs only what leads to them.

        Raises:
            UserError: If a gradient with respect to the inputs is wanted.
        """
        if inputs.requires_grad and torch.is_grad_enabled():
            raise UserError(
                f"{self.info.name}: no gradient passes through an ONNX face net; use a face net of PyTorch for this"
            )
        values = self._run(inputs.detach().float().cpu().numpy(), [self.tensors[tap] for tap in taps])
        return {
            tap: torch.from_numpy(value).to(inputs.device, torch.float32)
            for tap, value in zip(taps, values, strict=True)
        }


def _size(shape: tuple[int, ...]) -> str:
    """(C, H, W) -> "56", or "7x6" where it is not square."""
    height, width = shape[-2:]
    return str(height) if height == width else f"{height}x{width}"


def external_files(path: Path) -> list[str]:
    """Names, relative to the model's folder, of the files that it keeps weights in beside itself."""
    content, names = path.read_bytes(), set()
    for match in EXTERNAL.finditer(content):
        low, *high = match[1]
        length = (low & 0x7F) + (high[0] << 7 if high else 0)
        names.add(content[match.end() : match.end() + length].decode(errors="replace"))
    return sorted(names)


def _session(path: Path, content: bytes) -> Any:
    """An ONNX Runtime session on the fastest device that it has; the model's other files lie beside `path`."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"onnx:PATH needs ONNX Runtime, which is not here; {INSTALL}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what goes wrong comes as an exception; no need to log it too
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(path.absolute().parent)
    )
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [provider for provider in wanted if provider in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # ONNX Runtime's own classes share no base of its own
        raise UserError(
            f"{path}: expected an ONNX model, ONNX Runtime can't read it ({first_line(error)})"
        ) from error


def _input_form(path: Path, shape: list[Any], input_px: int | None) -> tuple[bool, int, bool]:
    """Whether channels come last, the side of the picture in pixels, whether the batch is fixed at one."""
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise UserError(
            f"{path}: expected an input (batch, 3, height, width) or (batch, height, width, 3), got {shape}"
        )
    channels_last = shape[1] != 3
    sides = shape[1:3] if channels_last else shape[2:4]
    beside = path.with_suffix(".json")
    fixed = {side for side in sides if isinstance(side, int)}
    if len(fixed) > 1:
        raise UserError(f"{path}: expected a net for square pictures, the file wants {sides[0]} x {sides[1]}")
    if fixed and input_px not in (None, *fixed):
        raise UserError(
            f"{beside}: input_px is {input_px}, expected {fixed.pop()} as {path.name} has it; leave input_px out"
        )
    if not fixed and input_px is None:
        raise UserError(
            f"{path}: expected a size for the picture, got no size in the file; state input_px in {beside.name} "
            "beside it"
        )
    batch = shape[0]
    if isinstance(batch, int) and batch not in (0, 1):
        raise UserError(f"{path}: expected a batch of any size or of one, the file fixes it at {batch}")
    return channels_last, int(input_px or fixed.pop()), batch == 1


def _model(path: Path) -> Any:
    """The model as the package onnx reads it, without weights beside it; None where the package is not there."""
    try:
        import onnx
    except ImportError:
        return None
    return onnx.load(path, load_external_data=False)


def _preprocesses(model: Any, input_name: str) -> bool:
    """Whether the file begins with a subtraction and a multiplication of constants, as files from MXNet do.

    Source: insightface, model_zoo/arcface_onnx.py, which goes by the nodes' names; here by what is fed to them.
    """
    nodes = model.graph.node[:FIRST_NODES]
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {name for node in nodes if node.op_type == "Constant" for name in node.output}
    pictures, steps = {input_name}, set()
    for node in nodes:
        if any(name in pictures for name in node.input) and set(node.input) <= pictures | constants:
            if node.op_type in ("Sub", "Add", "Mul", "Div"):
                steps.add("shift" if node.op_type in ("Sub", "Add") else "scale")
            elif node.op_type not in ("Cast", "Identity", "Transpose"):
                continue
            pictures.update(node.output)
    return steps == {"shift", "scale"}


def _settings(path: Path, preprocesses: bool) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The defaults, with what the JSON file beside the model says; a note on what was taken for granted.

    Args:
        path: of the model.
        preprocesses: whether the model begins with its own preprocessing.
    Raises:
        UserError: If the JSON file says what cannot be; all its faults are in one message.
    """
    beside = path.with_suffix(".json")
    given = _given(beside) if beside.is_file() else None
    if preprocesses and not {"mean_rgb", "scale"} & set(given or ()):
        note = (
            "The file shifts and scales pixels itself, so they go in as they are, 0 to 255; "
            f"mean_rgb and scale in {beside} can say otherwise."
        )
        return DEFAULTS | {"mean_rgb": (0.0, 0.0, 0.0), "scale": 1.0} | (given or {}), (note,)
    if given is None:
        note = f"There is no {beside}, so ArcFace's preprocessing was taken: RGB, (pixel - 127.5) / 127.5."
        return dict(DEFAULTS), (note,)
    return DEFAULTS | given, ()


def _given(beside: Path) -> dict[str, Any]:
    """What a JSON file says, checked, with floats for mean_rgb and scale."""
    try:
        given = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{beside}: expected JSON ({error})") from error
    keys = ", ".join(DEFAULTS)
    if not isinstance(given, dict):
        raise UserError(f"{beside}: expected {{…}} with any of the keys {keys}, got {given}")
    settings = DEFAULTS | given
    mean, scale, input_px = settings["mean_rgb"], settings["scale"], settings["input_px"]
    three = isinstance(mean, list | tuple) and len(mean) == 3
    checks = [
        ("mean_rgb", "three numbers in 0..255", three and all(_is_number(v) and 0 <= v <= 255 for v in mean)),
        ("scale", "a number above 0", _is_number(scale) and scale > 0),
        ("colour", "rgb or bgr", settings["colour"] in ("rgb", "bgr")),
        (
            "input_px",
            f"a whole number in 1..{LARGEST_INPUT_PX}",
            input_px is None or (type(input_px) is int and 1 <= input_px <= LARGEST_INPUT_PX),
        ),
        ("licence", "text", isinstance(settings["licence"], str)),
        ("source", "text", isinstance(settings["source"], str | None)),
    ]
    faults = [f"unknown key {key}; the keys are {keys}" for key in given if key not in DEFAULTS]
    faults += [
        f"{key} is {json.dumps(settings[key])}, expected {what}" for key, what, fits in checks if not fits
    ]
    if faults:
        raise UserError(f"{beside}: " + "; ".join(faults))
    if "mean_rgb" in given:
        given["mean_rgb"] = tuple(float(value) for value in mean)
    if "scale" in given:
        given["scale"] = float(scale)
    return given


def _is_number(value: object) -> bool:
    """Whether it is a number that 32 bits hold; true, NaN and Infinity, which JSON may bring, are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST_NUMBER


def load(weights: Path | None = None, name: str = "onnx") -> OnnxNet:
    """An ONNX face net, frozen.

    Args:
        weights: None or "generated": the file brings its weights.
        name: onnx:PATH; in place of the path, hf:owner/name/file or https://…#sha256=HEX. Beside a file of a Hugging
            Face repository the JSON file of the same name is fetched, if there is one.
    Raises:
        UserError: If the file is missing or is no ONNX face net, or ONNX Runtime is missing.
    """
    reference = name.partition(":")[2]
    if not reference:
        raise UserError("'onnx': expected onnx:PATH, or the path of the .onnx file as weights")
    if weights is not None and str(weights) != GENERATED:
        raise UserError(
            f"'{name}' names its file, expected no weights beside it, got {weights}; leave one out"
        )
    path = locate(reference)
    fetched = re.match("hf:|https?://", reference)
    if fetched and (others := external_files(path)):
        raise UserError(
            f"{reference}: expected a whole model in one file, this one keeps weights in {', '.join(others)} beside "
            "it; download all of them into one folder (of Hugging Face: `hf download owner/name --local-dir FOLDER`) "
            "and give the path of the .onnx file"
        )
    if reference.startswith("hf:"):
        in_repository = PurePosixPath(reference.removeprefix("hf:").partition("#")[0])
        from_hugging_face_if_there(str(in_repository.with_suffix(".json")))
    return OnnxNet(path, f"onnx:{path}", reference if fetched else "")
