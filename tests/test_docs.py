"""The documents against the code: links that resolve, commands that parse, every number of the recipe told of."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from facenet2expnet import recipe as recipes
from facenet2expnet.cli.main import make_app

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)[^)]*\)|(?:src|href)=\"([^\"]+)\"")
FENCE = re.compile(r"^\s*```")
SHELL_LINE = re.compile(r"\s*(?:\$ )?(?:\S*/)?(fn2en .+)")
SHELL_ENDS = {"|", ">", ">>", "2>", "&&", "||", ";", "&"}


def prose_and_code(page: Path) -> tuple[str, list[str]]:
    """A page without its code blocks, and the lines of those, with lines that end in a backslash joined."""
    prose, code, fenced = [], [], False
    for line in page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if FENCE.match(line):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            code.append(line)
        else:
            prose.append(line)
    return "\n".join(prose), code


def links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for match in LINK.finditer(prose_and_code(page)[0]):
            target = match[1] or match[2]
            if not re.match(r"[a-z]+:", target):
                yield page, target


def commands() -> Iterator[tuple[Path, str, bool]]:
    """Page, command, and whether it is whole: a command in running text may leave its arguments out."""
    for page in PAGES:
        prose, code = prose_and_code(page)
        for line in code:
            if match := SHELL_LINE.match(line):
                yield page, match[1], True
        for span in re.findall(r"`(fn2en [^`]+)`", prose):
            yield page, span, False


def check_command(text: str, *, whole: bool = True) -> None:
    """Parse a command without running it; raises what the command line raises."""
    words = shlex.split(text, comments=True)[1:]
    ends = [number for number, word in enumerate(words) if word in SHELL_ENDS]
    words = [word for word in words[: min(ends, default=None)] if word != "--debug"]
    command: Any = typer.main.get_command(make_app())
    name = "fn2en"
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name = words.pop(0)
        if name not in command.commands:
            raise ValueError(f"there is no command '{name}'; there are {', '.join(command.commands)}")
        command = command.commands[name]
    if words == ["--help"] or (not words and not whole):
        return
    try:
        context = command.make_context(name, words)
    except Exception as error:
        if type(error).__name__ == "MissingParameter" and not whole:
            return
        raise
    with context:
        chosen = context.params.get("recipe", "quick")
        known = chosen if chosen in recipes.presets() else "quick"
        recipes.override(recipes.preset(known), context.params.get("settings") or [])


def shown(value: Any) -> str:
    return json.dumps(value)


def tables(text: str) -> dict[str, dict[str, list[str]]]:
    """Heading -> first cell -> the other cells, for every table row below that heading; backticks are dropped."""
    found: dict[str, dict[str, list[str]]] = {}
    heading = ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ").replace("`", "")
        elif line.startswith("|") and not line.startswith("|-"):
            first, *others = (cell.strip().replace("`", "") for cell in line.strip("|\n ").split(" | "))
            found.setdefault(heading, {})[first] = others
    return found


RECIPES = tables((ROOT / "docs" / "recipes.md").read_text(encoding="utf-8"))
SECTIONS = [name for name, value in vars(recipes.Recipe()).items() if dataclasses.is_dataclass(value)]


def flat(recipe: recipes.Recipe) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in recipes.to_dict(recipe).items():
        found |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return found


@pytest.mark.parametrize(("page", "target"), list(links()), ids=lambda value: getattr(value, "name", value))
def test_relative_links_resolve(page: Path, target: str) -> None:
    path = (page.parent / target.partition("#")[0]) if not target.startswith("#") else page
    assert path.exists(), f"{page.name} links to {target}, which is not there"


@pytest.mark.parametrize(
    ("page", "text", "whole"), list(commands()), ids=lambda value: getattr(value, "name", str(value))
)
def test_commands_parse(page: Path, text: str, whole: bool) -> None:
    check_command(text, whole=whole)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fn2en trian faces/", "no command 'trian'"),
        ("fn2en train faces/ --recip quick", "recip"),
        ("fn2en train faces/ --method best", "best"),
        ("fn2en train", "data"),
        ("fn2en recipe quick --set stage1.epoch=10 > mine.toml", "names no number of the recipe"),
    ],
)
def test_a_wrong_command_is_noticed(text: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        check_command(text)


def test_the_pages_have_commands_and_links() -> None:
    assert {page.name for page, _, _ in commands()} >= {"recipes.md"}
    assert {page.name for page, _ in links()} >= {"CONTRIBUTING.md", "architecture.md"}


def test_the_fields_above_all_tables_are_told_of() -> None:
    told = {name: cells[1] for name, cells in RECIPES["Above all tables"].items() if name != "field"}
    values = recipes.to_dict(recipes.Recipe())
    assert told == {name: shown(value) for name, value in values.items() if not isinstance(value, dict)}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_of_the_recipe_is_told_of_with_its_default(section: str) -> None:
    rows: dict[str, list[str]] = {}
    for heading, table in RECIPES.items():
        if f"[{section}]" in heading:
            rows |= {name: cells for name, cells in table.items() if name != "field"}
    kind = type(getattr(recipes.Recipe(), section))
    defaults = {field.name: shown(field.default) for field in dataclasses.fields(kind)}
    told = {name: cells[1] for name, cells in rows.items()}
    assert told == defaults, (
        "docs/recipes.md differs from the dataclass; the third column is the default as JSON"
    )


def test_the_presets_are_compared_as_they_are() -> None:
    table = next(table for heading, table in RECIPES.items() if heading == "The presets compared")
    names = table["number"]
    assert set(names) == set(recipes.presets())
    values = [flat(recipes.preset(name)) for name in names]
    rows = {key: [shown(value[key]) for value in values] for key in values[0] if key != "name"}
    differing = {key: cells for key, cells in rows.items() if len(set(cells)) > 1}
    told = {key: cells for key, cells in table.items() if key != "number"}
    lines = "\n".join(
        f"| `{key}` | {' | '.join(f'`{c}`' for c in cells)} |" for key, cells in differing.items()
    )
    assert told == differing, f"docs/recipes.md should say:\n{lines}"
