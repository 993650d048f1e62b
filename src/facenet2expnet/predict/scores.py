"""Batched prediction from stored faces; tests of a run, evaluate, calibrate and predict use it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from facenet2expnet.crop import centre_crop

if TYPE_CHECKING:
    import torch
    from torch import nn

BATCH = 64


class Classifier(Protocol):
    """What a recognizer asks: a network of PyTorch, or an ONNX file."""

    def __call__(self, faces: np.ndarray, *, rows: np.ndarray | None = None) -> np.ndarray:
        """Class probabilities of the centre crop of every stored face.

        Args:
            faces: (N, S, S, 3) uint8 RGB; a memory map is read one batch at a time.
            rows: (M,) int64, the rows to use; by default all.
        Returns:
            (M, K) float32; rows sum to 1.
        """
        ...


def batches(faces: np.ndarray, rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Yield copies of up to `BATCH` faces; at least one batch, perhaps empty, so that the answers have K columns."""
    count = len(faces) if rows is None else len(rows)
    for first in range(0, max(1, count), BATCH):
        batch = slice(first, first + BATCH)
        yield np.array(faces[batch if rows is None else rows[batch]])


def torch_classifier(model: nn.Module, crop_px: int, device: torch.device | str) -> Classifier:
    """Return a classifier of a network of PyTorch; see `class_probabilities`."""
    return partial(class_probabilities, model, crop_px=crop_px, device=device)


def class_scores(
    model: nn.Module,
    pixels: np.ndarray,
    crop_px: int,
    device: torch.device | str = "cpu",
    *,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """Class scores before softmax of the centre crop of every stored face (FN2EN, section IV-A).

    Args:
        model: in evaluation mode, RGB crops (B, 3, crop_px, crop_px) in 0..255 -> class scores (B, K).
        pixels: (N, S, S, 3) uint8 RGB; a memory map is read one batch at a time.
        crop_px: side of the centre crop.
        rows: (M,) int64, the rows to use; by default all.
    Returns:
        (M, K) float32.
    """
    import torch

    _allow_forks()
    scores = []
    with torch.inference_mode():
        for faces in batches(pixels, rows):
            crops = centre_crop(torch.from_numpy(faces).to(device).permute(0, 3, 1, 2), crop_px)
            scores.append(model(crops).float().cpu().numpy())
    return np.concatenate(scores)


@cache
def _allow_forks() -> None:
    """From now on, let a forked process compute with one thread.

    OpenMP's other threads stay in this process, and the forked one would wait for them forever.
    """
    import torch

    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def class_probabilities(
    model: nn.Module,
    pixels: np.ndarray,
    crop_px: int,
    device: torch.device | str = "cpu",
    *,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """Class probabilities (M, K) float32; arguments as for `class_scores`."""
    import torch

    scores = torch.from_numpy(class_scores(model, pixels, crop_px, device, rows=rows))
    return scores.softmax(dim=1).numpy()
