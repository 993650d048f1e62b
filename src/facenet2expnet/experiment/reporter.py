"""What a run tells while it goes on; the command line shows it, the log file keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from facenet2expnet.training.loop import EpochRecord


@dataclass(frozen=True)
class Training:
    """One training of a run: which it is, of how many, and how large.

    Attributes:
        method: "scratch", "fine-tune" or "fn2en".
        fold: the fold's name.
        seed: its seed.
        number: 1 for the first.
        total: trainings in the run.
        pictures: in the training part.
        epochs: of all its stages.
    """

    method: str
    fold: str
    seed: int
    number: int
    total: int
    pictures: int
    epochs: int


class Reporter:
    """Told of everything; this one says nothing. Subclass it and override what is of interest."""

    def note(self, text: str) -> None:
        """A plain sentence."""

    def faces(self, done: int, total: int) -> None:
        """Pictures read and made ready."""

    def begin(self, training: Training) -> None:
        """A training begins."""

    def views(self, done: int, total: int) -> None:
        """Training pictures whose teacher's features are computed."""

    def epoch(self, training: Training, record: EpochRecord) -> None:
        """An epoch ended, or was found done by an earlier run."""

    def end(self, training: Training, accuracy: float | None) -> None:
        """A training ended; its accuracy on the test part."""


class LogFile(Reporter):
    """Writes log.txt beside telling another reporter.

    Args:
        path: appended to.
        other: told of everything as well.
    """

    def __init__(self, path: Path, other: Reporter) -> None:
        self.path, self.other = path, other

    def _write(self, text: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}\n")

    def note(self, text: str) -> None:
        self._write(text)
        self.other.note(text)

    def faces(self, done: int, total: int) -> None:
        self.other.faces(done, total)

    def begin(self, training: Training) -> None:
        self._write(
            f"training {training.number} of {training.total}: {training.method}, fold {training.fold}, "
            f"seed {training.seed}, {training.pictures} pictures"
        )
        self.other.begin(training)

    def views(self, done: int, total: int) -> None:
        self.other.views(done, total)

    def epoch(self, training: Training, record: EpochRecord) -> None:
        self._write(f"{training.method} {describe(record)}")
        self.other.epoch(training, record)

    def end(self, training: Training, accuracy: float | None) -> None:
        score = "" if accuracy is None else f", accuracy {accuracy:.1%} on the test part"
        self._write(f"{training.method}, fold {training.fold}, seed {training.seed} ended{score}")
        self.other.end(training, accuracy)


def describe(record: EpochRecord) -> str:
    """An epoch in a line."""
    parts = [f"{record.stage} epoch {record.epoch}/{record.epochs}", f"loss {record.loss:.4g}"]
    if record.accuracy is not None:
        parts.append(f"accuracy {record.accuracy:.1%}")
    if record.r2 is not None:
        parts.append(f"R2 {record.r2:.3f}")
    if record.inner is not None:
        parts.append(f"inner loss {record.inner:.4g}")
    return ", ".join([*parts, f"rate {record.lr:.3g}", f"{record.seconds:.1f} s"])
