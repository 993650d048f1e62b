"""FaceNet2ExpNet: turn a face recognition network and a few labelled faces into a compact expression network.

    import facenet2expnet

    run = facenet2expnet.train("faces/", recipe="quick", out="runs/mine")
    recognizer = facenet2expnet.Recognizer.load(run)
    print(recognizer.predict(["face.jpg"]).table())

The names below load on first use, so that importing the package is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from facenet2expnet.crop import CropContract
    from facenet2expnet.data.manifest import Manifest, read_manifest
    from facenet2expnet.deploy.estimator import ExpressionClassifier
    from facenet2expnet.errors import UserError
    from facenet2expnet.experiment.compare import compare, train
    from facenet2expnet.experiment.evaluate import evaluate
    from facenet2expnet.experiment.pretrain import pretrain
    from facenet2expnet.predict.recognizer import Predictions, Recognizer
    from facenet2expnet.recipe import Recipe
    from facenet2expnet.recipes import preset

_HOME = {
    "CropContract": "crop",
    "ExpressionClassifier": "deploy.estimator",
    "Manifest": "data.manifest",
    "Predictions": "predict.recognizer",
    "Recipe": "recipe",
    "Recognizer": "predict.recognizer",
    "UserError": "errors",
    "compare": "experiment.compare",
    "evaluate": "experiment.evaluate",
    "preset": "recipes",
    "pretrain": "experiment.pretrain",
    "read_manifest": "data.manifest",
    "train": "experiment.compare",
}

__all__ = [
    "CropContract",
    "ExpressionClassifier",
    "Manifest",
    "Predictions",
    "Recipe",
    "Recognizer",
    "UserError",
    "compare",
    "evaluate",
    "preset",
    "pretrain",
    "read_manifest",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'facenet2expnet' has no attribute '{name}'")
    return getattr(import_module(f"facenet2expnet.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
