"""Cross-entropy on labelled pictures: stage 0, stage 2 and the baseline from scratch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from facenet2expnet.device import to_device
from facenet2expnet.nets.classifier import ExpressionClassifier
from facenet2expnet.recipe import ClassifyRecipe, FineTuneRecipe, Stage2Recipe
from facenet2expnet.training.augment import Augment
from facenet2expnet.training.distil import Teaching
from facenet2expnet.training.losses import soft_label_loss
from facenet2expnet.training.statistics import RSquared
from facenet2expnet.training.teacher import BATCH, TrainingSet


@dataclass(frozen=True, eq=False)
class Batch:
    """What a step sees: crops of pictures, or mixes of two.

    Attributes:
        crops: (B, 3, c, c) in 0..255, on the device.
        pictures: (B,) numbers of the first pictures, on the device.
        partners: (B,) numbers of the pictures mixed in; None if none is.
        weight: of the first picture, a number or (B,).
        teacher_scores: (B, K); None without soft labels.
        teacher_features: (B, C, H, W); None without a feature loss.
    """

    crops: Tensor
    pictures: Tensor
    partners: Tensor | None = None
    weight: Tensor | float = 1.0
    teacher_scores: Tensor | None = None
    teacher_features: Tensor | None = None


class ClassifyStage:
    """Stage 0 and the baseline from scratch: cross-entropy on augmented crops, FN2EN eq. (5).

    Args:
        name: of the stage, a section of the recipe.
        recipe: how it is optimised.
        module: crops (B, 3, H, W) in 0..255 -> class scores (B, K); on the device.
        data: the training part.
        augment: makes the crops.
        new: the parameters that are not pretrained.
    """

    def __init__(
        self,
        name: str,
        recipe: ClassifyRecipe,
        module: nn.Module,
        data: TrainingSet,
        augment: Augment,
        new: Iterable[nn.Parameter],
    ) -> None:
        self.name, self.recipe, self.module = name, recipe, module
        self.data, self.augment = data, augment
        self.new = list(new)
        self.truth, self.known = data.targets, data.targets >= 0
        if recipe.votes:
            assert data.votes is not None
            self.truth, self.known = data.votes, data.votes.sum(1) > 0
        self.examples = torch.nonzero(self.known)[:, 0].cpu()
        counts = torch.bincount(data.targets[data.targets >= 0], minlength=data.classes).clamp(min=1).float()
        self.class_weights = len(data.labelled) / (data.classes * counts)
        self._correct = self._seen = torch.zeros((), dtype=torch.long, device=data.device)

    def epoch_order(self) -> Tensor:
        """Draw the epoch's examples: each once, or with balance "sampler" by inverse class frequency."""
        if self.recipe.balance == "sampler":
            targets = self.data.targets[self.examples.to(self.data.device)]
            chances = torch.where(targets >= 0, self.class_weights[targets], 1.0).cpu()  # 1 without a label
            return self.examples[torch.multinomial(chances, len(self.examples), replacement=True)]
        return self.examples[torch.randperm(len(self.examples))]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """New layers at the full rate, pretrained ones at `lr_factor_pretrained` times it."""
        factor = self.recipe.lr_factor_pretrained if isinstance(self.recipe, FineTuneRecipe) else 1.0
        new = {id(parameter) for parameter in self.new}
        pretrained = [p for p in self.module.parameters() if id(p) not in new]
        return [{"params": self.new, "lr_factor": 1.0}, {"params": pretrained, "lr_factor": factor}]

    def loss(self, examples: Tensor) -> Tensor:
        """Compute the cross-entropy of the examples, equation (5)."""
        batch = self.batch(examples)
        scores = self.module(batch.crops)
        self.count(scores, batch.pictures)
        return self.cross_entropy(scores, batch)

    def batch(self, examples: Tensor) -> Batch:
        """Augment pictures; with mixup mix each with another of the batch, all by one weight of at least a half.

        Source: Zhang et al., mixup, ICLR 2018, arXiv 1710.09412, figure 1.
        """
        crops, pictures = self.augment(self.data.stored(examples)), to_device(examples, self.data.device)
        if not self.recipe.mixup:
            return Batch(crops, pictures)
        weight = float(torch.distributions.Beta(self.recipe.mixup, self.recipe.mixup).sample())
        weight = max(weight, 1 - weight)
        order = to_device(torch.randperm(len(crops)), crops.device)
        return Batch(crops[order].lerp(crops, weight), pictures, pictures[order], weight)

    def cross_entropy(self, scores: Tensor, batch: Batch) -> Tensor:
        """Return the mean over the batch's labels, each weighted by its share of the mix and by its class's weight.

        A picture one of whose labels is unknown does not count.
        """
        pairs: list[tuple[Tensor, Tensor | float]] = [(batch.pictures, batch.weight)]
        if batch.partners is not None:
            pairs.append((batch.partners, 1 - batch.weight))
        known = torch.stack([self.known[pictures] for pictures, _ in pairs]).all(0)
        total, weight = scores.new_zeros(()), scores.new_zeros(())
        for pictures, share in pairs:
            losses = functional.cross_entropy(scores, self.truth[pictures], ignore_index=-1, reduction="none")
            weights = share * known
            if self.recipe.balance == "weights":
                weights = weights * self.class_weights[self.data.targets[pictures].clamp(min=0)]
            total = total + (weights * losses).sum()
            weight = weight + weights.sum()
        return total / weight.clamp(min=1e-6)

    def count(self, scores: Tensor, pictures: Tensor) -> None:
        """Add a batch to the epoch's accuracy; the device is not waited for."""
        labels = self.data.targets[pictures]
        self._correct = self._correct + (scores.argmax(1) == labels).sum()
        self._seen = self._seen + (labels >= 0).sum()

    def epoch_metrics(self) -> dict[str, float]:
        """Return the accuracy on the training crops since the last call."""
        accuracy = int(self._correct) / max(1, int(self._seen))
        self._correct = self._seen = torch.zeros_like(self._correct)
        return {"accuracy": accuracy}

    def validation_loss(self) -> float:
        """Compute plain cross-entropy on centre crops: accuracy moves in steps of a picture, and there are few."""
        validation, total = self.data.validation, 0.0
        assert validation is not None
        crops = validation.centre_crops(self.augment.crop_px)
        for batch, targets in zip(crops, validation.targets.split(BATCH), strict=True):
            total += float(functional.cross_entropy(self.module(batch), targets, reduction="sum"))
        return total / len(validation)


class Stage2(ClassifyStage):
    """Stage 2: cross-entropy on the whole expression net; soft labels and stage 1's loss beside it if asked.

    Args:
        recipe, data, augment, new: see ClassifyStage.
        module: the expression net with its pixel scale.
        teaching: the frozen teacher, its cached views and the feature loss.
    """

    recipe: Stage2Recipe
    module: ExpressionClassifier

    def __init__(
        self,
        recipe: Stage2Recipe,
        module: ExpressionClassifier,
        data: TrainingSet,
        augment: Augment,
        new: Iterable[nn.Parameter],
        teaching: Teaching,
    ) -> None:
        super().__init__("stage2", recipe, module, data, augment, new)
        self.teaching = teaching
        self.r2 = None
        if recipe.soft_labels or recipe.distil_weight:  # then pictures without a label count as well
            self.examples = torch.arange(len(data))
        if recipe.distil_weight:
            assert teaching.feature_loss is not None
            self.r2 = RSquared(teaching.feature_loss.target_mean())

    def loss(self, examples: Tensor) -> Tensor:
        """Compute (1 - a) * cross-entropy + a * soft labels + w * feature loss; equation (5) where a and w are 0."""
        batch, recipe = self.batch(examples), self.recipe
        if recipe.distil_weight:
            scores, distilled = self.module.with_distilled(batch.crops)
        else:
            scores = self.module(batch.crops)
        self.count(scores, batch.pictures)
        loss = self.cross_entropy(scores, batch)
        if batch.teacher_scores is not None:
            soft = soft_label_loss(scores, batch.teacher_scores, recipe.temperature)
            loss = (1 - recipe.soft_labels) * loss + recipe.soft_labels * soft
        if batch.teacher_features is not None and self.r2 is not None:
            assert self.teaching.feature_loss is not None
            target = self.teaching.feature_loss.target(batch.teacher_features)
            self.r2.update(distilled, target)
            loss = loss + recipe.distil_weight * self.teaching.feature_loss(distilled, target)
        return loss

    def batch(self, examples: Tensor) -> Batch:
        """Return crops with what the teacher gives for them: a cached view each, or the teacher run on new crops."""
        recipe, views, device = self.recipe, self.teaching.views, self.data.device
        if not recipe.soft_labels and not recipe.distil_weight:
            return super().batch(examples)
        scores: Tensor | None
        features: Tensor | None
        if views is None:
            batch = super().batch(examples)
            scores, features = self.teaching.ask(batch.crops)
        else:
            index = views.draw(examples)
            crops, partners, weights, scores = views.read(index, device, "crops", "partners", "weights", "scores")
            batch = Batch(crops.float(), to_device(examples, device), partners, weights)
            features = views.read(index, device, "features")[0].float() if recipe.distil_weight else None
        scores, features = scores if recipe.soft_labels else None, features if recipe.distil_weight else None
        return replace(batch, teacher_scores=scores, teacher_features=features)

    def epoch_metrics(self) -> dict[str, float]:
        """Return accuracy and, with a feature loss, R2 since the last call."""
        metrics = super().epoch_metrics()
        if self.r2 is not None:
            metrics["r2"] = self.r2.compute()
        return metrics
