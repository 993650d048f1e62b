"""Kill commands at random moments; what is done again gives the bytes of a command that was never killed."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import tiny
from campaign.trials import Outcomes
from facenet2expnet import recipes
from facenet2expnet.predict.model_folder import save_model

TESTS = Path(__file__).parents[1]
LIMIT_S = 900.0
"""A command that takes longer hangs; even on a busy machine it takes a minute."""


@dataclass(frozen=True)
class Command:
    """A command that is killed, and what makes it go on.

    Attributes:
        name: of the command.
        arguments: `{out}` is the path of the results.
        go_on: what is added to go on.
        results: patterns of the files that must be the same, bit for bit.
        together: what a second process is told while the first one works; "" if both may.
    """

    name: str
    arguments: Sequence[object]
    go_on: Sequence[str]
    results: Sequence[str]
    together: str = ""


def commands(folder: Path) -> list[Command]:
    """Write what the commands need, and return them."""
    faces = tiny.write_faces(folder / "faces", each=6)
    many = tiny.write_faces(folder / "many", each=200)
    recipes.save(tiny.tiny_recipe(), folder / "tiny.toml")
    save_model(tiny.sure_model(), folder / "model")
    contract = ("--size", 40)
    common = ("--recipe", folder / "tiny.toml", "--device", "cpu", "--threads", 1, "--quiet", "--out", "{out}")
    tables = ("metrics.json", "predictions.parquet", "**/model.safetensors")
    busy = "another process"
    compare = ("compare", faces, "--folds", 2, *common)
    whole = ("--faces", "whole-image", "--quiet", "--device", "cpu", "--out", "{out}")
    return [
        Command("compare", compare, ("--resume",), tables, busy),
        Command("compare --jobs 2", (*compare, "--jobs", 2), ("--resume",), tables, busy),
        Command("train", ("train", faces, *common), ("--resume",), tables, busy),
        Command("prepare", ("data", "prepare", "folder", many, *contract, "--out", "{out}"), (),
                ("faces.npy", "manifest.csv", "store.json"), busy),
        Command("predict", ("predict", folder / "model", many, *whole, "--shard", "1/1"), ("--resume",),
                ("parts/*.parquet",), busy),
        Command("export", ("export", folder / "model", "{out}/model.onnx", "--data", faces, "--quiet"), (),
                ("model.onnx",)),
    ]  # fmt: skip


def environment(folder: Path) -> dict[str, str]:
    """Return the variables of a process that finds the package, and the face net "tiny" by its entry point."""
    package = folder / "entry" / "tiny_face_net-1.dist-info"
    if not package.is_dir():
        package.mkdir(parents=True)
        (package / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-face-net\nVersion: 1\n")
        (package / "entry_points.txt").write_text("[facenet2expnet.face_nets]\ntiny = spawned:load_tiny\n")
    import facenet2expnet

    source = Path(facenet2expnet.__file__).parents[1]
    places = (source, TESTS, TESTS / "experiment", folder / "entry")
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places)), "OMP_NUM_THREADS": "1"}


def start(
    arguments: Sequence[object], out: Path, folder: Path, told: Path | None = None, **changes: str
) -> subprocess.Popen[str]:
    """Start a command in a process group of its own; its errors go to `told`, by default `out`.err."""
    words = [str(word).replace("{out}", str(out)) for word in arguments]
    with (told or Path(f"{out}.err")).open("w") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "facenet2expnet.cli.main", *words], env=environment(folder) | changes,
            stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True, text=True,
        )  # fmt: skip


def digests(out: Path, patterns: Sequence[str]) -> dict[str, str]:
    """Return the hash of every result."""
    paths = sorted({path for pattern in patterns for path in out.glob(pattern)})
    return {path.relative_to(out).as_posix(): content_hash(path) for path in paths}


def content_hash(path: Path) -> str:
    """Return the hash of a file; of an ONNX file without its card, which holds measured times."""
    if path.suffix == ".onnx":
        import onnx

        graph = onnx.load(path).graph
        return hashlib.sha256(graph.SerializeToString(deterministic=True)).hexdigest()
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
        values = (table[name].to_numpy() for name in table)
        return hashlib.sha256(b"".join(repr(v.tolist()).encode() for v in values)).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run_kills(count: int, seed: int, folder: Path, names: Sequence[str] = ()) -> Outcomes:
    """Kill each command `count` times, at moments that are drawn between its first file and its end.

    Args:
        names: of the commands; all if empty.
    """
    outcomes = Outcomes("kills")
    for command in commands(folder):
        if names and command.name not in names:
            continue
        out = folder / command.name.replace(" ", "-")
        process, began = start(command.arguments, out, folder), time.monotonic()
        began = _wait_for_files(process, out)
        _second(command, out, folder, process, outcomes)
        if process.wait(LIMIT_S) != 0:
            outcomes.counts["failed"] += 1
            outcomes.faults.append(f"{command.name}: {Path(f'{out}.err').read_text()[-300:]}")
            continue
        seconds, expected = time.monotonic() - began, digests(out, command.results)
        assert len(expected) >= len(command.results), expected
        rng = np.random.default_rng([seed, len(command.name)])
        for number in range(count):
            _kill_and_go_on(command, rng.uniform(0, seconds), expected, out.with_name(f"{out.name}-{number}"), outcomes)
        shutil.rmtree(out)
    return outcomes


def _wait_for_files(process: subprocess.Popen[str], out: Path) -> float:
    """Wait until a command writes, or ends; return the time."""
    while process.poll() is None and not out.exists():
        time.sleep(0.01)
    return time.monotonic()


def _second(command: Command, out: Path, folder: Path, process: subprocess.Popen[str], outcomes: Outcomes) -> None:
    """Start the command beside itself, while the first one is stopped: it must be refused."""
    signs = ("jobs.json", "unfinished.jsonl", "claims/shard-*")  # of a command that holds its lock
    while process.poll() is None and not any(any(out.glob(sign)) for sign in signs):
        time.sleep(0.01)
    if not command.together or process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGSTOP)
    beside = folder / f"{out.name}-beside"
    errors = beside.with_name(f"{beside.name}.err")
    arguments = [str(word).replace("{out}", str(out)) for word in (*command.arguments, *command.go_on)]
    second = start(arguments, beside, folder)
    code = second.wait(LIMIT_S)
    os.killpg(process.pid, signal.SIGCONT)
    told = errors.read_text()
    if code == 2 and command.together in told and "Traceback" not in told:
        outcomes.counts["a second process was refused"] += 1
    else:
        outcomes.counts["a second process was let in"] += 1
        outcomes.faults.append(f"{command.name} beside itself: exit code {code}: {told[-300:]}")


def _kill_and_go_on(command: Command, after_s: float, expected: dict[str, str], out: Path, outcomes: Outcomes) -> None:
    """Kill a command `after_s` seconds after its first file, do it again, and compare the results."""
    folder = out.parent
    process = start(command.arguments, out, folder)
    _wait_for_files(process, out)
    time.sleep(after_s)
    killed = process.poll() is None
    if killed:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.2)  # the workers of --jobs end by themselves
    half = {name: found for name, found in digests(out, command.results).items() if found != expected.get(name)}
    what = f"{command.name}, killed after {after_s:.2f} s"
    again = start((*command.arguments, *(command.go_on if killed else ())), out, folder) if killed else process
    if killed and again.wait(LIMIT_S) != 0:
        told = Path(f"{out}.err").read_text()
        outcomes.counts["did not go on"] += 1
        outcomes.faults.append(f"{what}: {told[-300:]}")
        return
    if half and command.name not in ("prepare",):
        outcomes.faults.append(f"{what}: half a file: {half}")
    same = digests(out, command.results) == expected
    left = [path.name for path in out.rglob(".*") if path.is_file() and path.name != ".lock"]
    if not same or left:
        outcomes.counts["other results"] += 1
        outcomes.faults.append(f"{what}: other results, or left behind {left}")
        return
    outcomes.counts[f"{command.name}: {'same results' if killed else 'had ended'}"] += 1
    shutil.rmtree(out)
