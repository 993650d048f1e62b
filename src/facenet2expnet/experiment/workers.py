"""Processes of this machine that do one task at a time; one that dies loses its own task only."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

from facenet2expnet.errors import StageStopped, UserError

START = multiprocessing.get_context("spawn")
"""How a process begins: anew, as CUDA needs it. Nothing of this process is copied but what a task holds."""

SECONDS_TO_END = 5.0

Report = Callable[[str, int, int], None]
Work = Callable[[Any, Report], Any]
"""A function of a module that does a task; it reports what is being done, how much is done, and how much there is."""

Send = Callable[..., None]
"""Sends a message to the process that gave a task: its kind, "log" or "progress", and its values."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a task ended: without an error if `error` is empty; `stopped` for a StageStopped; what the work returned."""

    error: str = ""
    stopped: bool = False
    value: Any = None


@dataclass(eq=False)
class _Worker:
    number: int
    process: Any
    connection: Connection
    task: Any = None


class Workers:
    """Processes that do tasks side by side; `str(task)` is its name in logs.

        with Workers(2, train, threads=1) as workers:
            workers.begin(task)                       # while workers.idle
            for task, outcome in workers.ended(progress): ...

    Log messages of the package in a worker are those of this process too. A worker that dies is replaced with the next
    task. All end with the block, and if this process is killed.

    Args:
        count: of processes.
        work: what they do with a task; a function that can be imported by its name.
        threads: of PyTorch on the CPU, for each.
        devices: value of CUDA_VISIBLE_DEVICES for each process; None leaves it.
    """

    def __init__(self, count: int, work: Work, *, threads: int, devices: Sequence[str | None] = (None,)) -> None:
        self.work, self.threads = work, threads
        self.devices = [devices[number % len(devices)] for number in range(count)]
        self._workers: dict[int, _Worker] = {}
        self._began = False

    def __str__(self) -> str:
        return f"jobs side by side: {len(self.devices)}"

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *given: object) -> None:
        for worker in self._workers.values():
            if given[0] is None and worker.task is None:
                with contextlib.suppress(OSError):
                    worker.connection.send(None)
            else:
                worker.process.terminate()
        for worker in self._workers.values():
            worker.process.join(SECONDS_TO_END)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()
        self._workers.clear()

    @property
    def idle(self) -> bool:
        """Whether one more task can begin."""
        return self.running < len(self.devices)

    @property
    def running(self) -> int:
        """The number of tasks that have begun and not ended."""
        return sum(worker.task is not None for worker in self._workers.values())

    def begin(self, task: Any) -> None:
        """Give a task, which can be pickled, to an idle process."""
        free = (n for n in range(len(self.devices)) if n not in self._workers or self._workers[n].task is None)
        worker = self._workers.get(number := next(free))
        if worker is None or not worker.process.is_alive():
            worker = self._start(number)
        worker.task = task
        with contextlib.suppress(OSError):  # it has died: `ended` tells so
            worker.connection.send(task)

    def ended(self, report: Report | None, timeout_s: float | None = None) -> Iterator[tuple[Any, Outcome]]:
        """Wait until something happens; yield the tasks that ended.

        Raises:
            UserError: If a process can't start, and none could before.
        """
        busy = [worker for worker in self._workers.values() if worker.task is not None]
        handles = {worker.connection: worker for worker in busy} | {worker.process.sentinel: worker for worker in busy}
        for worker in dict.fromkeys(handles[handle] for handle in wait(list(handles), timeout_s)):
            task, outcome = worker.task, self._read(worker, report)
            if outcome is not None:
                worker.task = None
                yield task, outcome

    def _start(self, number: int) -> _Worker:
        here, there = START.Pipe()
        given = (there, self.work, self.threads, self.devices[number])
        process = START.Process(target=_serve, args=given, daemon=True, name=f"job-{number + 1}")
        process.start()
        there.close()
        self._workers[number] = _Worker(number, process, here)
        return self._workers[number]

    def _read(self, worker: _Worker, report: Report | None) -> Outcome | None:
        """Take the messages that a worker has sent; its outcome, if its task has ended."""
        try:
            while worker.connection.poll():
                kind, *value = worker.connection.recv()
                if kind == "ended":
                    return value[0]
                if kind == "ready":
                    self._began = True
                else:
                    pass_on(report, kind, *value)
        except (EOFError, OSError):
            pass
        else:
            if worker.process.is_alive():
                return None
        return self._died(worker)

    def _died(self, worker: _Worker) -> Outcome:
        worker.process.join()
        worker.connection.close()
        del self._workers[worker.number]
        code = worker.process.exitcode
        if not self._began:
            raise UserError(
                f"a process for jobs could not start (exit code {code}); if this is your own script, call it below "
                "if __name__ == '__main__':, or take jobs=1"
            )
        how = f"exit code {code}"
        if code < 0:
            how = signal.Signals(-code).name
            how += ": killed, perhaps because memory ran out; use fewer --jobs" if -code == signal.SIGKILL else ""
        return Outcome(f"its process died ({how})")


def attempt(do: Callable[[], Any], task: Any) -> Outcome:
    """Do a task in this process; what it raises is how it ended."""
    try:
        return Outcome(value=do())
    except UserError as error:
        return Outcome(str(error), isinstance(error, StageStopped))
    except Exception as error:
        log.debug("%s", task, exc_info=error)  # a fault of ours: log.txt shows where
        return Outcome(f"{type(error).__name__}: {error}")


def do_for_another(work: Work, task: Any, send: Send) -> Outcome:
    """Do a task that another process gave; the package's log messages and the progress are sent to that process."""
    package = logging.getLogger("facenet2expnet")
    package.setLevel(logging.DEBUG)
    package.addHandler(sender := _Sender(send, str(task)))
    try:
        return attempt(partial(work, task, partial(send, "progress")), task)
    finally:
        package.removeHandler(sender)


def pass_on(report: Report | None, kind: str, *value: Any) -> None:
    """Log or report what `do_for_another` sent."""
    if kind == "log":
        logging.getLogger(value[0].name).handle(value[0])
    elif report:
        report(*value)


def _serve(connection: Connection, work: Work, threads: int, devices: str | None) -> None:
    """Do tasks until there are no more: what a worker runs."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices
    torch.set_num_threads(threads)
    sending = threading.Lock()

    def send(*message: Any) -> None:
        with sending:
            connection.send(message)

    send("ready")
    while (task := connection.recv()) is not None:
        send("ended", do_for_another(work, task, send))


class _Sender(logging.handlers.QueueHandler):
    """Sends log messages to the parent; they begin with the task, as those of several mix."""

    def __init__(self, send: Send, title: str) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self.send, self.title = send, title

    def enqueue(self, record: logging.LogRecord) -> None:
        if not record.msg.startswith(self.title):
            record.msg = record.message = f"{self.title}: {record.msg}"
        self.send("log", record)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that it can clean up; only the main thread can arrange that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
