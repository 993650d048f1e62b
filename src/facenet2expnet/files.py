"""Files written atomically, JSON records, and a folder that one process at a time may write to."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from facenet2expnet.errors import UserError


@contextlib.contextmanager
def atomic_path(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Return a temporary name beside a path; what is written there is renamed to the path at the end.

        with atomic_path(folder / "table.parquet") as temporary:
            table.to_parquet(temporary)

    The temporary name keeps the file's ending, since many writers choose the format by it. If the block raises, the
    temporary file is deleted and the path stays as it was.

    Args:
        sync: wait until the disk has the file, so that a power cut leaves no empty one; slow for thousands of files.
    Raises:
        UserError: If the file can't be written: a full disk, no permission.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if sync:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # its folder may be a file
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(
                f"{path} could not be written: {error.strerror or error}; nothing was left behind, "
                "free some space or give another folder"
            ) from error
        raise


def check_writable(path: Path) -> None:
    """Raise a UserError, before any work, if a file of this name can't be written."""
    path = Path(path)
    around = next(parent for parent in path.absolute().parents if parent.exists())
    reason = ""
    if path.is_dir():
        reason = "it is a folder, expected the name of a file"
    elif not around.is_dir():
        reason = f"{around} is a file, not a folder"
    elif not os.access(path if path.exists() else around, os.W_OK):
        reason = f"no permission to write {'it' if path.exists() else 'in ' + str(around)}"
    if reason:
        raise UserError(f"{path} could not be written: {reason}; give another name")


def write_atomic(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Write bytes to a file atomically; see `atomic_path`."""
    with atomic_path(path, sync=sync) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False).encode())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: If it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: can't be read ({error})") from None


@contextlib.contextmanager
def well_formed(path: Path, advice: str) -> Iterator[None]:
    """Turn what a file of another form makes its reader raise into a UserError with the file's name and `advice`."""
    try:
        yield
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{path}: {error}; {advice}") from error
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):  # of a file that is named in this one
            raise
        raise UserError(f"{path} is damaged: {error.strerror}; {advice}") from error
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"{path} is damaged: {reason}; {advice}") from error


def package_file(package: str, inside: str, advice: str) -> Path:
    """Find a data file of a package without importing it; raise UserError with `advice` if it is missing."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / inside
        if path.is_file():
            return path
    state = f"lacks the file {inside}" if spec else "is not installed"
    raise UserError(f"the Python package '{package}' {state}; {advice}")


def delete_temporary_files(folder: Path) -> None:
    """Delete what `atomic_path` left in a folder and below it when its process was killed; hold the folder's lock."""
    for path in folder.rglob(".*"):
        if re.fullmatch(r"\..+\.[0-9a-f]{8}(\.\w+)?", path.name) and path.is_file():
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_lock(folder: Path, busy: str, *, needed: bool = True) -> Iterator[None]:
    """Hold the lock of a folder, made if it is not there.

    The lock file `.lock` stays in the folder: deleting it would let two processes hold two different files of one
    name. The operating system releases the lock of a process that dies.

    Args:
        busy: what to tell the user if another process holds the lock; the folder's name is put before it.
        needed: False to go on where the file system has no locks.
    Raises:
        UserError: If another process holds the lock, or the folder can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(f"{folder}: {busy}") from None
    except (OSError, NotImplementedError) as error:
        if needed or not folder.is_dir():
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{folder}: can't be made: {reason}; choose another folder") from None
    try:
        yield
    finally:
        lock.release()


LOCK = ".lock"
"""Name of the lock file in a folder; not part of its content."""
