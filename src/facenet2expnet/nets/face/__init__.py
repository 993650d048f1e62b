"""Face nets by name. A new one is a file here that registers a loader, or an entry point of a third party."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from pathlib import Path

from facenet2expnet.errors import UserError
from facenet2expnet.nets.face.base import FaceNet, FaceNetInfo, weights_sha256

__all__ = ["FaceNet", "FaceNetInfo", "available", "build", "load", "weights_sha256"]

_BUILT_IN = {
    "dlib-resnet29": "facenet2expnet.nets.face.dlib_resnet",
}
"""Name -> module with a function `load(weights: Path | None) -> FaceNet`."""

ENTRY_POINT_GROUP = "facenet2expnet.face_nets"


def available() -> tuple[str, ...]:
    """Names of the face nets that can be asked for."""
    return (*_BUILT_IN, *(entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)))


def load(name: str, weights: str | Path | None = None) -> FaceNet:
    """Load a face net by name, in evaluation mode.

    Args:
        name: one of `available()`.
        weights: a weights file; None where the net brings its own.
    Raises:
        UserError: If the name is unknown, or the weights are missing or not this net's.
    """
    path = Path(weights) if weights else None
    if name in _BUILT_IN:
        net: FaceNet = importlib.import_module(_BUILT_IN[name]).load(path)
        return net.eval()
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name == name:
            third_party: FaceNet = entry.load()(path)
            return third_party.eval()
    raise UserError(f"no face net is called '{name}'; there are {', '.join(available())}")


def build(name: str) -> FaceNet:
    """A face net of this architecture with weights of no meaning, for a saved model's own to be put into.

    Raises:
        UserError: If the name is unknown, or the net can't be built without its weights file.
    """
    if name not in _BUILT_IN:
        return load(name)
    net: FaceNet = importlib.import_module(_BUILT_IN[name]).build()
    return net.eval()
