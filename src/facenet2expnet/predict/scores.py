"""Batched prediction from stored faces; tests of a run, evaluate, calibrate and predict use it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from facenet2expnet.crop import centre_crop

BATCH = 64


@torch.inference_mode()
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
    count = len(pixels) if rows is None else len(rows)
    scores = []
    for first in range(0, max(1, count), BATCH):  # at least one, perhaps empty, batch: it gives the K columns
        batch = slice(first, first + BATCH)
        faces = np.array(pixels[batch if rows is None else rows[batch]])
        crops = centre_crop(torch.from_numpy(faces).to(device).permute(0, 3, 1, 2), crop_px)
        scores.append(model(crops).float().cpu().numpy())
    return np.concatenate(scores)


def class_probabilities(
    model: nn.Module,
    pixels: np.ndarray,
    crop_px: int,
    device: torch.device | str = "cpu",
    *,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """Class probabilities (M, K) float32; arguments as for `class_scores`."""
    scores = torch.from_numpy(class_scores(model, pixels, crop_px, device, rows=rows))
    return scores.softmax(dim=1).numpy()
