"""The rehearsal of benchmarks/large_sets.py: its store is one, and memory is far from the size of the faces."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import large_sets as script
import tiny
from facenet2expnet.faces.store import FaceStore

pytestmark = [
    pytest.mark.usefixtures("tiny_face_net"),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


def test_a_row_says_how_much_memory_a_training_took(tmp_path: Path) -> None:
    script.write_store(tmp_path / "faces", 40, 36)
    assert len(FaceStore.open(tmp_path / "faces")) == 40
    settings = ("face_net.name=tiny", "face_net.tap=late", "expnet.blocks=plain", "expnet.pool_to_tap=false")
    row = script.measure(tmp_path / "faces", 36, tmp_path / "run", settings)
    assert row["pictures"] == 40
    assert 20 < row["start_mb"] <= row["most_mb"]
    assert tiny.CLASSES == script.CLASSES
