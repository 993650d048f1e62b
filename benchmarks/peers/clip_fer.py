"""Frames a second of fer with its MTCNN over a video, for predict.py: clip_fer.py VIDEO."""

from __future__ import annotations

import json
import sys
import time

import cv2
import facenet_pytorch  # noqa: F401  before TensorFlow: the other way round, some releases crash together
import tensorflow as tf
import torch
from fer.fer import FER


def main(path: str) -> None:
    """Print rate, faces and frames as JSON."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    detector = FER(mtcnn=True)
    detector.detect_emotions(cv2.VideoCapture(path).read()[1])  # warm
    capture = cv2.VideoCapture(path)
    frames, faces, begin = 0, 0, time.perf_counter()
    while True:
        read, frame = capture.read()
        if not read:
            break
        faces += len(detector.detect_emotions(frame))
        frames += 1
    print(json.dumps({"rate": frames / (time.perf_counter() - begin), "faces": faces, "frames": frames}))


if __name__ == "__main__":
    main(sys.argv[1])
