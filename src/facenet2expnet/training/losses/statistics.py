"""Mean and spread of a face net's features over the training part, and how much a student explains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal, Self, get_args

import torch
from torch import Tensor

from facenet2expnet.errors import StageStopped

Per = Literal["unit", "channel"]
PER: tuple[Per, ...] = get_args(Per)

CONSTANT_BELOW = 1e-6
"""A unit counts as constant when its spread is at most this share of its mean's size, or of the root mean
square spread of all units. Below it lies the rounding of 32-bit features."""


def _no_mask() -> Tensor:
    return torch.zeros(0, dtype=torch.bool)


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Per-unit mean and spread of features; brings features to mean 0 and spread 1, and back.

    Most of the variance of a face net's feature is the mean face, the same in every picture. A student that
    predicts standardised features has nothing to gain from it.

    Attributes:
        mean: (C, H, W) or (U,).
        spread: the same shape, standard deviation (divided by the count, not the count less one), > 0. A
            constant unit has spread 1: its target is then 0 in every training picture, and stays small
            elsewhere.
        per: "unit": every channel at every position by itself. "channel": one mean and spread for a channel,
            over pictures and positions; the shapes stay the same, with equal values at all positions.
        pictures: how many pictures were seen.
        constant: bool, the same shape, the units (or channels) that did not vary; see `CONSTANT_BELOW`.
    """

    mean: Tensor
    spread: Tensor
    per: Per = "unit"
    pictures: int = 0
    constant: Tensor = field(default_factory=_no_mask)

    def __post_init__(self) -> None:
        if self.constant.numel() == 0:
            object.__setattr__(self, "constant", torch.zeros_like(self.mean, dtype=torch.bool))
        if self.mean.ndim not in (1, 3) or not self.mean.shape == self.spread.shape == self.constant.shape:
            raise ValueError(
                "expected mean, spread and constant of one shape, (C, H, W) or (U,), got "
                f"{tuple(self.mean.shape)}, {tuple(self.spread.shape)}, {tuple(self.constant.shape)}"
            )
        if not (bool(torch.isfinite(self.mean).all()) and bool(torch.isfinite(self.spread).all())):
            raise ValueError("the mean and the spread of the features have to be finite")
        if not bool((self.spread > 0).all()):
            raise ValueError(f"every spread has to be above 0, the smallest is {float(self.spread.min()):g}")

    @classmethod
    def from_features(cls, batches: Iterable[Tensor], per: Per = "unit") -> Self:
        """Measure features batch by batch, in 64 bits, without keeping them.

        Args:
            batches: features of the training part alone, each (B, C, H, W) or (B, U); B may differ.
            per: "unit" or "channel"; for (B, U) features both are the same.
        Returns:
            Statistics on the CPU in 32 bits.
        Raises:
            StageStopped: If a feature is not finite, or every unit is constant.
            ValueError: If there is no picture, or the shapes differ between batches.
        Source: the merge of two batches' means and squared deviations is Chan, Golub & LeVeque, "Algorithms
            for computing the sample variance", The American Statistician 37(3), 1983, eq. (2.1).
        """
        if per not in ("unit", "channel"):
            raise ValueError(f"per is {per!r}, expected 'unit' or 'channel'")
        shape: torch.Size | None = None
        pictures, count = 0, 0
        mean = deviations = torch.zeros(())
        for number, batch in enumerate(batches, start=1):
            shape = check_features(batch, number, shape)
            rows = as_rows(batch, per)
            if rows.shape[0] == 0:
                continue
            batch_mean = rows.mean(0)
            batch_deviations = (rows - batch_mean).square().sum(0)
            if count == 0:
                mean, deviations = batch_mean, batch_deviations
            else:
                total = count + rows.shape[0]
                delta = batch_mean - mean
                mean = mean + delta * (rows.shape[0] / total)
                deviations = deviations + batch_deviations + delta.square() * (count * rows.shape[0] / total)
            count += rows.shape[0]
            pictures += batch.shape[0]
        if shape is None or count == 0:
            raise ValueError("there are no features to measure: expected at least one batch with one picture")
        spread = (deviations / count).sqrt()
        constant = spread <= CONSTANT_BELOW * torch.maximum(mean.abs(), spread.square().mean().sqrt())
        if bool(constant.all()):
            raise StageStopped(
                f"all {constant.numel()} {per}s of the face net's feature are constant over {pictures} "
                "pictures, expected some to vary: give more and different pictures, or choose another layer"
            )
        spread = torch.where(constant, torch.ones_like(spread), spread)

        def full(values: Tensor) -> Tensor:
            if values.numel() == shape.numel():
                return values.reshape(shape)
            return values.view(-1, 1, 1).expand(shape).contiguous()

        return cls(full(mean).float(), full(spread).float(), per, pictures, full(constant))

    def apply(self, features: Tensor) -> Tensor:
        """Features (B, C, H, W) or (B, U) -> (features - mean) / spread, the same shape."""
        return standardise(features, self.mean, self.spread)

    def restore(self, standardised: Tensor) -> Tensor:
        """Standardised features -> standardised * spread + mean; the inverse of `apply`."""
        return unstandardise(standardised, self.mean, self.spread)

    def to(self, device: torch.device | str) -> Self:
        """The same statistics on another device."""
        return replace(
            self, mean=self.mean.to(device), spread=self.spread.to(device), constant=self.constant.to(device)
        )


def standardise(features: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """Features (B, C, H, W) or (B, U) -> (features - mean) / spread; mean and spread (C, H, W) or (U,)."""
    check_units(features, mean)
    return (features - mean) / spread


def unstandardise(standardised: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """Standardised features -> standardised * spread + mean; the inverse of `standardise`."""
    check_units(standardised, mean)
    return standardised * spread + mean


class RSquared:
    """R2 over any number of batches: 1 - sum |t - s|^2 / sum |t - mean|^2, over pictures and units together.

    0 is as good as predicting the mean face, 1 is exact, below 0 is worse than the mean. Against the overall
    mean of all units instead, even the mean face itself would score high (see FeatureStatistics). In the
    teacher's own space units with a large spread weigh most; in standardised space, with mean 0, all weigh
    the same.

    Args:
        mean: per-unit mean of the training part in the space of the predictions, (C, H, W) or (U,); zeros, or
            a scalar zero, for standardised features.
    """

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean.detach()
        self.pictures = 0
        self._sums: Tensor | None = None

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Take in one batch: predictions and targets, both (B, C, H, W) or (B, U); nothing is waited for.

        Squares are summed over a picture in 32 bits, or the outputs' own 64, and over pictures in 64, all on the
        device of the targets.

        Raises:
            ValueError: If the shapes differ, or do not fit the mean.
        """
        unit_shape = self.mean.shape if self.mean.ndim else targets.shape[1:]
        if predictions.shape != targets.shape or targets.shape[1:] != unit_shape:
            raise ValueError(
                f"expected predictions and targets of one shape (B, {', '.join(map(str, unit_shape))}), "
                f"got {tuple(predictions.shape)} and {tuple(targets.shape)}"
            )
        wide = targets.detach().to(torch.promote_types(targets.dtype, torch.float32))
        self.mean = self.mean.to(wide)  # moved by the first batch
        missed = [wide - predictions.detach(), wide - self.mean]
        pictures = torch.stack([difference.square().flatten(1).sum(1) for difference in missed])
        sums = pictures.to(_widest(wide.device)).sum(1)
        self._sums = sums if self._sums is None else self._sums + sums
        self.pictures += targets.shape[0]

    def compute(self) -> float:
        """R2 of all batches so far.

        Where no target differs from the mean, R2 has no meaning: 1.0 for exact predictions and 0.0 for all
        others, as in scikit-learn's r2_score. Predictions that are not finite give NaN or minus infinity.

        Raises:
            ValueError: If no picture was taken in.
        """
        if self._sums is None or self.pictures == 0:
            raise ValueError("R2 needs at least one batch with one picture; call update first")
        unexplained, total = self._sums.tolist()
        if total == 0:
            return 1.0 if unexplained == 0 else 0.0
        return float(1.0 - unexplained / total)


def _widest(device: torch.device) -> torch.dtype:
    """64 bits, which Apple's devices have not."""
    return torch.float32 if device.type == "mps" else torch.float64


def r_squared(predictions: Tensor, targets: Tensor, mean: Tensor) -> float:
    """R2 of one batch; see RSquared.

    Args:
        predictions: (B, C, H, W) or (B, U).
        targets: the same shape.
        mean: (C, H, W), (U,) or a scalar; of the training part.
    """
    accumulator = RSquared(mean)
    accumulator.update(predictions, targets)
    return accumulator.compute()


def check_features(batch: Tensor, number: int, shape: torch.Size | None) -> torch.Size:
    """Check one batch of features and give the shape of one picture's; `number` counts batches from 1.

    Raises:
        StageStopped: If a feature is not finite.
        ValueError: If the batch is not (B, C, H, W) or (B, U), or differs in shape from those before.
    """
    if batch.ndim not in (2, 4):
        raise ValueError(
            f"batch {number}: expected features (B, C, H, W) or (B, U), got {tuple(batch.shape)}"
        )
    if shape is not None and batch.shape[1:] != shape:
        raise ValueError(
            f"batch {number}: features are {tuple(batch.shape[1:])}, those before {tuple(shape)}"
        )
    finite = torch.isfinite(batch)
    if not bool(finite.all()):
        raise StageStopped(
            f"face net, batch {number}: {int((~finite).sum())} of {batch.numel()} features are not finite; "
            "look at its weights and its input, or compute it in 32 bits"
        )
    return batch.shape[1:]


def as_rows(batch: Tensor, per: Per) -> Tensor:
    """Features (B, C, H, W) or (B, U) -> 64-bit rows on the CPU: (B, units), or (B*H*W, C) per channel."""
    wide = batch.detach().to("cpu", torch.float64)
    if per == "channel" and wide.ndim == 4:
        return wide.movedim(1, -1).reshape(-1, wide.shape[1])
    return wide.flatten(1)


def check_units(batch: Tensor, mean: Tensor) -> None:
    """Raise ValueError unless the pictures of a batch have the shape that the statistics were measured on."""
    if batch.shape[1:] != mean.shape:
        raise ValueError(
            f"the statistics are of {tuple(mean.shape)} features, the batch is {tuple(batch.shape)}"
        )
