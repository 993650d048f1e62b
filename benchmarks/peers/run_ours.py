"""A model of ours, by PyTorch, or the model.onnx of its folder by ONNX Runtime; each picture is a cut-out face."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import protocol

from facenet2expnet import Recognizer
from facenet2expnet.faces.prepare import whole_picture
from facenet2expnet.predict.model_folder import ONNX, WEIGHTS, find_model


def load(given: argparse.Namespace) -> tuple[protocol.Classify, int]:
    """Load the model, on one thread; a further class, as contempt, is left out of the probabilities."""
    folder = find_model(Path(given.model))
    if given.runtime == "onnx":
        recognizer = Recognizer.load(folder / ONNX, "cpu")  # one thread, as OMP_NUM_THREADS says
        files = [ONNX, *recognizer.metadata["export"].get("shares", {})]
    else:
        import torch

        torch.set_num_threads(1)
        recognizer, files = Recognizer.load(folder, "cpu"), [WEIGHTS]
    order = [recognizer.classes.index(name) for name in protocol.CLASSES]

    def classify(faces: np.ndarray) -> np.ndarray:
        rgb = [np.repeat(face[:, :, None], 3, axis=2) for face in faces]
        stored = np.array([whole_picture(pixels, recognizer.contract) for pixels in rgb])
        seven = recognizer.probabilities(stored)[:, order]
        return seven / seven.sum(axis=1, keepdims=True)

    return classify, sum((folder / file).stat().st_size for file in files)


if __name__ == "__main__":
    sys.exit(protocol.main(load, "--model", "--runtime"))
