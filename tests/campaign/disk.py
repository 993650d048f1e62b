"""Write to a disk that is full: it is told, nothing half-written stays, and the work goes on when there is room."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from campaign.kills import LIMIT_S, Command, commands, digests, start
from campaign.trials import Outcomes

ROOMS_KB = (64, 400, 900)
"""Sizes of the small disk, in thousands of bytes."""


def run_disk(folder: Path) -> Outcomes:
    """Give every command a small disk in memory; then make it larger and let the command go on."""
    outcomes = Outcomes("disk")
    disk = folder / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]).returncode:
        outcomes.notes.append("not done: only root may mount a small disk")
        return outcomes
    try:
        for command in commands(folder):
            if command.name == "compare --jobs 2":
                continue  # as compare
            for room in ROOMS_KB:
                _fill(command, room, disk, folder, outcomes)
    finally:
        subprocess.run(["umount", disk], check=True)
    return outcomes


def _fill(command: Command, room_kb: int, disk: Path, folder: Path, outcomes: Outcomes) -> None:
    """Run a command on a disk of `room_kb`, and on a larger one after it was full."""
    subprocess.run(["mount", "-o", f"remount,size={room_kb}k", disk], check=True)
    out, errors = disk / "out", folder / "told"
    process = start(command.arguments, out, folder, errors)
    code, told = process.wait(LIMIT_S), errors.read_text()
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
        process = start((*command.arguments, *(command.go_on if begun else ())), out, folder, errors)
        if process.wait(LIMIT_S) or len(digests(out, command.results)) < len(command.results):
            outcomes.faults.append(f"{what}, then with room: {errors.read_text()[-300:]}")
        else:
            outcomes.counts["went on with room"] += 1
    left = [path.name for path in disk.rglob(".*") if path.is_file() and path.name != ".lock"]
    if left:
        outcomes.faults.append(f"{what}: left behind {left}")
    subprocess.run(["find", disk, "-mindepth", "1", "-delete"], check=True)
