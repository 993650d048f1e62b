"""A face net in an ONNX file, as a frozen teacher run by ONNX Runtime: onnx:PATH.

A JSON file of the same name beside it (face.onnx, face.json) gives what the file does not, with the keys of `Settings`.

Source: https://onnxruntime.ai
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from facenet2expnet.errors import UserError
from facenet2expnet.nets.face.base import FaceNet, FaceNetInfo
from facenet2expnet.nets.face.download import first_line, locate
from facenet2expnet.nets.face.weights import GENERATED

DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
"""ONNX Runtime's name of an element type -> NumPy's type."""

Pixel = Annotated[float, Field(ge=0, le=255)]


class Settings(BaseModel, strict=True, extra="forbid"):
    """Preprocessing and origin of an ONNX face net; the defaults are ArcFace's preprocessing."""

    mean_rgb: tuple[Pixel, Pixel, Pixel] = (127.5, 127.5, 127.5)
    scale: float = Field(default=127.5, gt=0, allow_inf_nan=False)
    colour: Literal["rgb", "bgr"] = "rgb"
    input_px: int | None = Field(default=None, ge=1, le=4096)
    licence: str = "of the file"
    source: str | None = None
    taps: tuple[str, ...] = ()
    """Names of inner tensors that are taps beside the outputs, shallow to deep."""


class OnnxNet(FaceNet):
    """A face net in an ONNX file. It has no parameters to train and passes no gradient.

    Its taps are the file's outputs and the inner tensors that the JSON file names. The embedding is the widest output
    vector.

    Raises:
        ValueError: If the file has no input for a picture, or no output that can be a tap.
    """

    file_sha256: Tensor

    def __init__(self, path: Path, name: str) -> None:
        super().__init__()
        import onnx
        import onnxruntime

        model = onnx.load(path)
        # weights_sha256() hashes parameters and buffers: here the hash of the model takes the place of its weights.
        sha256 = hashlib.sha256(model.SerializeToString()).digest()
        self.register_buffer("file_sha256", torch.tensor(list(sha256), dtype=torch.uint8))
        settings, notes = _settings(path, model)
        inner = set(settings.taps) - {output.name for output in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=tap) for tap in inner)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # errors are raised; they need not be logged too
        known = onnxruntime.get_available_providers()
        providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in known]
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
        self.run_options = onnxruntime.RunOptions()
        self.run_options.only_execute_path_to_fetches = True

        self.input, *others = self.session.get_inputs()
        shape = self.input.shape
        if others or self.input.type not in DTYPES or len(shape) != 4 or 3 not in (shape[1], shape[3]):
            raise ValueError(f"it takes {[(i.name, i.type, i.shape) for i in (self.input, *others)]}")
        self.channels_last = shape[1] != 3
        sides = [*(shape[1:3] if self.channels_last else shape[2:]), settings.input_px]
        sizes = {side for side in sides if isinstance(side, int)}
        if len(sizes) != 1:
            raise ValueError(f"its sides are {sides}; give input_px in {path.stem}.json if the file has none")
        input_px = sizes.pop()
        outputs = [o.name for o in self.session.get_outputs() if o.type in DTYPES and len(o.shape) in (2, 4)]
        names = list(dict.fromkeys([*settings.taps, *outputs]))
        zeros = np.zeros((2, 3, input_px, input_px), np.float32)
        values = self._run(zeros, names) if outputs else []
        if not values or any(len(value) != 2 or value.ndim not in (2, 4) for value in values):
            raise ValueError(f"its outputs are {[(o.name, o.type, o.shape) for o in self.session.get_outputs()]}")
        taps = {tap: value.shape[1:] for tap, value in zip(names, values, strict=True)}
        embedding = max(outputs, key=lambda output: (len(taps[output]) == 1, math.prod(taps[output])))
        self.info = FaceNetInfo(
            name=name,
            input_px=input_px,
            taps=taps,
            embedding=embedding,
            default_tap=settings.taps[-1] if settings.taps else embedding,
            **settings.model_dump(include={"mean_rgb", "scale", "colour", "licence"}),
            source=settings.source or name.removeprefix("onnx:"),
            notes=notes,
        )

    def _run(self, inputs: np.ndarray, tensors: list[str]) -> list[np.ndarray]:
        """Compute the named tensors for inputs (B, 3, H, W), B > 0; only what leads to them is run."""
        inputs = inputs.transpose(0, 2, 3, 1) if self.channels_last else inputs
        inputs = inputs.astype(DTYPES[self.input.type], order="C")
        batches = np.split(inputs, len(inputs)) if self.input.shape[0] == 1 else [inputs]
        runs = [self.session.run(tensors, {self.input.name: batch}, self.run_options) for batch in batches]
        return [np.concatenate(values) for values in zip(*runs, strict=True)]

    def features(self, inputs: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """Return the outputs of the named layers for preprocessed inputs, as float32."""
        if inputs.requires_grad and torch.is_grad_enabled():
            raise UserError(
                f"{self.info.name}: no gradient passes through an ONNX face net; use a face net of PyTorch for this"
            )
        values = self._run(inputs.detach().float().cpu().numpy(), list(taps))
        tensors = [torch.from_numpy(value.astype(np.float32)).to(inputs.device) for value in values]
        return dict(zip(taps, tensors, strict=True))


def _settings(path: Path, model: Any) -> tuple[Settings, tuple[str, ...]]:
    """Read the JSON file beside a model, if there is one; also return a note if the preprocessing was assumed."""
    beside = path.with_suffix(".json")
    try:
        settings = Settings.model_validate_json(beside.read_bytes() if beside.is_file() else "{}")
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise UserError(f"{beside}: {'; '.join(faults)}; the keys are {', '.join(Settings.model_fields)}") from None
    if {"mean_rgb", "scale"} & settings.model_fields_set:
        return settings, ()
    first = {node.op_type for node in takewhile(lambda node: node.op_type != "Conv", model.graph.node)}
    if first & {"Sub", "Add"} and first & {"Mul", "Div"}:  # as in files from MXNet
        settings = settings.model_copy(update={"mean_rgb": (0.0, 0.0, 0.0), "scale": 1.0})
        assumed = "the file shifts and scales pixels itself, so it gets them unchanged, 0 to 255"
    else:
        assumed = "ArcFace's preprocessing is used: (pixel - 127.5) / 127.5"
    return settings, (f"{beside} gives no mean_rgb or scale; {assumed}.",)


def load(weights: Path | None, name: str) -> OnnxNet:
    """Load an ONNX face net, frozen; `name` is onnx: and a path, hf:owner/name/file or https://…#sha256=HEX."""
    reference = name.partition(":")[2]
    if not reference or (weights is not None and str(weights) != GENERATED):
        raise UserError(f"'{name}': expected onnx:PATH and no weights, or onnx and the .onnx file as weights")
    path = locate(reference)
    try:
        return OnnxNet(path, name)
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f'{name} needs ONNX Runtime; pip install "facenet2expnet[onnx]"') from error
    except Exception as error:  # onnx and ONNX Runtime have no common base for their errors
        raise UserError(
            f"{path}: expected an ONNX model with all its weights (in it or beside it), one floating-point input "
            "(batch, 3, side, side) or (batch, side, side, 3) for any batch or for 1, and floating-point outputs "
            f"(batch, U) or (batch, C, H, W); {first_line(error)}"
        ) from error
