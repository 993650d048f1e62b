"""What `fn2en predict` shows on the terminal: the live view, the first rows, the counts."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from facenet2expnet.data.pictures import Skipped
    from facenet2expnet.predict.results import FrameResult

SHOWN = 40
"""Rows shown at most."""

BEST = 3
"""Classes shown for each face; a table of 8 classes, or of 150, is wider than a terminal."""

SKIPPED_SHOWN = 10
FILLS, MANY = 0.7, 0.8
"""A face box with so large a part of its picture's shorter side fills it; and so many pictures are nearly every one."""


class Summary:
    """What is printed at the end: the first rows, and what was found in all.

    Attributes:
        skipped: the first of what could not be read, and why; `unread` counts all.
        lost: a camera that is not there, or gave no more frames.
        interrupted: whether Ctrl-C ended the work before its end.
    """

    def __init__(self) -> None:
        self.first: list[FrameResult] = []
        self.skipped: list[Skipped] = []
        self.lost: Skipped | None = None
        self.interrupted = False
        self.read = self.faces = self.rows = self.without = self.moving = self.unread = 0
        self.found = self.filled = self.empty = 0  # pictures with a found face, those that it fills, those without
        self.labels: Counter[str] = Counter()
        self.times: deque[float] = deque(maxlen=30)
        self.last: FrameResult | None = None

    def add(self, result: FrameResult) -> None:
        """Count a result; its pixels are not kept."""
        import dataclasses

        from facenet2expnet.data.pictures import Skipped
        from facenet2expnet.predict.sources import is_camera

        if result.pixels is not None and not result.moving:
            self._compare_size(result, min(result.pixels.shape[:2]))
        result = dataclasses.replace(result, pixels=None)
        self.last = result
        self.times.append(time.monotonic())
        if result.unread:
            self.unread += 1
            skipped = Skipped(result.source, result.note)
            self.skipped = [*self.skipped, skipped][:SKIPPED_SHOWN]
            self.lost = skipped if is_camera(result.source) else self.lost
        else:
            self.read += 1
            self.without += not result.faces
            self.moving += result.moving
        self.faces += len(result.faces)
        self.rows += max(1, len(result.faces))
        self.labels.update(result.labels)
        if not result.unread and sum(max(1, len(one.faces)) for one in self.first) < SHOWN:
            self.first.append(result)

    def _compare_size(self, result: FrameResult, shorter_px: int) -> None:
        """Count a picture whose largest face fills it; the faces of a face store were not looked for."""
        if not result.faces:
            self.empty += 1
        elif (face := result.faces[0]).detection_score == face.detection_score:  # not NaN
            self.found += 1
            box = face.box_xyxy_px
            self.filled += bool(max(box[2:] - box[:2]) >= FILLS * shorter_px)

    @property
    def like_cut_outs(self) -> bool:
        """Whether the pictures may be cut-out faces: most have no face, or nearly every face fills its picture."""
        return self.empty > self.found or (self.found > 0 and self.filled >= MANY * self.found)

    @property
    def per_second(self) -> float:
        """Frames a second, of the last thirty."""
        return (len(self.times) - 1) / (self.times[-1] - self.times[0]) if len(self.times) > 1 else 0.0

    def live_table(self) -> Table:
        """The faces of the newest frame, for a terminal."""
        from rich.table import Table
        from rich.text import Text

        result = self.last
        title = f"{result.source}  {result.time_s:.1f} s  {self.per_second:.1f} frames/s" if result else "waiting"
        table = Table(title=Text(title), caption="Ctrl-C ends", title_justify="left", caption_justify="left")
        for name in ("person", "expression", "probability", ""):
            table.add_column(name, justify="right" if name == "probability" else "left")
        for face, label in zip(result.faces, result.labels, strict=True) if result else ():
            share = float(face.probabilities.max())
            table.add_row(f"#{face.track or ''}", Text(label), f"{share:.0%}", "█" * round(20 * share))
        if result and not result.faces:
            table.add_row("", Text(result.note), "", "")
        return table

    def print(self, out: Path | None, quiet: bool) -> None:
        """Print the pictures that could not be read, the first rows, and the counts."""
        from facenet2expnet.cli import console

        for skipped in self.skipped:
            print(f"skipped {skipped.image}: {skipped.reason}")
        if self.unread > len(self.skipped):
            print(f"... and {self.unread - len(self.skipped)} more skipped")
        if self.read and (not quiet or not out):
            table = _as_text(self.first)
            console.out.print(table)
            rows = self.rows - self.unread
            if rows > table.row_count:
                print(f"... and {rows - table.row_count} more{'' if out else '; --out writes all of them'}")
            classes = self.first[0].classes
            if len(classes) > BEST and self.faces:
                rest = "the file has all" if out else "--out writes all"
                print(f"the {BEST} most probable of {len(classes)} classes; {rest}")
        parts = [
            counted(self.read - self.moving, "picture"),
            counted(self.moving, "frame"),
            counted(self.faces, "face"),
        ]
        labels = ", ".join(f"{label} {count}" for label, count in self.labels.most_common())
        print(", ".join(filter(None, parts)) + (f": {labels}" if labels else ""))
        if self.without:
            print(f"without a face: {self.without} (in the table with a note)")

    def check(self) -> None:
        """Raise UserError if a camera was lost or nothing could be read."""
        from facenet2expnet.errors import UserError

        if self.lost:
            raise UserError(f"{self.lost.image}: {self.lost.reason}")
        if self.skipped and not self.read:
            named = counted(self.unread, "source")
            raise UserError(f"nothing could be read of {named}; the first: {self.skipped[0].reason}")
        if not self.read:
            raise UserError("no frames were read")


@contextlib.contextmanager
def live_view(live: bool, summary: Summary) -> Iterator[Callable[[], None]]:
    """A view of a camera's faces on a terminal; a line now and then elsewhere."""
    from rich.live import Live

    from facenet2expnet.cli import console

    if not live:
        yield lambda: None
    elif console.err.is_terminal:
        with Live(console=console.err, refresh_per_second=8, get_renderable=summary.live_table):
            yield lambda: None
    else:
        last = time.monotonic()

        def say() -> None:
            nonlocal last
            if time.monotonic() - last > 2 and summary.last:
                last = time.monotonic()
                found = ", ".join(summary.last.labels) or summary.last.note
                print(f"{summary.last.time_s:.1f} s, {summary.per_second:.1f} frames/s: {found}", flush=True)

        yield say


def counted(number: int, what: str) -> str:
    """2, "face" -> "2 faces"; empty for none."""
    return f"{number} {what}{'' if number == 1 else 's'}" if number else ""


def _as_text(results: Sequence[FrameResult]) -> Table:
    """The first faces for a terminal of 80 columns: file, time and track of a video, box, most probable classes.

    pandas is not needed: a short command would spend half of its time on loading it.
    """
    from rich.table import Table
    from rich.text import Text

    from facenet2expnet.predict.sources import readable

    moving = any(result.time_s > 0 or any(face.track for face in result.faces) for result in results)
    best = min(BEST, len(results[0].classes))
    table = Table()
    for name in ("source", *(("time, s", "track") if moving else ()), "face", "expression"):
        table.add_column(name, justify="left" if name == "source" else "right")
    for place in range(2, best + 1):
        table.add_column(f"{place}.", justify="right")
    for result in results:
        start = [Path(result.source).name or result.source, *([f"{result.time_s:.2f}"] if moving else [])]
        rows: list[list[str]] = [] if result.faces else [[*start, *([""] if moving else []), "", result.note]]
        for face, label in zip(result.faces, result.labels, strict=True):
            left, top, right, _ = face.box_xyxy_px * result.reduced
            order = face.probabilities.argsort(kind="stable")[::-1][:best]
            names = [label, *(result.classes[number] for number in order[1:])]
            shown = [f"{name} {face.probabilities[number]:.0%}" for name, number in zip(names, order, strict=True)]
            track = [f"#{face.track}" if face.track else ""] if moving else []
            rows.append([*start, *track, f"{right - left:.0f} px at {left:.0f}, {top:.0f}", *shown])
        for row in rows[: SHOWN - table.row_count]:
            table.add_row(*(Text(readable(cell)) for cell in row))
    return table
