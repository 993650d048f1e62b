"""Write to a disk that is full, read-only or gone: it is told, nothing half-written stays, and work goes on later."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from campaign.commands import Command, Running, commands, digests, fork, half_written, processor_s
from campaign.trials import Outcomes

ROOMS_KB = (4, 16, 48, 64, 100, 160, 256, 400, 640, 900, 1400)
"""Sizes of the small disk, in thousands of bytes: it becomes full at another write each."""

VANISHINGS = 3
"""How often the disk of a command vanishes."""


def run_disk(folder: Path, names: Sequence[str] = ()) -> Outcomes:
    """Give commands, all if there are no `names`, a small disk in memory; make it larger and let the command go on."""
    outcomes = Outcomes("disk")
    disk = folder / "disk"
    disk.mkdir()
    if os.geteuid() or _mount(disk).returncode:
        outcomes.notes.append("not done: only root may mount a small disk")
        return outcomes
    try:
        for command in commands(folder):
            if names and command.name not in names:
                continue
            for room in ROOMS_KB:
                _fill(command, room, disk, folder, outcomes)
            _protect(command, disk, folder, outcomes)
            for number in range(VANISHINGS):
                _vanish(command, np.random.default_rng([number, *command.name.encode()]), disk, folder, outcomes)
    finally:
        subprocess.run(["umount", disk], check=True)
    return outcomes


def _mount(disk: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", disk], capture_output=True)


def _remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


def _fill(command: Command, room_kb: int, disk: Path, folder: Path, outcomes: Outcomes) -> None:
    """Run a command on a disk of `room_kb`, and on a larger one after it was full."""
    _remount(disk, f"size={room_kb}k")
    out, errors = disk / "out", folder / "told"
    code, what = fork(command.arguments, out, folder, errors).wait(), f"{command.name} on {room_kb} kB"
    if code == 0:
        outcomes.counts["there was room"] += 1
    elif _told(code, errors, what, outcomes):
        if left := half_written(disk):
            outcomes.fault(f"{what}: left behind {left}")
        _remount(disk, "size=200m")
        begun = out.exists() and any(path.name[0] != "." for path in out.iterdir())
        code = fork((*command.arguments, *(command.go_on if begun else ())), out, folder, errors).wait()
        if code or len(digests(out, command.results)) < len(command.results):
            outcomes.fault(f"{what}, then with room: {errors.read_text()[-300:]}")
        else:
            outcomes.counts["told, went on with room"] += 1
    if left := half_written(disk):
        outcomes.fault(f"{what}: left behind {left}")
    _empty(disk)


def _told(code: int, errors: Path, what: str, outcomes: Outcomes) -> bool:
    """Note whether a command ended in order and said that it is the disk."""
    told = errors.read_text()
    words = ("space", "room", "disk", "free", "Read-only", "another --out", "can't be", "could not be")
    if code == 2 and "Traceback" not in told and any(word in told for word in words):
        return True
    outcomes.counts["not told"] += 1
    outcomes.fault(f"{what}: exit code {code}: {told[-400:]}")
    return False


def _protect(command: Command, disk: Path, folder: Path, outcomes: Outcomes) -> None:
    """Run a command on a read-only disk."""
    _remount(disk, "ro")
    code, errors = fork(command.arguments, disk / "out", folder, folder / "told").wait(), folder / "told"
    _remount(disk, "rw")
    if _told(code, errors, f"{command.name} on a read-only disk", outcomes):
        outcomes.counts["read-only, told"] += 1


def _vanish(command: Command, rng: np.random.Generator, disk: Path, folder: Path, outcomes: Outcomes) -> None:
    """Take the disk away while a command works; it must not say that all is well."""
    _remount(disk, "size=200m")
    out, errors, after_s = disk / "out", folder / "told", rng.uniform(0, 1.0)
    process = fork(command.arguments, out, folder, errors)
    _work_for(process, out, after_s)
    ended = process.poll() is not None
    subprocess.run(["umount", "-l", disk], check=True)
    code, what = process.wait(), f"{command.name}, its disk vanished after {after_s:.2f} s"
    if ended:
        outcomes.counts["vanished after the end"] += 1
    elif code == 0 and len(digests(out, command.results)) == 0:
        outcomes.fault(f"{what}: exit code 0, and there is nothing")
    elif code == 0 or _told(code, errors, what, outcomes):
        outcomes.counts["vanished, told" if code else "vanished, and written where it was"] += 1
    _empty(disk)
    _mount(disk)


def _work_for(process: Running, out: Path, after_s: float) -> None:
    """Wait until a command has had some seconds of the processor since its first file."""
    begun = None
    while process.poll() is None and (begun is None or processor_s(process.pid) < begun + after_s):
        if begun is None and out.exists():
            begun = processor_s(process.pid)
        time.sleep(0.003)


def _empty(disk: Path) -> None:
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
