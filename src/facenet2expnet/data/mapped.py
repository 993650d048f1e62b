"""Read rows of an array that may be a mapped file: the rows of a batch are requested from the disk together."""

from __future__ import annotations

import contextlib
import mmap

import numpy as np


def read_rows(values: np.ndarray, *index: np.ndarray) -> np.ndarray:
    """Return a copy of `values[index]`; a mapped file is asked for all of these rows before the first one is copied.

    Copying alone waits for the disk page by page, and the system reads much around each page that nobody needs. The
    requests bring each row in one piece, many at a time, so that an order of rows at random costs no more than the
    file's own order. See benchmarks/reading.py.

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
    """Return where the rows are in a mapped file: start, at the edge of a page, and size, in bytes.

    Args:
        first: where `values` begins.
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
