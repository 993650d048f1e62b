"""The stages of the method: fine-tune the face net, regress its features, classify; and both baselines.

    stage 0  `fine_tune`   the face net learns the classes of the training part
    stage 1  `regress`     the expression net's convolutions regress the frozen face net's layer, eq. (4)
    stage 2  `classify`    everything learns with cross-entropy, eq. (5)
    baseline `from_scratch`

Each composes plain parts and hands them to the one loop, `loop.fit`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from facenet2expnet.errors import StageStopped, UserError
from facenet2expnet.learning.adversary import WithAdversary
from facenet2expnet.learning.augment import Augment, centre_crop
from facenet2expnet.learning.comparison import Accompanied, Comparison, further_bridges, mean_target
from facenet2expnet.learning.loop import Listener, fit
from facenet2expnet.learning.objectives import REGISTRY, Term, build_sum, soft_label_loss, terms_of
from facenet2expnet.learning.standstill import Standstill, tell_of_nothing
from facenet2expnet.learning.teacher import (
    BATCH,
    Note,
    Progress,
    TrainingPart,
    Views,
    compute_views,
    tapped_features,
)
from facenet2expnet.nets import face
from facenet2expnet.nets.bridge import Bridge, as_chw
from facenet2expnet.nets.classifier import ExpressionClassifier, FaceClassifier
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.nets.face import FaceNet, FaceNetInfo
from facenet2expnet.nets.face.base import freeze_norms
from facenet2expnet.recipe import ClassifyRecipe, Recipe, RegressRecipe, StageRecipe, split_taps

AUTO = "auto"
"""As face_net.tap: the layer that the neuron analysis recommends. It is found before the stages see the recipe."""

SHARED_VIEWS_SEED = 0
"""Of views that several trainings share, whatever the seeds of those."""


@dataclass(frozen=True)
class Setting:
    """What all stages of one training share.

    Attributes:
        recipe: every number.
        seed: of this training.
        fabric: device and precision.
        listener: told of every epoch.
        progress: told of the teacher's views, done and in all.
        views_folder: where the teacher's views are kept and looked up; None for the training's own folder. Whoever
            names one removes it in the end.
        note: told in a sentence of what a person should know.
    """

    recipe: Recipe
    seed: int
    fabric: Fabric
    listener: Listener | None = None
    progress: Progress | None = None
    views_folder: Path | None = None
    note: Note | None = None


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


def check(recipe: Recipe, *, fine_tunes: bool = False) -> FaceNetInfo:
    """What is known of the recipe's face net; refuses what a stage could not follow, before any work.

    Args:
        recipe: every number.
        fine_tunes: whether stage 0 is asked for, as the baseline.
    Raises:
        UserError: If there is no such face net, weights, tap or objective, or they don't go together.
    """
    terms = _terms(recipe)
    if recipe.stage2.standardised_input and all(REGISTRY[term.name].space == "teacher" for term in terms):
        own = [name for name, kind in REGISTRY.items() if kind.space != "teacher"]
        raise UserError(
            f"stage2.standardised_input is true and stage1.objective is '{recipe.stage1.objective}', expected a term "
            f"with a space of its own in it: {' or '.join(own)}"
        )
    net = face.load(recipe.face_net.name, recipe.face_net.weights or None)
    if recipe.face_net.fine_tuned and not net.trainable():
        raise UserError(
            f"face_net.fine_tuned is true and {net.info.name} has nothing to train; set face_net.fine_tuned=false "
            "to take it as it came"
        )
    if fine_tunes and not net.trainable():
        raise UserError(f"method 'fine-tune': {net.info.name} has nothing to train; leave this method out")
    if recipe.face_net.tap != AUTO:
        _taps(recipe, net)
    elif not _maps(net):
        raise UserError(
            f"face_net.tap is '{AUTO}' and {net.info.name} has no layer with maps; take another face net"
        )
    return net.info


def as_it_came(recipe: Recipe, classes: int, device: torch.device) -> FaceClassifier:
    """The face net that was not fine-tuned as the teacher, frozen. It has no class scores: those it gives are all 0."""
    net = face.load(recipe.face_net.name, recipe.face_net.weights or None)
    teacher = FaceClassifier(
        net, classes, head_norm=recipe.face_net.head_norm, head_dropout=recipe.face_net.head_dropout
    ).to(device)
    for parameter in teacher.head.parameters():
        torch.nn.init.zeros_(parameter)  # one hash for one face net, whatever was drawn before
    return teacher.eval().requires_grad_(False)


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
    if recipe.fine_tune.batch_norm == "frozen":
        freeze_norms(classifier.face_net)
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
    bridge_chw = next(iter(_taps(recipe, net).values()))
    torch.manual_seed(setting.seed)
    model = _expression_classifier(recipe, part, bridge_chw, batch_norm=True)
    module = _opposed(model, recipe.scratch, part, setting)
    stage = Classification(
        "scratch", recipe.scratch, module, part, _augment(recipe, part), module.parameters()
    )
    fit(stage, folder, seed=setting.seed, fabric=setting.fabric, listener=setting.listener)
    return model.eval()


def fn2en(
    part: TrainingPart,
    teacher: FaceClassifier,
    setting: Setting,
    folder: Path,
    *,
    whole: tuple[TrainingPart, np.ndarray] | None = None,
) -> ExpressionClassifier:
    """Stages 1 and 2: the expression net of the paper. One stage alone is stage 2 with stage 1's objective in it.

    Args:
        part: the training part, the same that the teacher was fine-tuned on; unlabelled pictures may stand in it.
        teacher: the face net, fine-tuned or as it came, frozen.
        setting: recipe, seed, device.
        folder: for checkpoints and, where the setting names no other, the teacher's views.
        whole: more pictures, of which `part` has these rows: the views of all are computed together, for several
            trainings with the same teacher, and of the others none is looked at.
    """
    recipe = setting.recipe
    taps = _taps(recipe, teacher.face_net)
    augment = _augment(recipe, part)
    views = None
    if recipe.stage1.views:
        views = compute_views(
            teacher, whole[0] if whole else part, list(taps), augment, recipe.stage1.views,
            setting.views_folder or folder, blend=recipe.stage1.blend,
            seed=SHARED_VIEWS_SEED if whole else setting.seed, fabric=setting.fabric,
            progress=setting.progress, note=setting.note,
        )  # fmt: skip
        views = views.only(whole[1]) if whole else views
    torch.manual_seed(setting.seed)
    bridge_chw, *further = taps.values()
    model = _expression_classifier(recipe, part, bridge_chw, batch_norm=recipe.expnet.batch_norm)
    comparison = None
    if recipe.stage1.epochs or recipe.stage2.regress:
        bridges = further_bridges(model.net.bridge.in_chw, further, part.device)
        comparison = compared_with(model, bridges, part, teacher, list(taps), augment, views, recipe)
        if recipe.stage1.epochs:
            regress(model, part, augment, comparison, views, setting, folder)
        if not recipe.stage2.standardised_input:
            comparison.restore_scale()
    classify(model, part, teacher, augment, comparison, views, setting, folder)
    return model.eval()


def regress(
    model: ExpressionClassifier,
    part: TrainingPart,
    augment: Augment,
    comparison: Comparison,
    views: Views | None,
    setting: Setting,
    folder: Path,
) -> None:
    """Stage 1: train the convolutions and the bridge on the face net's layer.

    Raises:
        StageStopped: If it learns nothing; see Standstill.
    """
    recipe = setting.recipe.stage1
    stage = Regression(recipe, model, part, augment, comparison, views)
    units, batch_norm = prod(model.net.bridge.out_chw), setting.recipe.expnet.batch_norm
    watch = Standstill(
        recipe, comparison.objectives[0], units,
        batch_norm=batch_norm, listener=setting.listener, note=setting.note,
    )  # fmt: skip
    watch.ended(fit(stage, folder, seed=setting.seed, fabric=setting.fabric, listener=watch))


def classify(
    model: ExpressionClassifier,
    part: TrainingPart,
    teacher: FaceClassifier,
    augment: Augment,
    comparison: Comparison | None,
    views: Views | None,
    setting: Setting,
    folder: Path,
) -> None:
    """Stage 2: the fully connected layers from a Gaussian, the convolutions from stage 1, all trained."""
    recipe = setting.recipe.stage2
    comparison = comparison if recipe.regress else None
    views = views if recipe.soft_labels or recipe.regress else None
    if recipe.batch_norm == "frozen":
        freeze_norms(model.net.convolutions)
    module: nn.Module = _opposed(model, recipe, part, setting)
    fresh = list(model.net.head.parameters())
    if isinstance(module, WithAdversary):
        fresh += module.adversary.parameters()
    if comparison is not None and comparison.bridges:
        module = Accompanied(module, comparison.bridges)
    if not setting.recipe.stage1.epochs:
        fresh = list(module.parameters())
    asked = teacher.eval() if recipe.soft_labels and views is None else None
    stage = Classification("stage2", recipe, module, part, augment, fresh, views, comparison, asked)
    records = fit(stage, folder, seed=setting.seed, fabric=setting.fabric, listener=setting.listener)
    if comparison is not None and not setting.recipe.stage1.epochs:
        weigh = f"give the objective more weight (--set stage2.regress={10 * recipe.regress:g})"
        alone = "or a stage of its own (stage1.epochs above 0)"
        tell_of_nothing(records, comparison.objectives[0], f"{weigh}, {alone}", setting.note)


def compared_with(
    model: ExpressionClassifier,
    bridges: Sequence[Bridge],
    part: TrainingPart,
    teacher: FaceClassifier,
    taps: Sequence[str],
    augment: Augment,
    views: Views | None,
    recipe: Recipe,
) -> Comparison:
    """The objective of every tap, with the statistics of the training part that it needs."""

    def features(tap: str) -> Iterable[Tensor]:
        return views.batches(tap) if views else tapped_features(teacher, part, tap, augment.crop_px)

    expression = recipe.stage1.objective
    objectives = {tap: build_sum(expression, features(tap)).to(part.device) for tap in taps}
    target_mean = mean_target(objectives[taps[0]], features(taps[0]))
    return Comparison(model, teacher, objectives, target_mean, bridges, views)


def _opposed(
    model: ExpressionClassifier, recipe: ClassifyRecipe, part: TrainingPart, setting: Setting
) -> ExpressionClassifier | WithAdversary:
    """The expression net with an adversary beside it, where the recipe asks for one."""
    if not recipe.adversarial:
        return model
    persons = 0 if part.subjects is None else int(part.subjects.max()) + 1
    if persons < 2:
        raise StageStopped(
            f"an adversary was asked for and {persons} known subjects are left to train on, expected two or more: "
            "set adversarial=0, or keep fewer pictures out of the training"
        )
    torch.manual_seed(setting.seed)  # the same adversary in a resumed run, whatever was drawn before
    return WithAdversary(model, persons, recipe.adversarial).to(part.device)


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


def _terms(recipe: Recipe) -> tuple[Term, ...]:
    """The terms of stage 1's objective.

    Raises:
        UserError: If it can't be read, or compares anything but features.
    """
    try:
        terms = terms_of(recipe.stage1.objective)
    except UserError as error:
        raise UserError(f"stage1.objective: {error}") from None
    if any(REGISTRY[term.name].reads != "features" for term in terms):
        known = [name for name, kind in REGISTRY.items() if kind.reads == "features"]
        raise UserError(
            f"stage1.objective is '{recipe.stage1.objective}', which compares class scores; expected of "
            f"{', '.join(known)}; soft labels are asked for by stage2.soft_labels"
        )
    return terms


def _taps(recipe: Recipe, net: FaceNet) -> dict[str, tuple[int, int, int]]:
    """The tapped layers and the shapes (C, H, W) of their bridges, the expression net's own first.

    Raises:
        UserError: If the face net has no such layer, one is named twice, or one has a single position and the
            objective compares positions.
    """
    taps = split_taps(recipe.face_net.tap) or (net.info.default_tap,)
    known = {name: as_chw(shape) for name, shape in net.info.taps.items()}
    unknown = [tap for tap in taps if tap not in known]
    if unknown:
        several = f", with {' and '.join(map(repr, unknown))} in it" if len(taps) > 1 else ""
        alone = f" ('{AUTO}' stands alone)" if AUTO in unknown else ""
        raise UserError(
            f"face_net.tap is '{recipe.face_net.tap}'{several}, expected a layer of {net.info.name}: "
            f"{', '.join(known)}{alone}"
        )
    if len(set(taps)) < len(taps):
        raise UserError(f"face_net.tap is '{recipe.face_net.tap}', expected every layer once")
    single = [tap for tap in taps if known[tap][1:] == (1, 1)]
    if single and any(term.name == "attention-transfer" and term.weight for term in _terms(recipe)):
        raise UserError(
            f"stage1.objective is '{recipe.stage1.objective}' and layer {single[0]} of {net.info.name} has one "
            "position only, on which attention-transfer is always 0; choose a layer with maps, or another objective"
        )
    return {tap: known[tap] for tap in taps}


def _maps(net: FaceNet) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in net.info.taps.items() if len(shape) == 3}
