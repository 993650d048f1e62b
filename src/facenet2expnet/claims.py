"""Claims: which process works on what, in a folder that several processes and machines share.

A claim is a small file that one process creates and touches again and again. It needs hard links, or exclusive
creation, to be atomic, as local disks and NFS have them, and no locks. A claim ends when it is released, when its
process is known to be dead, or when it has not been touched for `EXPIRES_S`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote

from facenet2expnet.errors import UserError

FOLDER = "claims"
"""Name of the folder of claims in a folder of results."""

EXPIRES_S = 600.0
BEATS = 20
"""How often a claim is touched within the time after which it would expire."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Claim:
    """One claim, as another process reads it.

    Attributes:
        name: what is claimed.
        number: from 1; a claim that takes over an expired one has the next number.
        host, pid, namespace: the process; pids of one host and namespace can be compared.
        since: when it was made, UTC.
        age_s: seconds since it was last touched, by the clock of the file server.
    """

    name: str
    number: int
    host: str
    pid: int
    namespace: str
    since: str
    age_s: float

    @property
    def owner(self) -> str:
        """The process, for messages."""
        return f"process {self.pid} on {self.host}"

    def alive(self, expires_s: float = EXPIRES_S) -> bool:
        """Whether its process may still be at work."""
        if self.age_s > expires_s:
            return False
        here = (self.host, self.namespace) == (socket.gethostname(), namespace())
        return not here or runs(self.pid)


class Claims:
    """The claims of this process in a folder; a thread touches them until they are released.

        with Claims(run / claims.FOLDER) as own:
            if own.take("fold-1/scratch"):
                ...
                own.release("fold-1/scratch")

    Args:
        folder: of the claim files, made if it is not there.
        expires_s: how long a claim that nobody touches is respected; the same in all processes.
    Raises:
        UserError: If the folder can't be made or written to.
    """

    def __init__(self, folder: Path, expires_s: float = EXPIRES_S) -> None:
        self.folder, self.expires_s = folder, expires_s
        self._held: dict[str, Path] = {}
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="claims")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: can't be made: {error.strerror}; choose another folder") from None

    def __enter__(self) -> Claims:
        delete_left(self.folder, ".*", self.expires_s)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        for name in list(self._held):
            self.release(name)

    def take(self, name: str) -> bool:
        """Claim something; False if another process has it, or was faster.

        An expired claim is never removed first: its successor is created under the next number, which only one
        process can do, and then the expired file is deleted.

        Raises:
            UserError: If the claim can't be written.
        """
        with self._lock:
            found = _read_claims(self.folder, name)
            newest = max(found, key=lambda claim: claim.number, default=None)
            if newest is not None and newest.alive(self.expires_s):
                return False
            number = newest.number + 1 if newest else 1
            path = _path(self.folder, name, number)
            try:
                if not _create(path):
                    return False
            except OSError as error:
                raise UserError(
                    f"{path}: can't be written: {error.strerror}; make room, or give write access"
                ) from None
            others = [claim for claim in _read_claims(self.folder, name) if claim.number != number]
            if any(claim.number > number or claim.alive(self.expires_s) for claim in others):
                path.unlink(missing_ok=True)  # others were faster since the first look; numbers may begin at 1 again
                return False
            self._held[name] = path
            for old in others:
                _path(self.folder, name, old.number).unlink(missing_ok=True)
            if newest is not None:
                log.warning("%s: taken over from %s, which stopped updating its claim.", name, newest.owner)
            return True

    def wait(self, name: str, poll_s: float = 1.0) -> None:
        """Claim something as soon as no other process has it."""
        while not self.take(name):
            time.sleep(poll_s)

    def release(self, name: str) -> None:
        """Give a claim back."""
        with self._lock:
            path = self._held.pop(name, None)
            if path is not None:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)

    def holds(self, name: str) -> bool:
        """Whether a claim is still this process's, by its files: one that slept may have lost it to another."""
        with self._lock:
            return name in self._held and self._touch(name)

    def _beat(self) -> None:
        while not self._ended.wait(self.expires_s / BEATS):
            with self._lock:
                for name in list(self._held):
                    self._touch(name)

    def _touch(self, name: str) -> bool:
        """Touch a held claim; one that another process took over is no longer held, which is False."""
        path = self._held[name]
        try:
            newer = any(match[0] != path.name for match in _matches(self.folder, name))
            os.utime(path)
        except FileNotFoundError:
            newer = True
        except OSError:  # of a file server that is away for a moment
            return True
        if newer:
            if self.folder.is_dir():
                log.warning("%s: another process took this over, as this one did not update its claim in time.", name)
            del self._held[name]
        return not newer


def living(folder: Path, expires_s: float = EXPIRES_S) -> list[Claim]:
    """Return the claims in a folder whose processes may still be at work; no folder holds none."""
    return [claim for claim in _read_claims(folder) if claim.alive(expires_s)]


def folder_time(folder: Path) -> float:
    """Return the time by the clock that stamps the files of a folder; this machine's own if it can't be written to."""
    probe = folder / f".clock.{uuid.uuid4().hex[:8]}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def delete_left(folder: Path, pattern: str, expires_s: float) -> None:
    """Delete files with an `owner_text` that killed processes left.

    A file whose owner is on another machine, or unknown, is deleted when it is older than `expires_s`.
    """
    paths = list(folder.glob(pattern))
    now = folder_time(folder) if paths else 0.0
    for path in paths:
        claim = _read(path, path.name, 0, now)
        if claim is not None and not claim.alive(expires_s):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def owner_text() -> str:
    """Return what a file says of the process that made it, as JSON."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "namespace": namespace(), "since": since})


def _create(path: Path) -> bool:
    """Create a claim file; False if it is there already. On a full disk nothing is left behind."""
    text = owner_text()
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    try:
        temporary.write_text(text, encoding="utf-8")
        try:
            os.link(temporary, path)
        except FileExistsError:
            return os.path.samefile(temporary, path)  # the answer to the first try may have been lost on a network
        except OSError:  # a file system without hard links
            return _create_in_place(path, text)
    except FileNotFoundError:
        if path.parent.is_dir():  # its owner has just released it
            return False
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return True


def _create_in_place(path: Path, text: str) -> bool:
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError:
        return False
    try:
        with file:
            file.write(text)
    except OSError:
        path.unlink(missing_ok=True)  # without a name in it, it would stay until it expires
        raise
    return True


def _read_claims(folder: Path, name: str | None = None) -> list[Claim]:
    """Read all claims of a folder, or those of one name."""
    names = _matches(folder, name)
    now = folder_time(folder) if names else 0.0
    found = (_read(folder / match[0], unquote(match[1]), int(match[2]), now) for match in names)
    return [claim for claim in found if claim is not None]


def _read(path: Path, name: str, number: int, now: float) -> Claim | None:
    try:
        return Claim(name, number, age_s=now - path.stat().st_mtime, **_owner(path.read_bytes()))
    except OSError:
        return None  # it was just released


def _owner(content: bytes) -> dict[str, Any]:
    """Read who made a claim; unknown if it is damaged, or being written on a file system without hard links."""
    known: dict[str, Any] = {"host": "?", "pid": 0, "namespace": "?", "since": ""}
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(content)
        if isinstance(value, dict) and all(type(value.get(key)) is type(known[key]) for key in known):
            return {key: value[key] for key in known}
    return known


def _matches(folder: Path, name: str | None) -> list[re.Match[str]]:
    """The names of the claim files in a folder, with name and number as groups; all, or those of one name."""
    wanted = None if name is None else quote(name, safe="")
    names = [match for path in folder.glob("*.json") if (match := re.fullmatch(r"(.+)\.(\d+)\.json", path.name))]
    return [match for match in names if wanted in (None, match[1])]


def _path(folder: Path, name: str, number: int) -> Path:
    return folder / f"{quote(name, safe='')}.{number}.json"


def namespace() -> str:
    """The process namespace: in containers of one host name, equal pids are different processes."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def runs(pid: int) -> bool:
    """Whether a process of this machine runs; where that can't be asked harmlessly, yes."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
