"""The axes of an ablation, and the recipes that their values make of one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from facenet2expnet import recipe as recipes
from facenet2expnet.errors import UserError
from facenet2expnet.recipe import Recipe
from facenet2expnet.training.losses import REGISTRY, terms_of

PICTURES, RECIPE = "pictures", "recipe"
DOUBLING = ".."

FIELDS: Mapping[str, str] = {
    "objective": "stage1.objective",
    "tap": "face_net.tap",
    "face-net": "face_net.name",
    "width": "expnet.width",
    "input-size": "crop.crop_px",
}
"""The axes that have a name of their own, and the number of the recipe that each changes first."""


@dataclass(frozen=True)
class Axis:
    """One thing to change.

    Attributes:
        name: a key of FIELDS, "pictures" (how many to train on), "recipe" (presets or files) or the dotted name of
            any number of the recipe.
        values: what to set it to, as text. A face net that needs weights is written NAME=FILE; "250.." in the axis
            "pictures" is 250, 500, 1,000 and so on up to the whole training part.
    """

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Variant:
    """One row of the table, before it is trained.

    Attributes:
        values: axis -> value, for what was changed; empty for the recipe as it is.
        recipe: every number.
        pictures: how many to train on; None for all of the fold's training part.
    """

    values: Mapping[str, str]
    recipe: Recipe
    pictures: int | None


def vary(
    base: Recipe, axes: Sequence[Axis], *, cross: bool = False, settings: Sequence[str] = ()
) -> list[Variant]:
    """The recipe itself, and the variants of it.

    Args:
        base: the recipe.
        axes: what to change.
        cross: all combinations, instead of one axis at a time.
        settings: applied to the recipes of the axis "recipe".
    Returns:
        One variant for values of an axis that say the same, such as 0.01 and 0.010.
    Raises:
        UserError: If an axis has no such name, no value, or a value that the recipe can't take.
    """
    names = [axis.name for axis in axes]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"axis '{name}' is given {names.count(name)} times, expected once with all its values"
            )
    if not axes or not all(axis.values for axis in axes):
        raise UserError("an ablation needs one axis or more with one value or more")
    axes = [_distinct(base, axis, settings) for axis in axes]
    if cross:
        changes = [dict(zip(names, values, strict=True)) for values in product(*(a.values for a in axes))]
    else:
        changes = [{axis.name: value} for axis in axes for value in axis.values]
    variants = [Variant({}, base, None)]
    variants += [_variant(base, change, settings) for change in changes]
    return variants


def _distinct(base: Recipe, axis: Axis, settings: Sequence[str]) -> Axis:
    """The axis without values that say what an earlier one says."""
    said: dict[str, tuple[Recipe, int | None]] = {}
    for value in axis.values:
        variant = _variant(base, {axis.name: value}, settings)
        if (variant.recipe, variant.pictures) not in said.values():
            said[value] = (variant.recipe, variant.pictures)
    return replace(axis, values=tuple(said))


def doubled(axis: Axis, most: int) -> Axis:
    """The axis with "250.." spelled out."""
    values: list[str] = []
    for value in axis.values:
        count = value.removesuffix(DOUBLING)
        if axis.name != PICTURES or count == value or int(count) > most:
            values.append(count)
            continue
        times = math.floor(math.log2(most / int(count)))
        values += [str(int(count) * 2**n) for n in range(times + 1)]
    return replace(axis, values=tuple(dict.fromkeys(values)))


def _variant(base: Recipe, change: Mapping[str, str], settings: Sequence[str]) -> Variant:
    pictures = None
    if RECIPE in change:
        base = recipes.override(recipes.load(change[RECIPE]), settings)
    # another face net brings its own layer, which the axis "tap" may change again
    for name, value in sorted(change.items(), key=lambda item: item[0] != "face-net"):
        if name == PICTURES:
            value = value.removesuffix(DOUBLING)
            if not value.isdecimal() or int(value) < 1:
                raise UserError(
                    f"axis 'pictures' has the value '{value}', expected a number of training pictures"
                )
            pictures = int(value)
        elif name != RECIPE:
            base = recipes.override(base, _settings(base, name, value))
    return Variant(change, base, pictures)


def _settings(base: Recipe, axis: str, value: str) -> list[str]:
    """The numbers of the recipe that a value of an axis changes."""
    field = FIELDS.get(axis, axis)
    if axis == "objective":
        own_space = _has_own_space(value)
        standardised = base.stage2.standardised_input and own_space
        return [f"{field}={value}", f"stage2.standardised_input={str(standardised).lower()}"]
    if axis == "face-net":
        return _face_net(base, value)
    if axis == "input-size" and value.isdecimal():
        stored = round(int(value) * base.crop.stored_px / base.crop.crop_px)
        return [f"{field}={value}", f"crop.stored_px={stored}"]
    return [f"{field}={value}"]


def _face_net(base: Recipe, value: str) -> list[str]:
    """Another face net with its own default layer; one through ONNX Runtime as it came, which gives no soft labels."""
    if value.startswith("onnx:"):
        return [
            f"face_net.name={value}", "face_net.weights=", "face_net.tap=",
            "face_net.fine_tuned=false", "stage2.soft_labels=0.0",
        ]  # fmt: skip
    name, _, weights = value.partition("=")
    if (name, weights) == (base.face_net.name, base.face_net.weights):
        return []
    return [f"face_net.name={name}", f"face_net.weights={weights}", "face_net.tap="]


def _has_own_space(objective: str) -> bool:
    """Whether the fully connected layer can be given this objective's standardised features."""
    return any(REGISTRY[term.name].space != "teacher" for term in terms_of(objective))


def with_steps(variant: Variant, steps_of: int, pictures: int) -> Variant:
    """The same with its stages' epochs scaled, so that they take the steps of another number of pictures."""
    factor = steps_of / (pictures * (1 - variant.recipe.calibration_share))
    changed = {}
    for name in ("fine_tune", "stage1", "stage2", "scratch"):
        stage = getattr(variant.recipe, name)
        epochs = max(1, round(stage.epochs * factor)) if stage.epochs else 0
        changed[name] = replace(
            stage,
            epochs=epochs,
            warmup_epochs=min(round(stage.warmup_epochs * factor), max(0, epochs - 1)),
            milestones=tuple(sorted({max(1, round(m * factor)) for m in stage.milestones})),
        )
    return replace(variant, recipe=replace(variant.recipe, **changed))
