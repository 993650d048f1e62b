"""Face nets by name. A new one is a module here with a function `load`, or an entry point of another package."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from pathlib import Path

from facenet2expnet.errors import UserError
from facenet2expnet.nets.face.base import FaceNet, FaceNetInfo, weights_sha256
from facenet2expnet.nets.face.download import locate
from facenet2expnet.nets.face.weights import GENERATED

__all__ = ["GENERATED", "FaceNet", "FaceNetInfo", "available", "load", "weights_sha256"]

_BUILT_IN = {
    "dlib-resnet29": "dlib_resnet",
    "vgg-face": "vgg_face",
    "vgg-face:rgb": "vgg_face",
    "vgg-face:bgr": "vgg_face",
    "iresnet18": "iresnet",
    "iresnet34": "iresnet",
    "iresnet50": "iresnet",
    "iresnet100": "iresnet",
    "inception-resnet-v1": "inception_resnet",
}
"""Name -> module here with a function `load(weights: Path | None, name: str) -> FaceNet`."""

_FAMILIES = {"timm": "timm_net", "onnx": "onnx_net"}
"""The part before the colon of an open-ended name, as in timm:resnet18 or onnx:face.onnx -> module."""

ENTRY_POINT_GROUP = "facenet2expnet.face_nets"


def available() -> tuple[str, ...]:
    """Return the names of the face nets; timm:NAME and onnx:PATH can be loaded too."""
    built_in = [name for name in _BUILT_IN if ":" not in name]
    return (*built_in, *(entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)))


def load(name: str, weights: str | Path | None = None) -> FaceNet:
    """Load a face net by name, in evaluation mode.

    Args:
        name: one of `available()`, vgg-face:rgb, vgg-face:bgr, timm:NAME or onnx:PATH.
        weights: a weights file (for "onnx", the model itself), hf:owner/name/file, https://…#sha256=HEX, or
            "generated" for random weights from a fixed seed; None for nets that have weights of their own.
    Raises:
        UserError: If the name is unknown, or the weights are missing or do not fit.
    """
    if name == "onnx" and weights:
        name, weights = f"onnx:{weights}", None
    module = _BUILT_IN.get(name) or _FAMILIES.get(name.partition(":")[0])
    entries = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if not module and name not in entries:
        known = ", ".join([*_BUILT_IN, *entries])
        raise UserError(f"no face net is called '{name}'; there are {known}, timm:NAME and onnx:PATH")
    path = Path(GENERATED) if str(weights) == GENERATED else locate(weights) if weights else None
    if module:
        net: FaceNet = importlib.import_module(f"{__name__}.{module}").load(path, name)
    else:
        net = entries[name].load()(path)
    return net.eval()
