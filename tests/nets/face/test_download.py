"""Downloads against a server on this machine: cache, resume, checksums, and servers that fail."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from facenet2expnet.errors import UserError
from facenet2expnet.nets.face import download as module
from facenet2expnet.nets.face.download import (
    cache_folder,
    download,
    from_hugging_face,
    from_hugging_face_if_there,
)
from facenet2expnet.nets.face.weights import locate
from local_server import CONTENT, SHA256, Handler, Server


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


def test_a_line_at_the_start_and_at_the_end_where_there_is_no_terminal(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    download(f"{server.url}/face.pth", SHA256, tmp_path)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        f"downloading face.pth from {server.url.removeprefix('http://')}",
        f"downloaded face.pth, 1,048,576 bytes, to {tmp_path}",
    ]
    download(f"{server.url}/face.pth", SHA256, tmp_path)  # from the cache
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = io.StringIO()

    def terminal(stderr: bool) -> Console:
        assert stderr
        return Console(file=screen, force_terminal=True, width=100)

    monkeypatch.setattr(module, "Console", terminal)
    download(f"{server.url}/face.pth", SHA256, tmp_path)
    assert "1.0/1.0 MB" in screen.getvalue()
    assert "downloading" not in screen.getvalue()
    assert capsys.readouterr().err == ""


def test_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 500]
    assert download(f"{server.url}/face.pth", SHA256, tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_missing_page_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"404: Not Found\)\. Check the address"):
        download(f"{server.url}/missing", SHA256, tmp_path)
    assert len(server.requests) == 1


def test_no_server(server: Server, tmp_path: Path) -> None:
    url = server.url
    server.server_close()
    with pytest.raises(
        UserError, match=r"could not be downloaded .* or download it by hand and give the path"
    ):
        download(f"{url}/face.pth", SHA256, tmp_path)


@pytest.mark.parametrize("cache", ["file/cache", "file", "~nosuchuser/cache"])
def test_cache_that_cannot_be_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FACENET2EXPNET_CACHE", cache if cache.startswith("~") else str(tmp_path / cache))
    with pytest.raises(
        UserError, match=r"set FACENET2EXPNET_CACHE to a folder|expected a path, there is no such home"
    ):
        locate(f"{server.url}/face.pth#sha256={SHA256}")
    assert server.requests == []


def test_a_folder_in_the_place_of_the_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{SHA256[:16]}-face.pth").mkdir()
    with pytest.raises(UserError, match=r"a download can't be kept there \(Is a directory\)"):
        download(f"{server.url}/face.pth", SHA256, tmp_path)


@pytest.mark.parametrize("name", ["gesicht-ä.pth", "my face.pth", f"{'a' * 300}.pth", f"{'顔' * 80}.pth"])
def test_unusual_names(server: Server, tmp_path: Path, name: str) -> None:
    found = download(f"{server.url}/{name}", SHA256, tmp_path)
    assert found.read_bytes() == CONTENT
    assert found.name == f"{SHA256[:16]}-{name.replace(' ', '_')[-50:]}"


def test_what_is_no_url_and_what_is_no_home() -> None:
    with pytest.raises(UserError, match=r"http://\[::1/x: expected a URL, this is none"):
        download("http://[::1/x", SHA256)
    with pytest.raises(UserError, match="~nosuchuser/x: expected a path, there is no such home folder"):
        locate("~nosuchuser/x")


def test_length_that_is_no_number(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    send = Handler.send_header
    monkeypatch.setattr(
        Handler,
        "send_header",
        lambda self, key, value: send(self, key, "abc" if key == "Content-Length" else value),
    )
    assert download(f"{server.url}/face.pth", SHA256, tmp_path).read_bytes() == CONTENT


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


def test_file_of_a_hugging_face_repository(hub: Server) -> None:
    hub.files = {"face.json": b'{"a": 1}'}
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


@pytest.mark.parametrize("reference", ["a--b/c/face.pth", "-a/b/face.pth"])
def test_repository_whose_name_is_none(reference: str) -> None:
    with pytest.raises(UserError, match=r"could not be had \(.*; check the names"):
        from_hugging_face(reference)


def test_path_that_leads_out_of_the_repository(hub: Server) -> None:
    with pytest.raises(UserError, match=r"hf:o/n/\.\./\.\./x: .* could not be had \("):
        locate("hf:o/n/../../x")


class RemoteProtocolError(Exception):
    """Stands in for what the hub's HTTP client raises; which client that is changes with the hub's release."""


def test_connection_to_the_hub_that_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RemoteProtocolError

    monkeypatch.setattr("huggingface_hub.hf_hub_download", broken)
    with pytest.raises(UserError, match=r"could not be had \(RemoteProtocolError\); check"):
        locate("hf:owner/name/face.pth")


def test_a_file_that_may_be_there(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files = {"face.json": b"{}"}
    found = from_hugging_face_if_there("owner/name/face.json")
    assert found is not None
    assert found.read_text() == "{}"
    assert from_hugging_face_if_there("owner/name/other.json") is None
    # With no hub: what it said is remembered; what it was never asked is not taken for missing.
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert from_hugging_face_if_there("owner/name/face.json") == found
    assert from_hugging_face_if_there("owner/name/other.json") is None
    with pytest.raises(UserError, match=r"'third\.json' of the Hugging Face repository"):
        from_hugging_face_if_there("owner/name/third.json")
