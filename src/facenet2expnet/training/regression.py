"""What stage 1 makes small: the objective between the expression net's features and the frozen face net's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from facenet2expnet.nets.classifier import ExpressionClassifier
from facenet2expnet.recipe import RegressRecipe
from facenet2expnet.training.augment import Augment, centre_crop
from facenet2expnet.training.comparison import Comparison
from facenet2expnet.training.teacher import TrainingPart, Views


class Regression:
    """The expression net's features against the frozen face net's, FN2EN eq. (4)."""

    name = "stage1"

    def __init__(
        self,
        recipe: RegressRecipe,
        student: ExpressionClassifier,
        part: TrainingPart,
        augment: Augment,
        comparison: Comparison,
        views: Views | None,
    ) -> None:
        self.recipe, self.student, self.part, self.augment = recipe, student, part, augment
        self.comparison, self.views = comparison, views
        net = student.net
        self.module: nn.Module = nn.ModuleList([net.convolutions, net.bridge, *comparison.bridges])
        self.inner_features: list[list[Tensor]] = []

    def sample(self) -> Tensor:
        return torch.randperm(len(self.part))

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.module.parameters()), "lr_factor": 1.0}]

    def loss(self, examples: Tensor) -> Tensor:
        index = None
        if self.views is None:
            crops = self.augment(self.part.stored(examples))
        else:
            index = self.views.draw(examples)
            crops = torch.from_numpy(self.views.crops[index]).to(self.part.device).float()
        features = self.comparison.features(crops, index)
        return self.comparison.loss(self.student.maps(crops), features)

    def epoch_metrics(self) -> dict[str, float]:
        return {"r2": self.comparison.r2()}

    def inner_loss(self) -> float:
        """The objective on centre crops; the face net's features of them are computed once."""
        inner, total = self.part.inner, 0.0
        assert inner is not None
        crops = [centre_crop(stored, self.augment.crop_px) for stored in inner.batches()]
        if len(crops) > 1 and len(crops[-1]) == 1:
            crops[-2:] = [torch.cat(crops[-2:])]  # one vector has no spread, which srd asks for
        self.inner_features = self.inner_features or [
            self.comparison.features(batch, None) for batch in crops
        ]
        for batch, features in zip(crops, self.inner_features, strict=True):
            maps = self.student.maps(batch)
            total += float(self.comparison.loss(maps, features, counted=False)) * len(batch)
        return total / len(inner)
