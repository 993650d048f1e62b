"""Tasks on the machines of a Ray cluster, with the interface of `workers`. Ray is the extra `ray`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from facenet2expnet import claims
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.workers import SECONDS_TO_END, Outcome, Report, Work, do_for_another, pass_on

RETRIES = 3
"""How often a task begins again whose process or machine died."""

SECONDS_BETWEEN = 0.5
"""Progress of one thing is sent at most so often."""

UNDERWAY = 100
"""Messages of a task that may be on their way."""

LOOK_S = 10.0
"""Seconds between two looks at how large the cluster is."""

Message = tuple[float, str, tuple[Any, ...]]
"""When it was sent, its kind, and its values; see `do_for_another`."""

log = logging.getLogger(__name__)


class RayWorkers:
    """Does tasks on the machines of a Ray cluster; `str(task)` is its name in logs.

    It is used as `Workers` is. A task whose process or machine dies begins again, where there is room. All end with the
    block, and if this process is killed.

    Args:
        work: what is done with a task; a function that can be imported by its name on every machine.
        folder: where tasks write; all machines must see it under the same path.
        threads: of PyTorch on the CPU, and CPUs of the cluster, for each task.
        gpus: of the cluster for each task, as 0.25.
        count: most tasks at a time; None for as many as there is room for.
        address: see `connected`.
    """

    def __init__(
        self, work: Work, folder: Path, *, threads: int, gpus: float, count: int | None, address: str | None
    ) -> None:
        self.work, self.folder, self.threads, self.gpus = work, folder.absolute(), threads, gpus
        self.count, self.address = count, address
        self._tasks: dict[Any, tuple[Any, int]] = {}
        self._size, self._looked = 0, 0.0

    def __str__(self) -> str:
        return f"on a Ray cluster of {len(_nodes(self._ray))} nodes, jobs at once: {self._most}"

    def __enter__(self) -> RayWorkers:
        with contextlib.ExitStack() as stack:
            self._ray = ray = stack.enter_context(connected(self.address))
            if self.count is None and not self._room() and any(node.get("CPU") for node in _nodes(ray)):
                raise UserError(
                    f"no node of the Ray cluster has {self._needs}, which a job takes; take fewer threads or add "
                    "nodes; if the cluster grows by itself, name the number of jobs (--jobs)"
                )
            claims.delete_left(self.folder, ".shared.*", math.inf)  # of commands that were killed
            self._marker = self.folder / f".shared.{uuid.uuid4().hex[:8]}"
            stack.callback(self._marker.unlink, missing_ok=True)
            self._marker.write_text(claims.owner_text(), encoding="utf-8")
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
            options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
            self._mailbox = ray.remote(**options)(_Mailbox).remote()
            stack.callback(ray.kill, self._mailbox)
            self._heard = self._mailbox.take.remote()
            self._do = ray.remote(num_cpus=self.threads, num_gpus=self.gpus, max_retries=0)(_do)
            stack.callback(self._cancel)
            self._at_end = stack.pop_all()
        return self

    def __exit__(self, *given: object) -> None:
        self._at_end.close()

    @property
    def idle(self) -> bool:
        """Whether one more task can begin."""
        return self.running < self._most

    @property
    def running(self) -> int:
        """The number of tasks that have begun and not ended."""
        return len(self._tasks)

    def begin(self, task: Any) -> None:
        """Give a task, which can be pickled, to the cluster."""
        self._submit(task, 0)

    def ended(self, report: Report | None, timeout_s: float | None = None) -> Iterator[tuple[Any, Outcome]]:
        """Wait until something happens; yield the tasks that ended."""
        ready, _ = self._ray.wait([*self._tasks, self._heard], timeout=timeout_s)
        for reference in ready:
            if reference not in self._tasks:
                self._hear(report)
                continue
            task, tries = self._tasks.pop(reference)
            error = self._ray.exceptions
            try:
                outcome = self._ray.get(reference)
            except error.RayTaskError as failed:  # before `_do` began: it catches what the work raises
                lines = [line for line in str(failed).splitlines() if line.strip()]
                outcome = Outcome(f"a node could not begin it ({lines[-1]}); install the same packages on all nodes")
            except error.RayError as failed:
                reason = _reason(failed)
                if tries < RETRIES:
                    log.warning("%s: %s; it begins again from what it has saved.", task, reason)
                    self._submit(task, tries + 1)
                    continue
                outcome = Outcome(f"{reason}, {RETRIES + 1} times")
            self._hear_all(report)
            yield task, outcome

    @property
    def _most(self) -> int:
        return self.count or max(1, self._room())

    @property
    def _needs(self) -> str:
        return f"{self.threads} CPUs" + (f" and {self.gpus:g} GPUs" if self.gpus else "")

    def _room(self) -> int:
        """Return how many tasks the cluster can do at once, if nobody else uses it."""
        if not self._looked or time.monotonic() - self._looked > LOOK_S:
            self._size = sum(room(node, self.threads, self.gpus) for node in _nodes(self._ray))
            self._looked = time.monotonic()
        return self._size

    def _submit(self, task: Any, tries: int) -> None:
        self._looked = 0.0
        if not self._room():
            log.warning("%s waits: no node of the Ray cluster has %s now.", task, self._needs)
        given = (self.work, task, self._mailbox, os.getcwd(), self._marker, self.threads)
        self._tasks[self._do.remote(*given)] = task, tries

    def _hear(self, report: Report | None) -> bool:
        """Pass on the messages that came; whether the sign of `_hear_all` is among them."""
        messages = self._ray.get(self._heard)
        self._heard = self._mailbox.take.remote()
        sent = [message for message in messages if message is not None]
        for _, kind, value in sorted(sent, key=lambda message: message[0]):  # Ray may swap those of one task
            pass_on(report, kind, *value)
        return None in messages

    def _hear_all(self, report: Report | None) -> None:
        """Pass on all messages that were sent so far."""
        self._mailbox.put.remote(None)
        while not self._hear(report):
            pass

    def _cancel(self) -> None:
        running = list(self._tasks)
        for reference in running:
            self._ray.cancel(reference, force=True)
        if running:
            self._ray.wait(running, num_returns=len(running), timeout=SECONDS_TO_END)
        self._tasks.clear()


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Connect to a Ray cluster within the block; a connection that the caller's script has is used and kept.

    Args:
        address: HOST:PORT; None for the cluster in RAY_ADDRESS, or that of this machine.
    Raises:
        UserError: If Ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError(
            f"the engine ray needs the package {error.name}; pip install 'facenet2expnet[ray]', here and on all nodes"
        ) from None
    if ray.is_initialized():
        yield ray
        return
    before = signal.getsignal(signal.SIGTERM)
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        if address and address != "auto":
            _knock(address)
        ray.init(address or "auto", log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"no Ray cluster answers{f' at {address}' if address else ''} ({reason}); start one with ray start --head, "
            "or name one with --address HOST:6379"
        ) from None
    finally:
        if threading.current_thread() is threading.main_thread():  # Ray sets its own
            signal.signal(signal.SIGTERM, before)
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise an OSError or ValueError if nothing listens at an address; Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        raise ValueError("expected HOST:PORT")
    with socket.create_connection((host, int(port)), timeout=SECONDS_TO_END):
        pass


def choose_device(name: str, address: str | None) -> str:
    """Return "cuda" or "cpu", where tasks on a cluster compute; "auto" is "cuda" if it has GPUs.

    Raises:
        UserError: If it is another name, or there is no such cluster.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device is '{name}', expected auto, cpu or cuda on a Ray cluster")
    with connected(address) as ray:
        found = "cuda" if any(node.get("GPU") for node in _nodes(ray)) else "cpu"
    return found if name == "auto" else name


def room(node: dict[str, float], threads: int, gpus: float) -> int:
    """Return how many tasks a node with these resources can do at once."""
    found = int(node.get("CPU", 0) // threads)
    return min(found, int(node.get("GPU", 0) / gpus + 1e-6)) if gpus else found


def _nodes(ray: Any) -> list[dict[str, float]]:
    """Return the resources of the nodes that are alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _reason(error: Exception) -> str:
    if type(error).__name__ == "OutOfMemoryError":
        return "its process was killed, as its node ran out of memory"
    return f"its process or its node died ({type(error).__name__})"


def _do(work: Work, task: Any, mailbox: Any, folder: str, marker: Path, threads: int) -> Outcome:
    """Do a task: what runs on a node.

    Args:
        mailbox: a handle of the `_Mailbox`.
        folder: where the command runs; relative paths of the task begin there.
        marker: a file of the shared folder.
    """
    host = socket.gethostname()
    try:
        os.chdir(folder)
    except OSError:
        return Outcome(f"{host} has no folder {folder}; run the command in a folder that all nodes of the cluster see")
    if not marker.is_file():
        return Outcome(
            f"{host} does not see {marker.parent}; with the engine ray the results must be on a disk that all nodes "
            "share, under the same path"
        )
    import ray
    import torch

    torch.set_num_threads(threads)
    last: dict[str, float] = {}
    sent: list[Any] = []

    def send(kind: str, *value: Any) -> None:
        if kind == "progress":
            what, done, total = value
            if done < total and time.monotonic() - last.get(what, 0.0) < SECONDS_BETWEEN:
                return
            last[what] = time.monotonic()
        if len(sent) == UNDERWAY:
            ray.get(sent)
            sent.clear()
        sent.append(mailbox.put.remote((time.time(), kind, value)))

    where = f"on {host}, Ray node {ray.get_runtime_context().get_node_id()[:8]}, process {os.getpid()}"
    outcome = do_for_another(partial(_work_here, work, where), task, send)
    with contextlib.suppress(ray.exceptions.RayError):
        ray.get(sent)
    return outcome


def _work_here(work: Work, where: str, task: Any, report: Report) -> Any:
    log.debug("%s", where)
    return work(task, report)


class _Mailbox:
    """Keeps the messages of all tasks until they are taken: an actor beside the process that gave the tasks."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Message | None] = asyncio.Queue()

    async def put(self, message: Message | None) -> None:
        """Add a message; None is a sign."""
        self.messages.put_nowait(message)

    async def take(self) -> list[Message | None]:
        """Wait for messages and return all."""
        found = [await self.messages.get()]
        while not self.messages.empty():
            found.append(self.messages.get_nowait())
        return found
