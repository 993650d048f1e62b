"""What all tests share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "cli")]


@pytest.fixture
def tiny_face_net(monkeypatch: pytest.MonkeyPatch) -> None:
    """`face.load("tiny")` works within the test."""
    import tiny
    from facenet2expnet.nets import face

    monkeypatch.setattr(face, "entry_points", face.entry_points)
    tiny.register_tiny()
