"""Every number of a training, as frozen dataclasses: presets, strict TOML, dotted overrides.

recipe = preset("normalised")
recipe = override(recipe, ["stage1.epochs=10", "expnet.width=0.5"])
save(recipe, Path("recipe.toml"))
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from facenet2expnet.crop import CropContract
from facenet2expnet.errors import UserError

_STRICT = ConfigDict(extra="forbid", strict=True)

Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=100)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=_STRICT)
class AugmentRecipe:
    """Random changes of the training pictures, drawn anew for every picture; a random window is always cut.

    Attributes:
        flip: probability of a horizontal flip.
        rotation_deg: largest rotation to either side.
        zoom: largest relative change of size to either side.
        brightness: largest relative change of brightness and of contrast to either side.
        blur: probability of a Gaussian blur.
        erasing: probability of erasing a rectangle.
    """

    flip: Share = 0.5
    rotation_deg: Annotated[float, Field(ge=0, le=180)] = 0.0
    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.0
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.0
    blur: Share = 0.0
    erasing: Share = 0.0


@dataclass(frozen=True, config=_STRICT)
class FaceNetRecipe:
    """The face net (the teacher) and the layer of it that stage 1 reads.

    Attributes:
        name: a registered face net; `fn2en nets` lists them.
        weights: its weights file, where it brings none.
        tap: the layer whose output stage 1 regresses on; empty for the face net's own default, "auto" for the one
            that the neuron analysis recommends on the training part (FN2EN, section III-C). Several are joined by
            "+": the first is the one that the fully connected layers see.
        head_norm: an affine-free batch norm before the classifier that stage 0 puts upon it.
        head_dropout: dropout before that classifier.
        fine_tuned: stage 0 fine-tunes the teacher on the training part; False takes the face net as it came.
    """

    name: str = "dlib-resnet29"
    weights: str = ""
    tap: str = ""
    head_norm: bool = True
    head_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    fine_tuned: bool = True


@dataclass(frozen=True, config=_STRICT)
class ExpNetRecipe:
    """The expression net (the student); the defaults are the paper's.

    Attributes:
        width: factor on the channels of its convolutions.
        hidden: units of its fully connected layer.
        dropout: before and after that layer.
        batch_norm: after every convolution. The baseline from scratch always has it.
    """

    width: Annotated[float, Field(gt=0, le=4)] = 1.0
    hidden: Count = 256
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    batch_norm: bool = False


@dataclass(frozen=True, config=_STRICT)
class StageRecipe:
    """How one stage learns.

    Attributes:
        epochs: passes over the training part.
        batch_size: pictures a step.
        optimiser: "sgd" or "adamw".
        lr: learning rate of what is new.
        lr_factor_pretrained: factor on `lr` for layers that come trained into the stage.
        momentum: of SGD.
        weight_decay: on weights of more than one dimension.
        schedule: "step" (by `decay` at `milestones`), "cosine" (down to 0) or "constant".
        milestones: epochs after which "step" lowers the rate.
        decay: factor of "step".
        warmup_epochs: the rate rises linearly over so many epochs.
        clip_norm: largest norm of the gradient; 0 for no clipping.
        ema_decay: of the averaged weights that the stage ends with; 0 for the last weights.
        label_smoothing: share of the target spread over all classes.
        balance: "none", "weights" (loss weighted by inverse class frequency) or "sampler".
        mixup: alpha of the Beta distribution that a blend's share is drawn from; 0 for no blends.
        batch_norm: "trainable", or "frozen": batch norms that come trained into the stage stay as they are.
        patience: epochs without a better inner loss after which the stage stops; it ends with its best weights.
            0 trains all epochs and ends with the last.
        inner_share: share of the training part that is watched with `patience` and not learned from.
    """

    epochs: Annotated[int, Field(ge=1, le=100_000)] = 50
    batch_size: Count = 64
    optimiser: Literal["sgd", "adamw"] = "sgd"
    lr: Rate = 1e-3
    lr_factor_pretrained: Annotated[float, Field(ge=0, le=10)] = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NotNegative = 5e-4
    schedule: Literal["step", "cosine", "constant"] = "step"
    milestones: tuple[int, ...] = ()
    decay: Annotated[float, Field(gt=0, le=1)] = 0.1
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    clip_norm: NotNegative = 0.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    balance: Literal["none", "weights", "sampler"] = "none"
    mixup: NotNegative = 0.0
    batch_norm: Literal["trainable", "frozen"] = "trainable"
    patience: Annotated[int, Field(ge=0)] = 0
    inner_share: Annotated[float, Field(gt=0, lt=1)] = 0.1


@dataclass(frozen=True, config=_STRICT)
class RegressRecipe(StageRecipe):
    """Stage 1: the expression net's convolutions regress the face net's tapped layer.

    Attributes:
        epochs: passes over the training part; 0 skips the stage.
        objective: a weighted sum of objectives, such as "p-norm" (the paper's sum/(2N)) or
            "standardised-l2(per=channel) + 0.5 * attention-transfer".
        views: augmented views a picture for which the teacher is computed once; 0 runs it in every step that asks.
        blend: share of the views that are a blend of two training pictures; the loss needs no labels.
        unlabelled: use the manifest's pictures without a label as well, except those of subjects tested on.
    """

    epochs: Annotated[int, Field(ge=0, le=100_000)] = 50
    objective: str = "p-norm"
    views: Annotated[int, Field(ge=0, le=10_000)] = 0
    blend: Share = 0.0
    unlabelled: bool = False


@dataclass(frozen=True, config=_STRICT)
class ClassifyRecipe(StageRecipe):
    """Stage 2 (and the baseline from scratch): everything learns with cross-entropy.

    Attributes:
        soft_labels: weight of the soft labels of the fine-tuned face net; 0 is the paper's plain cross-entropy.
        temperature: of the soft labels.
        standardised_input: the fully connected layer sees the standardised features instead of the face net's
            own scale.
        regress: weight of stage 1's objective beside the cross-entropy; 0 is the paper.
        adversarial: weight of the gradient, turned round, of a head that names the person from the hidden layer; the
            head is not kept. 0 for none.
    """

    soft_labels: Share = 0.0
    temperature: Annotated[float, Field(gt=0, le=100)] = 4.0
    standardised_input: bool = False
    regress: NotNegative = 0.0
    adversarial: Annotated[float, Field(ge=0, le=100)] = 0.0


@dataclass(frozen=True, config=_STRICT)
class Recipe:
    """Every number of a training.

    Attributes:
        name: what it is called; a preset's own name.
        precision: "32-true" or "bf16-mixed", as Lightning Fabric names them.
        crop: the crop contract.
        augment, face_net, expnet: see there.
        fine_tune: stage 0, the face net on the training part.
        stage1: regression on the face net's layer.
        stage2: cross-entropy on everything.
        scratch: the baseline "Train From Scratch (BN)".
        calibration_share: of the training part, kept out of every stage to fit the temperature of the class scores;
            0 for probabilities as they come.
    """

    name: str = "custom"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    crop: CropContract = field(default_factory=CropContract)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    face_net: FaceNetRecipe = field(default_factory=FaceNetRecipe)
    expnet: ExpNetRecipe = field(default_factory=ExpNetRecipe)
    fine_tune: StageRecipe = field(default_factory=StageRecipe)
    stage1: RegressRecipe = field(default_factory=RegressRecipe)
    stage2: ClassifyRecipe = field(default_factory=ClassifyRecipe)
    scratch: ClassifyRecipe = field(default_factory=ClassifyRecipe)
    calibration_share: Annotated[float, Field(ge=0, le=0.5)] = 0.0


def split_taps(text: str) -> tuple[str, ...]:
    """The layers that `face_net.tap` names, in their order; none where it is empty."""
    return tuple(name.strip() for name in text.split("+")) if text.strip() else ()


RECIPES = Path(__file__).parent / "recipes"
_ADAPTER = TypeAdapter(Recipe)


def presets() -> tuple[str, ...]:
    """Names of the recipes that the package carries."""
    return tuple(sorted(path.stem for path in RECIPES.glob("*.toml")))


def preset(name: str) -> Recipe:
    """A recipe that the package carries, by name.

    Raises:
        UserError: If there is none of that name.
    """
    if name not in presets():
        raise UserError(
            f"no recipe is called '{name}'; there are {', '.join(presets())}, or give a TOML file"
        )
    return read(RECIPES / f"{name}.toml")


def load(name_or_path: str | Path) -> Recipe:
    """A preset by its name, or the recipe in a TOML file."""
    path = Path(name_or_path)
    if path.suffix == ".toml" or path.is_file():
        return read(path)
    return preset(str(name_or_path))


def read(path: Path) -> Recipe:
    """Read a TOML recipe strictly: what is not named keeps its default, what is unknown or wrong is an error.

    Raises:
        UserError: One message with all the faults: unknown keys, wrong types, values out of range.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: the recipe can't be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a TOML file: {error}") from None
    return from_dict(values, where=str(path))


def from_dict(values: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
    """The recipe of a nested dictionary, as strictly as `read`."""
    try:
        recipe = _ADAPTER.validate_json(json.dumps(values))
    except (ValidationError, TypeError) as error:
        raise UserError(_faults(error, where)) from None
    inner = _contradictions(recipe)
    if inner:
        raise UserError(f"{where}: " + "; ".join(inner))
    return recipe


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as nested dictionaries of plain values."""
    return dataclasses.asdict(recipe)


def save(recipe: Recipe, path: Path) -> None:
    """Write the whole recipe, every default spelled out."""
    path.write_text(tomli_w.dumps(to_dict(recipe)), encoding="utf-8")


def override(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """Change numbers by their dotted names, as in `stage1.epochs=10`.

    Values are read as TOML and, where they are no TOML, as text.

    Raises:
        UserError: One message with all the faults.
    """
    values = to_dict(recipe)
    faults = []
    for setting in settings:
        name, equals, text = setting.partition("=")
        *parents, key = name.strip().split(".")
        table: Any = values
        for parent in parents:
            table = table.get(parent) if isinstance(table, dict) else None
        if not equals or not isinstance(table, dict) or key not in table or isinstance(table[key], dict):
            faults.append(f"'{setting}' names no number of the recipe (expected e.g. stage1.epochs=10)")
            continue
        try:
            table[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            table[key] = text.strip()
    if faults:
        raise UserError("--set: " + "; ".join(faults))
    return from_dict(values, where="--set")


def _contradictions(recipe: Recipe) -> list[str]:
    faults = []
    if recipe.crop.crop_px < 32:
        faults.append(f"crop.crop_px is {recipe.crop.crop_px}, expected 32 or more: the net pools five times")
    for name in ("fine_tune", "stage1", "stage2", "scratch"):
        stage: StageRecipe = getattr(recipe, name)
        if list(stage.milestones) != sorted(set(stage.milestones)) or any(m < 1 for m in stage.milestones):
            faults.append(f"{name}.milestones is {list(stage.milestones)}, expected rising epochs above 0")
        if stage.milestones and stage.schedule != "step":
            faults.append(
                f"{name}.milestones is {list(stage.milestones)} and {name}.schedule is {stage.schedule}, which looks "
                f"at none: set {name}.milestones=[] or {name}.schedule=step"
            )
        if stage.batch_size == 1 and _has_batch_norm(recipe, name):
            faults.append(f"{name}.batch_size is 1, expected 2 or more: its batch norms compare pictures")
        if stage.warmup_epochs >= stage.epochs > 1:
            faults.append(
                f"{name}.warmup_epochs is {stage.warmup_epochs}, expected less than {name}.epochs ({stage.epochs})"
            )
    if recipe.scratch.soft_labels:
        faults.append("scratch.soft_labels is above 0, expected 0: the baseline has no teacher")
    if recipe.scratch.regress:
        faults.append("scratch.regress is above 0, expected 0: the baseline has no teacher")
    if not recipe.stage1.epochs and not recipe.stage2.regress and not recipe.stage2.soft_labels:
        faults.append(
            "stage1.epochs is 0, expected stage2.regress or stage2.soft_labels above 0 with it: otherwise nothing is "
            "learned from the face net"
        )
    if recipe.stage2.soft_labels and not recipe.face_net.fine_tuned:
        faults.append(
            "stage2.soft_labels is above 0, expected face_net.fine_tuned = true with it: a face net as it came has no "
            "class scores"
        )
    if recipe.stage1.blend and not recipe.stage1.views:
        faults.append("stage1.blend is above 0, expected stage1.views above 0 with it")
    blended = round(recipe.stage1.blend * recipe.stage1.views)
    if recipe.stage1.views and 0 < recipe.stage1.blend < 1 and blended in (0, recipe.stage1.views):
        faults.append(
            f"stage1.blend is {recipe.stage1.blend:g} and stage1.views is {recipe.stage1.views}, which makes {blended} "
            "of them blends: raise stage1.views, or choose a share that makes some and leaves some"
        )
    for option, off in (("label_smoothing", 0.0), ("balance", "none")):
        if getattr(recipe.stage1, option) != off:
            faults.append(
                f"stage1.{option} is {getattr(recipe.stage1, option)}, expected {off}: it reads no labels"
            )
    if recipe.stage1.mixup:
        faults.append("stage1.mixup is above 0, expected 0: stage1.blend blends its pictures")
    taught = [name for name in ("soft_labels", "regress") if getattr(recipe.stage2, name)]
    if recipe.stage2.mixup and taught and recipe.stage1.views:
        faults.append(
            f"stage2.mixup and stage2.{' and stage2.'.join(taught)} are above 0, expected stage1.views = 0 with them: "
            "the teacher has not seen the mixed pictures (stage1.blend blends those that it sees)"
        )
    for name in ("stage1", "scratch"):
        if getattr(recipe, name).batch_norm == "frozen":
            faults.append(
                f'{name}.batch_norm is "frozen", expected "trainable": its batch norms come untrained'
            )
    if recipe.stage2.batch_norm == "frozen" and not recipe.expnet.batch_norm:
        faults.append('stage2.batch_norm is "frozen", expected expnet.batch_norm = true with it')
    watching = {name: getattr(recipe, name) for name in ("fine_tune", "stage1", "stage2")}
    shares = {name: stage.inner_share for name, stage in watching.items() if stage.patience}
    if len(set(shares.values())) > 1:
        told = ", ".join(f"{name}.inner_share is {share:g}" for name, share in shares.items())
        faults.append(f"{told}, expected one number: the stages of a training watch the same pictures")
    return faults


def _has_batch_norm(recipe: Recipe, stage: str) -> bool:
    """Whether a network that the stage trains has batch norms that learn from the batch."""
    if stage == "fine_tune":
        return recipe.face_net.fine_tuned and recipe.face_net.head_norm
    return stage == "scratch" or (
        recipe.expnet.batch_norm and getattr(recipe, stage).batch_norm == "trainable"
    )


def _faults(error: ValidationError | TypeError, where: str) -> str:
    if isinstance(error, TypeError):
        return f"{where}: {error}"
    known = {f.name for cls in _sections().values() for f in dataclasses.fields(cls)} | set(_sections())
    lines = []
    for fault in error.errors():
        name = ".".join(str(part) for part in fault["loc"])
        if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            close = difflib.get_close_matches(str(fault["loc"][-1]), sorted(known), n=1)
            lines.append(f"{name} is unknown" + (f"; did you mean {close[0]}?" if close else ""))
        elif fault["type"] == "value_error":
            lines.append(str(fault["ctx"]["error"]))
        else:
            lines.append(f"{name} is {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}")
    return f"{where}: " + "; ".join(lines)


def _sections() -> dict[str, type[Any]]:
    return {
        "crop": CropContract,
        "augment": AugmentRecipe,
        "face_net": FaceNetRecipe,
        "expnet": ExpNetRecipe,
        "fine_tune": StageRecipe,
        "stage1": RegressRecipe,
        "stage2": ClassifyRecipe,
        "scratch": ClassifyRecipe,
        "recipe": Recipe,
    }
