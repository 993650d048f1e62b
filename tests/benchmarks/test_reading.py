"""The rehearsal of benchmarks/reading.py: every order has every row once, and requests read what is needed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import reading as script

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.parametrize("name", script.ORDERS)
def test_an_order_has_every_row_once(name: str) -> None:
    order = script.ORDERS[name](10_001, np.random.default_rng(0))
    assert sorted(order) == list(range(10_001))


def test_the_first_rows_of_the_blocks_lie_in_some_blocks() -> None:
    order = script.ORDERS["blocks"](100_000, np.random.default_rng(0))
    assert len(np.unique(order[:4096] // script.BLOCK)) == script.BLOCKS_MIXED


def test_what_is_read_is_counted(tmp_path: Path) -> None:
    script.write_faces(tmp_path / "faces.npy", 64, 8_000_000)
    with (tmp_path / "faces.npy").open("rb") as file:
        script.os.fsync(file)
    rows = [script.measure(tmp_path / "faces.npy", "at random", way, 100, 10**9) for way in script.WAYS]
    assert all(row["us"] > 0 for row in rows)
    if rows[0]["read"]:  # else this file system keeps its files in memory
        assert 1 <= rows[1]["read"] <= rows[0]["read"]
        assert rows[1]["read"] < 2
