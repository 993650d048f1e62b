"""Rows of a memory-mapped file: the same values, and only the pages of these rows are loaded."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from facenet2expnet.data.mapped import read_rows, row_pieces

PAGE = mmap.PAGESIZE


def write(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(path, values)
    return values


@pytest.mark.parametrize("mode", [None, "r", "r+", "c"])
def test_the_rows_are_those_of_the_array(tmp_path: Path, mode: str | None) -> None:
    values = write(tmp_path / "a.npy", (9, 4, 30, 30, 3))
    given = np.load(tmp_path / "a.npy", mmap_mode=mode)
    rows, views = np.array([8, 0, 3, 3]), np.array([1, 0, 3, 2])
    for index in ((rows,), (rows, views)):
        found = read_rows(given, *index)
        np.testing.assert_array_equal(found, values[index])
        assert found.flags.c_contiguous
        assert found.flags.writeable
    np.testing.assert_array_equal(read_rows(given[2:], np.array([1])), values[[3]])
    np.testing.assert_array_equal(read_rows(given[:, ::2], np.array([1])), values[[1]][:, ::2])
    assert read_rows(given, np.array([], np.int64)).shape == (0, 4, 30, 30, 3)
    for kind in (np.uint8, np.uint64, np.int32):
        np.testing.assert_array_equal(read_rows(given, np.array([8, 1], kind)), values[[8, 1]])
    np.testing.assert_array_equal(read_rows(given, np.array([-1])), values[[-1]])


def test_a_piece_reaches_from_the_page_of_its_first_byte_to_its_last_byte() -> None:
    values = np.zeros((5, 2, PAGE), np.uint8)
    rows, views = np.array([3, 0]), np.array([1, 0])
    assert row_pieces(values, (rows,), 100) == [(6 * PAGE, 2 * PAGE + 100), (0, 2 * PAGE + 100)]
    assert row_pieces(values, (rows, views), 100) == [(7 * PAGE, PAGE + 100), (0, PAGE + 100)]
    assert row_pieces(values[:, :1], (rows,), 100) == []  # not in one piece
    assert row_pieces(values[..., :0], (rows,), 100) == []


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which pages are in memory")
def test_the_disk_is_asked_for_the_pages_of_these_rows_alone(
    tmp_path: Path,
) -> None:
    write(tmp_path / "a.npy", (400, 5 * PAGE))
    given = np.load(tmp_path / "a.npy", mmap_mode="r")  # reads the head of the file, and what follows it
    with (tmp_path / "a.npy").open("rb") as file:
        os.fsync(file)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if pages_in_memory(given).any():
        pytest.skip("this file system keeps its files in memory")
    rows = np.array([300, 7])
    read_rows(given, rows)
    first = given.offset
    expected = {page for row in rows for page in range(5 * row, (first + 5 * PAGE * (row + 1) - 1) // PAGE + 1)}
    assert set(np.flatnonzero(pages_in_memory(given))) == expected


def pages_in_memory(values: np.ndarray) -> np.ndarray:
    """Whether each page of a mapped file, from its first byte, is in memory."""
    start = values.ctypes.data // PAGE * PAGE
    seen = np.zeros(-(-(values.ctypes.data + values.nbytes - start) // PAGE), np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    size = ctypes.c_size_t(values.ctypes.data + values.nbytes - start)
    assert libc.mincore(ctypes.c_void_p(start), size, ctypes.c_void_p(seen.ctypes.data)) == 0
    return (seen & 1).astype(bool)
