"""Any face net in an ONNX file, as a frozen teacher run by ONNX Runtime: onnx:PATH.

What the file does not say stands in a small JSON file of the same name beside it (face.onnx, face.json), with any of
the keys mean_rgb, scale, colour, input_px, licence, source. Without it ArcFace's preprocessing is taken: RGB,
(pixel - 127.5) / 127.5. The weights may lie in a file of their own beside the model (face.onnx.data), as
torch.onnx.export writes them.

Source: https://onnxruntime.ai
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facenet2expnet.errors import UserError
from facenet2expnet.nets.face.base import FaceNet, FaceNetInfo
from facenet2expnet.nets.face.download import file_sha256, from_hugging_face_if_there
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
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
"""ONNX Runtime's name -> NumPy's, of the numbers that pictures may be given in."""
EXTERNAL = re.compile(rb"j[\x80-\xff]?[\x00-\x7f]\n\x08location\x12([\x80-\xff]?[\x00-\x7f])")
"""Where a model names a file with weights of its own: TensorProto's field 13, its entry "location", before the name.

Read off the bytes, so that the package onnx is not needed to know whose weights these are.
"""


class OnnxNet(FaceNet):
    """A face net in an ONNX file. It has no parameters to train and passes no gradient.

    Its taps are the file's outputs and, where the package onnx is there, the last map of every size: map56 is the
    deepest layer of 56x56.

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
        settings, notes = _settings(path)
        session = _session(path, path.read_bytes())
        if len(session.get_inputs()) != 1:
            names = ", ".join(entry.name for entry in session.get_inputs())
            raise UserError(f"{path}: expected an ONNX face net with one input, a picture; it has {names}")
        entry = session.get_inputs()[0]
        self.input_name = entry.name
        if entry.type not in DTYPES:
            raise UserError(f"{path}: expected a picture of {', '.join(DTYPES)}, the file wants {entry.type}")
        self.dtype = DTYPES[entry.type]
        self.channels_last, input_px, self.one_at_a_time = _input_form(
            path, entry.shape, settings["input_px"]
        )
        self.content, maps = self._with_maps(session, input_px)
        self.session = _session(path, self.content)
        # Two nets are told apart by their parameters and buffers: here the hash of the files stands for them.
        sha256 = file_sha256(path, *(path.parent / other for other in external_files(path)))
        self.register_buffer("file_sha256", torch.tensor(list(bytes.fromhex(sha256)), dtype=torch.uint8))
        self.tensors = {f"map{_size(shape)}": tensor for tensor, shape in maps.items()}
        outputs = [output.name for output in session.get_outputs()]
        self.tensors |= {output: output for output in outputs}
        values = self._try(input_px, list(self.tensors.values()))
        taps = {tap: tuple(value.shape[1:]) for tap, value in zip(self.tensors, values, strict=True)}
        self.info = FaceNetInfo(
            name=name,
            input_px=input_px,
            mean_rgb=settings["mean_rgb"],
            scale=settings["scale"],
            colour=settings["colour"],
            taps=taps,
            embedding=outputs[-1],
            default_tap=f"map{_size(list(maps.values())[-1])}" if maps else outputs[-1],
            licence=settings["licence"],
            source=settings["source"] or source or path.name,
            notes=notes,
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"session": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.session = _session(self.path, self.content)

    def _with_maps(self, session: Any, input_px: int) -> tuple[bytes, dict[str, tuple[int, ...]]]:
        """The model with the last map of every size as a further output; tensor name -> (C, H, W), shallow to deep."""
        try:
            import onnx
        except ImportError:
            return self.path.read_bytes(), {}
        model = onnx.load(self.path, load_external_data=False)
        outputs = [output.name for output in session.get_outputs()]
        everything = [
            name for node in model.graph.node for name in node.output if name and name not in outputs
        ]
        shapes = self._shapes(model, everything, input_px)
        deepest: dict[str, str] = {}
        for name in everything:
            if len(shapes.get(name, ())) == 4 and max(shapes[name][2:]) > 1:
                deepest[_size(shapes[name][1:])] = name
        chosen = [name for name in everything if name in deepest.values()]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in chosen)
        return model.SerializeToString(), {name: shapes[name][1:] for name in chosen}

    def _shapes(self, model: Any, names: list[str], input_px: int) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every inner tensor of numbers for one picture, found by running it."""
        import onnx

        probe = onnx.ModelProto()
        probe.CopyFrom(model)
        probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        self.session = _session(self.path, probe.SerializeToString())
        outputs = self._try(input_px, names)
        return {
            name: tuple(value.shape)
            for name, value in zip(names, outputs, strict=True)
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim and len(value) == 1
        }

    def _try(self, input_px: int, tensors: list[str]) -> list[np.ndarray]:
        """The named tensors for one black picture.

        Raises:
            UserError: If the net does not run on it.
        """
        try:
            return self._run(np.zeros((1, 3, input_px, input_px), np.float32), tensors)
        except Exception as error:  # ONNX Runtime's own classes share no base of its own
            raise UserError(
                f"{self.path}: expected a net for a picture of {input_px} x {input_px}, ONNX Runtime can't run it "
                f"({_first_line(error)})"
            ) from error

    def _run(self, inputs: np.ndarray, tensors: list[str]) -> list[np.ndarray]:
        """The named tensors for inputs (B, 3, H, W), in the file's own precision."""
        from onnxruntime import RunOptions

        options = RunOptions()
        options.only_execute_path_to_fetches = True
        if self.channels_last:
            inputs = np.ascontiguousarray(inputs.transpose(0, 2, 3, 1))
        inputs = inputs.astype(self.dtype, copy=False)
        step = 1 if self.one_at_a_time else max(len(inputs), 1)
        parts = [
            self.session.run(tensors, {self.input_name: inputs[start : start + step]}, options)
            for start in range(0, len(inputs), step)
        ]
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


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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
            f"{path}: expected an ONNX model, ONNX Runtime can't read it ({_first_line(error)})"
        ) from error


def _input_form(path: Path, shape: list[Any], input_px: int | None) -> tuple[bool, int, bool]:
    """Whether channels come last, the side of the picture in pixels, whether the batch is fixed at one."""
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise UserError(
            f"{path}: expected an input (batch, 3, height, width) or (batch, height, width, 3), got {shape}"
        )
    channels_last = shape[1] != 3
    sides = shape[1:3] if channels_last else shape[2:4]
    fixed = {side for side in sides if isinstance(side, int)} | ({input_px} if input_px else set())
    if len(fixed) != 1:
        what = f"sides {sides} in the file and input_px {input_px}" if fixed else "no size in the file"
        raise UserError(
            f"{path}: expected one size for a square picture, got {what}; state input_px in {path.stem}.json beside it"
        )
    batch = shape[0]
    if isinstance(batch, int) and batch not in (0, 1):
        raise UserError(f"{path}: expected a batch of any size or of one, the file fixes it at {batch}")
    return channels_last, int(fixed.pop()), batch == 1


def _settings(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The defaults, with what the JSON file beside the model says; a note where there is none."""
    beside = path.with_suffix(".json")
    if not beside.is_file():
        note = f"There is no {beside}, so ArcFace's preprocessing was taken: RGB, (pixel - 127.5) / 127.5."
        return dict(DEFAULTS), (note,)
    try:
        given = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{beside}: expected JSON ({error})") from error
    unknown = [key for key in given if key not in DEFAULTS] if isinstance(given, dict) else [str(given)]
    faults = [f"unknown key {key}; the keys are {', '.join(DEFAULTS)}" for key in unknown]
    settings = DEFAULTS | (given if not faults else {})
    mean = settings["mean_rgb"]
    if not (
        isinstance(mean, list | tuple) and len(mean) == 3 and all(isinstance(v, int | float) for v in mean)
    ):
        faults.append(f"mean_rgb is {mean}, expected three numbers in 0..255")
    if not (isinstance(settings["scale"], int | float) and settings["scale"] > 0):
        faults.append(f"scale is {settings['scale']}, expected a number above 0")
    if settings["colour"] not in ("rgb", "bgr"):
        faults.append(f"colour is {settings['colour']}, expected rgb or bgr")
    if faults:
        raise UserError(f"{beside}: " + "; ".join(faults))
    numbers = {"mean_rgb": tuple(float(value) for value in mean), "scale": float(settings["scale"])}
    return settings | numbers, ()


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
