"""Every number of a training, as frozen dataclasses; `recipes` reads and writes them."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from facenet2expnet.crop import CropContract

_STRICT = ConfigDict(extra="forbid", strict=True)

Fraction = Annotated[float, Field(ge=0, le=1)]
LearningRate = Annotated[float, Field(gt=0, le=100)]
NotNegative = Annotated[float, Field(ge=0, lt=float("inf"))]
Count = Annotated[int, Field(ge=1)]
Epochs = Annotated[int, Field(ge=1, le=100_000)]
NormMode = Literal["trainable", "frozen"]

NO_START = "none"
"""As expnet.start: the expression net begins from noise."""

SHIPPED_START = "faces"
"""As expnet.start: the start of the package that fits the net."""

PRECISIONS = ("32-true", "bf16-mixed")
"""What "auto" is decided to be."""

STAGES = ("fine_tune", "stage1", "stage2", "scratch")
"""The sections of a recipe that are trained."""


@dataclass(frozen=True, config=_STRICT)
class AugmentRecipe:
    """Random changes of the training pictures, drawn for every picture; a random window is always cut.

    Attributes:
        flip: probability of a horizontal flip.
        rotation_deg: largest rotation to either side.
        zoom: largest relative change of size to either side.
        brightness: largest relative change of brightness and of contrast to either side.
        blur: probability of a Gaussian blur.
        erasing: probability of erasing a rectangle.
    """

    flip: Fraction = 0.5
    rotation_deg: Annotated[float, Field(ge=0, le=180)] = 0.0
    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.0
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.0
    blur: Fraction = 0.0
    erasing: Fraction = 0.0


@dataclass(frozen=True, config=_STRICT)
class FaceNetRecipe:
    """The face net (the teacher) and the layer of it that stage 1 distils.

    Attributes:
        name: a registered face net; `fn2en nets` lists them.
        weights: its weights file, if it does not bring its own.
        tap: the layer whose output stage 1 distils; empty for the face net's default.
        head_norm: an affine-free batch norm before the classifier that stage 0 adds.
        head_dropout: dropout before that classifier.
        fine_tuned: stage 0 fine-tunes the teacher on the training part; false takes the pretrained face net.
        teachers: how many face nets stage 0 fine-tunes, with seeds of their own; the teacher is their mean. The
            baseline "fine-tune" is the first alone.
    """

    name: str = "dlib-resnet29"
    weights: str = ""
    tap: str = ""
    head_norm: bool = True
    head_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    fine_tuned: bool = True
    teachers: Annotated[int, Field(ge=1, le=100)] = 1


@dataclass(frozen=True, config=_STRICT)
class ExpNetRecipe:
    """The expression net (the student); the defaults are the paper's.

    Attributes:
        width: factor on the channels of its convolutions.
        hidden: units of its fully connected layer.
        dropout: before and after that layer.
        batch_norm: after every convolution. The baseline from scratch always has it.
        blocks: "plain", one convolution a block (the paper), or "residual": from the second block on, a second one with
            a shortcut around it.
        pool_to_tap: blocks pool only until the map is as small as the tapped layer's, and the last one has at least
            the layer's channels, as in the paper's own case; false pools in all five, and a deconvolution enlarges.
        start: what the convolutions and the bridge begin with: "faces", the start of this package, a folder that
            `fn2en pretrain` wrote, or "none", noise, as in the paper.
    """

    width: Annotated[float, Field(gt=0, le=4)] = 1.0
    hidden: Count = 256
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    batch_norm: bool = False
    blocks: Literal["plain", "residual"] = "plain"
    pool_to_tap: bool = False
    start: str = NO_START


@dataclass(frozen=True, config=_STRICT)
class StageRecipe:
    """How one stage is optimised; what all stages share.

    Attributes:
        epochs: passes over the training part.
        batch_size: pictures a step.
        optimiser: "sgd" or "adamw".
        lr: learning rate of new layers.
        momentum: of SGD.
        weight_decay: on weights of more than one dimension.
        schedule: "step" (times `decay` at `milestones`), "cosine" (down to 0) or "constant".
        milestones: epochs after which "step" lowers the rate.
        decay: factor of "step".
        warmup_epochs: the rate rises linearly over this many epochs.
        clip_norm: largest norm of the gradient; 0 for no clipping.
        patience: early stopping: epochs without a lower validation loss after which the stage ends with its best
            weights; 0 trains all epochs and ends with the last weights.
    """

    epochs: Epochs = 50
    batch_size: Count = 64
    optimiser: Literal["sgd", "adamw"] = "sgd"
    lr: LearningRate = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NotNegative = 5e-4
    schedule: Literal["step", "cosine", "constant"] = "step"
    milestones: tuple[int, ...] = ()
    decay: Annotated[float, Field(gt=0, le=1)] = 0.1
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    clip_norm: NotNegative = 0.0
    patience: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, config=_STRICT)
class LossTerm:
    """One term of stage 1's loss.

    Attributes:
        loss: "p-norm" (the paper), "standardised-l2", "rkd" or "fitnets"; see docs/losses.md.
        weight: factor on it.
    """

    loss: Literal["p-norm", "standardised-l2", "rkd", "fitnets"]
    weight: Annotated[float, Field(gt=0, lt=float("inf"))] = 1.0


@dataclass(frozen=True, config=_STRICT)
class DistilRecipe(StageRecipe):
    """Stage 1: the expression net's convolutions learn to give the face net's tapped features, eq. (4).

    Attributes:
        epochs: passes over the training part; 0 skips the stage.
        losses: the terms of the loss, summed.
        cached_views: augmented views a picture for which the teacher is computed once; 0 runs it in every step.
        mixed_views: share of the cached views that mix two training pictures.
        unlabelled: use the manifest's pictures without a label too, except those of subjects tested on.
    """

    epochs: Annotated[int, Field(ge=0, le=100_000)] = 50
    losses: tuple[LossTerm, ...] = (LossTerm("p-norm"),)
    cached_views: Annotated[int, Field(ge=0, le=10_000)] = 0
    mixed_views: Fraction = 0.0
    unlabelled: bool = False


@dataclass(frozen=True, config=_STRICT)
class ClassifyRecipe(StageRecipe):
    """Cross-entropy on the labels: the baseline from scratch, and what stages 0 and 2 share with it.

    Attributes:
        balance: "none", "weights" (loss weighted by inverse class frequency) or "sampler".
        mixup: alpha of the Beta distribution that the mixing weight is drawn from; 0 for none.
        votes: learn the shares of the raters' votes, the manifest's columns `p_<class>`, instead of the one label.
    """

    balance: Literal["none", "weights", "sampler"] = "none"
    mixup: NotNegative = 0.0
    votes: bool = False


@dataclass(frozen=True, config=_STRICT)
class FineTuneRecipe(ClassifyRecipe):
    """Stage 0: the face net with a new classifier learns the training part.

    Attributes:
        lr_factor_pretrained: factor on `lr` for pretrained layers.
        batch_norm: "trainable", or "frozen": pretrained batch norms keep their weights and statistics.
    """

    lr_factor_pretrained: Annotated[float, Field(ge=0, le=10)] = 1.0
    batch_norm: NormMode = "trainable"


@dataclass(frozen=True, config=_STRICT)
class Stage2Recipe(FineTuneRecipe):
    """Stage 2: the whole expression net learns the labels, eq. (5).

    Attributes:
        soft_labels: weight of the fine-tuned face net's soft labels; 0 is the paper's plain cross-entropy.
        temperature: of the soft labels.
        standardised_input: the fully connected layer sees standardised features instead of the face net's scale.
        distil_weight: weight of stage 1's loss beside the cross-entropy; 0 is the paper.
    """

    soft_labels: Fraction = 0.0
    temperature: Annotated[float, Field(gt=0, le=100)] = 4.0
    standardised_input: bool = False
    distil_weight: NotNegative = 0.0


@dataclass(frozen=True, config=_STRICT)
class Recipe:
    """Every number of a training.

    Attributes:
        name: what it is called; a preset's own name.
        precision: of the forward passes in training: "32-true", "bf16-mixed" (bfloat16), or "auto": bfloat16 where the
            hardware multiplies it itself, and a training takes about 60 % of the time.
        crop: the crop contract.
        augment, face_net, expnet: see there.
        fine_tune: stage 0, the face net on the training part.
        stage1: distillation of the face net's layer.
        stage2: cross-entropy on everything.
        scratch: the baseline "Train From Scratch (BN)".
        val_fraction: share of the training part kept as validation part, in whole subjects, if a stage stops early
            or `calibrate` is on and the data has no official validation part.
        calibrate: fit a temperature for the class scores on the validation part.
        train_on_validation: train on an official validation part too.
    """

    name: str = "custom"
    precision: Literal["32-true", "bf16-mixed", "auto"] = "32-true"
    crop: CropContract = field(default_factory=CropContract)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    face_net: FaceNetRecipe = field(default_factory=FaceNetRecipe)
    expnet: ExpNetRecipe = field(default_factory=ExpNetRecipe)
    fine_tune: FineTuneRecipe = field(default_factory=FineTuneRecipe)
    stage1: DistilRecipe = field(default_factory=DistilRecipe)
    stage2: Stage2Recipe = field(default_factory=Stage2Recipe)
    scratch: ClassifyRecipe = field(default_factory=ClassifyRecipe)
    val_fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    calibrate: bool = False
    train_on_validation: bool = False

    @property
    def needs_validation(self) -> bool:
        """Whether a stage stops early or a temperature is fitted."""
        return self.calibrate or any(getattr(self, name).patience for name in STAGES)


def contradictions(recipe: Recipe) -> list[str]:
    """Find what single fields can't show: numbers that do not go together."""
    faults = []
    stage1, stage2 = recipe.stage1, recipe.stage2
    learned_norms = {
        "fine_tune": recipe.face_net.fine_tuned and recipe.face_net.head_norm,
        "stage1": recipe.expnet.batch_norm,
        "stage2": recipe.expnet.batch_norm and stage2.batch_norm == "trainable",
        "scratch": True,
    }
    if recipe.crop.crop_px < 32:
        faults.append(f"crop.crop_px is {recipe.crop.crop_px}, expected 32 or more: the net pools five times")
    for name in STAGES:
        stage: StageRecipe = getattr(recipe, name)
        milestones = list(stage.milestones)
        if milestones != sorted(set(milestones)) or any(m < 1 for m in milestones):
            faults.append(f"{name}.milestones is {milestones}, expected rising epochs above 0")
        if milestones and stage.schedule != "step":
            faults.append(
                f"{name}.milestones is {milestones} and {name}.schedule is {stage.schedule}, which uses none: "
                f"set {name}.milestones=[] or {name}.schedule=step"
            )
        if stage.batch_size == 1 and learned_norms[name]:
            faults.append(f"{name}.batch_size is 1, expected 2 or more: its batch norms compare pictures")
        if stage.warmup_epochs >= stage.epochs > 1:
            faults.append(
                f"{name}.warmup_epochs is {stage.warmup_epochs}, expected less than {name}.epochs ({stage.epochs})"
            )
    if not stage1.losses:
        faults.append("stage1.losses is empty, expected one term or more")
    started = recipe.expnet.start != NO_START
    if not (stage1.epochs or stage2.distil_weight or stage2.soft_labels or started):
        faults.append(
            "stage1.epochs is 0, expected stage2.distil_weight or stage2.soft_labels above 0, or an expnet.start, with "
            "it: otherwise nothing is learned from the face net"
        )
    if recipe.face_net.teachers > 1 and not recipe.face_net.fine_tuned:
        faults.append(
            "face_net.teachers is above 1, expected face_net.fine_tuned = true with it: the others are copies"
        )
    if stage2.soft_labels and not recipe.face_net.fine_tuned:
        faults.append(
            "stage2.soft_labels is above 0, expected face_net.fine_tuned = true with it: a pretrained face net has no "
            "scores of these classes"
        )
    standardises = any(term.loss == "standardised-l2" for term in stage1.losses)
    if stage2.standardised_input and not standardises:
        faults.append('stage2.standardised_input is true, expected a term "standardised-l2" in stage1.losses with it')
    if started and not (standardises and stage2.standardised_input):
        faults.append(
            f"expnet.start is '{recipe.expnet.start}', expected stage2.standardised_input = true and a term "
            '"standardised-l2" in stage1.losses with it: a start gives standardised features'
        )
    if stage2.batch_norm == "frozen" and not recipe.expnet.batch_norm:
        faults.append('stage2.batch_norm is "frozen", expected expnet.batch_norm = true with it')
    if stage1.mixed_views and not stage1.cached_views:
        faults.append("stage1.mixed_views is above 0, expected stage1.cached_views above 0 with it")
    mixed = round(stage1.mixed_views * stage1.cached_views)
    if stage1.cached_views and 0 < stage1.mixed_views < 1 and mixed in (0, stage1.cached_views):
        faults.append(
            f"stage1.mixed_views is {stage1.mixed_views:g} and stage1.cached_views is {stage1.cached_views}, which "
            f"makes {mixed} mixed views: raise stage1.cached_views, or choose a share that makes some and leaves some"
        )
    if stage2.mixup and stage1.cached_views and (stage2.soft_labels or stage2.distil_weight):
        faults.append(
            "stage2.mixup is above 0 beside soft labels or a distil_weight, expected stage1.cached_views = 0 with it: "
            "the teacher has not seen the mixed pictures (stage1.mixed_views mixes those that it sees)"
        )
    if recipe.train_on_validation and recipe.needs_validation:
        faults.append(
            "train_on_validation is true, expected calibrate = false and no patience with it: a validation part that "
            "is trained on can't be used to stop or to calibrate"
        )
    return faults
