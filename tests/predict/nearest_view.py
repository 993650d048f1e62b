"""A model that is fitted to a few faces in a second, and knows their expressions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from facenet2expnet.crop import CropContract
from facenet2expnet.faces.framing import estimate_framing
from facenet2expnet.predict.model_folder import Model


class NearestView(nn.Module):
    """Class scores from the nearest view that is known of each class, by the details of eyes, nose and mouth."""

    views: Tensor

    def __init__(self, crops: np.ndarray, labels: np.ndarray, classes: int) -> None:
        super().__init__()
        self.labels, self.classes = torch.from_numpy(labels), classes
        self.register_buffer("views", self.features(torch.from_numpy(crops).permute(0, 3, 1, 2).float()))

    def features(self, crops: Tensor) -> Tensor:
        grey = crops.mean(dim=1, keepdim=True)
        details = grey - nn.functional.avg_pool2d(grey, 17, 1, 8, count_include_pad=False)
        return nn.functional.normalize(nn.functional.adaptive_avg_pool2d(details[..., 12:52, 12:52], 32).flatten(1))

    def forward(self, crops: Tensor) -> Tensor:
        likeness = 40 * self.features(crops) @ self.views.T
        scores = [likeness[:, self.labels == number].max(dim=1).values for number in range(self.classes)]
        return torch.stack(scores, dim=1) if len(crops) else torch.zeros(0, self.classes)


def train_on_cut_outs(pictures: Sequence[np.ndarray], labels: Sequence[str]) -> Model:
    """A model of cut-out faces, (S, S, 3) uint8, that knows them well, with the framing that a training would save."""
    contract = CropContract(stored_px=72, crop_px=64)
    classes = tuple(sorted(set(labels)))
    rng = np.random.default_rng(0)
    stored = [cv2.resize(picture, (72, 72), interpolation=cv2.INTER_AREA) for picture in pictures]
    crops, numbers = [], []
    for face, label in zip(stored, labels, strict=True):
        for view in range(300):  # as it is, then moved, scaled and turned a little, as in training
            much = min(view, 1)
            matrix = cv2.getRotationMatrix2D((36, 36), much * rng.uniform(-4, 4), 1 + much * rng.uniform(-0.2, 0.2))
            matrix[:, 2] += much * rng.uniform(-8, 8, 2) - 4
            crops.append(cv2.warpAffine(face, matrix, (64, 64), borderMode=cv2.BORDER_REPLICATE))
            numbers.append(classes.index(label))
    framing = estimate_framing(np.stack(stored), np.arange(len(stored)))
    module = NearestView(np.stack(crops), np.array(numbers), len(classes)).eval()
    return Model(module, classes, replace(contract, framing=framing), {"method": "nearest view"})
