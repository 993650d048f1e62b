"""Who is on a picture: the face net's descriptor of every face."""

from __future__ import annotations

import numpy as np
import torch

from facenet2expnet.nets import face

BATCH = 64


@torch.inference_mode()
def face_embeddings(pixels: np.ndarray, name: str = "dlib-resnet29", tap: str = "descriptor") -> np.ndarray:
    """A face net's descriptor of every stored face.

    Args:
        pixels: (N, S, S, 3) uint8 RGB.
        name: a registered face net.
        tap: its layer that tells people apart.
    Returns:
        (N, D) float32.
    """
    net = face.load(name)
    found = []
    for start in range(0, len(pixels), BATCH):
        crops = torch.from_numpy(np.ascontiguousarray(pixels[start : start + BATCH]))
        found.append(net(crops.permute(0, 3, 1, 2).float(), [tap])[tap].numpy())
    return np.concatenate(found)
