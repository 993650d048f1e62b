"""The cores of this machine, and threads for reading pictures; nothing heavy is imported."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def reading_threads(workers: int | None) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Threads that read pictures, and their number, one per core by default; OpenCV starts none of its own meanwhile.

    Pillow, OpenCV and dlib release the interpreter's lock, so the threads use all cores.
    """
    import cv2

    count, before = workers or cores(), cv2.getNumThreads()
    cv2.setNumThreads(1)
    pool = ThreadPoolExecutor(count)
    try:
        yield pool, count
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        cv2.setNumThreads(before)
