"""Files from a path, a URL or a Hugging Face repository: cache, checksums, and servers that fail."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from facenet2expnet.errors import UserError
from facenet2expnet.nets.face.download import locate
from local_server import CONTENT, SHA256, Server


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FACENET2EXPNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


def test_path_with_and_without_checksum(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(b"content")
    good = hashlib.sha256(b"content").hexdigest()
    assert locate(path) == locate(f"{path}#sha256={good}") == path
    with pytest.raises(UserError, match=f"expected a file with sha256 {'0' * 64}, got one with {good}"):
        locate(f"{path}#sha256={'0' * 64}")
    with pytest.raises(UserError, match="no such file; expected a file, hf:owner/name/file or"):
        locate(tmp_path / "none.pth")
    with pytest.raises(UserError, match="a folder; expected a file"):
        locate(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        locate("~no_such_user/file.pth")


def test_url_is_downloaded_once(server: Server, cache: Path) -> None:
    first = locate(f"{server.url}/a%20b/face.pth?download=true#sha256={SHA256}")
    assert first.read_bytes() == CONTENT
    assert first.parent == cache
    assert locate(f"{server.url}/a%20b/face.pth?download=true#sha256={SHA256.upper()}") == first
    assert len(server.requests) == 1
    first.write_bytes(CONTENT[:-1] + b"?")  # a damaged file is downloaded again
    assert locate(f"{server.url}/a%20b/face.pth?download=true#sha256={SHA256}").read_bytes() == CONTENT
    assert list(cache.iterdir()) == [first]


def test_wrong_and_broken_downloads_are_not_kept(server: Server, cache: Path) -> None:
    with pytest.raises(UserError, match=f"can't be downloaded .*{'a' * 64} but got {SHA256}.* check the address"):
        locate(f"{server.url}/face.pth#sha256={'a' * 64}")
    server.sent_bytes = 1000  # a broken connection
    with pytest.raises(UserError, match="can't be downloaded"):
        locate(f"{server.url}/face.pth#sha256={SHA256}")
    assert list(cache.iterdir()) == []


def test_missing_page_and_missing_server(server: Server) -> None:
    with pytest.raises(UserError, match=r"can't be downloaded to .* \(404 Client Error: Not Found"):
        locate(f"{server.url}/missing#sha256={SHA256}")
    server.server_close()
    with pytest.raises(UserError, match=r"can't be downloaded .* download the file by hand and give its path"):
        locate(f"{server.url}/face.pth#sha256={SHA256}")


def test_cache_that_can_not_be_written(server: Server, cache: Path) -> None:
    cache.parent.write_text("a file in the place of the folder")
    with pytest.raises(UserError, match=r"set FACENET2EXPNET_CACHE to another folder"):
        locate(f"{server.url}/face.pth#sha256={SHA256}")


@pytest.mark.parametrize("ending", ["", "#sha256=1234"])
def test_invalid_urls(ending: str) -> None:
    with pytest.raises(UserError, match=r"expected a URL with the checksum of its file, http://x\.org/f\.pth#sha256="):
        locate(f"http://x.org/f.pth{ending}")
    with pytest.raises(UserError, match=r"http://\[::1/x: can't be downloaded"):
        locate(f"http://[::1/x#sha256={SHA256}")


def test_file_of_a_hugging_face_repository(hub: Server) -> None:
    hub.files = {"face.pth": b"content"}
    found = locate("hf:owner/name@v1/sub/face.pth")
    assert found.read_bytes() == b"content"
    assert any("/owner/name/resolve/v1/sub/face.pth" in request for request in hub.requests)
    with pytest.raises(UserError, match="expected a file with sha256"):
        locate(f"hf:owner/name@v1/sub/face.pth#sha256={SHA256}")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            "hf:owner/name/missing",
            r"hf:owner/name/missing: can't be downloaded \(.*; check owner, name and file",
        ),
        ("hf:a--b/c/face.pth", "can't be downloaded"),
        ("hf:o/n/../../x", "can't be downloaded"),
        ("hf:face.pth", "expected hf:owner/name/file"),
        ("hf:owner/name/", "expected hf:owner/name/file"),
    ],
)
def test_wrong_hugging_face_references(hub: Server, reference: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        locate(reference)
