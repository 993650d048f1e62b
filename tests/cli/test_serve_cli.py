"""fn2en serve: what it starts, what it says, and how it stops."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from typer.testing import CliRunner

import tiny
from facenet2expnet.cli import serve as command
from facenet2expnet.cli.main import make_app
from facenet2expnet.crop import CropContract
from facenet2expnet.deploy import serve
from facenet2expnet.errors import UserError
from facenet2expnet.nets.classifier import ExpressionClassifier
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.predict.model_folder import Model, save_model


@pytest.fixture
def model(tmp_path: Path) -> str:
    contract = CropContract(stored_px=40, crop_px=32)
    net = ExpNet(3, input_px=32, bridge_chw=(8, 2, 2), width=0.1, hidden=8)
    module = ExpressionClassifier(net, contract.mean, contract.scale).eval()
    save_model(Model(module, tiny.CLASSES, contract, {}), tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[FastAPI, socket.socket, Any]]:
    """What would be served: app, socket and configuration."""
    seen = []

    def run(server: Any, listening: socket.socket) -> None:
        seen.append((server.config.app, listening, server.config))
        listening.close()

    monkeypatch.setattr(serve, "run", run)
    return seen


def invoke(*words: str, **environment: str) -> Any:
    return CliRunner().invoke(make_app(), ["serve", *words], catch_exceptions=False, env=environment)


def test_by_default_only_this_machine_is_served(model: str, started: list[Any]) -> None:
    result = invoke(model, "--port", "0")
    assert result.exit_code == 0
    assert re.fullmatch(r"serving at http://127\.0\.0\.1:\d+; Ctrl-C stops\n", result.stdout)
    assert "anyone who can reach" not in result.stderr
    ((app, _, config),) = started
    assert not config.proxy_headers
    assert not config.access_log
    with TestClient(app, base_url="http://localhost") as client:
        assert client.get("/v1/model").json()["classes"] == list(tiny.CLASSES)
        assert client.get("/v1/model", headers={"Host": "other.example"}).status_code == 400


def test_the_options_reach_the_service(model: str, started: list[Any]) -> None:
    words = (
        "--max-pictures",
        "2",
        "--max-rate",
        "0",
        "--max-megapixels",
        "1.5",
        "--cors-origin",
        "https://example.org",
    )
    invoke(model, "--port", "0", "--proxy", "127.0.0.1", *words, FN2EN_TOKEN="sesame\n")
    ((app, _, config),) = started
    assert config.proxy_headers
    assert config.forwarded_allow_ips == "127.0.0.1"
    with TestClient(app) as client:
        assert client.get("/v1/model").status_code == 401
        headers = {"Authorization": "Bearer sesame", "Origin": "https://example.org"}
        answer = client.get("/v1/model", headers=headers)
        assert answer.headers["access-control-allow-origin"] == "https://example.org"
        limits = answer.json()["limits"]
        assert (limits["pictures"], limits["rate"], limits["megapixels"]) == (2, 0, 1.5)


def test_names_of_the_host_can_be_given(model: str, started: list[Any]) -> None:
    invoke(model, "--port", "0", "--proxy", "127.0.0.1", "--hostname", "faces.example.org", "--hostname", "faces")
    ((app, _, _),) = started
    with TestClient(app) as client:
        for name in ("faces.example.org", "faces", "localhost"):
            assert client.get("/healthz", headers={"Host": name}).status_code == 200
        assert client.get("/healthz", headers={"Host": "other.example"}).status_code == 400


def test_whoever_serves_others_without_a_token_is_warned(model: str, started: list[Any]) -> None:
    result = invoke(model, "--host", "0.0.0.0", "--port", "0")
    assert "fn2en: anyone who can reach this machine can use the service; restrict it with --token" in result.stderr
    assert "anyone" not in invoke(model, "--host", "0.0.0.0", "--port", "0", "--token", "sesame").stderr


def test_what_can_be_mended_is_said(model: str, started: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="choose another by --host"):
        invoke(model, "--port", str(taken.getsockname()[1]))
    with pytest.raises(UserError, match="the token is empty"):
        invoke(model, "--token", " ")
    with pytest.raises(UserError, match="--max-pictures is 0, expected 1 or more"):
        invoke(model, "--max-pictures", "0")
    with pytest.raises(UserError, match="no such model"):
        invoke("nothing/here")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'facenet2expnet\[serve\]'"):
        invoke(model)


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("127.9.0.1", True), ("::1", True), ("localhost", True),
                        ("0.0.0.0", False), ("::", False), ("192.168.0.7", False), ("example.org", False)],
)  # fmt: skip
def test_addresses_of_this_machine_alone(host: str, local: bool) -> None:
    assert command.is_loopback(host) is local


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 0)])
def test_a_signal_ends_the_service(model: str, number: signal.Signals, code: int) -> None:
    words = [sys.executable, "-m", "facenet2expnet.cli.main", "serve", model, "--port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[2].rstrip(";")
        assert httpx2.get(f"{url}/healthz").json() == {"status": "ok"}
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert output == ""
    assert "Traceback" not in errors
