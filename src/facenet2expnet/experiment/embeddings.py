"""Face embeddings: which stored faces belong to one subject."""

from __future__ import annotations

import numpy as np
import torch

from facenet2expnet.nets import face

BATCH = 64


@torch.inference_mode()
def face_embeddings(pixels: np.ndarray, name: str = "dlib-resnet29", tap: str = "descriptor") -> np.ndarray:
    """Return a face net's embedding of every stored face.

    Args:
        pixels: (N, S, S, 3) uint8 RGB.
        name: a face net.
        tap: its layer that tells subjects apart.
    Returns:
        (N, D) float32.
    """
    net = face.load(name)
    batches = []
    for start in range(0, len(pixels), BATCH):
        crops = torch.from_numpy(np.ascontiguousarray(pixels[start : start + BATCH]))
        batches.append(net(crops.permute(0, 3, 1, 2).float(), [tap])[tap].numpy())
    return np.concatenate(batches)
