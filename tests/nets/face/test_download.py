"""Downloads against a server on this machine: cache, resume, checksums, and servers that fail."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from facenet2expnet.errors import UserError
from facenet2expnet.nets.face import download as module
from facenet2expnet.nets.face.download import cache_folder, download, from_hugging_face
from facenet2expnet.nets.face.weights import locate

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT; what it does wrong is set from outside."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str] = []
        self.ranges = True
        self.break_after: list[int] = []
        self.statuses: list[int] = []
        self.content = CONTENT

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.requests.append(f"{self.command} {self.path} {asked or ''}".strip())
        status = server.statuses.pop(0) if server.statuses and body else 200
        if status >= 400 or self.path.endswith("missing"):
            self.send_error(status if status >= 400 else 404)
            return
        start = int(re.findall(r"\d+", asked)[0]) if asked and server.ranges else 0
        if start >= len(server.content) > 0:
            self.send_error(416)
            return
        rest = server.content[start:]
        self.send_response(206 if asked and server.ranges else 200)
        if asked and server.ranges:
            self.send_header(
                "Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}"
            )
        self.send_header("Content-Length", str(len(rest)))
        self.send_header("ETag", f'"{SHA256}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if body:
            self.wfile.write(rest[: server.break_after.pop(0)] if server.break_after else rest)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_downloads_once_and_then_takes_it_from_the_cache(server: Server, tmp_path: Path) -> None:
    first = download(f"{server.url}/face.pth", SHA256, tmp_path)
    assert first.read_bytes() == CONTENT
    assert first.name == f"{SHA256[:16]}-face.pth"
    assert download(f"{server.url}/face.pth", SHA256.upper(), tmp_path) == first
    assert len(server.requests) == 1
    assert not list(tmp_path.glob("*.part"))


def test_goes_on_after_a_broken_connection(server: Server, tmp_path: Path) -> None:
    server.break_after = [1000, 5000]
    assert download(f"{server.url}/face.pth", SHA256, tmp_path).read_bytes() == CONTENT
    assert server.requests == ["GET /face.pth", "GET /face.pth bytes=1000-", "GET /face.pth bytes=6000-"]


def test_a_later_call_goes_on_where_an_earlier_one_stopped(server: Server, tmp_path: Path) -> None:
    server.break_after = [100] * module.TRIES
    with pytest.raises(
        UserError, match=rf"could not be downloaded .* {100 * module.TRIES} bytes are kept and the next"
    ):
        download(f"{server.url}/face.pth", SHA256, tmp_path)
    server.requests.clear()
    assert download(f"{server.url}/face.pth", SHA256, tmp_path).read_bytes() == CONTENT
    assert server.requests == [f"GET /face.pth bytes={100 * module.TRIES}-"]


def test_server_that_knows_no_ranges(server: Server, tmp_path: Path) -> None:
    server.ranges, server.break_after = False, [1000]
    assert download(f"{server.url}/face.pth", SHA256, tmp_path).read_bytes() == CONTENT
    assert server.requests == ["GET /face.pth", "GET /face.pth bytes=1000-"]


def test_wrong_checksum_keeps_nothing(server: Server, tmp_path: Path) -> None:
    wrong = "a" * 64
    with pytest.raises(
        UserError, match=f"expected a file with sha256 {wrong}, got one with {SHA256}; it was not kept"
    ):
        download(f"{server.url}/face.pth", wrong, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
    assert len(server.requests) == 1


@pytest.mark.parametrize("stale", [b"of an older version", CONTENT + b"too long"])
def test_a_piece_of_another_version_is_thrown_away(server: Server, tmp_path: Path, stale: bytes) -> None:
    (tmp_path / f"{SHA256[:16]}-face.pth.part").write_bytes(stale)
    assert download(f"{server.url}/face.pth", SHA256, tmp_path).read_bytes() == CONTENT
    assert server.requests[-1] == "GET /face.pth"


def test_damaged_file_in_the_cache_is_fetched_again(server: Server, tmp_path: Path) -> None:
    path = download(f"{server.url}/face.pth", SHA256, tmp_path)
    path.write_bytes(CONTENT[:-1] + b"?")
    assert download(f"{server.url}/face.pth", SHA256, tmp_path).read_bytes() == CONTENT


def test_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 500]
    assert download(f"{server.url}/face.pth", SHA256, tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_missing_page_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"404.*Check the address"):
        download(f"{server.url}/missing", SHA256, tmp_path)
    assert len(server.requests) == 1


def test_no_server(server: Server, tmp_path: Path) -> None:
    url = server.url
    server.server_close()
    with pytest.raises(
        UserError, match=r"could not be downloaded .* or download it by hand and give the path"
    ):
        download(f"{url}/face.pth", SHA256, tmp_path)


def test_checksum_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a sha256 of 64 hexadecimal digits, got '1234'"):
        download("http://127.0.0.1:1/face.pth", "1234", tmp_path)


def test_url_as_a_reference_goes_to_the_cache_folder(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACENET2EXPNET_CACHE", str(tmp_path))
    found = locate(f"{server.url}/a%20b/face.pth?download=true#sha256={SHA256}")
    assert found == tmp_path / "weights" / f"{SHA256[:16]}-face.pth"


def test_cache_folder_follows_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FACENET2EXPNET_CACHE", raising=False)
    monkeypatch.setattr(module.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "facenet2expnet"
    monkeypatch.setattr(module.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == tmp_path / "local" / "facenet2expnet"


@pytest.fixture
def hub(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A Hugging Face hub on this machine, with an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    server.content = json.dumps({"a": 1}).encode()
    return server


def test_file_of_a_hugging_face_repository(hub: Server) -> None:
    found = locate("hf:owner/name@v1/sub/face.json")
    assert json.loads(found.read_text()) == {"a": 1}
    assert any("/owner/name/resolve/v1/sub/face.json" in request for request in hub.requests)


def test_missing_file_of_a_hugging_face_repository(hub: Server) -> None:
    with pytest.raises(
        UserError, match=r"'missing' of the Hugging Face repository owner/name could not be had"
    ):
        from_hugging_face("owner/name/missing")


@pytest.mark.parametrize("reference", ["face.pth", "owner/name", "owner/name/"])
def test_reference_of_another_form(reference: str) -> None:
    with pytest.raises(UserError, match="expected hf:owner/name/file"):
        from_hugging_face(reference)
