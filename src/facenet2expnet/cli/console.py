"""Progress on a terminal, plain lines elsewhere, and errors in one line."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeftColumn

from facenet2expnet.experiment.reporter import Reporter, Training, describe
from facenet2expnet.training.loop import EpochRecord

PLAIN_WIDTH = 140

out = Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
err = Console(stderr=True, highlight=False)

PLAIN_EVERY_S = 30.0


@contextmanager
def progress(quiet: bool = False) -> Iterator[Reporter]:
    """A reporter for a command: bars on a terminal, a line now and then elsewhere, nothing if quiet."""
    if quiet:
        yield Reporter()
    elif sys.stderr.isatty():
        bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(), TimeLeftColumn(), console=err, transient=True,
        )  # fmt: skip
        with bars:
            yield Bars(bars)
    else:
        yield Lines()


class Lines(Reporter):
    """Plain lines on standard error: every training, and how far the work is every half minute."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
        self.last = time.monotonic()

    def _seldom(self, text: str) -> None:
        if time.monotonic() - self.last > PLAIN_EVERY_S:
            self._say(text)

    def note(self, text: str) -> None:
        self._say(text)

    def faces(self, done: int, total: int) -> None:
        self._seldom(f"  faces read: {done:,} of {total:,}")

    def views(self, done: int, total: int) -> None:
        self._seldom(f"  teacher's features: {done:,} of {total:,} pictures")

    def begin(self, training: Training) -> None:
        self._say(_title(training))

    def epoch(self, training: Training, record: EpochRecord) -> None:
        say = self._say if record.epoch == record.epochs else self._seldom
        say(f"  {describe(record)}")

    def end(self, training: Training, accuracy: float | None) -> None:
        if accuracy is not None:
            self._say(f"  accuracy {accuracy:.1%} on the test part")


class Bars(Reporter):
    """Rich bars: all trainings above, the running one's epochs below."""

    def __init__(self, bars: Progress) -> None:
        self.bars = bars
        self.whole: TaskID | None = None
        self.part: TaskID | None = None

    def note(self, text: str) -> None:
        self.bars.console.print(text, markup=False)

    def faces(self, done: int, total: int) -> None:
        self._show("reading faces", done, total, "")

    def views(self, done: int, total: int) -> None:
        self._show("teacher's features", done, total, "pictures")

    def begin(self, training: Training) -> None:
        if self.whole is None:
            self.whole = self.bars.add_task("trainings", total=training.total, facts="")
        self.bars.update(self.whole, completed=training.number - 1)
        self._show(_title(training), 0, training.epochs, "")

    def epoch(self, training: Training, record: EpochRecord) -> None:
        rate = training.pictures / record.seconds if record.seconds else 0.0
        score = f", R2 {record.r2:.2f}" if record.r2 is not None else ""
        score = f", accuracy {record.accuracy:.0%}" if record.accuracy is not None else score
        facts = f"{record.stage} {record.epoch}/{record.epochs}, loss {record.loss:.3g}{score}, {rate:.0f}/s"
        if self.part is None:
            self._show(_title(training), 0, training.epochs, "")
        assert self.part is not None
        task = next(task for task in self.bars.tasks if task.id == self.part)
        if task.description != _title(training):
            self._show(_title(training), 0, training.epochs, "")
            assert self.part is not None
        self.bars.update(self.part, advance=1, facts=facts)

    def end(self, training: Training, accuracy: float | None) -> None:
        if self.whole is not None:
            self.bars.update(self.whole, completed=training.number)
        if accuracy is not None:
            self.note(f"{_title(training)}: accuracy {accuracy:.1%}")

    def _show(self, what: str, done: int, total: int, facts: str) -> None:
        """The lower bar tells of `what` from now on."""
        running = [task for task in self.bars.tasks if task.id == self.part]
        if not running or running[0].description != what:
            if self.part is not None:
                self.bars.remove_task(self.part)
            self.part = self.bars.add_task(what, total=total, facts=facts)
        assert self.part is not None
        self.bars.update(self.part, completed=done)


def _title(training: Training) -> str:
    return f"{training.method}, fold {training.fold} ({training.number} of {training.total})"
