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

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from facenet2expnet.errors import StageStopped, UserError
from facenet2expnet.nets import face
from facenet2expnet.nets.bridge import Bridge, as_chw
from facenet2expnet.nets.classifier import ExpressionClassifier, FaceClassifier
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.nets.face import FaceNet, FaceNetInfo
from facenet2expnet.nets.face.base import freeze_norms
from facenet2expnet.recipe import ClassifyRecipe, Recipe, split_taps
from facenet2expnet.training.adversary import WithAdversary
from facenet2expnet.training.augment import Augment
from facenet2expnet.training.classification import Classification
from facenet2expnet.training.comparison import Accompanied, Comparison, further_bridges, mean_target
from facenet2expnet.training.loop import Listener, fit
from facenet2expnet.training.losses import REGISTRY, Term, build_sum, terms_of
from facenet2expnet.training.regression import Regression
from facenet2expnet.training.standstill import Standstill, tell_of_nothing
from facenet2expnet.training.teacher import (
    Note,
    Progress,
    TrainingPart,
    Views,
    compute_views,
    tapped_features,
)

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
