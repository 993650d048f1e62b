"""Train all stages and be killed: what the processes of test_resume.py run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tiny_training import context, faces

import tiny
from facenet2expnet.nets import storage
from facenet2expnet.training import loop, stages
from facenet2expnet.training.classify import ClassifyStage, Stage2
from facenet2expnet.training.distil import DistilStage

SETTINGS = ("fine_tune.optimiser=sgd", "fine_tune.epochs=3", "fine_tune.mixup=0.4", "stage1.epochs=3")
SETTINGS += ("stage1.patience=2", "stage2.epochs=4", "stage2.patience=2")


def arm(where: str, count: int) -> None:
    """Kill this process when training comes to a place for the count-th time."""
    passed = 0

    def comes_to(place: str) -> bool:
        nonlocal passed
        passed += place == where
        return place == where and passed == count

    def before(owner: Any, name: str, place: Callable[[Any], str]) -> None:
        original = getattr(owner, name)

        def wrapped(self: Any, *given: Any) -> Any:
            if comes_to(place(self)):
                os.kill(os.getpid(), signal.SIGKILL)
            return original(self, *given)

        setattr(owner, name, wrapped)

    for stage in (ClassifyStage, Stage2, DistilStage):
        before(stage, "loss", lambda stage: f"loss:{stage.name}")
    before(Path, "rename", lambda path: "views" if path.name.startswith("views-") else "")
    save = storage.save_file

    def save_half(tensors: Any, path: Path, **named: Any) -> None:
        save(tensors, path, **named)
        if comes_to("write"):
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    storage.save_file = save_half


def train(folder: Path, where: str = "", count: int = 1, settings: Sequence[str] = ()) -> None:
    """Train all stages, or go on with them, and write `folder`/model.safetensors.

    Args:
        where: "loss:STAGE" (in a step), "views" (the teacher's views are computed, their folder has no name yet) or
            "write" (in the middle of writing a checkpoint): there the process kills itself with SIGKILL.
        count: the visit at which it does so.
    """
    torch.set_num_threads(1)
    loop.SECONDS_BETWEEN_CHECKPOINTS = -1.0
    tiny.register_tiny()
    arm(where, count)
    data = faces(validation=faces([0, 1, 2, 0], seed=2))
    setting = context(*SETTINGS, *settings)
    teacher = stages.fine_tune(data, setting, folder / "teacher")
    model = stages.fn2en(data, teacher, setting, folder)
    storage.write_tensors(folder / "model.safetensors", model.state_dict(), {})
