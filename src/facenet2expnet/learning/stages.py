"""The stages of the method: fine-tune the face net, regress its features, classify; and both baselines.

    stage 0  `fine_tune`   the face net learns the classes of the training part
    stage 1  `regress`     the expression net's convolutions regress the frozen face net's layer, eq. (4)
    stage 2  `classify`    everything learns with cross-entropy, eq. (5)
    baseline `from_scratch`

Each composes plain parts and hands them to the one loop, `loop.fit`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from facenet2expnet.errors import UserError
from facenet2expnet.learning.adversary import WithAdversary
from facenet2expnet.learning.augment import Augment
from facenet2expnet.learning.loop import Listener, fit
from facenet2expnet.learning.objectives import (
    REGISTRY,
    ObjectiveModule,
    RSquared,
    StandardisedL2,
    build,
    soft_label_loss,
)
from facenet2expnet.learning.teacher import Progress, TrainingPart, Views, compute_views, tapped_features
from facenet2expnet.nets import face
from facenet2expnet.nets.classifier import ExpressionClassifier, FaceClassifier
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.nets.face import FaceNet
from facenet2expnet.recipe import ClassifyRecipe, Recipe, RegressRecipe, StageRecipe


@dataclass(frozen=True)
class Setting:
    """What all stages of one training share.

    Attributes:
        recipe: every number.
        seed: of this training.
        fabric: device and precision.
        listener: told of every epoch.
        progress: told of the teacher's views, done and in all.
    """

    recipe: Recipe
    seed: int
    fabric: Fabric
    listener: Listener | None = None
    progress: Progress | None = None


class Classification:
    """Cross-entropy on augmented crops, FN2EN eq. (5); with soft labels where a teacher's views are given."""

    def __init__(
        self,
        name: str,
        recipe: StageRecipe,
        module: nn.Module,
        part: TrainingPart,
        augment: Augment,
        fresh: Iterable[nn.Parameter],
        views: Views | None = None,
    ) -> None:
        self.name, self.recipe, self.module = name, recipe, module
        self.part, self.augment, self.views = part, augment, views
        self.fresh = list(fresh)
        self.examples = part.labelled if views is None else torch.arange(len(part))
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
        targets = self.part.targets[examples.to(self.part.device)]
        if self.views is None:
            scores, persons = self._answers(self.augment(self.part.stored(examples)))
            self._count(scores, targets)
            return self._cross_entropy(scores, targets).mean() + self._adversary_learns(persons, examples)
        index = self.views.draw(examples)
        scores, persons = self._answers(self._to_device(self.views.crops[index]).float())
        self._count(scores, targets)
        blended_with = self._to_device(self.views.partners[index])
        partners = self.part.targets[blended_with]
        share = self._to_device(self.views.weights[index])
        hard = share * self._cross_entropy(scores, targets) + (1 - share) * self._cross_entropy(
            scores, partners
        )
        labelled = (targets >= 0) & (partners >= 0)
        hard = (hard * labelled).sum() / labelled.sum().clamp(min=1)
        assert isinstance(self.recipe, ClassifyRecipe)
        soft = soft_label_loss(scores, self._to_device(self.views.scores[index]), self.recipe.temperature)
        loss = (1 - self.recipe.soft_labels) * hard + self.recipe.soft_labels * soft
        return loss + self._adversary_learns(persons, examples, blended_with, share)

    def _answers(self, crops: Tensor) -> tuple[Tensor, Tensor | None]:
        """Class scores, and the adversary's scores of the persons where there is one."""
        answers = self.module(crops)
        return answers if isinstance(answers, tuple) else (answers, None)

    def _adversary_learns(
        self,
        persons: Tensor | None,
        examples: Tensor,
        partners: Tensor | None = None,
        share: Tensor | float = 1.0,
    ) -> Tensor | float:
        """The adversary's cross-entropy, as a loss of value 0 with a gradient: the curve stays the expression's.

        A blend of two faces counts for both persons, in the shares of the blend, as its labels do.
        """
        if persons is None:
            return 0.0
        assert self.part.subjects is not None
        first = self.part.subjects[examples.to(self.part.device)]
        second = first if partners is None else self.part.subjects[partners]
        known = (first >= 0) & (second >= 0)
        losses = share * functional.cross_entropy(persons, first, ignore_index=-1, reduction="none")
        losses = losses + (1 - share) * functional.cross_entropy(
            persons, second, ignore_index=-1, reduction="none"
        )
        loss = (losses * known).sum() / known.sum().clamp(min=1)
        return loss - loss.detach()

    def _cross_entropy(self, scores: Tensor, targets: Tensor) -> Tensor:
        """(B,), 0 where there is no label; weighted losses are brought to the mean that PyTorch gives."""
        weights = self.class_weights if self.recipe.balance == "weights" else None
        losses = functional.cross_entropy(
            scores,
            targets,
            weights,
            ignore_index=-1,
            reduction="none",
            label_smoothing=self.recipe.label_smoothing,
        )
        if weights is None:
            return losses
        known = targets >= 0
        return losses * known.sum() / weights[targets[known]].sum().clamp(min=1e-6)

    def _count(self, scores: Tensor, targets: Tensor) -> None:
        self.right += float((scores.argmax(1) == targets).sum())
        self.seen += int((targets >= 0).sum())

    def _to_device(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.part.device)

    def epoch_metrics(self) -> dict[str, float]:
        accuracy = self.right / max(1, self.seen)
        self.right, self.seen = 0.0, 0
        return {"accuracy": accuracy}


class Regression:
    """The expression net's features against the frozen face net's, FN2EN eq. (4)."""

    name = "stage1"

    def __init__(
        self,
        recipe: RegressRecipe,
        student: ExpressionClassifier,
        part: TrainingPart,
        augment: Augment,
        objective: ObjectiveModule,
        teacher: FaceClassifier,
        tap: str,
        views: Views | None,
        target_mean: Tensor,
    ) -> None:
        self.recipe, self.student, self.part, self.augment = recipe, student, part, augment
        self.objective, self.teacher, self.tap, self.views = objective, teacher.eval(), tap, views
        self.target_mean = target_mean
        self.module: nn.Module = nn.ModuleList([student.net.convolutions, student.net.bridge])
        self.explained = RSquared(target_mean)

    def sample(self) -> Tensor:
        return torch.randperm(len(self.part))

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.module.parameters()), "lr_factor": 1.0}]

    def loss(self, examples: Tensor) -> Tensor:
        crops, features = self._crops_and_features(examples)
        predicted = self.student.features(crops)
        self.explained.update(predicted, self.objective.target(features))
        return self.objective(predicted, features)

    @torch.no_grad()
    def _crops_and_features(self, examples: Tensor) -> tuple[Tensor, Tensor]:
        if self.views is None:
            crops = self.augment(self.part.stored(examples))
            features = self.teacher.with_tap(crops, self.tap)[1]
            assert features is not None
            return crops, features.float()
        index = self.views.draw(examples)
        crops = torch.from_numpy(self.views.crops[index]).to(self.part.device).float()
        return crops, torch.from_numpy(self.views.features[index]).to(self.part.device).float()

    def epoch_metrics(self) -> dict[str, float]:
        r2 = self.explained.compute()
        self.explained = RSquared(self.target_mean)
        return {"r2": r2}


def check(recipe: Recipe) -> None:
    """Refuse a recipe that a stage could not follow, before any work: no such face net, weights, tap or objective.

    Raises:
        UserError: What is wrong with it.
    """
    known = [name for name, kind in REGISTRY.items() if kind.reads == "features"]
    if recipe.stage1.objective not in known:
        raise UserError(
            f"stage1.objective is '{recipe.stage1.objective}', expected one of {', '.join(known)}"
        )
    _tap(recipe, face.load(recipe.face_net.name, recipe.face_net.weights or None))


def fine_tune(part: TrainingPart, setting: Setting, folder: Path) -> FaceClassifier:
    """Stage 0: the face net with a new head learns the training part; also the baseline "VGG Fine-Tune".

    Returns:
        The classifier on the device, in evaluation mode, frozen.
    """
    recipe = setting.recipe
    torch.manual_seed(setting.seed)
    net = face.load(recipe.face_net.name, recipe.face_net.weights or None)
    classifier = FaceClassifier(
        net, part.classes, head_norm=recipe.face_net.head_norm, head_dropout=recipe.face_net.head_dropout
    ).to(part.device)
    stage = Classification(
        "fine_tune", recipe.fine_tune, classifier, part, _augment(recipe, part), classifier.head.parameters()
    )
    fit(stage, folder, seed=setting.seed, fabric=setting.fabric, listener=setting.listener)
    classifier.zero_grad(set_to_none=True)
    return classifier.eval().requires_grad_(False)


def from_scratch(part: TrainingPart, setting: Setting, folder: Path) -> ExpressionClassifier:
    """The baseline "Train From Scratch (BN)": the same architecture with batch norm, cross-entropy only."""
    recipe = setting.recipe
    net = face.load(recipe.face_net.name, recipe.face_net.weights or None)
    _, bridge_chw = _tap(recipe, net)
    torch.manual_seed(setting.seed)
    model = _expression_classifier(recipe, part, bridge_chw, batch_norm=True)
    module = _opposed(model, recipe.scratch, part, setting)
    stage = Classification(
        "scratch", recipe.scratch, module, part, _augment(recipe, part), module.parameters()
    )
    fit(stage, folder, seed=setting.seed, fabric=setting.fabric, listener=setting.listener)
    return model.eval()


def fn2en(
    part: TrainingPart, teacher: FaceClassifier, setting: Setting, folder: Path
) -> ExpressionClassifier:
    """Stages 1 and 2: the expression net of the paper.

    Args:
        part: the training part, the same that the teacher was fine-tuned on; unlabelled pictures may stand in it.
        teacher: the fine-tuned face net, frozen.
        setting: recipe, seed, device.
        folder: for checkpoints and the teacher's views.
    """
    recipe = setting.recipe
    tap, bridge_chw = _tap(recipe, teacher.face_net)
    augment = _augment(recipe, part)
    views = None
    if recipe.stage1.views:
        views = compute_views(
            teacher, part, tap, augment, recipe.stage1.views, folder,
            blend=recipe.stage1.blend, seed=setting.seed, fabric=setting.fabric, progress=setting.progress,
        )  # fmt: skip
    torch.manual_seed(setting.seed)
    model = _expression_classifier(recipe, part, bridge_chw, batch_norm=recipe.expnet.batch_norm)
    regress(model, part, teacher, tap, augment, views, setting, folder)
    classify(model, part, augment, views, setting, folder)
    return model.eval()


def regress(
    model: ExpressionClassifier,
    part: TrainingPart,
    teacher: FaceClassifier,
    tap: str,
    augment: Augment,
    views: Views | None,
    setting: Setting,
    folder: Path,
) -> None:
    """Stage 1: train the convolutions and the bridge on the face net's layer; leaves its scale in the bridge."""
    recipe = setting.recipe.stage1
    own: dict[str, dict[str, Any]] = {
        "p-norm": {"p": recipe.p},
        "standardised-l2": {"per": recipe.statistics},
    }
    options = own.get(recipe.objective, {})

    def features() -> Iterable[Tensor]:
        return views.batches() if views else tapped_features(teacher, part, tap, augment.crop_px)

    objective = build(recipe.objective, features(), **options).to(part.device)
    target_mean = _mean(objective, features())
    stage = Regression(recipe, model, part, augment, objective, teacher, tap, views, target_mean)
    fit(stage, folder, seed=setting.seed, fabric=setting.fabric, listener=setting.listener)
    if isinstance(objective, StandardisedL2) and not setting.recipe.stage2.standardised_input:
        model.net.bridge.set_affine(objective.statistics.mean, objective.statistics.spread)


def classify(
    model: ExpressionClassifier,
    part: TrainingPart,
    augment: Augment,
    views: Views | None,
    setting: Setting,
    folder: Path,
) -> None:
    """Stage 2: the fully connected layers from a Gaussian, the convolutions from stage 1, all trained."""
    recipe = setting.recipe.stage2
    soft = views if recipe.soft_labels else None
    module = _opposed(model, recipe, part, setting)
    fresh = list(model.net.head.parameters())
    if isinstance(module, WithAdversary):
        fresh += module.adversary.parameters()
    stage = Classification("stage2", recipe, module, part, augment, fresh, soft)
    fit(stage, folder, seed=setting.seed, fabric=setting.fabric, listener=setting.listener)


def _opposed(
    model: ExpressionClassifier, recipe: ClassifyRecipe, part: TrainingPart, setting: Setting
) -> ExpressionClassifier | WithAdversary:
    """The expression net with an adversary beside it, where the recipe asks for one."""
    if not recipe.adversarial:
        return model
    assert part.subjects is not None, "the adversary needs subjects"
    torch.manual_seed(setting.seed)  # the same adversary in a resumed run, whatever was drawn before
    return WithAdversary(model, int(part.subjects.max()) + 1, recipe.adversarial).to(part.device)


def _augment(recipe: Recipe, part: TrainingPart) -> Augment:
    return Augment(recipe.augment, recipe.crop.crop_px).to(part.device)


def _expression_classifier(
    recipe: Recipe, part: TrainingPart, bridge_chw: tuple[int, int, int], *, batch_norm: bool
) -> ExpressionClassifier:
    net = ExpNet(
        part.classes, input_px=recipe.crop.crop_px, bridge_chw=bridge_chw, width=recipe.expnet.width,
        hidden=recipe.expnet.hidden, dropout=recipe.expnet.dropout, batch_norm=batch_norm,
    )  # fmt: skip
    return ExpressionClassifier(net, recipe.crop.mean, recipe.crop.scale).to(part.device)


def _mean(objective: ObjectiveModule, features: Iterable[Tensor]) -> Tensor:
    """Per-unit mean of the training part's targets, against which stage 1's R2 is taken."""
    total, count = torch.zeros(()), 0
    for batch in features:
        targets = objective.target(batch.to(next(objective.buffers(), batch).device)).double().cpu()
        total = total + targets.sum(0)
        count += len(targets)
    return total / count


def _tap(recipe: Recipe, net: FaceNet) -> tuple[str, tuple[int, int, int]]:
    """The tapped layer's name and the shape (C, H, W) that the bridge gives.

    Raises:
        UserError: If the face net has no such layer, or the layer has no maps.
    """
    tap = recipe.face_net.tap or net.info.default_tap
    maps = {name: shape for name, shape in net.info.taps.items() if len(shape) == 3}
    if tap not in maps:
        raise UserError(
            f"face_net.tap is '{tap}', expected a layer of {net.info.name} with maps: {', '.join(maps)}"
        )
    channels, height, width = maps[tap]
    return tap, (channels, height, width)
