"""Train, and be killed: `victim.py DATA OUT resume|new WHERE COUNT [SETTING ...]`, used by test_resume.py.

WHERE is "loss:STAGE" (in a step), "views" (when the teacher's features are computed and not yet named), "write" (in
the middle of writing a checkpoint) or "never"; the process kills itself with SIGKILL when it comes there for the
COUNT-th time.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

import tiny
from facenet2expnet.experiment.run import Machine, train
from facenet2expnet.nets import storage
from facenet2expnet.training import loop, stages, teacher


class Killer:
    """Counts down and kills."""

    def __init__(self, where: str, count: int) -> None:
        self.where, self.left = where, count

    def at(self, place: str) -> None:
        if place == self.where:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def arm(killer: Killer) -> None:
    """Put the killer where training passes."""

    def before(owner: Any, name: str, place: Callable[[Any], str]) -> None:
        original = getattr(owner, name)

        def wrapped(self: Any, *args: Any, **named: Any) -> Any:
            killer.at(place(self))
            return original(self, *args, **named)

        setattr(owner, name, wrapped)

    for kind in (stages.Classification, stages.Regression):
        before(kind, "loss", lambda self: f"loss:{self.name}")
    before(storage, "save_file", lambda _: "write")
    before(teacher._Files, "__exit__", lambda _: "views")


if __name__ == "__main__":
    data, out, mode, where, count, *more = sys.argv[1:]
    torch.set_num_threads(1)
    loop.SECONDS_BETWEEN_CHECKPOINTS = 0.0
    tiny.register_tiny()
    arm(Killer(where, int(count)))
    settings = ["stage1.ema_decay=0.5", "fine_tune.optimiser=sgd", "fine_tune.epochs=3", "stage1.epochs=3"]
    settings += ["fine_tune.mixup=0.4", "stage1.patience=2", "stage2.patience=2", "stage2.epochs=4"]
    train(
        data,
        recipe=tiny.tiny_recipe(*settings, *more),
        out=out,
        machine=Machine("cpu", 1),
        resume=mode == "resume",
    )
