"""Two peers that are a small PyTorch network: what_the_face_classification and facial-emotion-recognition.

Their packages ask for detectors and old releases that a classifier does not need, so network and weights are loaded
from their files. Weights are read without pickled code. Pictures are resized and scaled as their transforms do.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import protocol
import torch
from PIL import Image

NAMES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def load(given: argparse.Namespace) -> tuple[protocol.Classify, int]:
    """Load the network of one of the two packages, from the folder into which it was installed."""
    torch.set_num_threads(1)
    folder = Path(given.folder) / given.package
    order = protocol.in_order(NAMES)
    if given.package == "what_the_face_classification":
        weights = folder / "active_model.pth"
        network = module(folder / "model.py").SimpleConvolutionalNetwork(
            3, [[1, 28], [28, 56], [56, 112]], [3, 3, 3], [0, 0, 0], 304, 16 * 112
        )
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    else:
        weights = folder / "model" / "model.pkl"
        network = module(folder / "networks.py").NetworkV2(in_c=1, nl=32, out_f=7)
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True)["network"])
    network.eval()
    bytes_of_weights = sum(value.numel() * value.element_size() for value in network.state_dict().values())

    @torch.inference_mode()
    def classify(faces: np.ndarray) -> np.ndarray:
        pictures = [Image.fromarray(face).resize((48, 48), Image.Resampling.BILINEAR) for face in faces]
        pixels = torch.from_numpy(np.array([np.asarray(picture) for picture in pictures], np.float32))[:, None] / 255
        if given.package == "what_the_face_classification":
            scores = network(pixels).softmax(dim=1)
        else:
            scores = network((pixels - 0.5) / 0.5)  # sigmoids: larger is more likely, but no probabilities
        return scores.numpy()[:, order]

    return classify, bytes_of_weights


def module(path: Path) -> Any:
    """Import one file of a package, and nothing else of it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


if __name__ == "__main__":
    sys.exit(protocol.main(load, "--folder", "--package"))
