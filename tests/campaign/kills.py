"""Kill commands at random moments; what is done again gives the bytes of a command that was never killed."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from campaign.commands import (
    POLL_S,
    Command,
    Running,
    commands,
    digests,
    fork,
    half_written,
    processor_s,
    wait_for_files,
    watch,
    work_for,
)  # fmt: skip
from campaign.trials import Outcomes

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
"""In turn; with the last two a command may end in order."""

LEAVES_S = 5.0
"""Seconds of the processor that a command may take to end in order."""


def run_kills(count: int, seed: int, folder: Path, names: Sequence[str] = ()) -> Outcomes:
    """Kill each command `count` times, at moments that are drawn between its first file and its end.

    The moments are in seconds of the processor, so that other work on the machine does not move them.

    Args:
        names: of the commands; all if empty.
    """
    outcomes = Outcomes("kills")
    for command in commands(folder):
        if names and command.name not in names:
            continue
        out = folder / command.name.replace(" ", "-")
        process = fork(command.arguments, out, folder)
        begun = wait_for_files(process, out)
        if command.together:
            _second(command, out, folder, process, outcomes)
        used = watch(process)
        if process.wait() != 0:
            outcomes.counts["failed"] += 1
            outcomes.fault(f"{command.name}: {Path(f'{out}.err').read_text()[-300:]}")
            continue
        expected = digests(out, command.results)
        assert len(expected) >= len(command.results), expected
        assert used > begun, f"{command.name} ended with its first file: no moment to kill it at"
        outcomes.notes.append(f"{command.name}: {len(expected)} files in {used - begun:.1f} s of the processor")
        rng = np.random.default_rng([seed, *command.name.encode()])
        for number in range(count):
            moment, place = rng.uniform(0, used - begun), out.with_name(f"{out.name}-{number}")
            _kill_and_go_on(command, SIGNALS[number % len(SIGNALS)], moment, expected, place, outcomes)
            print(f"{command.name} {number}: {dict(outcomes.counts)}", flush=True)
        shutil.rmtree(out)
    return outcomes


def _second(command: Command, out: Path, folder: Path, process: Running, outcomes: Outcomes) -> None:
    """Start the command beside itself, while the first one is stopped: it must be refused."""
    signs = ("jobs.json", "unfinished.jsonl", "claims/shard-*")  # of a command that holds its lock
    while process.poll() is None and not any(any(out.glob(sign)) for sign in signs):
        time.sleep(POLL_S)
    if process.poll() is not None:
        return
    process.signal(signal.SIGSTOP)
    errors = folder / f"{out.name}-beside.err"
    code = fork((*command.arguments, *command.go_on), out, folder, errors).wait()
    process.signal(signal.SIGCONT)
    told = errors.read_text()
    if code == 2 and command.together in told and "Traceback" not in told:
        outcomes.counts["a second process was refused"] += 1
    else:
        outcomes.counts["a second process was let in"] += 1
        outcomes.fault(f"{command.name} beside itself: exit code {code}: {told[-300:]}")


def _kill_and_go_on(
    command: Command, number: signal.Signals, after_s: float, expected: dict[str, str], out: Path, outcomes: Outcomes
) -> None:
    """Kill a command `after_s` seconds of the processor after its first file, do it again, and compare the results."""
    folder, what = out.parent, f"{command.name}, {number.name} after {after_s:.2f} s"
    process = fork(command.arguments, out, folder)
    work_for(process, out, after_s)
    time.sleep(np.random.default_rng(int(after_s * 1e6)).uniform(0, 0.02))  # it may be waiting for the disk then
    killed = process.poll() is None
    if killed:
        _end(process, number, what, Path(f"{out}.err"), outcomes)
    half = {name: found for name, found in digests(out, command.results).items() if found != expected.get(name)}
    if half and command.name != "prepare":  # which appends to its file
        outcomes.fault(f"{what}: half a file: {half}")
    if killed:
        code = fork((*command.arguments, *command.go_on), out, folder).wait()
        if code:
            outcomes.counts["did not go on"] += 1
            outcomes.fault(f"{what}: exit code {code}: {Path(f'{out}.err').read_text()[-300:]}")
            return
    left = half_written(out)
    if left or digests(out, command.results) != expected:
        outcomes.counts["other results"] += 1
        outcomes.fault(f"{what}: other results, or left behind {left}")
        return
    outcomes.counts[f"{command.name}: {f'{number.name}, same results' if killed else 'had ended'}"] += 1
    shutil.rmtree(out)


def _end(process: Running, number: signal.Signals, what: str, told: Path, outcomes: Outcomes) -> None:
    """Send a signal and wait for the end: at once, without a traceback."""
    if number == signal.SIGKILL:
        process.signal(number)
        process.wait()
        time.sleep(0.2)  # the workers of --jobs end by themselves
        return
    before = processor_s(process.pid)
    os.kill(process.pid, number)
    used = before
    while process.poll() is None:
        used = max(used, processor_s(process.pid))
        if used > before + LEAVES_S:
            process.signal(signal.SIGKILL)
        time.sleep(POLL_S)
    code = process.wait()
    if code not in (0, 130, -number) or "Traceback" in told.read_text():
        outcomes.fault(f"{what}: exit code {code} after {used - before:.1f} s: {told.read_text()[-300:]}")
