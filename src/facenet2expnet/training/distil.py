"""Stage 1: the expression net's convolutions learn to give the face net's features, equation (4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from facenet2expnet.nets.classifier import ExpressionClassifier, Teacher
from facenet2expnet.recipe import DistilRecipe
from facenet2expnet.training.augment import Augment
from facenet2expnet.training.losses import FeatureLoss
from facenet2expnet.training.statistics import RSquared
from facenet2expnet.training.teacher import CachedViews, TrainingSet


@dataclass(frozen=True, eq=False)
class Teaching:
    """The frozen face net as a teacher, as stages 1 and 2 use it.

    Attributes:
        teacher: the face net, fine-tuned or pretrained, in evaluation mode.
        tap: the layer that is distilled.
        views: its cached answers; None runs it in every step.
        feature_loss: with the statistics of the training part; None if no stage compares features.
    """

    teacher: Teacher
    tap: str
    views: CachedViews | None
    feature_loss: FeatureLoss | None

    @torch.no_grad()
    def ask(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Run the teacher: class scores (B, K) and features (B, C, H, W) of crops in 0..255."""
        scores, (features,) = self.teacher.with_taps(crops, [self.tap])
        return scores, features.float()


class DistilStage:
    """The expression net's features against the frozen face net's, FN2EN eq. (4).

    Args:
        recipe: how it is optimised.
        student: the expression net, its bridge without an affine; on the device.
        data: the training part; pictures without a label too.
        augment: makes the crops, unless views are cached.
        teaching: the teacher, with a feature loss.
    """

    name = "stage1"

    def __init__(
        self,
        recipe: DistilRecipe,
        student: ExpressionClassifier,
        data: TrainingSet,
        augment: Augment,
        teaching: Teaching,
    ) -> None:
        assert teaching.feature_loss is not None
        self.recipe, self.student, self.data, self.augment = recipe, student, data, augment
        self.teaching, self.feature_loss = teaching, teaching.feature_loss
        self.module: nn.Module = nn.ModuleList([student.net.convolutions, student.net.bridge])
        self.r2 = RSquared(self.feature_loss.target_mean())
        self._validation: list[tuple[Tensor, Tensor]] = []

    def epoch_order(self) -> Tensor:
        """Draw every picture once."""
        return torch.randperm(len(self.data))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Convolutions and bridge, one rate."""
        return [{"params": list(self.module.parameters()), "lr_factor": 1.0}]

    def loss(self, examples: Tensor) -> Tensor:
        """Compute ||g(I) - G(I)||, equation (4), as `stage1.losses` says: both nets see the same crops."""
        if (views := self.teaching.views) is None:
            crops = self.augment(self.data.stored(examples))
            features = self.teaching.ask(crops)[1]
        else:
            index = views.draw(examples)
            crops, features = (values.float() for values in views.read(index, self.data.device, "crops", "features"))
        distilled = self.student.distilled(crops)
        target = self.feature_loss.target(features)
        self.r2.update(distilled, target)
        return self.feature_loss(distilled, target)

    def epoch_metrics(self) -> dict[str, float]:
        """Return R2 since the last call; 0 is the mean face."""
        return {"r2": self.r2.compute()}

    def held_out(self) -> list[tuple[Tensor, Tensor]]:
        """Return the validation part's centre crops with the face net's features, which are computed once."""
        assert self.data.validation is not None
        if not self._validation:
            crops = self.data.validation.centre_crops(self.augment.crop_px)
            self._validation = [(batch, self.teaching.ask(batch)[1]) for batch in crops]
        return self._validation

    def validation_loss(self) -> float:
        """Compute the loss on centre crops of the validation part."""
        total, count = 0.0, 0
        for batch, features in self.held_out():
            loss = self.feature_loss(self.student.distilled(batch), self.feature_loss.target(features))
            total, count = total + float(loss) * len(batch), count + len(batch)
        return total / count
