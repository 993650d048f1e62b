"""fer: its mini-Xception through its own class, without its detector and its rounding to two digits."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import fer
import numpy as np
import protocol
import tensorflow as tf
from fer.fer import FER


def load(given: argparse.Namespace) -> tuple[protocol.Classify, int]:
    """Load the TensorFlow Lite or the Keras form; the grey face is resized and scaled as `detect_emotions` does."""
    cv2.setNumThreads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    lite = given.form == "tflite"
    detector = FER(use_tflite=lite)
    labels = FER._get_labels()
    order = protocol.in_order([labels[number] for number in range(len(labels))])

    def classify(faces: np.ndarray) -> np.ndarray:
        pixels = np.array([cv2.resize(face, (64, 64)) for face in faces], np.float32)
        return np.asarray(detector._classify_emotions((pixels / 255.0 - 0.5) * 2.0))[:, order]

    name = "emotion_model_quantized.tflite" if lite else "emotion_model.hdf5"
    return classify, (Path(fer.__file__).parent / "data" / name).stat().st_size


if __name__ == "__main__":
    sys.exit(protocol.main(load, "--form"))
