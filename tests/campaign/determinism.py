"""Train the same comparison in other environments: the same numbers, bit for bit, and files only as open as asked."""

from __future__ import annotations

import hashlib
import locale
import os
import signal
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from campaign.commands import Command, commands, digests, start
from campaign.trials import Outcomes

TURKISH = "tr_TR.UTF-8"
"""Has a decimal comma, and an i without a dot."""

RESULTS = ("metrics.json", "folds.json", "copies.csv", "audit.json", "skipped.csv", "recipe.toml",
           "**/predictions.parquet", "**/model.safetensors")  # fmt: skip


@dataclass(frozen=True)
class Environment:
    """How a run differs from the first one.

    Attributes:
        more: arguments.
        variables: of the environment.
        elsewhere: the working directory is another one, and the paths are relative to it.
        umask: of its files.
        broken: it is killed after its first training, and goes on with --resume.
    """

    more: Sequence[object] = ()
    variables: dict[str, str] = field(default_factory=dict)
    elsewhere: bool = False
    umask: int = 0o022
    broken: bool = False


ENVIRONMENTS = {
    "first": Environment(),
    "--jobs 2": Environment(("--jobs", 2)),
    "resumed": Environment(broken=True),
    "resumed with --jobs 2": Environment(("--jobs", 2), broken=True),
    "another working directory": Environment(elsewhere=True),
    "LC_ALL=C": Environment(variables={"LC_ALL": "C", "PYTHONUTF8": "0"}),
    f"LC_ALL={TURKISH}": Environment(variables={"LC_ALL": TURKISH}),
    "umask 077": Environment(umask=0o077),
    "umask 000": Environment(umask=0),
    "PYTHONHASHSEED=1": Environment(variables={"PYTHONHASHSEED": "1"}),
    "PYTHONHASHSEED=2": Environment(variables={"PYTHONHASHSEED": "2"}),
    "TZ=Asia/Kathmandu": Environment(variables={"TZ": "Asia/Kathmandu"}),
}


def run_determinism(folder: Path, names: Sequence[str] = ()) -> Outcomes:
    """Run a comparison in each environment, all if there are no `names`; the first one is what they must equal."""
    outcomes, expected = Outcomes("determinism"), dict[str, str]()
    compare = next(command for command in commands(folder) if command.name == "compare")
    for name, environment in ENVIRONMENTS.items():
        if name != "first" and names and name not in names:
            continue
        if TURKISH in name and not _has(TURKISH):
            outcomes.notes.append(f"not done: this machine has no {TURKISH}")
            continue
        out = folder / "".join(character if character.isalnum() else "-" for character in name)
        told = _run(compare, environment, out, folder)
        found, wide = numbers(out), wide_files(out, environment.umask)
        if name == "first":
            assert not told, told
            expected = found
            continue
        outcomes.counts["the same numbers" if found == expected and not told else "other numbers"] += 1
        different = sorted(path for path in {*found, *expected} if found.get(path) != expected.get(path))
        if told or different:
            outcomes.fault(f"{name}: {told[-300:]} other {', '.join(different)}")
        if wide:
            outcomes.fault(f"{name}: permissions of {', '.join(wide)}")
    outcomes.notes.append(f"{len(expected)} files of each compared")
    return outcomes


def _run(compare: Command, environment: Environment, out: Path, folder: Path) -> str:
    """Run the comparison; return what it told if it failed."""
    arguments, place, written = (*compare.arguments, *environment.more), None, out
    if environment.elsewhere:
        place, written = folder / "faces", Path(os.path.relpath(out, folder / "faces"))
        arguments = tuple(os.path.relpath(word, place) if isinstance(word, Path) else word for word in arguments)
    options = {"cwd": place, "written": written, "umask": environment.umask, **environment.variables}
    process = start(arguments, out, folder, **options)
    if environment.broken:
        while process.poll() is None and not list(out.glob("*/*/result.json")):
            time.sleep(0.05)
        process.signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.5)  # the workers of --jobs end by themselves
        process = start((*arguments, *compare.go_on), out, folder, **options)
    return f"exit code {code}: {Path(f'{out}.err').read_text()}" if (code := process.wait()) else ""


def numbers(run: Path) -> dict[str, str]:
    """Return the hashes of the results of a run, and of its training curves without the seconds."""
    found = digests(run, RESULTS)
    for path in run.rglob("history.csv"):
        curves = pd.read_csv(path, dtype=str).drop(columns="seconds").to_csv(index=False)
        found[path.relative_to(run).as_posix()] = hashlib.sha256(curves.encode()).hexdigest()
    return found


def wide_files(folder: Path, umask: int) -> list[str]:
    """Return the files below a folder that give more than the umask allows, or that can be executed."""
    found = []
    for path in (folder, *folder.rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        if mode & umask or (path.is_file() and mode & 0o111):
            found.append(f"{path.relative_to(folder).as_posix()} {mode:o}")
    return found


def _has(name: str) -> bool:
    """Whether this machine has a locale."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        locale.setlocale(locale.LC_ALL, name)
    except locale.Error:
        return False
    locale.setlocale(locale.LC_ALL, before)
    return True
