"""Any face net in an ONNX file, as a frozen teacher run by ONNX Runtime: onnx:PATH.

What the file does not say stands in a small JSON file of the same name beside it (face.onnx, face.json), with any of
the keys mean_rgb, scale, colour, input_px, licence, source. Without it ArcFace's preprocessing is taken: RGB,
(pixel - 127.5) / 127.5.

Source: https://onnxruntime.ai
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facenet2expnet.errors import UserError
from facenet2expnet.nets.face.base import FaceNet, FaceNetInfo
from facenet2expnet.nets.face.download import file_sha256
from facenet2expnet.nets.face.weights import locate

INSTALL = 'pip install "facenet2expnet[onnx]"'
DEFAULTS: dict[str, Any] = {
    "mean_rgb": (127.5, 127.5, 127.5),
    "scale": 127.5,
    "colour": "rgb",
    "input_px": None,
    "licence": "of the file",
    "source": None,
}


class OnnxNet(FaceNet):
    """A face net in an ONNX file. It has no parameters to train and passes no gradient.

    Its taps are the file's outputs and, where the package onnx is there, the last map of every size: map56 is the
    deepest layer of 56x56.

    Args:
        path: the .onnx file.
        name: what to call it.
    Raises:
        UserError: If ONNX Runtime is missing, or the file is no ONNX model of one picture in, features out.
    """

    file_sha256: Tensor

    def __init__(self, path: Path, name: str) -> None:
        super().__init__()
        self.path = path
        settings = _settings(path)
        session = _session(path, path.read_bytes())
        if len(session.get_inputs()) != 1:
            names = ", ".join(entry.name for entry in session.get_inputs())
            raise UserError(f"{path}: expected an ONNX face net with one input, a picture; it has {names}")
        entry = session.get_inputs()[0]
        self.input_name = entry.name
        self.channels_last, input_px, self.one_at_a_time = _input_form(
            path, entry.shape, settings["input_px"]
        )
        self.content, maps = self._with_maps(session, input_px)
        self.session = _session(path, self.content)
        # Two nets are told apart by their parameters and buffers: here the file's hash stands for them.
        digest = torch.tensor(list(bytes.fromhex(file_sha256(path))), dtype=torch.uint8)
        self.register_buffer("file_sha256", digest)
        self.tensors = {f"map{_size(shape)}": tensor for tensor, shape in maps.items()}
        outputs = [output.name for output in session.get_outputs()]
        self.tensors |= {output: output for output in outputs}
        shapes = self._run(np.zeros((1, 3, input_px, input_px), np.float32), list(self.tensors.values()))
        taps = {tap: tuple(value.shape[1:]) for tap, value in zip(self.tensors, shapes, strict=True)}
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
            source=settings["source"] or path.name,
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"session": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.session = _session(self.path, self.content)

    def _with_maps(self, session: Any, input_px: int) -> tuple[bytes, dict[str, tuple[int, ...]]]:
        """The model with the last map of every size as a further output; tensor name -> (C, H, W), shallow to deep."""
        plain = self.path.read_bytes()
        try:
            import onnx
        except ImportError:
            return plain, {}
        model = onnx.load(self.path)
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
        outputs = self._run(np.zeros((1, 3, input_px, input_px), np.float32), names)
        return {
            name: tuple(value.shape)
            for name, value in zip(names, outputs, strict=True)
            if isinstance(value, np.ndarray) and value.dtype == np.float32 and value.ndim and len(value) == 1
        }

    def _run(self, inputs: np.ndarray, tensors: list[str]) -> list[np.ndarray]:
        """The named tensors for inputs (B, 3, H, W)."""
        from onnxruntime import RunOptions

        options = RunOptions()
        options.only_execute_path_to_fetches = True
        if self.channels_last:
            inputs = np.ascontiguousarray(inputs.transpose(0, 2, 3, 1))
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
            tap: torch.from_numpy(value).to(inputs.device) for tap, value in zip(taps, values, strict=True)
        }


def _size(shape: tuple[int, ...]) -> str:
    """(C, H, W) -> "56", or "7x6" where it is not square."""
    height, width = shape[-2:]
    return str(height) if height == width else f"{height}x{width}"


def _session(path: Path, content: bytes) -> Any:
    """An ONNX Runtime session on the fastest device that it has."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"onnx:PATH needs ONNX Runtime, which is not here; {INSTALL}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [provider for provider in wanted if provider in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # ONNX Runtime's own classes share no base of its own
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: expected an ONNX model, ONNX Runtime can't read it ({reason})") from error


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


def _settings(path: Path) -> dict[str, Any]:
    """The defaults, with what the JSON file beside the model says."""
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return dict(DEFAULTS)
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
    return settings | {"mean_rgb": tuple(float(value) for value in mean), "scale": float(settings["scale"])}


def load(weights: Path | None = None, name: str = "onnx") -> OnnxNet:
    """An ONNX face net, frozen.

    Args:
        weights: the .onnx file, where the name is "onnx" alone.
        name: onnx:PATH; in place of the path, hf:owner/name/file or https://…#sha256=HEX.
    Raises:
        UserError: If the file is missing or is no ONNX face net, or ONNX Runtime is missing.
    """
    reference = name.partition(":")[2]
    if not reference and weights is None:
        raise UserError("'onnx': expected onnx:PATH, or the path of the .onnx file as weights")
    path = locate(reference) if reference else locate(weights or "")
    return OnnxNet(path, f"onnx:{path}")
