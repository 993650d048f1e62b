"""Processes for jobs: their messages, their deaths, their threads and GPUs, and their end."""

from __future__ import annotations

import ast
import logging
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from spawned import Order, obey

from facenet2expnet.errors import UserError
from facenet2expnet.experiment import workers as module
from facenet2expnet.experiment.workers import Outcome, Workers, sigterm_interrupts


@pytest.fixture(autouse=True)
def quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes begin in a tenth of a second, from one that has PyTorch loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["facenet2expnet.experiment.execute", "spawned"])
    monkeypatch.setattr(module, "START", context)


def run(workers: Workers, orders: list[Order], seen: list[Any] | None = None) -> dict[str, Outcome]:
    """Do all orders; the outcome of each by the name of its file."""
    left, found = list(orders), dict[str, Outcome]()
    while left or workers.running:
        while left and workers.idle:
            workers.begin(left.pop(0))
        for order, outcome in workers.ended(None if seen is None else lambda *given: seen.append(given)):
            found[order.file.name] = outcome
    return found


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"  # a zombie that its parent has not reaped yet


def wait_for(what: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_tasks_are_done_by_several_processes_with_their_messages(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "facenet2expnet")
    seen: list[Any] = []
    with Workers(2, obey, threads=1) as workers:
        found = run(workers, [Order("work", tmp_path / f"{number}") for number in range(6)], seen)
    assert found == {f"{number}": Outcome() for number in range(6)}
    did = [ast.literal_eval(path.read_text()) for path in tmp_path.iterdir()]
    assert {one[0] for one in did} <= {*(one[0] for one in did)} - {os.getpid()}
    assert {tuple(one[1:]) for one in did} == {(1, None)}
    assert seen == [("order work", 1, 2)] * 6
    assert sorted(caplog.messages) == sorted(f"order work: at work on {number}" for number in range(6))


def test_a_process_that_dies_loses_its_own_task_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "facenet2expnet")
    orders = [Order(what, tmp_path / f"{what}{n}") for n in range(2) for what in ("work", "die", "raise", "exit")]
    with Workers(2, obey, threads=1) as workers:
        found = run(workers, orders)
    assert {name: outcome.error.partition(":")[0] for name, outcome in found.items() if name.endswith("0")} == {
        "work0": "", "die0": "its process died (SIGKILL", "raise0": "RuntimeError",
        "exit0": "its process died (exit code 3)",
    }  # fmt: skip
    assert found["work1"] == Outcome()
    assert found["raise1"].error == "RuntimeError: the order was wrong"
    assert "Traceback" in caplog.text


def test_every_process_has_its_gpu(tmp_path: Path) -> None:
    with Workers(4, obey, threads=1, devices=("0", "GPU-abc")) as workers:
        for number in range(4):
            workers.begin(Order("work", tmp_path / f"{number}"))
        found = run(workers, [])
    assert len(found) == 4
    did = [ast.literal_eval((tmp_path / f"{number}").read_text()) for number in range(4)]
    assert [one[2] for one in did] == ["0", "GPU-abc", "0", "GPU-abc"]
    assert len({one[0] for one in did}) == 4


def test_an_interrupt_ends_all_processes_at_once(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Workers(2, obey, threads=1) as workers:  # noqa: PT012 - the block is it
        for number in range(2):
            workers.begin(Order("sleep", tmp_path / f"{number}"))
        wait_for(lambda: all((tmp_path / f"{number}").exists() for number in range(2)))
        wait_for(lambda: all((tmp_path / f"{number}").read_text() for number in range(2)))
        started = time.monotonic()
        with sigterm_interrupts():
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
            list(workers.ended(None)), list(workers.ended(None))
            time.sleep(60)
    assert time.monotonic() - started < 30
    assert all(gone(int((tmp_path / f"{number}").read_text())) for number in range(2))


def parent(folder: Path) -> None:
    """A process that is killed while its worker works."""
    module.START = multiprocessing.get_context("fork")  # type: ignore[assignment]
    with Workers(1, obey, threads=1) as workers:
        workers.begin(Order("sleep", folder / "pid"))
        time.sleep(600)


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    process = module.START.Process(target=parent, args=(tmp_path,))
    process.start()
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    process.kill()
    process.join(60)
    wait_for(lambda: gone(int((tmp_path / "pid").read_text())), 30)


def test_a_later_process_that_can_not_start_loses_its_task_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Workers(1, obey, threads=1) as workers:
        assert run(workers, [Order("work", tmp_path / "first")]) == {"first": Outcome()}
        for worker in workers._workers.values():
            worker.process.kill()
            worker.process.join()
        monkeypatch.setattr(module, "START", Broken(module.START))
        assert run(workers, [Order("work", tmp_path / "next")])["next"].error == "its process died (exit code 7)"
        monkeypatch.undo()
        monkeypatch.setattr(module, "START", multiprocessing.get_context("forkserver"))
        assert run(workers, [Order("work", tmp_path / "last")]) == {"last": Outcome()}


class Broken:
    """A context whose processes end before they are ready, as those of a script without a guard do."""

    Pipe = staticmethod(multiprocessing.Pipe)

    def __init__(self, context: Any) -> None:
        self.context = context

    def Process(self, **given: Any) -> Any:
        return self.context.Process(target=os._exit, args=(7,), daemon=True)


def test_processes_that_can_not_start_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START", Broken(module.START))
    with Workers(1, obey, threads=1) as workers, pytest.raises(UserError, match=r"could not start .*7.*__main__"):
        run(workers, [Order("work", tmp_path / "never")])
