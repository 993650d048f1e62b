"""Write to a disk that is full: it is told, nothing half-written stays, and the work goes on when there is room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from campaign.commands import Command, commands, digests, fork, half_written
from campaign.trials import Outcomes

ROOMS_KB = (64, 400, 900)
"""Sizes of the small disk, in thousands of bytes."""


def run_disk(folder: Path, names: Sequence[str] = ()) -> Outcomes:
    """Give commands, all if there are no `names`, a small disk in memory; make it larger and let the command go on."""
    outcomes = Outcomes("disk")
    disk = folder / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]).returncode:
        outcomes.notes.append("not done: only root may mount a small disk")
        return outcomes
    try:
        for command in commands(folder):
            if names and command.name not in names:
                continue
            for room in ROOMS_KB:
                _fill(command, room, disk, folder, outcomes)
    finally:
        subprocess.run(["umount", disk], check=True)
    return outcomes


def _fill(command: Command, room_kb: int, disk: Path, folder: Path, outcomes: Outcomes) -> None:
    """Run a command on a disk of `room_kb`, and on a larger one after it was full."""
    subprocess.run(["mount", "-o", f"remount,size={room_kb}k", disk], check=True)
    out, errors = disk / "out", folder / "told"
    process = fork(command.arguments, out, folder, errors)
    code, told = process.wait(), errors.read_text()
    what = f"{command.name} on {room_kb} kB"
    if code == 0:
        outcomes.counts["there was room"] += 1
    elif code != 2 or "Traceback" in told or not any(word in told for word in ("space", "room", "disk", "free")):
        outcomes.counts["not told"] += 1
        outcomes.faults.append(f"{what}: exit code {code}: {told[-300:]}")
    else:
        outcomes.counts["told"] += 1
        subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
        begun = out.exists() and any(path.name[0] != "." for path in out.iterdir())
        process = fork((*command.arguments, *(command.go_on if begun else ())), out, folder, errors)
        if process.wait() or len(digests(out, command.results)) < len(command.results):
            outcomes.faults.append(f"{what}, then with room: {errors.read_text()[-300:]}")
        else:
            outcomes.counts["went on with room"] += 1
    if left := half_written(disk):
        outcomes.faults.append(f"{what}: left behind {left}")
    subprocess.run(["find", disk, "-mindepth", "1", "-delete"], check=True)
