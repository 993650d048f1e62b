"""Pretraining: the untouched face net is distilled once into an expression net, on faces without labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from facenet2expnet.device import to_device
from facenet2expnet.recipe import LossTerm
from facenet2expnet.training.distil import DistilStage
from facenet2expnet.training.losses import FeatureLoss
from facenet2expnet.training.statistics import FeatureStatistics, RSquared

STD_FLOOR = 0.1
"""Smallest standard deviation of a unit, as a share of the median unit's. A tenth of dlib's tapped units hardly ever
respond; divided by their own standard deviation, their rare responses would outweigh all others."""

LARGEST_TARGET = 5.0
"""Standardised targets are clipped to this size, for the same reason."""


@dataclass(frozen=True, eq=False)
class ClippedStatistics(FeatureStatistics):
    """Statistics whose standardised features are clipped to +-LARGEST_TARGET."""

    def standardise(self, features: Tensor) -> Tensor:
        """Return (features - mean) / std of features (B, C, H, W), clipped."""
        return super().standardise(features).clamp(-LARGEST_TARGET, LARGEST_TARGET)


def robust_loss(statistics: FeatureStatistics) -> FeatureLoss:
    """Return standardised L2 with the standard deviations floored and the targets clipped."""
    std = statistics.std.clamp(min=STD_FLOOR * float(statistics.std.median()))
    return FeatureLoss([LossTerm("standardised-l2")], ClippedStatistics(statistics.mean, std))


class PretrainStage(DistilStage):
    """Stage 1 without labels, on fresh views: every step mixes each face with another and runs the teacher on the mix.

    Both nets see the same mix of two newly augmented crops; partner and weight, uniform in (0, 1), are new every time.

    Args:
        recipe, student, data, augment, teaching: see DistilStage; `data.validation` holds the held-out faces.
    Source: Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", arXiv 2106.05237.
    """

    name = "pretrain"

    def loss(self, examples: Tensor) -> Tensor:
        """Compute equation (4) on fresh mixes."""
        crops = self.augment(self.data.stored(examples))
        others = self.augment(self.data.stored(torch.randint(len(self.data), (len(examples),))))
        weights = to_device(torch.rand(len(examples)), crops.device)
        crops = others.lerp(crops, weights.view(-1, 1, 1, 1))
        target = self.feature_loss.target(self.teaching.ask(crops)[1])
        return self.feature_loss(self.student.distilled(crops), target)

    @torch.no_grad()
    def epoch_metrics(self) -> dict[str, float]:
        """Return R2 on the held-out faces; 0 is the mean face."""
        self.student.eval()
        r2 = RSquared(self.feature_loss.target_mean())
        for crops, features in self.held_out():
            r2.update(self.student.distilled(crops), self.feature_loss.target(features))
        return {"r2": r2.compute()}
