"""Write to a disk that is full, read-only or gone: it is told, nothing half-written stays, and work goes on later."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from campaign.commands import (
    POLL_S,
    Command,
    commands,
    digests,
    fork,
    half_written,
    processor_s,
    wait_for_files,
    watch,
)  # fmt: skip
from campaign.trials import Outcomes

ROOMS_KB = (4, 16, 48, 64, 100, 160, 256, 400, 640, 900, 1400)
"""Sizes of the small disk, in thousands of bytes: it becomes full at another write each."""

VANISHINGS = 3
"""How often the disk of a command vanishes: once before its first file, then after it."""

FULL = ("No space left", "make room", "free some space")
READ_ONLY = ("Read-only file system",)
GONE = ("No such file", "there is no", "can't be", "is missing")
"""What a command may say of a disk that is full, read-only or gone."""


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
            expected, begun_s, lasts_s = _undisturbed(command, disk, folder)
            for room in ROOMS_KB:
                _fill(command, room, expected, disk, folder, outcomes)
            _protect(command, disk, folder, outcomes)
            rng = np.random.default_rng([*command.name.encode()])
            moments = [rng.uniform(0, begun_s), *rng.uniform(begun_s, lasts_s, VANISHINGS - 1)]
            if not sum(_vanish(command, after_s, expected, disk, folder, outcomes) for after_s in moments):
                outcomes.notes.append(f"not done: {command.name} had always ended before its disk vanished")
    finally:
        subprocess.run(["umount", disk], check=True)
    return outcomes


def _mount(disk: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", disk], capture_output=True)


def _remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


def _undisturbed(command: Command, disk: Path, folder: Path) -> tuple[dict[str, str], float, float]:
    """Run a command with room enough; return its results, and its seconds of the processor before a file and in all."""
    out = disk / "out"
    process = fork(command.arguments, out, folder, folder / "told")
    begun = wait_for_files(process, out)
    used = watch(process)
    assert process.wait() == 0, (folder / "told").read_text()
    expected = digests(out, command.results)
    assert len(expected) >= len(command.results), expected
    _empty(disk)
    return expected, begun, max(begun, used)


def _fill(
    command: Command, room_kb: int, expected: dict[str, str], disk: Path, folder: Path, outcomes: Outcomes
) -> None:
    """Run a command on a disk of `room_kb`, and on a larger one after it was full."""
    _remount(disk, f"size={room_kb}k")
    out, errors = disk / "out", folder / "told"
    code, what = fork(command.arguments, out, folder, errors).wait(), f"{command.name} on {room_kb} kB"
    if code == 0:
        outcomes.counts["there was room"] += 1
        if digests(out, command.results) != expected:
            outcomes.fault(f"{what}: exit code 0 and other results")
    elif _told(code, errors, what, outcomes):
        if left := half_written(disk):
            outcomes.fault(f"{what}: left behind {left}")
        _remount(disk, "size=200m")
        begun = out.exists() and any(path.name[0] != "." for path in out.iterdir())
        code = fork((*command.arguments, *(command.go_on if begun else ())), out, folder, errors).wait()
        if code or digests(out, command.results) != expected:
            outcomes.fault(f"{what}, then with room: {errors.read_text()[-300:]}")
        else:
            outcomes.counts["told, went on with room"] += 1
    if left := half_written(disk):
        outcomes.fault(f"{what}: left behind {left}")
    _empty(disk)


def _told(code: int, errors: Path, what: str, outcomes: Outcomes, words: Sequence[str] = FULL) -> bool:
    """Note whether a command ended in order and said that it is the disk."""
    told = errors.read_text()
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
    if _told(code, errors, f"{command.name} on a read-only disk", outcomes, READ_ONLY):
        outcomes.counts["read-only, told"] += 1


def _vanish(
    command: Command, after_s: float, expected: dict[str, str], disk: Path, folder: Path, outcomes: Outcomes
) -> bool:
    """Take the disk away while a command works; it must not say that all is well. Return whether it worked then."""
    _remount(disk, "size=200m")
    out, errors = disk / "out", folder / "told"
    process = fork(command.arguments, out, folder, errors)
    while process.poll() is None and processor_s(process.pid) < after_s:
        time.sleep(POLL_S)
    with contextlib.suppress(ProcessLookupError):
        process.signal(signal.SIGSTOP)
    ended = process.poll() is not None or digests(out, command.results) == expected
    subprocess.run(["umount", "-l", disk], check=True)
    with contextlib.suppress(ProcessLookupError):
        process.signal(signal.SIGCONT)
    code, what = process.wait(), f"{command.name}, its disk vanished after {after_s:.2f} s"
    if ended:
        outcomes.counts["vanished after the end"] += 1
    elif code == 0 and digests(out, command.results) != expected:
        outcomes.fault(f"{what}: exit code 0, and other results: {sorted(digests(out, command.results))}")
    elif code == 0 or _told(code, errors, what, outcomes, GONE):
        outcomes.counts["vanished, told" if code else "vanished, and written where it was"] += 1
    _empty(disk)
    _mount(disk)
    return not ended


def _empty(disk: Path) -> None:
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
