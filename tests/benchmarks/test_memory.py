"""Work in a process of its own, and its memory."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import pytest

import memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def failing() -> dict[str, Any]:
    os._exit(3)


def test_the_most_is_seen_and_not_only_the_end() -> None:
    with memory.watched() as row:
        block = np.ones(30_000_000)  # 240 MB
        memory.time.sleep(4 * memory.EVERY_S)
        del block
    assert row["most_mb"] > row["start_mb"] + 200
    assert row["seconds"] >= 4 * memory.EVERY_S


def test_a_process_gives_its_row_or_its_failure() -> None:
    assert memory.in_process(os.path.splitext, "a.txt") == ("a", ".txt")
    with pytest.raises(SystemExit, match="failing ended with exit code 3"):
        memory.in_process(failing)
