"""Where pictures come from: files, folders, patterns, lists, URLs, videos, cameras, arrays, face stores."""

from __future__ import annotations

import glob
import http.client
import io
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from facenet2expnet.data.folders import Found, passed_over, search
from facenet2expnet.data.pictures import count_frames, decode_picture, picture_endings, read_reduced, to_rgb
from facenet2expnet.errors import UserError
from facenet2expnet.faces.store import FaceStore, is_store

VIDEO_ENDINGS = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts", ".3gp", ".ogv",
)  # fmt: skip
ANIMATED_ENDINGS = (".gif", ".webp", ".png", ".apng")
CAMERA = "camera:"
URL_SECONDS = 30.0
_AMONG = "would be among the sources of the next call,"

Given = str | Path | np.ndarray
"""What is looked at, after `check_sources`; before that, also pictures of Pillow, tensors, and files as bytes."""

EXPECTED = (
    "expected a path, an address, an array (H, W, 3) uint8 RGB, a tensor (3, H, W) uint8, a picture of Pillow, "
    "the bytes of a picture file, or a list of these"
)


@dataclass(frozen=True)
class Source:
    """One picture, video or camera.

    Attributes:
        name: what the table calls it: its path, its URL, or its number for an array; always printable.
        kind: "picture", "video", "animation", "camera", "face" for a cut-out face of a face store, or "unread" for what
            can't be read.
        value: path, array (H, W, 3) uint8 RGB, the number or path of a camera, or the reason why it is unread.
        reduced: how many times smaller an array is than the picture that it was read from.
    """

    name: str
    kind: str
    value: Path | np.ndarray | str
    reduced: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name))

    @property
    def moving(self) -> bool:
        """Whether its frames follow each other in time."""
        return self.kind in ("video", "animation", "camera")


class Frame(NamedTuple):
    """A picture, or a frame of a video, before it is looked at.

    Attributes:
        source: where it is from.
        number: of the frame, from 0.
        time_s: from the beginning of the source.
        pixels: (H, W, 3) uint8 RGB; or a path, to be read by the thread that looks for faces.
        reason: why there are no pixels; empty if there are.
    """

    source: Source
    number: int
    time_s: float
    pixels: np.ndarray | Path | None
    reason: str = ""


def check_sources(sources: Any, *, allow_urls: bool = False) -> list[Given]:
    """Return the sources as a list after checking, before any work, that each of them is there and holds something.

    Args:
        sources: one or many of: paths, addresses, arrays (H, W, 3) or (N, H, W, 3) uint8 RGB, tensors of the same
            shapes or with the colours first, pictures of Pillow, and the bytes of picture files.
    Raises:
        UserError: Naming the first that is not there, is an empty folder or list, or can't be read.
    """
    listed = _listed(sources)
    for source in listed:
        if isinstance(source, np.ndarray):
            if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8 or not source.size:
                raise UserError(f"expected a picture (H, W, 3) uint8 RGB, 0 to 255, got {source.shape} {source.dtype}")
        elif is_url(source):
            _check_allowed(source, allow_urls)
        elif not is_camera(source) and not Path(source).exists() and not _matches(source):
            raise UserError(
                f"{source}: there is no such picture, folder or video; expected a file, a folder, a pattern as "
                "'holiday/*.jpg', a list as files.txt, webcam, or camera:1"
            )
        elif Path(source).is_dir():
            if is_store(Path(source)):
                FaceStore.open(source, verify=False)
            else:
                _files_in(Path(source))
        elif _is_list(Path(source)):
            for line in read_list(Path(source)):
                if is_url(line):
                    _check_allowed(line, allow_urls)
    return listed


def _listed(sources: Any) -> list[Given]:
    """The sources as a list of paths, addresses and arrays."""
    if isinstance(sources, str | Path):
        return [sources]
    if isinstance(sources, bytes | bytearray | memoryview):
        return [decode_picture(io.BytesIO(bytes(sources)))]
    if isinstance(sources, Image.Image):
        return [to_rgb(sources)]
    if hasattr(sources, "detach"):  # a tensor; PyTorch may not be installed
        sources = sources.detach().cpu().numpy()
        colours = sources.ndim - 3  # their axis, if they come first
        if sources.ndim in (3, 4) and sources.shape[colours] == 3 and sources.shape[-1] != 3:
            sources = np.ascontiguousarray(np.moveaxis(sources, colours, -1))
    if isinstance(sources, np.ndarray):
        return list(sources) if sources.ndim == 4 else [sources]
    if hasattr(sources, "itertuples"):  # a DataFrame; pandas is slow to load
        raise UserError(f"{EXPECTED}, got a DataFrame; give its column of paths, as list(table['image'])")
    if not isinstance(sources, Iterable):
        raise UserError(f"{EXPECTED}, got {type(sources).__name__}")
    return [one for source in sources for one in _listed(source)]


def expand(sources: Iterable[Given], *, inside: Path | None = None, allow_urls: bool = False) -> Iterator[Source]:
    """Yield the single pictures, videos and cameras of checked sources, one after the other.

    What can't be read, such as an empty folder in a list, or an address, is one source of kind "unread".

    Args:
        sources: as `check_sources` returns them. A folder gives all pictures and videos in and below it, a pattern
            the files that match it, a .txt file the sources on its lines, a face store its faces.
        inside: the folder that relative paths start from; by default the working directory.
        allow_urls: download web addresses, also those in lists.
    """
    for number, given in enumerate(sources):
        if isinstance(given, np.ndarray):
            yield Source(str(number), "picture", given)
            continue
        name = str(inside / given if inside else given)
        try:
            yield from _of_one(given, inside, allow_urls)
        except (UserError, OSError) as error:
            yield Source(name, "unread", str(error).removeprefix(f"{name}: "))


def check_output(out: Path, sources: Iterable[Given]) -> None:
    """Check that drawings to a file or folder overwrite no source, and are no sources of the next call.

    Raises:
        UserError: If it is a source, lies in a folder that is one, or is the folder of a pattern's files.
    """
    for given in sources:
        if isinstance(given, np.ndarray) or is_url(given) or is_camera(given):
            continue
        path, place = Path(given), out.resolve()
        if _is_list(path):
            lines = read_list(path)
            check_output(out, [line if is_camera(line) or is_url(line) else path.parent / line for line in lines])
        elif path.is_file() and identity(path) == identity(out):
            raise UserError(f"{out} is one of the sources, and would be overwritten; give another name")
        elif path.is_dir() and place.is_relative_to(path.resolve()):
            raise UserError(f"{out} {_AMONG} in the folder {path}; give a place outside")
        elif not path.exists():
            matches = _matches(path)
            if any(match.is_file() and match.parent.resolve() == place for match in matches):
                raise UserError(f"{out} {_AMONG} that {path} finds; give another folder")
            check_output(out, matches)


def identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from all others, whatever name leads to it; None if there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def printable(text: str) -> str:
    """Return a text in which the bytes of a file name that are not UTF-8 are written as \\xff."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def readable(value: object) -> str:
    """The value as text for a page, figure or terminal; control characters become the replacement sign."""
    text = str(value).encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c.isprintable() else "�" for c in text)


def _of_one(given: str | Path, inside: Path | None, allow_urls: bool) -> Iterator[Source]:
    """The pictures, videos and cameras of one source."""
    if is_url(given):
        _check_allowed(given, allow_urls)
        yield from _download(str(given))
        return
    if is_camera(given):
        name = str(given)
        yield Source(name, "camera", "0" if name == "webcam" else name.removeprefix(CAMERA))
        return
    path = (inside / given) if inside else Path(given)
    if path.is_dir() and is_store(path):
        store = FaceStore.open(path, verify=inside is not None)  # those that are named are verified once, before
        images = store.manifest.table["image"]
        yield from (Source(str(i), "face", face) for i, face in zip(images, store.pixels, strict=True))
    elif path.is_dir():
        for file in _files_in(path):
            yield _of_file(file)
    elif _is_list(path):
        for line in read_list(path):
            beside = None if is_camera(line) or is_url(line) else path.parent
            yield from expand([line], inside=beside, allow_urls=allow_urls)
    elif path.exists() or not _matches(path):
        yield _of_file(path)
    else:
        yield from expand(_matches(path))


def is_url(source: Given) -> bool:
    """Whether a source is an address on the web."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def is_camera(source: Given) -> bool:
    """Whether a source is `webcam`, `camera:1`, or `camera:PATH`, a video that plays as if it came from a camera."""
    return isinstance(source, str) and (source == "webcam" or source.startswith(CAMERA)) and not Path(source).exists()


def _matches(pattern: str | Path) -> list[Path]:
    return sorted(Path(name) for name in glob.glob(str(pattern), recursive=True))


def _files_in(folder: Path) -> list[Path]:
    """The pictures and videos in a folder and below it; UserError if there are none, or a folder can't be read."""
    files, others = _search(folder)
    if not files:
        sentence = passed_over(others)
        raise UserError(f"{folder}: no pictures or videos in this folder" + (f"; {sentence[:-1]}" if sentence else ""))
    return files


def passed_over_in(given: Given) -> str:
    """A sentence on the files of a folder that are neither pictures nor videos; "" for none, and for other sources."""
    if isinstance(given, np.ndarray) or not Path(given).is_dir() or is_store(Path(given)):
        return ""
    return passed_over(_search(Path(given)).others)


def _search(folder: Path) -> Found:
    return search(folder, (*picture_endings(), *VIDEO_ENDINGS))


def _of_file(path: Path) -> Source:
    ending = path.suffix.lower()
    if ending in VIDEO_ENDINGS:
        return Source(str(path), "video", path)
    animated = ending in ANIMATED_ENDINGS and count_frames(path) > 1
    return Source(str(path), "animation" if animated else "picture", path)


def _check_allowed(url: Given, allow_urls: bool) -> None:
    if not allow_urls:
        raise UserError(f"{url}: nothing is downloaded unless you ask for it: add --allow-urls")


def _is_list(path: Path) -> bool:
    return path.suffix.lower() == ".txt" and path.exists()


def read_list(path: Path) -> list[str]:
    """The lines of a text file, one source a line; empty lines and those that begin with # are left out."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read as a list of sources ({error})") from None
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise UserError(f"{path}: no sources in this list; expected a path on every line")
    return lines


def _download(url: str) -> Iterator[Source]:
    """Download a file to a temporary folder, which is deleted when the generator goes on.

    A picture is read here, as threads read later than that; a video is read before the generator goes on.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / (Path(url.partition("?")[0]).name or "download")
        try:
            with urllib.request.urlopen(url, timeout=URL_SECONDS) as answer, file.open("wb") as local:
                shutil.copyfileobj(answer, local)
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            raise UserError(f"{url}: could not be downloaded: {error}") from None
        source = _of_file(file)
        if source.moving:
            yield Source(url, source.kind, source.value)
        else:
            yield Source(url, source.kind, *read_reduced(file))
