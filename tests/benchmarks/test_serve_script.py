"""The load test of the service, in miniature, beside a stand-in for the peer."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import facenet2expnet
import serve as script
import tiny
from facenet2expnet.crop import CropContract
from facenet2expnet.deploy.serve import create_app
from facenet2expnet.deploy.uploads import Limits
from facenet2expnet.nets.classifier import ExpressionClassifier
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.predict.model_folder import Model, save_model
from facenet2expnet.predict.recognizer import Recognizer
from local_server import Server

sys.path.insert(0, str(Path(__file__).parents[1] / "deploy"))
from live_service import live

FER = """
class FER:
    def __init__(self, mtcnn):
        assert mtcnn
    def detect_emotions(self, picture):
        assert picture.shape == (480, 640, 3)
        return [{}]
"""


@pytest.fixture
def model(tmp_path: Path) -> Model:
    contract = CropContract(stored_px=40, crop_px=32)
    net = ExpNet(3, input_px=32, bridge_chw=(8, 2, 2), width=0.1, hidden=8)
    module = ExpressionClassifier(net, contract.mean, contract.scale).eval()
    model = Model(module, tiny.CLASSES, contract, {})
    save_model(model, tmp_path / "model")
    return model


def test_every_load_is_measured_and_the_memory_is_watched(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextlib.contextmanager
    def in_this_process(folder: Path) -> Iterator[str]:
        with live(create_app(Recognizer(model, "cpu"), Limits(rate=0))) as service:
            yield service.url

    monkeypatch.setattr(script, "fn2en", in_this_process)
    (tmp_path / "fer").mkdir()
    (tmp_path / "fer" / "__init__.py").touch()
    (tmp_path / "fer" / "fer.py").write_text(FER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    words = ["--requests", "4", "--clients", "1", "3", "--memory", "20", "--peer", sys.executable]
    script.main(["--model", str(tmp_path / "model"), "--out", str(tmp_path / "out"), *words])
    found = json.loads((tmp_path / "out" / "serve.json").read_text())
    whats = ["fn2en, photograph", "fn2en, cut-out face", "fer, photograph"]
    assert [(row["what"], row["clients"]) for row in found["rows"]] == [(what, n) for what in whats for n in (1, 3)]
    for row in found["rows"]:
        assert row["failed"] == 0
        assert 0 < row["p50, ms"] <= row["p99, ms"]
        assert row["requests/s"] > 0
    assert [point["requests"] for point in found["memory"]] == [2.0 * part for part in range(11)]
    assert all(20 < point["megabytes"] < 5000 for point in found["memory"])
    printed = capsys.readouterr().out
    assert "| what | clients | requests/s | p50, ms | p99, ms | failed |" in printed
    assert "20 requests: " in printed


@pytest.mark.slow
def test_the_service_is_started_as_its_users_start_it(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(facenet2expnet.__file__).parents[1]))
    with script.fn2en(tmp_path / "model") as url:
        times_ms, failed = script.send_many(script.cut_out(f"{url}/v1/crops"), 2, 6)
    assert (len(times_ms), failed) == (6, 0)


def test_a_refusal_is_counted() -> None:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        times_ms, failed = script.send_many(script.Load("x", f"{server.url}/v1/crops", {}, b""), 2, 3)
        server.shutdown()
    assert (len(times_ms), failed) == (3, 3)  # it knows no POST


def test_the_scene_shows_one_face_and_a_form_is_a_form() -> None:
    assert script.scene().size == (640, 480)
    headers, body = script.form("crops", b"abc")
    assert headers["Content-Type"].startswith("multipart/form-data")
    assert b'name="crops"; filename="a.jpg"\r\n\r\nabc\r\n--part--' in body
