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
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from facenet2expnet.data.folders import passed_over, search
from facenet2expnet.data.pictures import count_frames, decode_picture, picture_endings, read_reduced, to_rgb
from facenet2expnet.errors import UserError
from facenet2expnet.faces.store import FaceStore, is_store

VIDEO_ENDINGS = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts", ".3gp", ".ogv",
)  # fmt: skip
ANIMATED_ENDINGS = (".gif", ".webp", ".png", ".apng")
CAMERA = "camera:"
URL_SECONDS = 30.0
_AMONG = "would become a source of the next call: it is"
_NOT_ALLOWED = "nothing is downloaded unless you ask for it: add --allow-urls"

Given = str | Path | np.ndarray
"""One source; `check_sources` also takes pictures of Pillow, tensors, and files as bytes."""

EXPECTED = (
    "expected a path, an address, an array (H, W, 3) uint8 RGB, a tensor (3, H, W) uint8, a picture of Pillow, "
    "the bytes of a picture file, or a list of these"
)


@dataclass(frozen=True)
class Source:
    """One picture, video or camera.

    Attributes:
        name: what the table calls it: its path, its URL, or its number for an array; always printable.
        kind: "picture", "video", "camera", "face" for a cut-out face of a face store, "address" for what is not
            downloaded yet, or "unread" for what can't be read.
        value: path, array (H, W, 3) uint8 RGB, the number or path of a camera, an address, or the
            reason why it is unread.
        reduced: how many times smaller an array is than the picture that it was read from.
    """

    name: str
    kind: str
    value: Path | np.ndarray | str
    reduced: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name))

    @cached_property
    def moving(self) -> bool:
        """Whether its frames follow each other in time; a file that may be an animated picture is opened to see it."""
        if self.kind == "picture" and isinstance(self.value, Path):
            return self.value.suffix.lower() in ANIMATED_ENDINGS and count_frames(self.value) > 1
        return self.kind in ("video", "camera")


@dataclass(frozen=True, eq=False)
class Sources:
    """Sources that were looked at once: to iterate over them walks no folder and reads no list again.

    Attributes:
        listed: pictures, videos, cameras and addresses, and whole face stores, in order.
        folders: folders that were walked, with the numbers of their other files by ending.
        patterns: patterns and what they found.
    """

    listed: list[Source | FaceStore] = field(default_factory=list)
    folders: dict[Path, Counter[str]] = field(default_factory=dict)
    patterns: dict[str, list[Path]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Source]:
        """Yield single sources; nothing is downloaded."""
        for one in self.listed:
            if isinstance(one, FaceStore):
                images = one.manifest.table["image"]
                yield from (Source(str(i), "face", face) for i, face in zip(images, one.pixels, strict=True))
            else:
                yield one

    @property
    def stores(self) -> list[FaceStore]:
        """The face stores."""
        return [one for one in self.listed if isinstance(one, FaceStore)]


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


def check_sources(sources: Any, *, allow_urls: bool = False) -> Sources:
    """Return the single pictures, videos and cameras of some sources, and check, before any work, that they are there.

    A folder gives all pictures and videos in and below it, a pattern the files that match it, a .txt file the sources
    on its lines, a face store its faces. What can't be used in a list, such as an empty folder, is of kind "unread".

    Args:
        sources: one or many of: paths, addresses, arrays (H, W, 3) or (N, H, W, 3) uint8 RGB, tensors of the same
            shapes or with the colours first, pictures of Pillow, and the bytes of picture files; or `Sources`, which
            are returned as they are.
        allow_urls: whether web addresses may be downloaded, also those in lists.
    Raises:
        UserError: Naming the first that is not there, is an empty folder or list, or can't be read.
    """
    if isinstance(sources, Sources):
        return sources
    found = Sources()
    for number, given in enumerate(_listed(sources)):
        if not isinstance(given, np.ndarray):
            is_file = not is_url(given) and not is_camera(given)
            if is_file and not Path(given).exists() and not _matches(given, found):
                raise UserError(
                    f"{given}: there is no such picture, folder or video; expected a file, a folder, a pattern as "
                    "'holiday/*.jpg', a list as files.txt, webcam, or camera:1"
                )
            _add(given, found, None, allow_urls, named=True)
        elif given.ndim != 3 or given.shape[2] != 3 or given.dtype != np.uint8 or not given.size:
            raise UserError(f"expected a picture (H, W, 3) uint8 RGB, 0 to 255, got {given.shape} {given.dtype}")
        else:
            found.listed.append(Source(str(number), "picture", given))
    return found


def known_files(paths: Iterable[str | Path]) -> Sources:
    """Return pictures and videos that were found before, without looking at them."""
    return Sources([_of_file(Path(path)) for path in paths])


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


def expand(sources: Sources) -> Iterator[Source]:
    """Yield the single sources, one after the other; each address is downloaded when its turn comes."""
    for source in sources:
        if source.kind != "address":
            yield source
            continue
        try:
            yield from _download(str(source.value))
        except (UserError, OSError) as error:
            yield Source(source.name, "unread", str(error).removeprefix(f"{source.name}: "))


def check_output(out: Path, sources: Sources) -> None:
    """Check that drawings to a file or folder overwrite no source, and are no sources of the next call.

    Raises:
        UserError: If it is a source, lies in a folder that is one, or is the folder of a pattern's files.
    """
    place, own = out.resolve(), identity(out) if out.is_file() else None
    for folder in (*sources.folders, *(store.folder for store in sources.stores)):
        if place.is_relative_to(folder.resolve()):
            raise UserError(f"{out} {_AMONG} in the folder {folder}; choose a place outside it")
    for pattern, matches in sources.patterns.items():
        root = Path(pattern.partition("**")[0]).resolve() if "**" in pattern else None
        below = root and matches and place.is_relative_to(root)
        if below or any(match.is_file() and match.parent.resolve() == place for match in matches):
            raise UserError(f"{out} {_AMONG} the folder of {pattern}; choose another folder")
    if own and any(isinstance(one.value, Path) and identity(one.value) == own for one in sources):
        raise UserError(f"{out} is one of the sources, and would be overwritten; give another name")


def identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from all others, whatever name leads to it; None if there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def printable(text: str) -> str:
    """Return a text in which the bytes of a file name that are not UTF-8 are written as \\xff."""
    return text if text.isascii() else os.fsencode(text).decode("utf-8", "backslashreplace")


def readable(value: object) -> str:
    """The value as text for a page, figure or terminal; control characters become the replacement sign."""
    text = str(value).encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c.isprintable() else "�" for c in text)


def _add(
    given: str | Path,
    found: Sources,
    inside: Path | None,
    allow_urls: bool,
    *,
    named: bool = False,
    above: tuple[Path, ...] = (),
) -> None:
    """Add the pictures, videos and cameras of one source.

    Args:
        inside: the folder that relative paths start from; None for the working directory.
        named: whether the user named this source; an address in such a list is refused at once.
        above: the lists that this source stands in.
    """
    if is_url(given):
        if not allow_urls:
            raise UserError(f"{given}: {_NOT_ALLOWED}")
        found.listed.append(Source(str(given), "address", str(given)))
        return
    if is_camera(given):
        which = "0" if given == "webcam" else str(given).removeprefix(CAMERA)
        if inside and not which.isdecimal():
            which = str(inside / which)
        found.listed.append(Source(str(given), "camera", which))
        return
    path = (inside / given) if inside else Path(given)
    if path.is_dir() and is_store(path):
        found.listed.append(FaceStore.open(path))
    elif path.is_dir():
        found.listed.extend(map(_of_file, _files_in(path, found)))
    elif _is_list(path):
        place, lines = path.resolve(), read_list(path)
        if place in above:
            raise UserError(f"{path}: this list contains itself")
        if named and not allow_urls and (address := next(filter(is_url, lines), None)):
            raise UserError(f"{address}: {_NOT_ALLOWED}")
        for line in lines:
            _add_or_note(line, found, None if is_url(line) else path.parent, allow_urls, (*above, place))
    elif path.exists() or not (matches := _matches(path, found)):
        found.listed.append(_of_file(path))
    else:
        for match in matches:
            _add_or_note(match, found, None, allow_urls, above)


def _add_or_note(
    given: str | Path, found: Sources, inside: Path | None, allow_urls: bool, above: tuple[Path, ...]
) -> None:
    """Add a source of a list or pattern; one that can't be used is noted, and does not stop the others."""
    try:
        _add(given, found, inside, allow_urls, above=above)
    except (UserError, OSError) as error:
        name = str(inside / given if inside and not is_camera(given) else given)
        found.listed.append(Source(name, "unread", str(error).removeprefix(f"{name}: ")))


def is_url(source: Given) -> bool:
    """Whether a source is an address on the web."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def is_camera(source: Given) -> bool:
    """Whether a source is `webcam`, `camera:1`, or `camera:PATH`, a video that plays as if it came from a camera."""
    return isinstance(source, str) and (source == "webcam" or source.startswith(CAMERA)) and not Path(source).exists()


def _matches(pattern: str | Path, found: Sources) -> list[Path]:
    """The files and folders that match a pattern, which is searched for once."""
    name = str(pattern)
    if name not in found.patterns:
        found.patterns[name] = sorted(Path(match) for match in glob.glob(name, recursive=True))
    return found.patterns[name]


def _files_in(folder: Path, found: Sources) -> list[Path]:
    """The pictures and videos in a folder and below it; UserError if there are none, or a folder can't be read."""
    files, found.folders[folder] = search(folder, (*picture_endings(), *VIDEO_ENDINGS))
    if not files:
        sentence = passed_over(found.folders[folder])
        raise UserError(f"{folder}: no pictures or videos in this folder" + (f"; {sentence[:-1]}" if sentence else ""))
    return files


def _of_file(path: Path) -> Source:
    return Source(str(path), "video" if path.suffix.lower() in VIDEO_ENDINGS else "picture", path)


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
        source = replace(_of_file(file), name=url)
        if source.moving:
            yield source
        else:
            yield Source(url, source.kind, *read_reduced(file))
