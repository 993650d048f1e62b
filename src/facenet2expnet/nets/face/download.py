"""Weights files from the network: a URL with its checksum, or a Hugging Face repository, into a cache folder."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import string
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from facenet2expnet.errors import UserError

CHUNK_BYTES = 1 << 20
TRIES = 4
TIMEOUT_S = 30.0
CACHE_VARIABLE = "FACENET2EXPNET_CACHE"
LONGEST_NAME = 50
"""Of a file in the cache, in characters of up to four bytes; a file system takes 255 bytes with all around it."""


def cache_folder() -> Path:
    """Where downloads are kept: $FACENET2EXPNET_CACHE, or the user's cache folder.

    Raises:
        UserError: If it is to be in the home of a user who is unknown.
    """
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return without_tilde(own)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "~/AppData/Local")
    else:
        base = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return without_tilde(base) / "facenet2expnet"


def without_tilde(text: str) -> Path:
    """A path with ~ and ~user replaced by the home folder.

    Raises:
        UserError: If there is no such user.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{text}: expected a path, there is no such home folder ({error})") from None


def first_line(error: Exception) -> str:
    """What an error says, in one line; its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def file_sha256(*paths: Path) -> str:
    """The SHA-256 of a file, or of several read one after the other, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def download(url: str, sha256: str, folder: Path | None = None) -> Path:
    """A file from a URL, checked against its SHA-256, from the cache where it is there already.

    A download that breaks off goes on where it stopped, in this call or a later one, if the server can.

    Args:
        url: http or https.
        sha256: 64 hexadecimal digits.
        folder: where to keep it; `cache_folder()/weights` by default.
    Raises:
        UserError: If the server cannot be reached or refuses, or the file is not the one of the checksum.
    """
    sha256 = sha256.lower()
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise UserError(f"{url}: expected a sha256 of 64 hexadecimal digits, got '{sha256}'")
    try:
        address = urlsplit(url).path
    except ValueError as error:
        raise UserError(f"{url}: expected a URL, this is none ({error})") from None
    name = re.sub(r"[^\w.-]", "_", Path(unquote(address)).name)[-LONGEST_NAME:] or "weights"
    folder = folder or cache_folder() / "weights"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _kept(url, sha256, folder / f"{sha256[:16]}-{name}", name)
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: a download can't be kept there ({error.strerror or first_line(error)}); "
            f"set {CACHE_VARIABLE} to a folder that can be written"
        ) from error


def _kept(url: str, sha256: str, target: Path, name: str) -> Path:
    """`target`, downloaded where it is not there already with this checksum."""
    part = target.with_name(target.name + ".part")
    with FileLock(f"{part}.lock"):
        if target.is_file() and file_sha256(target) == sha256:
            return target
        resumed = part.exists()
        _say(f"downloading {name} from {urlsplit(url).netloc}")
        while True:
            _complete(url, part)
            found = file_sha256(part)
            if found == sha256:
                part.replace(target)
                _say(f"downloaded {name}, {target.stat().st_size:,} bytes, to {target.parent}")
                return target
            part.unlink()
            if not resumed:
                break
            resumed = False  # the first piece may have been of another version: once more, from its beginning
    raise UserError(
        f"{url}: expected a file with sha256 {sha256}, got one with {found}; it was not kept. "
        "Check the address and the checksum with whoever published them"
    )


def _say(line: str) -> None:
    """A line on standard error where it is no terminal; on one, a bar tells the same."""
    if not Console(stderr=True).is_terminal:
        print(line, file=sys.stderr, flush=True)


def _complete(url: str, part: Path) -> None:
    """Bring `part` to the server's full length, going on after a broken connection."""
    why: Exception | None = None
    for attempt in range(TRIES):
        if attempt:
            time.sleep(0.2 * 4 ** (attempt - 1))
        try:
            if _fetch(url, part):
                return
            why = ConnectionError("the connection closed before the end")
        except urllib.error.HTTPError as error:
            if error.code == 416:
                return  # nothing is left to send; the checksum tells whether it is the file
            why = error
            if error.code < 500:
                break
        except (OSError, http.client.HTTPException) as error:
            why = error
    kept = part.stat().st_size if part.exists() else 0
    goes_on = f"{kept:,} bytes are kept and the next call goes on from there. " if kept else ""
    raise UserError(
        f"{url}: could not be downloaded ({why}). {goes_on}Check the address and the connection, or download it by "
        "hand and give the path of the file"
    )


def _fetch(url: str, part: Path) -> bool:
    """One request, from the end of `part` on where the server allows it; whether it ran to the end."""
    have = part.stat().st_size if part.exists() else 0
    address = quote(url, safe=string.punctuation)  # a space or an umlaut is not for HTTP's first line
    request = urllib.request.Request(address, headers={"User-Agent": "facenet2expnet"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        goes_on = response.status == 206 and response.headers.get("Content-Range", "").startswith(
            f"bytes {have}-"
        )
        start = have if goes_on else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdecimal() else None
        console = Console(stderr=True)
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with (
            part.open("ab" if goes_on else "wb") as file,
            Progress(
                "{task.description}",
                *columns,
                console=console,
                transient=True,
                disable=not console.is_terminal,
            ) as bar,
        ):
            task = bar.add_task(part.name.removesuffix(".part"), total=total, completed=start)
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                bar.advance(task, len(chunk))
    return total is None or part.stat().st_size >= total


def _hub_names(reference: str) -> tuple[str, str | None, str]:
    """owner/name@revision/path/to/file -> "owner/name", the revision if one is named, "path/to/file"."""
    matched = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w.-]+))?/(.+)", reference)
    if not matched:
        raise UserError(f"'hf:{reference}': expected hf:owner/name/file or hf:owner/name@revision/file")
    return matched[1], matched[2], matched[3]


def from_hugging_face(reference: str) -> Path:
    """A file of a Hugging Face repository, from its own cache where it is there already.

    Args:
        reference: owner/name/path/to/file, or owner/name@revision/path/to/file.
    Raises:
        UserError: If the reference has another form, or the repository or the file cannot be had.
    """
    repository, revision, name = _hub_names(reference)
    from huggingface_hub import hf_hub_download

    try:
        found = hf_hub_download(repository, name, revision=revision, endpoint=os.environ.get("HF_ENDPOINT"))
    except Exception as error:  # the hub's own, its client's for a broken connection, ValueError for a path
        raise UserError(
            f"hf:{reference}: '{name}' of the Hugging Face repository {repository} could not be had "
            f"({first_line(error)}); check the names, log in with `hf auth login` if it is private, or give the path "
            "of the file"
        ) from error
    return Path(found)


def from_hugging_face_if_there(reference: str) -> Path | None:
    """As `from_hugging_face`, but None where the repository is known to have no such file."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return from_hugging_face(reference)
    except UserError as error:
        cause = error.__cause__
        if isinstance(cause, EntryNotFoundError) and not isinstance(cause, LocalEntryNotFoundError):
            return None
        # Without a connection: what the hub said when it was last asked is kept in its cache.
        repository, revision, name = _hub_names(reference)
        if isinstance(cause, LocalEntryNotFoundError) and (
            try_to_load_from_cache(repository, name, revision=revision) is _CACHED_NO_EXIST
        ):
            return None
        raise
