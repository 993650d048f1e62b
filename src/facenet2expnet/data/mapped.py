"""Read rows of an array in memory or in a memory-mapped file, with read-ahead of exactly these rows."""

from __future__ import annotations

import contextlib
import mmap

import numpy as np


def read_rows(values: np.ndarray, *index: np.ndarray) -> np.ndarray:
    """Return a copy of `values[index]`, after requesting all these rows of a memory-mapped file (MADV_WILLNEED).

    Without the request, the copy waits for the disk at each missing page, and the system's read-ahead loads pages
    around it that are not needed. With it, rows in random order are read as fast as in file order; see
    benchmarks/reading.py.

    Args:
        values: in memory, or in a memory-mapped file.
        index: row numbers from 0, one array for each of the first axes, all of one length.
    """
    mapping = _mapping(values)
    if mapping is not None and hasattr(mapping, "madvise"):  # Windows has none
        first = values.ctypes.data - np.frombuffer(mapping, np.uint8).ctypes.data
        with contextlib.suppress(OSError, ValueError):  # a file system may not take advice; a row outside of the file
            for start, size in row_pieces(values, index, first):
                mapping.madvise(mmap.MADV_WILLNEED, start, size)
    return np.ascontiguousarray(values[index])


def row_pieces(values: np.ndarray, index: tuple[np.ndarray, ...], first: int) -> list[tuple[int, int]]:
    """Return start, rounded down to a page, and size of each row in a memory-mapped file, in bytes.

    Args:
        first: offset of `values` in the file.
    """
    if not values.size or not values.flags.c_contiguous:
        return []
    size = values.strides[len(index) - 1]
    offsets = np.full(len(index[0]), first, np.int64)
    for numbers, stride in zip(index, values.strides, strict=False):
        offsets += numbers.astype(np.int64) * stride
    starts = offsets // mmap.PAGESIZE * mmap.PAGESIZE
    return list(zip(starts.tolist(), (offsets + size - starts).tolist(), strict=True))


def _mapping(values: np.ndarray) -> mmap.mmap | None:
    """The mapped file that an array is part of; None for an array in memory."""
    base = values.base
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None
