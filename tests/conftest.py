"""What all tests share."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hub_server import HubServer

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


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub on this machine with an empty cache; the user is logged in."""
    from huggingface_hub import constants

    from hub_server import TOKEN, HubServer

    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
