"""Memory of work in a process of its own; shared by large_sets.py, shards.py and predict_memory.py. Linux only."""

from __future__ import annotations

import multiprocessing
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

EVERY_S = 0.02


def anonymous_mb() -> float:
    """The anonymous memory of this process, in 10^6 bytes; pages of mapped files are the system's cache."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) * 1024 / 1e6  # type: ignore[index]


@contextmanager
def watched() -> Iterator[dict[str, Any]]:
    """Give a row that has `start_mb`, `most_mb` and `seconds` of the block at its end."""
    row: dict[str, Any] = {}
    seen, ended, started = [anonymous_mb()], threading.Event(), time.monotonic()

    def watch() -> None:
        while not ended.wait(EVERY_S):
            seen.append(anonymous_mb())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield row
    finally:
        ended.set()
        thread.join()
        row |= {"start_mb": seen[0], "most_mb": max(seen), "seconds": time.monotonic() - started}


def in_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """Return what `work` gives in a new process.

    Raises:
        SystemExit: If the process fails.
    """
    spawn = multiprocessing.get_context("spawn")
    result = spawn.Queue()
    process = spawn.Process(target=_put, args=(result, work, arguments))
    process.start()
    process.join()  # what is returned is small enough to wait in the queue
    if process.exitcode:
        raise SystemExit(f"{work.__name__} ended with exit code {process.exitcode}")
    return result.get()


def _put(result: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    result.put(work(*arguments))
