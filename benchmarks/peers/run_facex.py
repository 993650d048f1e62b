"""facex: its network through its own class, without its detector."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import facex
import numpy as np
import protocol
from facex.core import EmotionClassifier


def load(given: argparse.Namespace) -> tuple[protocol.Classify, int]:
    """Load the network; `detect_emotion` resizes the grey face and repeats it to three channels."""
    weights = Path(facex.__file__).parent / "assets" / "model_optimized.tflite"
    classifier = EmotionClassifier(str(weights))
    order = protocol.in_order(classifier.category)

    def classify(faces: np.ndarray) -> np.ndarray:
        found = [classifier.detect_emotion(face) for face in faces]
        return np.array([[scores[name] for name in classifier.category] for scores in found])[:, order]

    return classify, weights.stat().st_size


if __name__ == "__main__":
    sys.exit(protocol.main(load))
