"""Face embeddings: which stored faces belong to one subject."""

from __future__ import annotations

import numpy as np
import torch

from facenet2expnet.nets import face

BATCH = 64


@torch.inference_mode()
def face_embeddings(pixels: np.ndarray) -> np.ndarray:
    """Return dlib's descriptor of every stored face, (N, 128) float32, of pixels (N, S, S, 3) uint8 RGB."""
    net, batches = face.load("dlib-resnet29"), []
    for start in range(0, len(pixels), BATCH):
        crops = torch.from_numpy(np.ascontiguousarray(pixels[start : start + BATCH]))
        batches.append(net(crops.permute(0, 3, 1, 2).float(), ["descriptor"])["descriptor"].numpy())
    return np.concatenate(batches)
