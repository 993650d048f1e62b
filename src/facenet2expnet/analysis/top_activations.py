"""The K images with the highest response of every unit, found in one pass over the images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from facenet2expnet.analysis.inputs import AnalysisInput
from facenet2expnet.analysis.layers import layer_batches


def default_top(images: int, of_paper: int = 100) -> int:
    """K: `of_paper` for the paper's 1,308 images of CK+ and more, the same share of a smaller set, but 5 or more."""
    return min(of_paper, max(5, round(images * of_paper / 1308)))


def label_entropy(shares: np.ndarray) -> np.ndarray:
    """H = -sum p log p in nats over the last axis; 0 log 0 is 0. Shares sum to 1 (FN2EN, section III-C)."""
    logs = np.log(shares, out=np.zeros_like(shares, dtype=np.float64), where=shares > 0)
    return np.maximum(-(shares * logs).sum(axis=-1), 0.0)


class TopActivations:
    """The running top K of U units.

    The sort is stable, so of equal responses the earlier image comes first; it takes as long as `torch.topk`, whose
    order of ties is not defined. Memory is 12 U K bytes, and about 50 U (K + B) for a batch of B images.

    `values` are the (U, min(K, N)) responses, the highest first, and `images` the numbers of their images.
    """

    def __init__(self, units: int, top: int, classes: int, device: torch.device | str = "cpu") -> None:
        self.top = top
        self.values = torch.empty((units, 0), device=device)
        self.images = torch.empty((units, 0), dtype=torch.int64, device=device)
        self.labels = torch.empty(0, dtype=torch.int64, device=device)
        # The K-th response, and the images by class that have the same response but no place among the K.
        self.threshold = torch.full((units, 1), torch.nan, device=device)
        self.tied_outside = torch.zeros((units, classes), dtype=torch.int64, device=device)

    def update(self, responses: Tensor, labels: Tensor) -> None:
        """Add the finite responses (B, U) of the next B images, and their class numbers (B,)."""
        new = responses.T.float()
        numbers = torch.arange(len(labels), device=new.device) + len(self.labels)
        self.labels = torch.cat([self.labels, labels.to(self.labels)])
        values = torch.cat([self.values, new], dim=1)
        images = torch.cat([self.images, numbers.expand(len(new), -1)], dim=1)
        ordered, places = values.sort(dim=1, descending=True, stable=True)
        self.values = ordered[:, : self.top].clone()
        self.images = images.gather(1, places[:, : self.top])
        threshold = self.values[:, -1:]
        self.tied_outside *= self.threshold == threshold
        self.tied_outside += self._count(values == threshold, images)
        self.tied_outside -= self._count(self.values == threshold, self.images)
        self.threshold = threshold

    def class_shares(self) -> Tensor:
        """The share of each class among the top images of every unit, (U, classes) float64; rows sum to 1.

        Images tied at the last place share it: with m places left for n images of one response, each counts m / n. So
        the order of the images does not matter, and a constant unit has the shares of the whole set.
        """
        above, kept = self._count(self.values > self.threshold, self.images).cpu().double(), self.values.shape[1]
        tied = self._tied().cpu().double()
        places = kept - above.sum(dim=1, keepdim=True)
        return (above + tied * places / tied.sum(dim=1, keepdim=True)) / kept

    @property
    def constant(self) -> Tensor:
        """(U,) whether a unit gave the same response to every image."""
        return self._tied().sum(dim=1) == len(self.labels)

    def _tied(self) -> Tensor:
        """The images of each class with the K-th response, (U, classes)."""
        return self._count(self.values == self.threshold, self.images) + self.tied_outside

    def _count(self, mask: Tensor, images: Tensor) -> Tensor:
        """The images of each class where the mask holds, (U, classes)."""
        return torch.zeros_like(self.tied_outside).scatter_add_(1, self.labels[images], mask.long())


def top_activations(
    model: nn.Module, inputs: AnalysisInput, layers: Sequence[str], top: int
) -> dict[str, TopActivations]:
    """Find the top images of each unit (channel and position) of some layers: layer name -> top activations."""
    found: dict[str, TopActivations] = {}
    for first, outputs in layer_batches(model, inputs.pixels, layers, inputs.crop_px):
        for name, values in outputs.items():
            flat = values.flatten(1)
            if name not in found:
                found[name] = TopActivations(flat.shape[1], top, len(inputs.classes), flat.device)
            found[name].update(flat, torch.from_numpy(inputs.labels[first : first + len(flat)]))
    return found
