"""Mean and standard deviation of a face net's features over the training part, and how much a student explains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from facenet2expnet.errors import StageStopped

CONSTANT_BELOW = 1e-6
"""A unit counts as constant if its standard deviation is at most this share of its mean's size, or of the root mean
square standard deviation of all units. Below it lies the rounding of 32-bit features."""


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Mean and standard deviation of every unit of a feature, over the training part.

    Most of the variance of a face net's feature is the mean face, the same in every picture. A student that predicts
    standardised features has nothing to gain from it.

    Attributes:
        mean: (C, H, W).
        std: the same shape, divided by the count (not the count less one), above 0. A constant unit has 1: its
            standardised target is then 0 in every training picture, and stays small elsewhere.
    """

    mean: Tensor
    std: Tensor

    def standardise(self, features: Tensor) -> Tensor:
        """Return (features - mean) / std of features (B, C, H, W)."""
        return (features - self.mean) / self.std

    def to(self, device: torch.device) -> FeatureStatistics:
        """Return the same statistics on another device."""
        return FeatureStatistics(self.mean.to(device), self.std.to(device))


def measure_features(batches: Iterable[Tensor]) -> FeatureStatistics:
    """Measure features batch by batch where they are, in 64 bits, without keeping them.

    Args:
        batches: features of the training part alone, each (B, C, H, W); B may differ.
    Returns:
        Statistics on the CPU in 32 bits.
    Raises:
        StageStopped: If a feature is not finite, every unit is constant, or there is no picture.
    Source: the merge of two batches' means and squared deviations is Chan, Golub & LeVeque, "Algorithms for computing
        the sample variance", The American Statistician 37(3), 1983, eq. (2.1).
    """
    count, shape = 0, torch.Size()
    mean = deviations = torch.zeros((), dtype=torch.float64)
    for number, batch in enumerate(batches, start=1):
        check_finite(batch, number)
        shape = batch.shape[1:]
        device = "cpu" if batch.device.type == "mps" else batch.device  # Apple's devices lack 64 bits
        rows = batch.detach().to(device, torch.float64).flatten(1)
        batch_mean = rows.mean(0)
        batch_deviations = (rows - batch_mean).square().sum(0)
        total = count + len(rows)
        delta = batch_mean - mean
        mean = mean + delta * (len(rows) / total)
        deviations = deviations + batch_deviations + delta.square() * (count * len(rows) / total)
        count = total
    if count == 0:
        raise StageStopped("there are no pictures to distil, expected one at least")
    std = (deviations / count).sqrt()
    constant = std <= CONSTANT_BELOW * torch.maximum(mean.abs(), std.square().mean().sqrt())
    if bool(constant.all()):
        raise StageStopped(
            f"all {constant.numel()} units of the face net's feature are constant over {count} pictures, expected some "
            "to vary: give more and different pictures, or choose another layer (face_net.tap)"
        )
    std = torch.where(constant, torch.ones_like(std), std)
    return FeatureStatistics(mean.reshape(shape).float().cpu(), std.reshape(shape).float().cpu())


def check_finite(features: Tensor, batch: int) -> None:
    """Refuse features that are not finite.

    Raises:
        StageStopped: How many of this batch (counted from 1) they are.
    """
    finite = torch.isfinite(features)
    if not bool(finite.all()):
        raise StageStopped(
            f"face net, batch {batch}: {int((~finite).sum())} of {features.numel()} features are not finite; "
            "look at its weights and its input, or compute it in 32 bits"
        )


class RSquared:
    """R2 over any number of batches: 1 - sum |t - s|^2 / sum |t - mean|^2, over pictures and units together.

    0 is as good as the mean face, 1 is exact, below 0 is worse than the mean face.

    Args:
        mean: of the targets over the training part, (C, H, W).
    """

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean
        self._sums: Tensor | None = None

    @torch.no_grad()
    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add a batch of predictions and targets, both (B, C, H, W); the device is not waited for.

        Squares are summed over a picture in 32 bits and over pictures in 64 (32 on Apple's devices, which lack 64).
        """
        targets = targets.float()
        mean = self.mean.to(targets)
        missed = [targets - predictions, targets - mean]
        pictures = torch.stack([difference.square().flatten(1).sum(1) for difference in missed])
        sums = pictures.to(torch.float32 if targets.device.type == "mps" else torch.float64).sum(1)
        self._sums = sums if self._sums is None else self._sums + sums

    def compute(self) -> float:
        """Return R2 of all batches since the last call.

        If no target differs from the mean, R2 has no meaning: it is then 1.0 for exact predictions and 0.0 for all
        others, as in scikit-learn's r2_score.
        """
        assert self._sums is not None, "update first"
        unexplained, total = self._sums.tolist()
        self._sums = None
        if total == 0:
            return 1.0 if unexplained == 0 else 0.0
        return float(1.0 - unexplained / total)
