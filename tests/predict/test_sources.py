"""Sources: files, folders, patterns, lists, addresses, cameras; and bad ones."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from facenet2expnet.data import pictures
from facenet2expnet.data.pictures import picture_endings
from facenet2expnet.errors import UserError
from facenet2expnet.predict import sources as module
from facenet2expnet.predict.model_folder import Model, save_model
from facenet2expnet.predict.recognizer import Recognizer
from facenet2expnet.predict.sources import Sources, check_sources, expand, is_camera
from local_server import Server


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures, a video, an animation and other files; it is the working directory."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    (tmp_path / "trip" / "day 2").mkdir(parents=True)
    for name in ("trip/2.jpg", "trip/10.jpg", "trip/day 2/a.png", "trip/.hidden.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    frames = [Image.fromarray(pixels + 60 * number) for number in range(3)]
    frames[0].save(tmp_path / "trip" / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "trip" / "still.gif")
    (tmp_path / "trip" / "clip.MP4").write_bytes(b"video")
    (tmp_path / "trip" / "phone.HEIC").write_bytes(b"heic")
    (tmp_path / "trip" / "notes.md").write_text("notes")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def kinds(*given: str | Path) -> dict[str, str]:
    found = check_sources(list(given))
    return {one.name: f"moving {one.kind}" if one.moving and one.kind == "picture" else one.kind for one in found}


def test_a_folder_gives_its_pictures_and_videos_in_natural_order(folder: Path) -> None:
    assert list(kinds("trip").items()) == [
        ("trip/2.jpg", "picture"),
        ("trip/10.jpg", "picture"),
        ("trip/clip.MP4", "video"),
        ("trip/day 2/a.png", "picture"),
        ("trip/moving.gif", "moving picture"),
        ("trip/phone.HEIC", "picture"),
        ("trip/still.gif", "picture"),
    ]


def test_patterns_and_single_files(folder: Path) -> None:
    assert list(kinds("trip/*.jpg")) == ["trip/10.jpg", "trip/2.jpg"]
    assert list(kinds("trip/**/*.png")) == ["trip/day 2/a.png"]
    assert kinds("trip/2.jpg", folder / "trip" / "clip.MP4") == {
        "trip/2.jpg": "picture",
        str(folder / "trip" / "clip.MP4"): "video",
    }
    (folder / "a[1].jpg").write_bytes(b"")
    assert list(kinds("a[1].jpg")) == ["a[1].jpg"]  # a file of this name goes before the pattern


def test_a_list_that_windows_wrote(folder: Path) -> None:
    """Its first bytes are a byte order mark."""
    (folder / "trip" / "list.txt").write_bytes(b"\xef\xbb\xbf2.jpg\r\n10.jpg\r\n")
    assert list(kinds("trip/list.txt")) == ["trip/2.jpg", "trip/10.jpg"]


def test_an_empty_folder_or_list_is_an_error_before_any_work(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no pictures or videos in this folder"):
        check_sources(["trip/2.jpg", "empty"])
    (folder / "list.txt").write_text("empty\ntrip/2.jpg\ngone.jpg\n")
    first, *rest = check_sources(["list.txt"])  # in a list, it does not stop the others
    assert (first.name, first.kind, first.value) == ("empty", "unread", "no pictures or videos in this folder")
    assert [source.name for source in rest] == ["trip/2.jpg", "gone.jpg"]


def test_names_can_always_be_printed(folder: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / name)
    (source,) = check_sources([name])
    assert source.name == "\\xff.png"
    assert source.value == Path(name)


def test_a_list_names_sources_from_its_own_folder(folder: Path) -> None:
    (folder / "trip" / "list.txt").write_text("# of the trip\n2.jpg\n\n  day 2  \nwebcam\n")
    assert list(kinds("trip/list.txt").items()) == [
        ("trip/2.jpg", "picture"), ("trip/day 2/a.png", "picture"), ("webcam", "camera"),
    ]  # fmt: skip
    (folder / "empty.txt").write_text("\n# nothing\n")
    with pytest.raises(UserError, match=r"empty\.txt: no sources in this list"):
        kinds("empty.txt")
    (folder / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"bytes\.txt: can't be read as a list of sources"):
        kinds("bytes.txt")


def test_lists_that_name_each_other_end(folder: Path) -> None:
    (folder / "trip" / "a.txt").write_text("2.jpg\nb.txt\n")
    (folder / "trip" / "b.txt").write_text("a.txt\ncamera:clip.mp4\n")
    picture, loop, camera = check_sources(["trip/a.txt"])
    assert picture.name == "trip/2.jpg"
    assert (loop.name, loop.kind, loop.value) == ("trip/a.txt", "unread", "this list contains itself")
    assert (camera.name, camera.kind, camera.value) == ("camera:clip.mp4", "camera", "trip/clip.mp4")


def test_cameras(folder: Path) -> None:
    assert kinds("webcam", "camera:1") == {"webcam": "camera", "camera:1": "camera"}
    assert not is_camera("webcam.jpg")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "webcam", format="png")
    assert kinds("webcam") == {"webcam": "picture"}


@pytest.mark.parametrize("given", ["nowhere.jpg", "nowhere/", "nowhere/*.jpg"])
def test_a_source_that_is_not_there(given: str, folder: Path) -> None:
    with pytest.raises(UserError, match="there is no such picture, folder or video; expected a file, a folder"):
        check_sources([given])


def test_a_large_download_keeps_its_reduction_and_large_bytes_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 5_000)
    content = io.BytesIO()
    Image.fromarray(np.zeros((200, 120, 3), np.uint8)).save(content, "JPEG")
    server = Server()
    server.files = {"large.jpg": content.getvalue()}
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    (source,) = expand(check_sources([f"{server.url}/large.jpg"], allow_urls=True))
    server.shutdown()
    server.server_close()
    assert isinstance(source.value, np.ndarray)
    assert (source.value.shape, source.reduced) == ((50, 30, 3), 4)
    with pytest.raises(UserError, match="120 x 200 pixels, the limit is 5,000 pixels"):
        check_sources(content.getvalue())


def test_nothing_is_downloaded_unless_asked(folder: Path) -> None:
    server = Server()
    server.files = {"face.png": (folder / "trip" / "day 2" / "a.png").read_bytes()}
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    url = f"{server.url}/a/face.png"
    with pytest.raises(UserError, match="nothing is downloaded unless you ask for it: add --allow-urls"):
        check_sources([url])
    (folder / "web.txt").write_text(f"{url}\n")
    with pytest.raises(UserError, match="nothing is downloaded unless you ask for it"):
        check_sources(["web.txt"])
    (folder / "lists.txt").write_text("web.txt\n")
    (unread,) = expand(check_sources("lists.txt"))
    assert (unread.name, unread.kind, unread.value) == (
        url,
        "unread",
        "nothing is downloaded unless you ask for it: add --allow-urls",
    )
    listed = check_sources([url, "web.txt"], allow_urls=True)
    assert [source.kind for source in listed] == ["address", "address"]
    assert server.requests == []
    for source in expand(listed):
        assert (source.name, source.kind) == (url, "picture")
        assert isinstance(source.value, np.ndarray)
        assert source.value.shape == (8, 8, 3)
    (missing,) = expand(check_sources([f"{server.url}/none.png"], allow_urls=True))
    assert (missing.kind, missing.value) == ("unread", "could not be downloaded: HTTP Error 404: Not Found")
    server.shutdown()
    server.server_close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_rights(folder: Path) -> None:
    (folder / "trip" / "day 2").chmod(0)
    try:
        with pytest.raises(UserError, match="can't be read: Permission denied; check its permissions"):
            kinds("trip")
    finally:
        (folder / "trip" / "day 2").chmod(0o700)


def test_a_folder_that_can_not_be_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("day 2"):
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="day 2 can't be read: Permission denied; check its permissions"):
        kinds("trip")


def test_damaged_files_have_a_note_and_a_video_that_is_none_too(folder: Path, model) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("av")
    found = Recognizer(model).predict("trip", faces="whole-image", every="1f")
    notes = {Path(skipped.image).name: skipped.reason for skipped in found.skipped}
    assert set(notes) == {"clip.MP4", "phone.HEIC"}
    assert "is not a video that can be read" in notes["clip.MP4"]
    assert "HEIC" in notes["phone.HEIC"] or "not a picture that can be read" in notes["phone.HEIC"]
    table = found.table()
    assert table.loc[table["source"] == "trip/moving.gif", "frame"].tolist() == [0, 1, 2]
    assert len(found) == 3 + 4


def test_pictures_of_the_python_api() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 4, 3), np.uint8)
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.save(buffer, "PNG")
    tensor = torch.from_numpy(pixels)
    given = [pixels, image, buffer.getvalue(), tensor, tensor.permute(2, 0, 1)]
    for one in (*given, given, pixels[None], tensor.permute(2, 0, 1)[None]):
        found = list(check_sources(one))
        assert len(found) == (5 if one is given else 1)
        assert all(np.array_equal(source.value, pixels) for source in found)  # type: ignore[arg-type]
    (grey,) = check_sources(image.convert("L"))
    assert grey.value.shape == (6, 4, 3)  # type: ignore[union-attr]
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(buffer := io.BytesIO(), "PNG", exif=exif)
    (turned,) = check_sources(Image.open(buffer))
    assert turned.value.shape == (4, 6, 3)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (3, "expected a path, an address, an array .*, got int"),
        ([None], "got NoneType"),
        (pd.DataFrame({"image": ["a.png"]}), "got a DataFrame; give its column of paths"),
        (torch.zeros(3, 8, 8), r"expected a picture \(H, W, 3\) uint8 RGB, 0 to 255, got \(8, 8, 3\) float32"),
        (b"nothing", "is not a picture that can be read"),
    ],
)
def test_what_is_no_source_is_named(given: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_sources(given)


def test_what_was_passed_over_is_said(folder: Path) -> None:
    assert check_sources("trip").folders == {Path("trip"): {".md": 1}}
    (folder / "raw").mkdir()
    (folder / "raw" / "a.cr2").write_bytes(b"x")
    with pytest.raises(UserError, match=r"no pictures or videos in this folder; Passed over: 1 file \(\.cr2 1\)$"):
        check_sources(["raw"])


class Accesses:
    """Counts the folders that are listed and the files that are opened below a folder."""

    def __init__(self) -> None:
        self.below: Path | None = None
        self.walks, self.opens = Counter[str](), Counter[str]()

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.below and event in ("open", "os.scandir", "os.listdir") and isinstance(arguments[0], str | Path):
            path = Path(arguments[0]).absolute()
            if path.is_relative_to(self.below):
                counter = self.opens if event == "open" else self.walks
                counter[path.relative_to(self.below).as_posix()] += 1


@pytest.fixture(scope="module")
def accesses() -> Accesses:
    """An audit hook, which stays for the rest of the process; it counts while `below` is set."""
    found = Accesses()
    sys.addaudithook(found)
    return found


@pytest.mark.parametrize("given", ["trip", "trip/**/*.*", "list.txt"])
def test_a_folder_is_walked_once_and_a_picture_is_opened_to_read_it(
    given: str, folder: Path, model: Model, accesses: Accesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second time only for formats that may be animated, to see whether they are."""
    from facenet2expnet.cli import main

    for name in ("clip.MP4", "phone.HEIC", "notes.md"):
        (folder / "trip" / name).unlink()
    (folder / "list.txt").write_text("trip\n")
    save_model(model, folder / "model")
    out = ["--out", "t.csv", "--draw", "drawn", "--timeline", "t.png", "--faces", "whole-image", "--quiet"]
    monkeypatch.setattr(sys, "argv", ["fn2en", "predict", "model", given, *out])
    accesses.walks.clear()
    accesses.opens.clear()
    accesses.below = folder / "trip"
    with pytest.raises(SystemExit) as ended:
        main.run()
    accesses.below = None
    assert ended.value.code == 0
    assert accesses.opens == {"2.jpg": 1, "10.jpg": 1, "day 2/a.png": 2, "moving.gif": 2, "still.gif": 2}
    if given == "trip/**/*.*":
        assert max(accesses.walks.values()) <= 2  # glob lists a folder once for ** and once for *.*
    else:
        assert accesses.walks == {".": 1, "day 2": 1}


def test_sources_that_were_listed_are_not_looked_at_again(folder: Path) -> None:
    listed = check_sources(["trip", "camera:1"])
    assert isinstance(listed, Sources)
    for path in (folder / "trip").rglob("*.jpg"):
        path.unlink()
    assert check_sources(listed) is listed
    assert [source.name for source in listed][:2] == ["trip/2.jpg", "trip/10.jpg"]


def test_the_ends_of_the_list_are_those_of_the_module() -> None:
    assert ".mp4" in module.VIDEO_ENDINGS
    assert not set(module.VIDEO_ENDINGS) & set(picture_endings())
