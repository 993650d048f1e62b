"""The commands that the campaign kills, fills the disk of, and runs in other environments."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import facenet2expnet
import tiny
from facenet2expnet import recipes
from facenet2expnet.predict.model_folder import save_model

TESTS = Path(__file__).parents[1]
LIMIT_S, HANGS_S = 120.0, 1800.0
"""What a command may take: of the processor, where the longest takes 20, and on the clock of a machine that is busy."""

POLL_S = 0.003

MODULES = (
    "facenet2expnet.cli.main", "facenet2expnet.experiment.compare", "facenet2expnet.predict.recognizer",
    "facenet2expnet.report.page", "facenet2expnet.deploy.onnx", "torch._dynamo", "campaign.commands",
)  # fmt: skip
"""What the process that commands are copied from has loaded."""


@dataclass(frozen=True)
class Command:
    """A command, and what makes it go on.

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


def load_tiny(path: Path | None) -> tiny.TinyFaceNet:
    """The entry point of the face net "tiny"; trainings keep a checkpoint of every epoch, as long ones do."""
    from facenet2expnet.training import loop

    loop.SECONDS_BETWEEN_CHECKPOINTS = -1.0
    return tiny.TinyFaceNet()


def paths(folder: Path) -> list[str]:
    """Return the folders in which a process finds the package, and the face net "tiny" by its entry point."""
    package = folder / "entry" / "tiny_face_net-1.dist-info"
    if not package.is_dir():
        package.mkdir(parents=True)
        (package / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-face-net\nVersion: 1\n")
        points = "[facenet2expnet.face_nets]\ntiny = campaign.commands:load_tiny\n"
        (package / "entry_points.txt").write_text(points)
    return [str(Path(facenet2expnet.__file__).parents[1]), str(TESTS), str(folder / "entry")]


class Running:
    """A command at work, in a session of its own."""

    def __init__(self, pid: int, poll: Callable[[], int | None]) -> None:
        self.pid, self.poll = pid, poll

    def wait(self) -> int:
        """Return the exit code; a command that takes more than its limits is killed, which is -9."""
        began = time.monotonic()
        while (code := self.poll()) is None:
            if processor_s(self.pid) > LIMIT_S or time.monotonic() - began > HANGS_S:
                self.signal(signal.SIGKILL)
            time.sleep(0.05)
        return code

    def signal(self, number: int) -> None:
        """Send a signal to the command and all its processes."""
        os.killpg(self.pid, number)


def processor_s(group: int) -> float:
    """Return the seconds of the processor that the processes of a group have had which are still at work."""
    total = 0.0
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has just ended
            if os.getpgid(int(pid)) == group:
                times = Path(f"/proc/{pid}/task").glob("*/schedstat")
                total += sum(int(path.read_text().split()[0]) for path in times) / 1e9
    return total


def wait_for_files(process: Running, out: Path) -> float:
    """Wait until a command writes, or ends; return the seconds of the processor that it had."""
    used = 0.0
    while process.poll() is None and not out.exists():
        used = processor_s(process.pid)
        time.sleep(POLL_S)
    return used


def work_for(process: Running, out: Path, after_s: float) -> None:
    """Wait until a command has had some seconds of the processor since its first file, or ends."""
    begun = wait_for_files(process, out)
    while process.poll() is None and processor_s(process.pid) < begun + after_s:
        time.sleep(POLL_S)


def watch(process: Running) -> float:
    """Wait for the end of a command; return the seconds of the processor that it had, all its processes together."""
    used = 0.0
    while process.poll() is None:
        used = max(used, processor_s(process.pid))
        time.sleep(POLL_S)
    return used


def fork(arguments: Sequence[object], out: Path, folder: Path, told: Path | None = None) -> Running:
    """Start a command in a copy of a process that has loaded the package already; its errors go to `told`.

    It is in a session of its own. That saves seconds of the processor, and commands can be killed by the hundred.

    Args:
        told: by default `out`.err.
    """
    for path in paths(folder):
        if path not in sys.path:
            sys.path.append(path)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(MODULES))
    process: Any = context.Process(target=_do, args=(_words(arguments, out), told or Path(f"{out}.err")))
    process.start()
    return Running(process.pid, lambda: process.exitcode)


def _do(words: Sequence[str], told: Path) -> None:
    """Be the command line in this process."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it starts in the background ignore it
    nothing, errors = os.open(os.devnull, os.O_RDWR), os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for descriptor, number in ((nothing, 0), (nothing, 1), (errors, 2)):
        os.dup2(descriptor, number)
    from facenet2expnet.cli import main
    from facenet2expnet.training import loop

    loop.SECONDS_BETWEEN_CHECKPOINTS = -1.0
    sys.modules["__main__"], sys.argv = main, ["fn2en", *words]
    main.run()


def start(
    arguments: Sequence[object],
    out: Path,
    folder: Path,
    *,
    written: Path | None = None,
    cwd: Path | None = None,
    umask: int = -1,
    **changes: str,
) -> Running:
    """Start a command as a user does, with other variables of the environment; its errors go to `out`.err.

    Args:
        written: how `out` is written in the command, if `cwd` is another working directory.
    """
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(paths(folder)), "OMP_NUM_THREADS": "1"} | changes
    words = [sys.executable, "-m", "facenet2expnet.cli.main", *_words(arguments, written or out)]
    with Path(f"{out}.err").open("w") as errors:
        process = subprocess.Popen(
            words, env=variables, cwd=cwd, umask=umask, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=errors, start_new_session=True,
        )  # fmt: skip
    return Running(process.pid, process.poll)


def _words(arguments: Sequence[object], out: Path) -> list[str]:
    return [str(word).replace("{out}", str(out)) for word in arguments]


def digests(out: Path, patterns: Sequence[str]) -> dict[str, str]:
    """Return the hash of every result."""
    found = sorted({path for pattern in patterns for path in out.glob(pattern)})
    return {path.relative_to(out).as_posix(): content_hash(path) for path in found}


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


def half_written(folder: Path) -> list[str]:
    """Return the hidden files that are left in a folder of results, but for its lock."""
    return [path.name for path in folder.rglob(".*") if path.is_file() and path.name != ".lock"]
