"""What stage 0, stage 2 and the baseline from scratch make small: cross-entropy, with what may stand beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from facenet2expnet.nets.classifier import FaceClassifier
from facenet2expnet.recipe import ClassifyRecipe, StageRecipe
from facenet2expnet.training.augment import Augment, centre_crop
from facenet2expnet.training.comparison import Comparison
from facenet2expnet.training.losses import soft_label_loss
from facenet2expnet.training.teacher import BATCH, TrainingPart, Views


@dataclass(frozen=True, eq=False)
class Shown:
    """What a batch shows: faces, or blends of two, with what the teacher says of them.

    Attributes:
        crops: (B, 3, c, c), 0..255, on the device.
        first: (B,) numbers of the pictures, on the device.
        second: (B,) numbers of those blended in; None where none is.
        share: of the first in a blend, a number or (B,).
        answers: (B, classes), the teacher's class scores; None where its soft labels don't count.
        features: the teacher's features at the compared layers.
    """

    crops: Tensor
    first: Tensor
    second: Tensor | None
    share: Tensor | float
    answers: Tensor | None
    features: Sequence[Tensor]

    def labels(self, of: Tensor) -> list[tuple[Tensor, Tensor | float]]:
        """What `of` (N,) holds of the first pictures and of the second, each with its share."""
        if self.second is None:
            return [(of[self.first], 1.0)]
        return [(of[self.first], self.share), (of[self.second], 1 - self.share)]


class Classification:
    """Cross-entropy on augmented crops, FN2EN eq. (5); soft labels and stage 1's objective beside it where asked."""

    def __init__(
        self,
        name: str,
        recipe: StageRecipe,
        module: nn.Module,
        part: TrainingPart,
        augment: Augment,
        fresh: Iterable[nn.Parameter],
        views: Views | None = None,
        comparison: Comparison | None = None,
        teacher: FaceClassifier | None = None,
    ) -> None:
        self.name, self.recipe, self.module = name, recipe, module
        self.part, self.augment, self.views, self.comparison = part, augment, views, comparison
        self.fresh = list(fresh)
        self.teacher = teacher  # asked for soft labels in every step, where no views have them
        labels_only = views is None and comparison is None and teacher is None
        self.examples = part.labelled if labels_only else torch.arange(len(part))
        known = part.targets[part.targets >= 0]
        counts = torch.bincount(known, minlength=part.classes).clamp(min=1).float()
        self.class_weights = len(known) / (part.classes * counts) if recipe.balance != "none" else None
        self.right, self.seen = 0.0, 0

    def sample(self) -> Tensor:
        if self.recipe.balance == "sampler":
            assert self.class_weights is not None
            targets = self.part.targets[self.examples.to(self.part.device)]
            chances = torch.where(targets >= 0, self.class_weights[targets], 1.0).cpu()  # 1 without a label
            return self.examples[torch.multinomial(chances, len(self.examples), replacement=True)]
        return self.examples[torch.randperm(len(self.examples))]

    def parameter_groups(self) -> list[dict[str, Any]]:
        fresh = {id(parameter) for parameter in self.fresh}
        pretrained = [p for p in self.module.parameters() if id(p) not in fresh]
        return [
            {"params": self.fresh, "lr_factor": 1.0},
            {"params": pretrained, "lr_factor": self.recipe.lr_factor_pretrained},
        ]

    def loss(self, examples: Tensor) -> Tensor:
        shown = self._drawn(examples) if self.views is None else self._viewed(self.views, examples)
        scores, persons, regression = self._pass(shown)
        self._count(scores, self.part.targets[shown.first])
        loss = self._softened(self._cross_entropy(scores, shown), scores, shown.answers)
        return loss + regression + self._adversary_learns(persons, shown)

    def _viewed(self, views: Views, examples: Tensor) -> Shown:
        """One of the views of every picture, with what the teacher said of it."""
        index = views.draw(examples)
        crops = self._to_device(views.crops[index]).float()
        features = self.comparison.features(crops, index) if self.comparison else []
        second, share = self._to_device(views.partners[index]), self._to_device(views.weights[index])
        answers = self._to_device(views.scores[index])
        return Shown(crops, examples.to(self.part.device), second, share, answers, features)

    def _drawn(self, examples: Tensor) -> Shown:
        """Crops augmented anew; with mixup each is blended with another of the batch, all in one share.

        The first picture has the larger share, as in the blended views; its label is what the accuracy counts.
        Source: Zhang et al., mixup, ICLR 2018, arXiv 1710.09412, figure 1.
        """
        crops, first = self.augment(self.part.stored(examples)), examples.to(self.part.device)
        second, share = None, 1.0
        if self.recipe.mixup:
            share = float(torch.distributions.Beta(self.recipe.mixup, self.recipe.mixup).sample())
            share = max(share, 1 - share)
            partners = torch.randperm(len(crops)).to(crops.device)
            crops, second = crops[partners].lerp(crops, share), first[partners]
        return Shown(crops, first, second, share, *self._asked(crops))

    @torch.no_grad()
    def _asked(self, crops: Tensor) -> tuple[Tensor | None, list[Tensor]]:
        """The frozen teacher's class scores where its soft labels count, and its features at the compared layers."""
        if self.teacher is None:
            return None, self.comparison.features(crops, None) if self.comparison else []
        answers, features = self.teacher.with_taps(crops, self.comparison.taps if self.comparison else [])
        return answers, [values.float() for values in features]

    def _softened(self, hard: Tensor, scores: Tensor, answers: Tensor | None) -> Tensor:
        """The cross-entropy with the soft labels beside it, where there are any."""
        if answers is None:
            return hard
        assert isinstance(self.recipe, ClassifyRecipe)
        soft = soft_label_loss(scores, answers, self.recipe.temperature)
        return (1 - self.recipe.soft_labels) * hard + self.recipe.soft_labels * soft

    def _pass(self, shown: Shown) -> tuple[Tensor, Tensor | None, Tensor | float]:
        """Class scores; the adversary's scores of the persons where there is one; stage 1's objective, weighted."""
        if self.comparison is None:
            return *self._answers(shown.crops), 0.0
        assert isinstance(self.recipe, ClassifyRecipe)
        with self.comparison.watching() as maps:
            answers = self._answers(shown.crops)
        return *answers, self.recipe.regress * self.comparison.loss(maps[0], shown.features)

    def _answers(self, crops: Tensor) -> tuple[Tensor, Tensor | None]:
        """Class scores, and the adversary's scores of the persons where there is one."""
        answers = self.module(crops)
        return answers if isinstance(answers, tuple) else (answers, None)

    def _cross_entropy(self, scores: Tensor, shown: Shown) -> Tensor:
        """The mean over the batch's labels, each at its share and, with balance "weights", at its class's weight.

        The weight is the picture's and not, as PyTorch has it, that of every class that label smoothing gives a part:
        a class that is rare, or that no picture has, would draw all scores to itself.
        """
        weights = self.class_weights if self.recipe.balance == "weights" else None
        return _mean_loss(scores, shown.labels(self.part.targets), weights, self.recipe.label_smoothing)

    def _adversary_learns(self, persons: Tensor | None, shown: Shown) -> Tensor | float:
        """The adversary's cross-entropy, as a loss of value 0 with a gradient: the curve stays the expression's.

        A blend of two faces counts for both persons, in the shares of the blend, as its labels do.
        """
        if persons is None:
            return 0.0
        assert self.part.subjects is not None
        loss = _mean_loss(persons, shown.labels(self.part.subjects))
        return loss - loss.detach()

    def _count(self, scores: Tensor, targets: Tensor) -> None:
        self.right += float((scores.argmax(1) == targets).sum())
        self.seen += int((targets >= 0).sum())

    def _to_device(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.part.device)

    def epoch_metrics(self) -> dict[str, float]:
        accuracy = self.right / max(1, self.seen)
        self.right, self.seen = 0.0, 0
        return {"accuracy": accuracy} | ({"r2": self.comparison.r2()} if self.comparison else {})

    def inner_loss(self) -> float:
        """Plain cross-entropy: accuracy moves in steps of a picture, and an inner part has few."""
        inner, total = self.part.inner, 0.0
        assert inner is not None
        for stored, targets in zip(inner.batches(), inner.targets.split(BATCH), strict=True):
            scores = self._answers(centre_crop(stored, self.augment.crop_px))[0]
            total += float(functional.cross_entropy(scores, targets, reduction="sum"))
        return total / len(inner)


def _mean_loss(
    scores: Tensor,
    labels: Sequence[tuple[Tensor, Tensor | float]],
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The weighted mean of the cross-entropies with each of the labels.

    Args:
        scores: (B, K).
        labels: (B,) class numbers with their share of each example, a number or (B,). An example of which one label
            is unknown (-1) does not count; where none counts the loss is 0.
        class_weights: (K,), of an example by its label.
        label_smoothing: share of a label that is spread over all classes.
    """
    counts = torch.stack([targets >= 0 for targets, _ in labels]).all(0)
    total, weight = scores.new_zeros(()), scores.new_zeros(())
    for targets, share in labels:
        losses = functional.cross_entropy(
            scores, targets, ignore_index=-1, reduction="none", label_smoothing=label_smoothing
        )
        weights = share * counts
        if class_weights is not None:
            weights = weights * class_weights[targets.clamp(min=0)]
        total = total + (weights * losses).sum()
        weight = weight + weights.sum()
    return total / weight.clamp(min=1e-6)
