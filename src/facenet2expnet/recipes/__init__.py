"""Read and write recipes: presets of the package, strict TOML, dotted overrides.

recipe = preset("best")
recipe = override(recipe, ["stage1.epochs=10", "expnet.width=0.5"])
save(recipe, Path("recipe.toml"))
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import TypeAdapter, ValidationError

from facenet2expnet.errors import UserError
from facenet2expnet.files import write_atomic
from facenet2expnet.recipe import LossTerm, Recipe, contradictions

FOLDER = Path(__file__).parent
_ADAPTER = TypeAdapter(Recipe)
RETIRED = ("ema_decay", "label_smoothing")
"""Settings that earlier recipes have and that gained nothing; 0, which is without, is still read."""


def presets() -> tuple[str, ...]:
    """Return the names of the recipes in the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def preset(name: str) -> Recipe:
    """Return a recipe of the package by its name.

    Raises:
        UserError: If there is none of that name.
    """
    if name not in presets():
        raise UserError(f"no recipe is called '{name}'; there are {', '.join(presets())}, or give a TOML file")
    return read(FOLDER / f"{name}.toml")


def load(name_or_path: str | Path | Recipe) -> Recipe:
    """Return a preset by its name, the recipe in a TOML file, or a recipe as it is.

    Raises:
        UserError: If it is none of these.
    """
    if isinstance(name_or_path, Recipe):
        return name_or_path
    if not isinstance(name_or_path, str | Path):
        kind = type(name_or_path).__name__
        raise UserError(f"recipe is a {kind}, expected a preset's name, the path of a TOML file, or a Recipe")
    path = Path(name_or_path)
    if path.suffix == ".toml" or path.is_file():
        return read(path)
    return preset(str(name_or_path))


def read(path: Path) -> Recipe:
    """Read a TOML recipe strictly: missing numbers keep their default, unknown or wrong ones are errors.

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
    """Return the recipe of a nested dictionary, as strictly as `read`."""
    try:
        recipe = _ADAPTER.validate_json(json.dumps(without_retired(values)))
    except (ValidationError, TypeError) as error:
        raise UserError(_faults(error, where)) from None
    if found := contradictions(recipe):
        raise UserError(f"{where}: " + "; ".join(found))
    return recipe


def without_retired(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's dictionary without the retired settings that are 0."""
    kept = {key: value for key, value in values.items() if key not in RETIRED or value != 0}
    return {key: without_retired(value) if isinstance(value, Mapping) else value for key, value in kept.items()}


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as nested dictionaries of plain values."""
    return dataclasses.asdict(recipe) | {"crop": recipe.crop.to_dict()}


def to_toml(recipe: Recipe) -> str:
    """Return the recipe as TOML, every default spelled out."""
    values = to_dict(recipe)
    values["stage1"]["losses"] = list(values["stage1"]["losses"])  # tomli_w writes a list of tables
    return tomli_w.dumps(values)


def save(recipe: Recipe, path: Path) -> None:
    """Write the recipe as TOML, every default spelled out."""
    write_atomic(path, to_toml(recipe).encode())


def override(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """Change numbers by their dotted names, as in `stage1.epochs=10`.

    Values are read as TOML and, if they are not TOML, as text.

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
            names = [f"{section}.{key}" for section, own in to_dict(recipe).items() for key in _keys(own)]
            close = difflib.get_close_matches(name.strip(), names, n=1)
            hint = f"did you mean {close[0]}?" if close else "expected e.g. stage1.epochs=10"
            faults.append(f"'{setting}' names no setting of the recipe; {hint}")
            continue
        try:
            table[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            table[key] = text.strip()
    if faults:
        raise UserError("--set: " + "; ".join(faults))
    return from_dict(values, where="--set")


def _keys(section: Any) -> list[str]:
    return list(section) if isinstance(section, dict) else []


def _faults(error: ValidationError | TypeError, where: str) -> str:
    if isinstance(error, TypeError):
        return f"{where}: {error}"
    values = to_dict(Recipe())
    tables = [values, *(table for table in values.values() if isinstance(table, dict)), vars(LossTerm("rkd"))]
    known = sorted({key for table in tables for key in table})
    lines = []
    for fault in error.errors():
        name = ".".join(str(part) for part in fault["loc"])
        if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            close = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
            lines.append(f"{name} is unknown" + (f"; did you mean {close[0]}?" if close else ""))
        elif fault["type"] == "value_error":
            lines.append(str(fault["ctx"]["error"]))
        else:
            lines.append(f"{name} is {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}")
    return f"{where}: " + "; ".join(lines)
