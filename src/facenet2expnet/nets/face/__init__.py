"""Face nets by name. A new one is a file here with a function `load`, or an entry point of a third party."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from pathlib import Path

from facenet2expnet.errors import UserError
from facenet2expnet.nets.face.base import FaceNet, FaceNetInfo, weights_sha256
from facenet2expnet.nets.face.weights import GENERATED, locate

__all__ = ["GENERATED", "FaceNet", "FaceNetInfo", "available", "load", "weights_sha256"]

_BUILT_IN = {
    "dlib-resnet29": "dlib_resnet",
    "vgg-face": "vgg_face",
    "iresnet18": "iresnet",
    "iresnet34": "iresnet",
    "iresnet50": "iresnet",
    "iresnet100": "iresnet",
    "inception-resnet-v1": "inception_resnet",
}
"""Name -> module here with a function `load(weights: Path | None, name: str) -> FaceNet`."""

_VARIANTS = {"vgg-face": ("rgb", "bgr")}
"""What may follow the colon of a built-in name."""

_FAMILIES = {"timm": "timm_net", "onnx": "onnx_net"}
"""What stands before the colon of a name that goes on, as in timm:resnet18 or onnx:face.onnx -> the same."""

ENTRY_POINT_GROUP = "facenet2expnet.face_nets"


def available() -> tuple[str, ...]:
    """Names of the face nets that can be asked for; beside them stand timm:NAME and onnx:PATH."""
    return (*_BUILT_IN, *(entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)))


def load(name: str, weights: str | Path | None = None) -> FaceNet:
    """Load a face net by name, in evaluation mode.

    Args:
        name: one of `available()`, timm:NAME or onnx:PATH.
        weights: a weights file (of onnx, the model itself), hf:owner/name/file, https://…#sha256=HEX, or "generated"
            for weights from a fixed seed that know no faces; None where the net brings its own.
    Raises:
        UserError: If the name is unknown, or the weights are missing or not this net's.
    """
    if name == "onnx" and weights:
        name, weights = f"onnx:{weights}", None
    before, colon, variant = name.partition(":")
    entries = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if before not in _BUILT_IN | _FAMILIES and name not in entries:
        raise UserError(
            f"no face net is called '{name}'; there are {', '.join(available())}, timm:NAME and onnx:PATH"
        )
    if before in _BUILT_IN and colon and variant not in _VARIANTS.get(before, ()):
        known = ", ".join([before, *(f"{before}:{known}" for known in _VARIANTS.get(before, ()))])
        raise UserError(f"'{name}': expected {known}")
    path = None
    if weights:
        path = Path(GENERATED) if str(weights) == GENERATED else locate(weights)
    net: FaceNet
    if name in entries and before not in _BUILT_IN:
        net = entries[name].load()(path)
    else:
        module = importlib.import_module(f"{__name__}.{(_BUILT_IN | _FAMILIES)[before]}")
        net = module.load(path, name)
    return net.eval()
