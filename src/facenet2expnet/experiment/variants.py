"""The variants of an ablation: what is changed in a recipe, and which trainings stay the same."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from facenet2expnet import recipes
from facenet2expnet.errors import UserError
from facenet2expnet.recipe import Recipe

PICTURES, RECIPE = "pictures", "recipe"
DOUBLING = ".."

_UNUSED: Mapping[str, tuple[str, ...]] = {
    "fine-tune": ("name", "expnet", "stage1", "stage2", "scratch"),
    "scratch": ("name", "fine_tune", "stage1", "stage2"),
    "fn2en": ("name", "scratch"),
}
"""The sections of a recipe that a method does not use: trainings that differ only there are the same."""


@dataclass(frozen=True)
class Variant:
    """One row of the table, before it is trained.

    Attributes:
        axis: what is changed: the first dotted name of the change, "pictures" or "recipe"; empty for the base recipe.
        value: the rest of the change, as text.
        recipe: every number.
        pictures: how many to train on; None for all of the fold's training part.
    """

    axis: str
    value: str
    recipe: Recipe
    pictures: int | None = None


def vary(base: Recipe, changes: Sequence[str], settings: Sequence[str] = ()) -> list[Variant]:
    """Return the base recipe and its variants, each once.

    Args:
        base: the recipe.
        changes, settings: see `ablate`.
    Raises:
        UserError: If nothing is changed, or a change is one that the recipe can't take.
    """
    if not changes:
        raise UserError("no change was given, expected one or more, such as stage2.soft_labels=0 or pictures=250..")
    variants = [Variant("", "", base)]
    for change in dict.fromkeys(changes):
        axis, equals, value = change.partition("=")
        axis, value = axis.strip(), value.strip()
        if not equals:
            raise UserError(f"'{change}' changes nothing, expected e.g. stage2.soft_labels=0")
        if axis == PICTURES:
            count = value.removesuffix(DOUBLING)
            if not count.isdecimal() or int(count) < 1:
                raise UserError(f"pictures is '{value}', expected a number of training pictures")
            variants.append(Variant(axis, value, base, int(count)))
        elif axis == RECIPE:
            variants.append(Variant(axis, value, recipes.override(recipes.load(value), settings)))
        else:
            variants.append(Variant(axis, value, recipes.override(base, change.split(" & "))))
    return variants


def training_key(method: str, recipe: Recipe) -> str:
    """Return a hash of all that a method's training depends on in a recipe; numbers at their default don't count."""
    values, default = recipes.to_dict(recipe), recipes.to_dict(Recipe())
    for section in _UNUSED[method]:
        values.pop(section)
    if method == "fine-tune":
        values["face_net"] = {k: v for k, v in values["face_net"].items() if k not in ("tap", "teachers")}
    if method == "scratch":
        values["expnet"].pop("start")
    if recipe.needs_validation:  # a stage elsewhere may keep a validation part out of this one too
        values["validation"] = recipe.val_fraction
    own = {}
    for name, value in values.items():
        if isinstance(value, dict):
            value = {key: number for key, number in value.items() if number != default[name].get(key)}
        if value != default.get(name):
            own[name] = value
    return sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:10]


def expand_doubling(variant: Variant, most: int) -> list[Variant]:
    """Spell "250.." out: the number and its doubles up to `most`."""
    if not variant.value.endswith(DOUBLING) or not variant.pictures or variant.pictures > most:
        return [variant]
    counts = [variant.pictures * 2**n for n in range(math.floor(math.log2(most / variant.pictures)) + 1)]
    return [replace(variant, value=str(count), pictures=count) for count in counts]
