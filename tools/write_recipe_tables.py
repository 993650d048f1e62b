"""Write the tables of docs/recipes.md from the dataclasses of the recipe.

    python tools/write_recipe_tables.py

Only the text between the two lines of a pair of markers is replaced. `tests/test_docs.py` checks that the page is what
this script would write.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from facenet2expnet import recipes
from facenet2expnet.recipe import Recipe

PAGE = Path(__file__).parent.parent / "docs" / "recipes.md"
PRESETS = ("paper", "best", "quick")
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end generated -->)", re.DOTALL)


def main() -> None:
    """Write the page again."""
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def with_tables(page: str) -> str:
    """Return the page with its generated blocks written anew."""
    tables = {"presets": preset_table(), "fields": field_tables()}
    return BLOCK.sub(lambda block: f"{block[1]}\n{tables[block[2]]}\n{block[3]}", page)


def preset_table() -> str:
    """Return a Markdown table of the fields in which the presets differ."""
    columns = [_flat(recipes.preset(name)) for name in PRESETS]
    rows = [
        [f"`{name}`", *(f"`{json.dumps(column[name])}`" for column in columns)]
        for name in columns[0]
        if name != "name" and len({json.dumps(column[name]) for column in columns}) > 1
    ]
    return _table(["field", *(f"`{name}`" for name in PRESETS)], rows)


def field_tables() -> str:
    """Return one heading and one Markdown table for every dataclass of the recipe; inherited fields appear once."""
    parts = [f"### Above all sections\n\n{_field_table(Recipe)}"]
    for kind in _section_classes():
        names = ", ".join(f"`[{name}]`" for name, other in _sections().items() if issubclass(other, kind))
        summary = "" if "," in names else f"{_summary(kind)}\n\n"  # what sections share is described by its fields
        parts.append(f"### {names}\n\n{summary}{_field_table(kind)}")
        for term in _term_classes(kind):
            parts.append(f"#### A term of `losses`\n\n{_field_table(term)}")
    return "\n".join(parts)


def descriptions(kind: type) -> dict[str, str]:
    """Read the Attributes section of a class's docstring: field name -> its description on one line.

    The name of a constant of the class's module, as `DETECTORS`, is replaced by its values.
    """
    section = inspect.getdoc(kind).partition("Attributes:\n")[2].split("\n\n")[0]
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if match := re.match(r" {4}(\w+(?:, \w+)*): (.*)", line):
            names = match[1].split(", ")
            found |= dict.fromkeys(names, match[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    constants = vars(inspect.getmodule(kind))
    for name, text in found.items():
        for constant in re.findall(r"`([A-Z_]+)`", text):
            found[name] = found[name].replace(f"`{constant}`", ", ".join(constants[constant]))
    return found


def _sections() -> dict[str, type]:
    """Section name -> its dataclass."""
    return {name: type(value) for name, value in vars(Recipe()).items() if dataclasses.is_dataclass(value)}


def _section_classes() -> list[type]:
    """The dataclasses of all sections, each after its base classes and once."""
    return list(
        dict.fromkeys(
            kind
            for section in _sections().values()
            for kind in reversed(section.__mro__)
            if dataclasses.is_dataclass(kind)
        )
    )


def _term_classes(kind: type) -> list[type]:
    """The dataclasses in the default lists of a class's own fields."""
    defaults = [field.default for field in _own_fields(kind) if isinstance(field.default, tuple)]
    return list(dict.fromkeys(type(term) for terms in defaults for term in terms if dataclasses.is_dataclass(term)))


def _own_fields(kind: type) -> Iterator[dataclasses.Field[Any]]:
    """The fields that a class adds or changes; sections are left out."""
    own = inspect.get_annotations(kind)
    return (f for f in dataclasses.fields(kind) if f.name in own and f.name not in _sections())


def _field_table(kind: type) -> str:
    described = descriptions(kind)
    rows = [
        [f"`{field.name}`", _default(field), described[field.name].replace("|", "\\|")] for field in _own_fields(kind)
    ]
    return _table(["field", "default", "meaning"], rows)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "none: it must be given"
    return f"`{json.dumps(field.default, default=dataclasses.asdict)}`"


def _summary(kind: type) -> str:
    """The first paragraph of a class's docstring, on one line."""
    return " ".join(inspect.getdoc(kind).split("\n\n")[0].split())


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _flat(recipe: Recipe) -> dict[str, Any]:
    """Dotted field name -> value."""
    found: dict[str, Any] = {}
    for name, value in recipes.to_dict(recipe).items():
        found |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return found


if __name__ == "__main__":
    main()
