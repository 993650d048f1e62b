"""How far the jobs of a run or an ablation are, read from its folder while processes work on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from facenet2expnet import claims
from facenet2expnet.errors import UserError
from facenet2expnet.files import read_json, well_formed

PLAN = "jobs.json"
"""The jobs of the last call, in a folder of results."""

RESULT, FAILED, STOPPED = "result.json", "failed.txt", "stopped.txt"
"""In a job's folder: it is done; it failed and is to be tried again; its training can't go on, which is a result."""


STATES = ("done", "running", "waiting", "failed")


@dataclass(frozen=True)
class JobStatus:
    """One job.

    Attributes:
        title: method, fold, seed and place.
        folder: of its files.
        state: of STATES.
        where: the process that runs it; empty for others.
        since: when that process claimed it or the jobs before it, UTC.
        reason: why it failed.
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
            failed = next((place / name for name in (FAILED, STOPPED) if (place / name).is_file()), None)
            if (place / RESULT).is_file():
                found.append(JobStatus(**job, state="done"))
            elif failed:
                found.append(JobStatus(**job, state="failed", reason=failed.read_text(encoding="utf-8")))
            elif own:  # the jobs of a chain are done one after the other
                found.append(JobStatus(**job, state="running", where=own.owner, since=own.since))
                del owners[planned["chain"]]
            else:
                found.append(JobStatus(**job, state="waiting"))
    return found
