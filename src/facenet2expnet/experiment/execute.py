"""Do the jobs of a run: one after the other, side by side in processes or on a cluster, or shared with other machines.

Jobs that build on each other are a chain: a fine-tuned face net and the expression nets that learn from it. A chain is
done in its order; chains are independent. A job computes with as many threads as the run was begun with, however many
jobs run beside it, so that its numbers stay the same.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facenet2expnet.claims import Claims, folder_time, namespace, runs
from facenet2expnet.data.dataset import Dataset
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.job import Job, Progress, run_job, skip_finished
from facenet2expnet.experiment.parallel import Parallel
from facenet2expnet.experiment.status import FACE_NET_FAILED, FAILED, LEFT_OUT, PLAN, RESULT, STOPPED, read_note
from facenet2expnet.experiment.workers import Outcome, attempt, sigterm_interrupts
from facenet2expnet.files import write_atomic, write_json
from facenet2expnet.recipe import Recipe

POLL_S = 5.0
"""Seconds between two looks at what other machines have done."""

LISTED = 5
"""So many failures are spelled out in the message."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """A job as a worker gets it: the pixels of its dataset lie in a file."""

    job: Job
    dataset: Dataset
    pixels: Path
    recipe: Recipe
    device: str
    metadata: dict[str, Any]

    def __str__(self) -> str:
        return self.job.title


@dataclass(eq=False)
class Chain:
    """Jobs to be done in this order, each with its recipe."""

    name: str
    jobs: list[tuple[Job, Recipe]] = field(default_factory=list)


@dataclass(eq=False)
class Execution:
    """What `run_jobs` needs to know of a run.

    Attributes:
        folder: of the run.
        dataset: gives the pictures that a recipe needs; the last ones are kept.
        device: where to compute.
        metadata: gives what is saved with a model of a recipe.
        claims: of this process in the folder.
        parallel: how many jobs run side by side.
        wanted: whether a job is still needed; None if all are.
        on_stop: called with a job whose training can't go on, if that is a result of the run; None makes it a failure.
        on_end: called after each job; its UserErrors are ignored.
        progress: called with what is being done, how much of it is done, and how much there is.
    """

    folder: Path
    dataset: Callable[[Recipe], Dataset]
    device: torch.device
    metadata: Callable[[Recipe], dict[str, Any]]
    claims: Claims
    parallel: Parallel
    wanted: Callable[[Job], bool] | None = None
    on_stop: Callable[[Job], None] | None = None
    on_end: Callable[[], None] | None = None
    progress: Progress | None = None


def run_jobs(planned: Sequence[tuple[Job, Recipe]], execution: Execution) -> None:
    """Do all jobs that are not done, in processes if `parallel` says so; a failed one does not stop the others.

    Returns when all are done, also those that other machines took.

    Raises:
        UserError: At the end, naming the jobs that failed.
    """
    chains = make_chains(planned, execution.folder)
    listed = [
        {
            "title": job.title,
            "folder": job.folder.relative_to(execution.folder).as_posix(),
            "chain": chain.name,
            "needs": chain.name if _needs_face_net(job, recipe) else "",
        }
        for chain in chains
        for job, recipe in chain.jobs
    ]
    write_json(execution.folder / PLAN, listed)
    queue = _Queue(chains, execution)
    with sigterm_interrupts():
        if execution.parallel.side_by_side:
            _side_by_side(queue, execution)
        else:
            _one_by_one(queue, execution)
    if queue.failed:
        raise UserError(_failures(queue.failed, len(planned)))


def make_chains(planned: Sequence[tuple[Job, Recipe]], folder: Path) -> list[Chain]:
    """Put the jobs that share a fine-tuned face net into one chain, named by its folder; others are alone.

    The jobs are numbered in the order of the chains. Several expression nets of one chain share cached views.
    """
    chains: dict[Path, Chain] = {}
    for job, recipe in planned:
        place = job.folder if job.method == "scratch" else job.teacher_folder
        chain = chains.setdefault(place, Chain(place.relative_to(folder).as_posix()))
        chain.jobs.append((job, recipe))
    number = 0
    for chain in chains.values():
        shared = sum(job.method == "fn2en" for job, _ in chain.jobs) > 1
        views = views_folder(folder, chain.name) if shared else None
        for index, (job, recipe) in enumerate(chain.jobs):
            number += 1
            chain.jobs[index] = replace(job, number=number, total=len(planned), views_folder=views), recipe
    return list(chains.values())


def views_folder(folder: Path, chain: str) -> Path:
    """Return the folder of the teacher's cached views that the jobs of a chain share; deleted with its last job."""
    return folder / f"views-of-{chain.replace('/', '_')}"


class _Queue:
    """The jobs that are to be done, and those that failed."""

    def __init__(self, chains: Sequence[Chain], execution: Execution) -> None:
        self.execution = execution
        side_by_side = execution.parallel.side_by_side
        self.waiting = sorted(chains, key=lambda chain: -len(chain.jobs) * side_by_side)  # no long one at the end
        self.current: dict[Job, tuple[Chain, Recipe]] = {}
        self.failed: dict[Job, str] = {}
        self.started = folder_time(execution.folder)
        self._told = False

    @property
    def left(self) -> int:
        """The number of jobs that have not ended."""
        return (
            len(self.current)
            + sum(len(chain.jobs) for chain in self.waiting)
            + sum(len(chain.jobs) for chain, _ in self.current.values())
        )

    def take(self) -> tuple[Job, Recipe] | None:
        """Claim the first chain that is free and return its first job; None if there is none now."""
        for chain in list(self.waiting):
            if self._is_ended(chain):
                self.waiting.remove(chain)
            elif self.execution.claims.take(chain.name):
                self.waiting.remove(chain)
                if (found := self._next(chain)) is not None:
                    return found
        if self.waiting and not self._told:
            more = f" and {len(self.waiting) - LISTED} more" if len(self.waiting) > LISTED else ""
            names = ", ".join(chain.name for chain in self.waiting[:LISTED])
            log.info("waiting for jobs of other processes: %s%s", names, more)
            self._told = True
        return None

    def next_after(self, job: Job, outcome: Outcome) -> tuple[Job, Recipe] | None:
        """Note how a job ended; return the next one of its chain, if there is one."""
        (chain, recipe), execution = self.current.pop(job), self.execution
        if not execution.claims.holds(chain.name):  # another process took it over: how it ends there counts
            chain.jobs.insert(0, (job, recipe))
            self.waiting.append(chain)
            return None
        if outcome.stopped and execution.on_stop:
            write_atomic(job.folder / STOPPED, outcome.error.encode())
            log.warning("%s", outcome.error)
            execution.on_stop(job)
        elif outcome.error:
            self.failed[job] = outcome.error
            log.warning("%s failed: %s", job.title, outcome.error)
            with contextlib.suppress(UserError):  # a full disk may be the reason
                write_atomic(job.folder / FAILED, outcome.error.encode())
            useless = [one for one in chain.jobs if job.method == "fine-tune" and _needs_face_net(*one)]
            chain.jobs = [one for one in chain.jobs if one not in useless]
            self.failed |= {one: f"{FACE_NET_FAILED} ({job.title})" for one, _ in useless}
        if execution.on_end:
            with contextlib.suppress(UserError):
                execution.on_end()
        return self._next(chain)

    def _next(self, chain: Chain) -> tuple[Job, Recipe] | None:
        """Return the next job of a claimed chain; without one the claim is given back."""
        while chain.jobs:
            job, recipe = chain.jobs.pop(0)
            if not skip_finished(job) and self._wanted(job):
                for name in (FAILED, LEFT_OUT):
                    (job.folder / name).unlink(missing_ok=True)
                self.current[job] = chain, recipe
                return job, recipe
        self._delete_views(chain)
        self.execution.claims.release(chain.name)
        return None

    def _delete_views(self, chain: Chain) -> None:
        shutil.rmtree(views_folder(self.execution.folder, chain.name), ignore_errors=True)

    def _wanted(self, job: Job) -> bool:
        if self.execution.on_stop and (job.folder / STOPPED).is_file():
            self.execution.on_stop(job)  # it was stopped before, or on another machine
        if self.execution.wanted is None or self.execution.wanted(job):
            return True
        if not any((job.folder / name).is_file() for name in (LEFT_OUT, STOPPED)):
            with contextlib.suppress(UserError):
                write_atomic(job.folder / LEFT_OUT, b"other trainings of its table row were stopped")
        return False

    def _is_ended(self, chain: Chain) -> bool:
        """Whether another process has done all jobs of a chain since this one began, or failed to."""
        failed: dict[Job, str] = {}
        left = [one for one in chain.jobs if not (one[0].folder / RESULT).is_file() and self._wanted(one[0])]
        for job, recipe in left:
            note = read_note(job.folder / FAILED)
            if note and note.time > self.started:
                failed[job] = note.text
            elif _needs_face_net(job, recipe) and any(one.folder == job.teacher_folder for one in failed):
                failed[job] = FACE_NET_FAILED
            else:
                return False
        for job, _ in chain.jobs:
            skip_finished(job)
        if not left:  # a process may have been killed between its last result and this
            self._delete_views(chain)
        self.failed |= failed
        return True


def _needs_face_net(job: Job, recipe: Recipe) -> bool:
    return job.method == "fn2en" and recipe.face_net.fine_tuned


def _one_by_one(queue: _Queue, execution: Execution) -> None:
    """Do the jobs in this process."""
    while True:
        found = queue.take()
        if found is None and not queue.waiting:
            return
        if found is None:
            time.sleep(POLL_S)
        while found is not None:
            job, recipe = found
            given = execution.dataset(recipe), recipe, execution.device, execution.metadata(recipe), execution.progress
            found = queue.next_after(job, attempt(partial(run_job, job, *given), job.title))


def _side_by_side(queue: _Queue, execution: Execution) -> None:
    """Do the jobs in other processes, here or on a cluster."""
    folder, parallel, progress, total = execution.folder, execution.parallel, execution.progress, queue.left
    threads = torch.get_num_threads()
    with (
        _SharedPixels(execution.dataset, folder if parallel.on_cluster else None) as shared,
        parallel.workers(do_task, folder, execution.device, threads) as workers,
    ):
        log.info("%s, CPU threads of each: %d", workers, threads)
        ready: list[tuple[Job, Recipe]] = []
        next_look = 0.0  # at what others have done; progress comes far more often
        while True:
            while workers.idle and (ready or time.monotonic() >= next_look):
                found = ready.pop(0) if ready else queue.take()
                if found is None:
                    next_look = time.monotonic() + POLL_S
                    break
                job, recipe = found
                dataset, pixels = shared.get(recipe)
                device, metadata = execution.device.type, execution.metadata(recipe)
                workers.begin(Task(job, dataset, pixels, recipe, device, metadata))
            if not workers.running:
                if not queue.waiting:
                    return
                time.sleep(POLL_S)
                next_look = 0.0
                continue
            others = workers.idle and bool(queue.waiting)
            for task, outcome in workers.ended(progress, POLL_S if others else None):
                next_look = 0.0
                if (found := queue.next_after(task.job, outcome)) is not None:
                    ready.append(found)
                if progress:
                    progress(task.job.title, 1, 1)  # of a job that failed, too
                    progress("jobs", total - queue.left, total)


def do_task(task: Task, progress: Progress) -> None:
    """Do one job in a worker."""

    def named(what: str, done: int, total: int) -> None:
        progress(what if what == task.job.title else f"{task.job.title}: {what}", done, total)

    if not task.pixels.is_file():
        raise UserError(
            f"{task.pixels}: {socket.gethostname()} does not see this file of faces; put it where all machines see it"
        )
    dataset = replace(task.dataset, pixels=np.load(task.pixels, mmap_mode="r"))
    run_job(task.job, dataset, task.recipe, torch.device(task.device), task.metadata, named)


class _SharedPixels:
    """Files with the pixels of datasets, which all workers map; a memory-mapped face store is one already.

    Args:
        dataset: gives the pictures that a recipe needs.
        folder: for the files, one that all machines see; None for a temporary one of this machine.
    """

    def __init__(self, dataset: Callable[[Recipe], Dataset], folder: Path | None = None) -> None:
        self.dataset, self.folder = dataset, folder
        self.written: dict[str, tuple[Dataset, Path]] = {}

    def __enter__(self) -> _SharedPixels:
        self._at_end = contextlib.ExitStack()
        if self.folder is None:
            self.folder = _temporary_folder()
            self._at_end.callback(shutil.rmtree, self.folder, ignore_errors=True)
        return self

    def __exit__(self, *given: object) -> None:
        self._at_end.close()

    def get(self, recipe: Recipe) -> tuple[Dataset, Path]:
        """Return the dataset without its pixels, and the file that has them.

        Raises:
            UserError: If the disk is full.
        """
        key = repr(recipe.crop)
        if key not in self.written:
            dataset = self.dataset(recipe)
            without_pixels = replace(dataset, pixels=dataset.pixels[:0].copy(), skipped=[])
            self.written[key] = without_pixels, self._write(dataset.pixels)
        return self.written[key]

    def _write(self, pixels: np.ndarray) -> Path:
        named = Path(pixels.filename) if isinstance(pixels, np.memmap) and pixels.filename else None
        if named is not None and named.suffix == ".npy" and np.load(named, mmap_mode="r").shape == pixels.shape:
            return named
        assert self.folder is not None
        path = self.folder / f".pixels.{uuid.uuid4().hex[:8]}.npy"  # a name that `delete_temporary_files` knows
        self._at_end.callback(path.unlink, missing_ok=True)
        try:
            np.save(path, pixels)
        except OSError as error:
            raise UserError(
                f"{self.folder}: the pictures, {pixels.nbytes / 1e6:,.0f} MB, can't be written for the jobs side by "
                f"side ({error.strerror}); make room, set TMPDIR to another disk, or prepare the faces first"
            ) from None
        return path


def _temporary_folder() -> Path:
    """Make a folder for this process; those of processes that were killed are deleted."""
    here = f"fn2en-{socket.gethostname()}-{namespace()}".translate({ord(c): None for c in ":[]/"})
    for left in Path(tempfile.gettempdir()).glob(f"{glob.escape(here)}-*"):
        pid = left.name.removeprefix(f"{here}-").partition("-")[0]
        if pid.isdecimal() and not runs(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{here}-{os.getpid()}-"))


def _failures(failed: dict[Job, str], total: int) -> str:
    """Name the failed jobs and what to do."""
    lines = [f"{job.title}: {reason}" for job, reason in failed.items()]
    if len(failed) == total == 1:
        return lines[0]
    more = f"; and {len(lines) - LISTED} more" if len(lines) > LISTED else ""
    return (
        f"{len(lines)} of {total} jobs failed: {'; '.join(lines[:LISTED])}{more}. The others are kept; fix the "
        "cause and continue with --resume"
    )
