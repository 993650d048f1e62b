"""What all tests share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "cli")]


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny.sure_model` as an ONNX file, made once."""
    import tiny
    from facenet2expnet.deploy import onnx

    pytest.importorskip("onnxscript")
    model = tiny.sure_model()
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    path.write_bytes(onnx.with_metadata(onnx.to_graph(model), model, {"precision": "float32"}))
    return path


@pytest.fixture
def tiny_face_net(monkeypatch: pytest.MonkeyPatch) -> None:
    """`face.load("tiny")` works within the test."""
    import tiny
    from facenet2expnet.nets import face

    monkeypatch.setattr(face, "entry_points", face.entry_points)
    tiny.register_tiny()
