"""The documents against the code: links resolve, commands parse, tables are current, and the README's examples run."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import typer
import yaml
from PIL import Image
from typer.testing import CliRunner

import facenet2expnet
import tiny
from facenet2expnet import recipes
from facenet2expnet.cli.main import make_app
from facenet2expnet.cli.run import ON_PHOTOGRAPHS
from facenet2expnet.data import bundled
from facenet2expnet.experiment.variants import PICTURES, RECIPE, vary
from facenet2expnet.predict.results import columns
from facenet2expnet.predict.video import VideoWriter
from facenet2expnet.recipe import Recipe

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)[^)]*\)|(?:src|href)=\"([^\"]+)\"")
FENCE = re.compile(r"\s*```\s*(\w*)")
PROGRAM = re.compile(r"\s*(?:\$ )?(?:\S+=\S+ )*(?:\S*/)?(fn2en .+|python (?:benchmarks|tools)/.+)")
SHELL_ENDS = {"|", ">", ">>", "2>", "&&", "||", ";", "&"}
NOT_RUN = ("git clone ", "cd ", "pip install ", "source .venv/bin/activate ")
"""Beginnings of the README's shell lines that a test can't run; `make` targets are looked up."""
NOT_RUN_IN_TEXT = (
    "fn2en ablate faces/ --learning-curve",
    "fn2en serve",
    "fn2en push runs/mine owner/name",
    "fn2en export small --web page/",
)
"""Commands in the README's text that are only parsed: a learning curve begins with 250 pictures, a service does not
end, a push goes to the hub, and the page needs npm; these have tests of their own."""
SHELL = ("shell", "sh", "bash", "console")
NOT_PROGRAMS = ("text",)
"""Languages of blocks that are shown only; in docs/results_first_recipes.md also commands of an earlier commit."""


def prose_and_code(page: Path) -> tuple[str, list[str]]:
    """A page without its code blocks, and the lines of those; lines that end in a backslash are joined."""
    prose, code, fence = [], [], ""
    for line in page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if match := FENCE.match(line):
            fence = "" if fence else match[1] or "shell"
        elif fence in NOT_PROGRAMS:
            continue
        elif fence or line.startswith("    "):
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
    """Page, command, and whether it is complete: a command in running text may leave its arguments out.

    The changelog is left out: it names commands of earlier versions.
    """
    for page in (page for page in PAGES if page.name != "CHANGELOG.md"):
        prose, code = prose_and_code(page)
        for line in code:
            if match := PROGRAM.match(line):
                yield page, match[1], True
        for span in re.findall(r"`(fn2en [^`]+)`", prose):
            yield page, span, False


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub forms them."""
    headings = re.findall(r"^#+ (.+)$", prose_and_code(page)[0], re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def words_of(text: str) -> tuple[list[str], list[str]]:
    """The words of a command, and what follows it in the shell (a pipe, a redirection)."""
    words = shlex.split(text, comments=True)
    end = next((number for number, word in enumerate(words) if word in SHELL_ENDS), len(words))
    return words[:end], words[end:]


def check_command(text: str, *, complete: bool = True) -> None:
    """Parse a command without running it; raises what the command line raises."""
    program, *words = words_of(text)[0]
    if program == "python":
        check_script(*words)
        return
    words = [word for word in words if word != "--debug"]
    command: Any = typer.main.get_command(make_app())
    name = "fn2en"
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name = words.pop(0)
        if name not in command.commands:
            raise ValueError(f"there is no command '{name}'; there are {', '.join(command.commands)}")
        command = command.commands[name]
    if words == ["--help"] or (not words and not complete):
        return
    try:
        context = command.make_context(name, words)
    except Exception as error:
        if type(error).__name__ == "MissingParameter" and not complete:
            return
        raise
    with context:
        given = context.params
        chosen = given.get("recipe") or given.get("name")
        known = chosen if chosen in recipes.presets() else "quick"
        recipe = recipes.override(recipes.preset(known), given.get("settings") or [])
        changes = [c for c in given.get("changes") or [] if c.partition("=")[0] not in (PICTURES, RECIPE)]
        if changes:
            vary(recipe, changes)


def check_script(path: str, *words: str) -> None:
    """Check that a script exists and that it, or a module beside it that it imports, has the options of a command."""
    source = (ROOT / path).read_text(encoding="utf-8")
    beside = re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE)
    shared = [(ROOT / path).with_name(f"{name}.py") for name in beside]
    source += "".join(file.read_text(encoding="utf-8") for file in shared if file.is_file())
    for word in words:
        if word.startswith("--") and f'"{word.partition("=")[0]}"' not in source:
            raise ValueError(f"{path} has no option {word}")


@pytest.mark.parametrize(("page", "target"), list(links()), ids=lambda value: getattr(value, "name", value))
def test_relative_links_resolve(page: Path, target: str) -> None:
    file, _, anchor = target.partition("#")
    path = page.parent / file if file else page
    assert path.exists(), f"{page.name} links to {target}, which does not exist"
    if anchor and path.suffix == ".md":
        assert anchor in anchors(path), f"{page.name} links to {target}, but {path.name} has no such heading"


@pytest.mark.parametrize(
    ("page", "text", "complete"), list(commands()), ids=lambda value: getattr(value, "name", str(value))
)
def test_commands_parse(page: Path, text: str, complete: bool) -> None:
    check_command(text, complete=complete)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fn2en trian faces/", "no command 'trian'"),
        ("fn2en train faces/ --recip quick", "recip"),
        ("fn2en train", "data"),
        ("fn2en recipe quick --set stage1.epoch=10 > mine.toml", "names no setting of the recipe"),
        ("fn2en ablate faces/ --vary stage1.epoch=10", "names no setting of the recipe"),
        ("python benchmarks/fer2013_small.py FER2013 --ot runs/mine", "no option --ot"),
    ],
)
def test_a_wrong_command_is_found(text: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        check_command(text)


def test_batch_scripts_and_yaml_are_well_formed() -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    scripts = re.findall(r"^```text\n(#!/bin/bash\n.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(scripts) == 3
    for script in scripts:
        assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).stderr == ""
    (block,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    job = yaml.safe_load(block)["spec"]
    check_command(job["entrypoint"])
    groups = [job["rayClusterSpec"]["headGroupSpec"], *job["rayClusterSpec"]["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in groups):
        (mount,) = pod["containers"][0]["volumeMounts"]
        assert mount["name"] == pod["volumes"][0]["name"]
        assert f" {mount['mountPath']}/" in job["entrypoint"]


def test_the_pages_have_commands_and_links() -> None:
    assert {page.name for page, _, _ in commands()} >= {
        "README.md",
        "recipes.md",
        "results.md",
        "results_first_recipes.md",
    }
    assert {page.name for page, _ in links()} >= {"README.md", "CONTRIBUTING.md"}


def recipe_tables() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "tools" / "write_recipe_tables.py"))


def test_the_tables_of_the_recipe_are_current() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert recipe_tables()["with_tables"](page) == page, "run python tools/write_recipe_tables.py"


def test_the_tables_have_every_field_and_preset() -> None:
    tool = recipe_tables()
    assert set(tool["PRESETS"]) == set(recipes.presets())
    fields = re.findall(r"^\| `(\w+)` \|", tool["field_tables"](), re.MULTILINE)
    for name, value in recipes.to_dict(Recipe()).items():
        expected = value if isinstance(value, dict) else [name]
        assert set(expected) <= set(fields)
    assert "| `stage1.epochs` | `300` | `0` | `0` |" in tool["preset_table"]()


def readme_blocks() -> list[tuple[int, str, str]]:
    """Line number, language and text of every fenced block of the README."""
    blocks, language, lines, start = [], None, [], 0
    for number, line in enumerate(README.read_text(encoding="utf-8").splitlines(), start=1):
        if match := FENCE.match(line):
            if language is None:
                language, lines, start = match[1] or "shell", [], number
            else:
                blocks.append((start, language, "\n".join(lines)))
                language = None
        elif language is not None:
            lines.append(line)
        else:
            assert not line.startswith("    "), f"README.md line {number}: put code between ``` lines"
    return blocks


def test_the_table_in_the_readme_is_the_answer_of_the_model() -> None:
    (table,) = (text for _, _, text in readme_blocks() if "faces.csv" in text and "source," in text)
    header, row = (line.removesuffix(",...").split(",") for line in table.splitlines()[1:])
    (found,) = facenet2expnet.Recognizer.load(None, "cpu").predict(ROOT / "docs/images/astronaut.jpg").results
    assert header == columns(found.classes)[: len(header)]
    for name, shown, value in zip(header[1:], row[1:], found.rows()[0][1:], strict=False):
        if isinstance(value, float):
            assert float(shown) == pytest.approx(value, abs=0.01), name
        else:
            assert shown == ("" if value is None else str(value)), name


def test_the_table_of_photographs_is_the_answer_of_the_models() -> None:
    text = (ROOT / "docs" / "predict.md").read_text(encoding="utf-8")
    shown = re.findall(
        r"^\| \[`([\w.-]+)`\]\(images/people/\1\)(.*?) \| (\w+) \| (.+?) \| (.+?) \|$", text, re.MULTILINE
    )
    folder = ROOT / "docs" / "images" / "people"
    reader = [line.split(",") for line in (folder / "reader.csv").read_text(encoding="utf-8").splitlines()[1:]]
    assert [(name, side.removeprefix(", ") or "only", seen) for name, side, seen, *_ in shown] == [*map(tuple, reader)]
    agreed = {}
    for column, model in ((3, "standard"), (4, "small")):
        answers = facenet2expnet.Recognizer.load(model, "cpu").predict(sorted(folder.glob("*.jpg"))).table()
        answers = answers.sort_values(["source", "x"])
        assert [Path(source).name for source in answers["source"]] == [row[0] for row in shown]
        for row, answer in zip(shown, answers.to_dict("records"), strict=True):
            label, _, probability = row[column].partition(" ")
            if answer["note"]:
                assert row[column] == answer["note"] == "no face found"
            else:
                assert label == answer["label"], row[0]
                assert float(probability.removesuffix(" %")) == pytest.approx(100 * answer["probability"], abs=2)
        agreed[model] = sum(row[column].split()[0] == row[2] for row in shown)
    counts = f"`standard` agrees with the reader on {agreed['standard']} and `small` on {agreed['small']};"
    assert f"Of {len(shown)} faces, {counts}" in text
    assert f"would agree on {sum(row[2] == 'neutral' for row in shown)}." in text


def test_every_photograph_has_a_source_and_a_licence() -> None:
    folder = ROOT / "docs" / "images" / "people"
    sources = (folder / "SOURCES.md").read_text(encoding="utf-8")
    listed = re.findall(
        r"^\| `([\w.-]+)` \|.*\|.*\|.*(?:CC BY 2\.0|CC0|MIT|public domain).* \|$", sources, re.MULTILINE
    )
    pictures = sorted(folder.glob("*.jpg"))
    assert listed == [picture.name for picture in pictures]
    assert all(max(Image.open(picture).size) <= 400 for picture in pictures)
    assert sum(picture.stat().st_size for picture in pictures) < 300_000


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_face_net: None) -> Iterator[Path]:
    """A folder with the files that the README's examples name; every preset trains in a second.

    `faces/`, `others/` and `new-faces/` are folders of class folders, `faces.csv` is a manifest with subjects;
    `me.jpg`, `you.jpg`, `holiday/` and `album/` are pictures without labels, `clip.mp4` is a video, and
    `docs/images/` is that of the repository.
    """
    monkeypatch.chdir(tmp_path)
    sample, table = bundled.sample_folder(), bundled.read_sample()
    for name in tiny.CLASSES:
        for number, image in enumerate(table.loc[table["label"] == name, "image"].iloc[:36]):
            path = tmp_path / ("faces", "others", "new-faces")[number // 12] / name / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.open(sample / image).convert("RGB").save(path)
    few = table[table["subject"].isin(sorted(set(table["subject"]))[:8])].copy()
    few["image"] = [str(sample / image) for image in few["image"]]
    few.to_csv(tmp_path / "faces.csv", index=False)
    (tmp_path / "holiday").mkdir()
    (tmp_path / "album").mkdir()
    pictures = ["me.jpg", "you.jpg", "holiday/beach.jpg", *(f"album/{number}.jpg" for number in range(12))]
    for picture, image in zip(pictures, table["image"], strict=False):
        Image.open(sample / image).convert("RGB").save(tmp_path / picture)
    shutil.copytree(ROOT / "docs" / "images", tmp_path / "docs" / "images")
    party = np.asarray(Image.open(ROOT / "docs" / "images" / "party.jpg"))
    clip = VideoWriter(tmp_path / "clip.mp4")
    for number in range(3):
        clip.write(party, number / 5)
    clip.close()
    small = tiny.tiny_recipe()
    known = recipes.presets()

    def preset(name: str) -> Recipe:
        assert name in known
        return replace(small, name=name)

    monkeypatch.setattr(recipes, "preset", preset)
    (tmp_path / "sample").mkdir()
    few.to_csv(tmp_path / "sample" / "manifest.csv", index=False)  # fn2en quickstart with eight subjects
    monkeypatch.setattr(bundled, "sample_folder", lambda: tmp_path / "sample")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # nets this small are ten times slower on threads that wait for each other
    yield tmp_path
    torch.set_num_threads(threads)


def run_shell_line(line: str) -> None:
    """Run a line of a shell block if it is a command of ours; else check that it is known."""
    if not line.strip() or line.lstrip().startswith("#"):
        return
    for part in line.split(" && "):
        command, after = words_of(part)
        text = shlex.join(command) + " "
        if command[0] == "make":
            targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
            assert set(command[1:]) <= set(targets), f"the Makefile has no target {command[1:]}"
        elif command[0] == "fn2en":
            result = CliRunner().invoke(make_app(), command[1:], catch_exceptions=False)
            assert result.exit_code == 0, f"{part}\n{result.output}"
            if after[:1] == [">"]:
                Path(after[1]).write_text(result.stdout, encoding="utf-8")
        else:
            assert text.startswith(NOT_RUN), f"README.md: no test runs '{part}'; it is not in NOT_RUN either"
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            for named in re.findall(r"pip install .*\[([\w,]+)\]", text):
                assert set(named.split(",")) <= set(extras), f"pyproject.toml has no extra {named}"


def prepare_files(text: str, workspace: Path) -> None:
    """Make the files that an example reads and does not write itself."""
    writes_run = re.search(r"(?:--out|-o|out=)[\s\"']*runs/mine", text)
    if "runs/mine" in text and not writes_run:
        facenet2expnet.train("faces/", recipe="quick", out="runs/mine", device="cpu")
    if "CK+/" in text:
        bundled.export_ckplus(workspace / "CK+")


@pytest.mark.parametrize(
    ("language", "text"),
    [pytest.param(language, text, id=f"line-{line}") for line, language, text in readme_blocks()],
)
def test_the_examples_of_the_readme_run(language: str, text: str, workspace: Path) -> None:
    prepare_files(text, workspace)
    if language == "python":
        exec(compile(text, "README.md", "exec"), {"__name__": "readme"})
    elif language in SHELL:
        for line in text.replace("\\\n", " ").splitlines():
            run_shell_line(line)
    else:
        assert language in NOT_PROGRAMS, f"README.md: no test runs a block of '{language}'"


@pytest.mark.parametrize("command", sorted({text for page, text, _ in commands() if page == README}))
def test_the_commands_in_the_text_of_the_readme_run(command: str, workspace: Path) -> None:
    if command in NOT_RUN_IN_TEXT:
        pytest.skip("parsed above")
    prepare_files(command, workspace)
    run_shell_line(command)


def test_the_numbers_that_the_quickstart_prints_are_those_of_the_results() -> None:
    table = (ROOT / "docs" / "results.md").read_text().partition("## FER+, 1,000 pictures")[2].partition("\n## ")[0]
    for method, accuracy in ON_PHOTOGRAPHS.items():
        assert re.search(rf"^\| \**{method}\b[^|]*\| \**{accuracy} ± ", table, re.MULTILINE | re.IGNORECASE), method


def test_the_readme_has_examples_in_both_languages() -> None:
    assert {language for _, language, _ in readme_blocks()} >= {"python", "shell"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("curl example.org", "no test runs"),
        ("make quickstrat", "no target"),
        ('pip install ".[facenets]"', "no extra"),
        ("fn2en recipe quick && curl example.org", "no test runs"),
    ],
)
def test_a_line_of_the_readme_that_nothing_checks_is_found(line: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        run_shell_line(line)


def test_a_command_of_the_readme_is_run(workspace: Path) -> None:
    run_shell_line("fn2en recipe quick --set stage1.epochs=7 > mine.toml")
    assert recipes.read(workspace / "mine.toml").stage1.epochs == 7
    with pytest.raises(facenet2expnet.UserError, match="nowhere"):
        run_shell_line("fn2en predict runs/nowhere me.jpg")


def test_the_sample_of_the_workspace_is_small(workspace: Path) -> None:
    assert len(pd.read_csv(workspace / "sample" / "manifest.csv")) < 200
