"""What the processes of the tests of jobs need: a face net that a new process finds, and tasks that go wrong."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import tiny
from facenet2expnet.errors import StageStopped
from facenet2expnet.experiment.execute import Task, do_task
from facenet2expnet.training.distil import DistilStage


def load_tiny(path: Path | None) -> tiny.TinyFaceNet:
    """The entry point of the face net "tiny"."""
    return tiny.TinyFaceNet()


def write_entry_point(folder: Path) -> None:
    """Make a folder that, on the path, declares the face net "tiny" as an installed package does."""
    package = folder / "tiny_face_net-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-face-net\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[facenet2expnet.face_nets]\ntiny = spawned:load_tiny\n")


@dataclass(frozen=True)
class Order:
    """A task of the tests of workers."""

    what: str
    file: Path

    def __str__(self) -> str:
        return f"order {self.what}"


def obey(order: Order, report: Callable[[str, int, int], None]) -> None:
    """Do what is asked, and write where it was done."""
    log = logging.getLogger("facenet2expnet.spawned")
    if order.what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if order.what == "raise":
        raise RuntimeError("the order was wrong")
    if order.what == "exit":
        os._exit(3)
    report(str(order), 1, 2)
    log.info("at work on %s", order.file.name)
    if order.what == "sleep":
        order.file.write_text(str(os.getpid()))
        time.sleep(600)
    found = [os.getpid(), torch.get_num_threads(), os.environ.get("CUDA_VISIBLE_DEVICES")]
    order.file.write_text(repr(found))


def killed_in_stage1(task: Task, report: Callable[[str, int, int], None]) -> None:
    """Do a job; the first time that stage 1 of fold 1 begins, the process dies."""
    mark = task.job.folder.parent / "died-once"
    if (task.job.method, task.job.split.name) == ("fn2en", "fold-1") and not mark.exists():
        loss = DistilStage.loss

        def die(self: Any, examples: torch.Tensor) -> torch.Tensor:
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
            return loss(self, examples)

        DistilStage.loss = die  # type: ignore[method-assign]
    do_task(task, report)


def raises_in_scratch(task: Task, report: Callable[[str, int, int], None]) -> None:
    """Do a job; scratch of fold 1 raises what no one expects, and fine-tune of fold 2 a full disk."""
    if (task.job.method, task.job.split.name) == ("scratch", "fold-1"):
        raise ZeroDivisionError("a fault of ours")
    if (task.job.method, task.job.split.name) == ("fine-tune", "fold-2"):
        raise OSError(28, "No space left on device")
    do_task(task, report)


def stops_at_a_rate(task: Task, report: Callable[[str, int, int], None]) -> None:
    """Do a job; stage 2 with the rate 0.5 can't go on."""
    if task.job.method == "fn2en" and task.recipe.stage2.lr == 0.5:
        raise StageStopped("the loss is nan")
    do_task(task, report)
