"""Run trials in processes of their own, so that a crash or a hang is one fault and not the end."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from facenet2expnet.errors import UserError

HANGS_S = 600.0
"""A trial that takes longer on the clock is killed; its limit is on the processor's time, as other work may go on."""

RESULT, REFUSED = "a result", "refused with a reason"


@dataclass(frozen=True)
class Limits:
    """What a trial may take: seconds of the processor, and bytes of memory above those before it."""

    seconds: float = 2.0
    memory: int = 1_000_000_000


@dataclass
class Outcomes:
    """What came of the trials of a part: their numbers by kind and outcome, and the faults."""

    part: str
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    most_memory: int = 0

    def fault(self, text: str) -> None:
        """Note a fault, and show it at once."""
        self.faults.append(text)
        print(f"{self.part}: {text}", file=sys.stderr, flush=True)

    @property
    def total(self) -> int:
        """The number of trials."""
        return sum(self.counts.values())

    def lines(self) -> list[str]:
        """The outcomes as text."""
        shown = ", ".join(f"{name}: {count:,}" for name, count in sorted(self.counts.items()))
        most = (
            [f"longest {self.longest_s:.2f} s, most memory {self.most_memory / 1e6:.0f} MB"] if self.longest_s else []
        )
        parts = [f"{self.part}: {self.total:,} trials ({shown})", *most, *self.notes, f"faults: {len(self.faults)}"]
        return ["; ".join(parts), *self.faults]


Attempt = Callable[[int, np.random.Generator, Path], str]
"""The trial of a number, with its random numbers, in a folder: does it and names it. UserError is a refusal."""


def run_trials(
    part: str, make: Callable[[], Attempt], numbers: range, seed: int, folder: Path, limits: Limits = Limits()
) -> Outcomes:
    """Do trials in a process that is replaced when it dies or hangs.

    Args:
        make: makes the attempt within the process; a function of a module.
    """
    outcomes, left = Outcomes(part), list(numbers)
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    while left:
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, make, left, seed, folder, limits.memory), daemon=True)
        process.start()
        there.close()
        left = _listen(here, process, left, outcomes, limits)
        process.kill()
        process.join()
    return outcomes


def _listen(connection: Connection, process: Any, left: list[int], outcomes: Outcomes, limits: Limits) -> list[int]:
    """Note the outcomes until the process ends; return the trials that are left."""
    ready = False
    while left:
        number = left[0]
        try:
            if not connection.poll(HANGS_S if ready else 600):
                message: tuple[Any, ...] = ("hang",)
            else:
                message = connection.recv()
        except EOFError:
            process.join()
            message = ("died", process.exitcode)
        if message[0] == "ready":
            ready = True
            continue
        left = left[1:]
        if message[0] in ("hang", "died"):
            if not ready:
                raise RuntimeError(f"{outcomes.part}: its process did not start ({message})")
            outcomes.counts["crash or hang"] += 1
            outcomes.fault(f"{outcomes.part} {number}: {message}")
            return left
        kind, text, seconds, memory = message
        outcomes.counts[kind] += 1
        outcomes.longest_s, outcomes.most_memory = max(outcomes.longest_s, seconds), max(outcomes.most_memory, memory)
        if kind not in (RESULT, REFUSED):
            outcomes.fault(f"{outcomes.part} {number}: {text}")
        if seconds > limits.seconds:
            outcomes.fault(f"{outcomes.part} {number}: took {seconds:.1f} s, {text}")
        if memory > limits.memory:
            outcomes.fault(f"{outcomes.part} {number}: took {memory / 1e6:.0f} MB, {text}")
    return left


def _serve(
    connection: Connection, make: Callable[[], Attempt], numbers: list[int], seed: int, folder: Path, memory: int
) -> None:
    """Do the trials one after the other and tell of each."""
    faulthandler.enable()
    with (folder / "messages.txt").open("ab") as messages:
        os.dup2(messages.fileno(), sys.stderr.fileno())  # libraries in C write there
    attempt = make()
    limit = _virtual_bytes() + 2 * memory
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))  # a bomb must not take the machine with it
    connection.send(("ready",))
    for number in numbers:
        place = folder / f"{number}"
        place.mkdir(parents=True, exist_ok=True)
        before, started = _reset_peak(), time.process_time()
        kind, text = judge(partial(attempt, number, np.random.default_rng([seed, number]), place))
        connection.send((kind, text, time.process_time() - started, max(0, _peak() - before)))
        if kind in (RESULT, REFUSED):
            for path in sorted(place.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
            place.rmdir()


def judge(attempt: Callable[[], str]) -> tuple[str, str]:
    """Do a trial; return its kind and what it was."""
    try:
        return RESULT, attempt()
    except UserError as error:
        if not str(error).strip() or "Traceback" in str(error):
            return "no reason", repr(error)
        return REFUSED, str(error)[:200]
    except BaseException:
        lines = traceback.format_exc().strip().splitlines()
        own = [line.strip() for line in lines if "facenet2expnet" in line and "File" in line]
        return "another error", f"{lines[-1][:200]} {own[-1] if own else lines[-3:]}"


def _virtual_bytes() -> int:
    return memory_of_status("VmSize")


def _peak() -> int:
    return memory_of_status("VmHWM")


def memory_of_status(key: str) -> int:
    """Return a number of bytes of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def _reset_peak() -> int:
    """Begin to measure the peak of memory anew; return what is in use now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return memory_of_status("VmRSS")
