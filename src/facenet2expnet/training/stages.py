"""The stages of the method: fine-tune the face net, distil its features, classify; and both baselines.

    stage 0  `fine_tune`     the face net learns the classes of the training part
    stage 1  `fn2en`         the expression net's convolutions learn the frozen face net's layer, eq. (4)
    stage 2  `fn2en`         everything learns with cross-entropy, eq. (5)
    baseline `from_scratch`

Each builds its networks and hands a stage to the one loop, `loop.fit`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from facenet2expnet.device import fitting_precision
from facenet2expnet.errors import UserError
from facenet2expnet.files import read_json
from facenet2expnet.nets import face
from facenet2expnet.nets.bridge import as_chw
from facenet2expnet.nets.classifier import ExpressionClassifier, FaceClassifier, Teacher
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.nets.face import FaceNet, FaceNetInfo, weights_sha256
from facenet2expnet.nets.face.base import freeze_norms
from facenet2expnet.recipe import NO_START, LossTerm, Recipe, StageRecipe
from facenet2expnet.training.augment import Augment
from facenet2expnet.training.classify import ClassifyStage, Stage2
from facenet2expnet.training.distil import DistilStage, Teaching
from facenet2expnet.training.loop import EpochCallback, EpochRecord, Stage, best_epoch, fit
from facenet2expnet.training.losses import FeatureLoss
from facenet2expnet.training.pretrain import PretrainStage, robust_loss
from facenet2expnet.training.start import CARD, WEIGHTS, load_start, start_folder
from facenet2expnet.training.statistics import measure_features
from facenet2expnet.training.teacher import TrainingSet, cache_views, tapped_features

NEARLY_GREY = 0.05
"""If a smaller share of the training pictures than this has colour, a warning says so."""

NOTHING_LEARNED = 0.005
"""An R2 below this explains nothing; 0 is the mean face."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingContext:
    """What all stages of one training share.

    Attributes:
        recipe: every number.
        seed: of this training.
        device: where to compute.
        on_epoch: called with the record of every epoch.
        progress: called with the pictures whose views are cached, done and in all.
        views_folder: of the teacher's cached views; None for the training's own folder.
    """

    recipe: Recipe
    seed: int
    device: torch.device
    on_epoch: EpochCallback | None = None
    progress: Callable[[int, int], None] | None = None
    views_folder: Path | None = None

    @property
    def precision(self) -> str:
        """The precision that the recipe asks for on this device."""
        return fitting_precision(self.device, self.recipe.precision)

    def fit(self, stage: Stage, folder: Path) -> list[EpochRecord]:
        """Train a stage; see `loop.fit`."""
        return fit(stage, folder, seed=self.seed, device=self.device, precision=self.precision, on_epoch=self.on_epoch)


def check(recipe: Recipe, *, fine_tunes: bool = False) -> FaceNetInfo:
    """Check the recipe's face net, and whether it can be the baseline `fine_tunes`; give its description.

    Raises:
        UserError: If there is no such face net, weights or tap, or they do not go together.
    """
    net = load_face_net(recipe)
    frozen = not any(parameter.requires_grad for parameter in net.parameters())
    if recipe.face_net.fine_tuned and frozen:
        raise UserError(
            f"face_net.fine_tuned is true and {net.info.name} has nothing to train; set face_net.fine_tuned=false "
            "to use it pretrained"
        )
    if fine_tunes and frozen:
        raise UserError(f"method 'fine-tune': {net.info.name} has nothing to train; leave this method out")
    _tap(recipe, net)
    if recipe.expnet.start != NO_START:
        expnet = _expression_net(recipe, net, classes=2, batch_norm=recipe.expnet.batch_norm)
        load_start(_start_folder(recipe, net), expnet)
    return net.info


def load_face_net(recipe: Recipe) -> FaceNet:
    """Load the recipe's pretrained face net."""
    return face.load(recipe.face_net.name, recipe.face_net.weights or None)


def given_weights_sha256(recipe: Recipe) -> str:
    """Return a hash of the weights that a training is given, face net and start: a path may hold other ones later."""
    net = load_face_net(recipe)
    start = b"" if recipe.expnet.start == NO_START else (_start_folder(recipe, net) / WEIGHTS).read_bytes()
    return sha256(weights_sha256(net).encode() + start).hexdigest()


def start_metadata(recipe: Recipe) -> dict[str, Any] | None:
    """Return what is known of the pictures of the recipe's start, and its own start; None without one."""
    if recipe.expnet.start == NO_START:
        return None
    folder = _start_folder(recipe, load_face_net(recipe))
    metadata, weights = read_json(folder / CARD), (folder / WEIGHTS).read_bytes()
    own = {key: metadata.get(key) for key in ("data", "licence", "began_with")}
    return own | {"sha256": sha256(weights).hexdigest()}


def pretrained_teacher(recipe: Recipe, classes: int, device: torch.device) -> FaceClassifier:
    """Return the pretrained face net as a teacher, frozen; its class scores are all 0."""
    teacher = _face_classifier(recipe, classes, device)
    for parameter in teacher.head.parameters():
        torch.nn.init.zeros_(parameter)  # the same hash for the same face net, whatever was drawn before
    return teacher.eval().requires_grad_(False)


def fine_tune(data: TrainingSet, context: TrainingContext, folder: Path) -> FaceClassifier:
    """Stage 0: the face net with a new head learns the training part; also the baseline "VGG Fine-Tune".

    Returns:
        The classifier on the device, in evaluation mode, frozen.
    """
    recipe = context.recipe
    torch.manual_seed(context.seed)
    classifier = _face_classifier(recipe, data.classes, data.device)
    if recipe.fine_tune.batch_norm == "frozen":
        freeze_norms(classifier.face_net)
    new = classifier.head.parameters()
    stage = ClassifyStage("fine_tune", recipe.fine_tune, classifier, data, _augment(recipe, data), new)
    context.fit(stage, folder)
    classifier.zero_grad(set_to_none=True)
    return classifier.eval().requires_grad_(False)


def from_scratch(data: TrainingSet, context: TrainingContext, folder: Path) -> ExpressionClassifier:
    """The baseline "Train From Scratch (BN)": the same architecture with batch norm, cross-entropy only."""
    recipe = context.recipe
    net = load_face_net(recipe)
    torch.manual_seed(context.seed)
    model = _expression_classifier(recipe, data, net, batch_norm=True)
    stage = ClassifyStage("scratch", recipe.scratch, model, data, _augment(recipe, data), model.parameters())
    context.fit(stage, folder)
    return _finished(model, data)


def fn2en(data: TrainingSet, teacher: Teacher, context: TrainingContext, folder: Path) -> ExpressionClassifier:
    """Stages 1 and 2: the expression net of the paper. With stage1.epochs=0 all is learned in stage 2.

    Args:
        data: the training part that the teacher was fine-tuned on, and pictures without a label.
        teacher: the face net, fine-tuned or pretrained, frozen.
        folder: for checkpoints and, unless the context names another, the teacher's cached views.
    """
    recipe, stage1, stage2 = context.recipe, context.recipe.stage1, context.recipe.stage2
    tap, augment = _tap(recipe, teacher.face_net), _augment(recipe, data)
    views, feature_loss, compares = None, None, bool(stage1.epochs or stage2.distil_weight)
    if stage1.cached_views and (compares or stage2.soft_labels):
        views = cache_views(
            teacher, data, tap, augment, stage1.cached_views, context.views_folder or folder, mixed=stage1.mixed_views,
            keep_features=compares, seed=context.seed, precision=context.precision, progress=context.progress,
        )  # fmt: skip
    torch.manual_seed(context.seed)
    model = _expression_classifier(recipe, data, teacher.face_net, batch_norm=recipe.expnet.batch_norm)
    if recipe.expnet.start != NO_START:
        load_start(_start_folder(recipe, teacher.face_net), model.net)
    if compares:
        features = views.batches() if views else tapped_features(teacher, data, tap, augment.crop_px)
        feature_loss = FeatureLoss(stage1.losses, measure_features(features).to(data.device))
    teaching = Teaching(teacher.eval(), tap, views, feature_loss)
    if stage1.epochs:
        records = context.fit(DistilStage(stage1, model, data, augment, teaching), folder)
        _warn_if_nothing_learned(records, stage1, stage1.losses)
    if feature_loss and feature_loss.standardises and not stage2.standardised_input:
        model.net.bridge.set_affine(feature_loss.statistics.mean, feature_loss.statistics.std)
    if stage2.batch_norm == "frozen":
        freeze_norms(model.net.convolutions)
    from_noise = not stage1.epochs and recipe.expnet.start == NO_START
    new = model.parameters() if from_noise else model.net.head.parameters()
    records = context.fit(Stage2(stage2, model, data, augment, new, teaching), folder)
    if not stage1.epochs and stage2.distil_weight:
        _warn_if_nothing_learned(records, stage2, stage1.losses)
    return _finished(model, data)


def pretrain(
    data: TrainingSet, context: TrainingContext, folder: Path
) -> tuple[ExpressionClassifier, list[EpochRecord]]:
    """Distil the pretrained face net into an expression net on faces without labels, as `recipe.stage1` is optimised.

    Args:
        data: the faces; its validation part is held out for R2.
        context: recipe, seed, device.
        folder: for the checkpoint.
    Returns:
        The expression net, whose head is not trained, and the records of all epochs.
    """
    recipe, augment = context.recipe, _augment(context.recipe, data)
    teacher = pretrained_teacher(recipe, data.classes, data.device)
    tap = _tap(recipe, teacher.face_net)
    torch.manual_seed(context.seed)
    model = _expression_classifier(recipe, data, teacher.face_net, batch_norm=recipe.expnet.batch_norm)
    if recipe.expnet.start != NO_START:
        load_start(_start_folder(recipe, teacher.face_net), model.net)
    statistics = measure_features(tapped_features(teacher, data, tap, augment.crop_px)).to(data.device)
    teaching = Teaching(teacher, tap, None, robust_loss(statistics))
    records = context.fit(PretrainStage(recipe.stage1, model, data, augment, teaching), folder)
    return _finished(model, data), records


def _finished(model: ExpressionClassifier, data: TrainingSet) -> ExpressionClassifier:
    """Return the model in evaluation mode; one that learned from grey pictures only ignores colour.

    The face net needs no such care: it was pretrained on coloured pictures.
    """
    enough = math.ceil(NEARLY_GREY * len(data))
    coloured = data.coloured(enough)
    if not coloured:
        log.info("No training picture has colour, so the expression net sees coloured pictures in grey.")
        model.ignore_colour()
    elif coloured < enough:
        log.warning(
            "Only %d of %d training pictures have colour. The expression net learns little of what colour means, and "
            "may misread coloured pictures. Leave those pictures out, and it sees all pictures in grey.",
            coloured, len(data),
        )  # fmt: skip
    return model.eval()


def _warn_if_nothing_learned(records: list[EpochRecord], recipe: StageRecipe, losses: Sequence[LossTerm]) -> None:
    """Warn of a stage whose weights explain nothing of the face net's layer.

    RKD alone learns relations between pictures, and may give features of any scale.
    """
    if all(term.loss == "rkd" for term in losses):
        return
    kept = records[best_epoch(records) - 1]
    if kept.r2 is not None and kept.r2 < NOTHING_LEARNED:
        log.warning(
            "%s ended with R2 = %.4g (0 is the mean face): nothing of the face net's layer was learned. Train longer "
            "(--set %s.epochs=%d), raise the rate (--set %s.lr=%.3g), give the student batch norms (--set "
            "expnet.batch_norm=true) or standardise the target "
            '(--set \'stage1.losses=[{loss="standardised-l2"}]\').',
            kept.stage, kept.r2, kept.stage, 2 * recipe.epochs, kept.stage, 10 * recipe.lr,
        )  # fmt: skip


def _augment(recipe: Recipe, data: TrainingSet) -> Augment:
    return Augment(recipe.augment, recipe.crop.crop_px).to(data.device)


def _face_classifier(recipe: Recipe, classes: int, device: torch.device) -> FaceClassifier:
    own, net = recipe.face_net, load_face_net(recipe)
    return FaceClassifier(net, classes, head_norm=own.head_norm, head_dropout=own.head_dropout).to(device)


def _expression_classifier(
    recipe: Recipe, data: TrainingSet, net: FaceNet, *, batch_norm: bool
) -> ExpressionClassifier:
    expnet = _expression_net(recipe, net, classes=data.classes, batch_norm=batch_norm)
    model = ExpressionClassifier(expnet, recipe.crop.mean, recipe.crop.scale)
    # Channels last is faster on CPUs, and on GPUs in bfloat16; PyTorch's annotations do not know the argument.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.to(data.device)


def _expression_net(recipe: Recipe, net: FaceNet, *, classes: int, batch_norm: bool) -> ExpNet:
    own, bridge_chw = recipe.expnet, as_chw(net.info.taps[_tap(recipe, net)])
    return ExpNet(
        classes, input_px=recipe.crop.crop_px, bridge_chw=bridge_chw, width=own.width, hidden=own.hidden,
        dropout=own.dropout, batch_norm=batch_norm, pool_to_tap=own.pool_to_tap, blocks=own.blocks,
    )  # fmt: skip


def _start_folder(recipe: Recipe, net: FaceNet) -> Path:
    return start_folder(recipe, face_net=recipe.face_net.name, tap=_tap(recipe, net))


def _tap(recipe: Recipe, net: FaceNet) -> str:
    """Return the name of the tapped layer.

    Raises:
        UserError: If the face net has no such layer.
    """
    tap = recipe.face_net.tap or net.info.default_tap
    if tap not in net.info.taps:
        raise UserError(f"face_net.tap is '{tap}', expected a layer of {net.info.name}: {', '.join(net.info.taps)}")
    return tap
