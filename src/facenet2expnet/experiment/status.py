"""How far the jobs of a run or an ablation are, read from its folder while processes work on it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from facenet2expnet import claims
from facenet2expnet.errors import UserError
from facenet2expnet.files import read_json, well_formed

PLAN = "jobs.json"
"""The jobs of the last call, in a folder of results."""

RESULT, FAILED, STOPPED, LEFT_OUT = "result.json", "failed.txt", "stopped.txt", "left-out.txt"
"""In a job's folder: it is done; it failed and is to be tried again; its training can't go on, which is a result; no
row of the table needs it, since others of its row were stopped."""

FACE_NET_FAILED = "its face net failed"
"""Why a job is not tried whose face net could not be fine-tuned."""

STATES = ("done", "running", "waiting", "failed", "left out")


class Note(NamedTuple):
    """The text of a small file, and when it was written, by the clock of the file server."""

    text: str
    time: float


def read_note(path: Path) -> Note | None:
    """Read a small file that other processes may delete at any time; None if it is not there."""
    with contextlib.suppress(FileNotFoundError):
        return Note(path.read_text(encoding="utf-8"), path.stat().st_mtime)
    return None


@dataclass(frozen=True)
class JobStatus:
    """One job.

    Attributes:
        title: method, fold, seed and place.
        folder: of its files.
        state: of STATES.
        where: the process that runs it; empty for others.
        since: when that process claimed it or the jobs before it, UTC.
        reason: why it failed or was left out.
    """

    title: str
    folder: Path
    state: str
    where: str = ""
    since: str = ""
    reason: str = ""


def read_status(folder: Path) -> list[JobStatus]:
    """Return the state of every job of the last call that worked in a folder.

    Raises:
        UserError: If it holds no jobs.
    """
    folder = Path(folder)
    if not (folder / PLAN).is_file():
        raise UserError(f"{folder}: holds no {PLAN}; give the folder of a run or an ablation that has begun")
    owners = {claim.name: claim for claim in claims.living(folder / claims.FOLDER)}
    found = []
    with well_formed(folder / PLAN, "it is written again when the run goes on, with --resume"):
        for planned in read_json(folder / PLAN):
            place, own = folder / planned["folder"], owners.get(planned["chain"])
            job = {"title": planned["title"], "folder": place}
            failed = read_note(place / FAILED) or read_note(place / STOPPED)
            face_net = planned.get("needs")
            if (place / RESULT).is_file():
                found.append(JobStatus(**job, state="done"))
            elif failed:
                found.append(JobStatus(**job, state="failed", reason=failed.text))
            elif face_net and (folder / face_net / FAILED).is_file():
                found.append(JobStatus(**job, state="failed", reason=FACE_NET_FAILED))
            elif left_out := read_note(place / LEFT_OUT):
                found.append(JobStatus(**job, state="left out", reason=left_out.text))
            elif own:  # the jobs of a chain are done one after the other
                found.append(JobStatus(**job, state="running", where=own.owner, since=own.since))
                del owners[planned["chain"]]
            else:
                found.append(JobStatus(**job, state="waiting"))
    return found
