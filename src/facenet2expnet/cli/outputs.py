"""Where `fn2en predict` and `fn2en evaluate` write their results."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facenet2expnet.cli.summary import Summary, counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from facenet2expnet.data.pictures import Skipped
    from facenet2expnet.predict.results import FrameResult
    from facenet2expnet.predict.sources import Sources
    from facenet2expnet.predict.table import TableWriter
    from facenet2expnet.report.timeline import Timeline

    Sink = Callable[[FrameResult], object]


class Closed(Exception):
    """The window was closed: the work ends, and what was found is kept."""


@dataclass(eq=False)
class Outputs:
    """The outputs of `fn2en predict`; each takes every result.

    Attributes:
        table, drawn, timeline: files or, for drawings, a folder; None for none.
        show: whether drawings are shown in a window.
        smoothed: whether the table has the columns of the smoothed probabilities.
    """

    table: Path | None
    drawn: Path | None
    timeline: Path | None
    show: bool = False
    smoothed: bool = False
    _writer: TableWriter | None = field(init=False, default=None)
    _lines: Timeline | None = field(init=False, default=None)

    def check(self) -> None:
        """Raise UserError if an output can't be written."""
        from facenet2expnet.files import check_writable
        from facenet2expnet.predict.table import check_table_name

        if self.table:
            check_table_name(self.table)
            check_writable(skipped_path(self.table))
        in_folder = self.drawn and (self.drawn.is_dir() or not self.drawn.suffix)
        for path in (self.timeline, self.drawn / "a.png" if self.drawn and in_folder else self.drawn):
            if path:
                check_writable(path)

    def begin_timeline(self, sources: Sources) -> None:
        """Begin the timeline, if there is one.

        Raises:
            UserError: If there are several videos, or the picture would be taken for a source.
        """
        if self.timeline is None:
            return
        from facenet2expnet.errors import UserError
        from facenet2expnet.predict.sources import check_output
        from facenet2expnet.report.timeline import Timeline

        self._lines = Timeline(self.timeline)
        if self.timeline.suffix.lower() == ".png":  # .svg is never a source
            check_output(self.timeline, sources)
        videos = [source.name for source in sources if source.moving]
        if len(videos) > 1:
            first = ", ".join(videos[:3]) + (", ..." if len(videos) > 3 else "")
            raise UserError(
                f"{self.timeline}: a timeline shows one video, got {len(videos)} ({first}); draw them one by one"
            )

    @contextlib.contextmanager
    def opened(self, sources: Sources, classes: Sequence[str], summary: Summary) -> Iterator[list[Sink]]:
        """Open the outputs and yield what takes each result: the table first, so that a closed window loses no row."""
        sinks: list[Sink] = []
        with contextlib.ExitStack() as stack:
            drawing: Sink | None = None
            if self.drawn:  # what may refuse comes before the table, so that an old one is kept
                from facenet2expnet.predict.draw import DrawingWriter

                drawing = stack.enter_context(DrawingWriter(self.drawn, sources)).write
            window = stack.enter_context(_window()) if self.show else None
            if self.table:
                from facenet2expnet.predict.table import TableWriter

                self._writer = stack.enter_context(TableWriter(self.table, classes, smoothed=self.smoothed))
                sinks.append(self._writer.write)
                sinks.append(stack.enter_context(_skipped_list(skipped_path(self.table))))
            sinks.append(summary.add)
            if drawing:
                sinks.append(drawing)
            if self._lines:
                sinks.append(self._lines.add)
            if window:
                sinks.append(window)
            yield sinks

    def write_timeline(self) -> None:
        """Draw the timeline, if there is one and it has a face."""
        if self._lines and self._lines.faces:
            self._lines.write()

    def print(self, summary: Summary) -> None:
        """Print what was written."""
        from facenet2expnet.predict.sources import printable

        if self.drawn:
            print(f"drawn to {printable(str(self.drawn))}")
        if self.table and self._writer:
            if summary.interrupted:
                print(f"rows so far in {printable(str(self.table))}")
            print(*_written(self._writer.rows_written, summary.unread, self.table), sep="\n")
        if self._lines and self._lines.faces:
            print(f"timeline: {printable(str(self.timeline))}")
        elif self._lines:
            print(
                f"no timeline was drawn: {self.timeline} needs a video with faces, and there is none", file=sys.stderr
            )


@contextlib.contextmanager
def _skipped_list(path: Path) -> Iterator[Sink]:
    """Write what could not be read, with its reason, as it comes; no file if there is nothing."""
    import csv

    path.unlink(missing_ok=True)  # of an earlier call
    with contextlib.ExitStack() as stack:
        writer: Any = None

        def write(result: FrameResult) -> None:
            nonlocal writer
            if result.unread:
                if writer is None:
                    file = stack.enter_context(path.open("w", encoding="utf-8", errors="surrogateescape", newline=""))
                    writer = csv.writer(file, lineterminator="\n")
                    writer.writerow(["image", "reason"])
                writer.writerow([result.source, result.note])

        yield write


@contextlib.contextmanager
def _window() -> Iterator[Sink]:
    """A window of OpenCV that shows drawings.

    Raises:
        UserError: If this OpenCV has no windows, or there is no display.
    """
    import cv2

    from facenet2expnet.errors import UserError

    title = "fn2en"
    try:
        cv2.namedWindow(title, cv2.WINDOW_NORMAL)
    except cv2.error:
        raise UserError(
            "--show needs an OpenCV with windows and a display, and this one (opencv-python-headless) has none; "
            "use --draw OUT"
        ) from None

    def put(result: FrameResult) -> None:
        if result.pixels is not None:
            cv2.imshow(title, cv2.cvtColor(result.draw(), cv2.COLOR_RGB2BGR))
            if cv2.waitKey(1 if result.moving else 0) == ord("q"):
                raise Closed

    try:
        yield put
    finally:
        cv2.destroyWindow(title)


def write_table(table: pd.DataFrame, skipped: Sequence[Skipped], path: Path) -> list[str]:
    """Write a table in the format of its file name's ending, and the list of skipped images beside it.

    Returns:
        Lines that say what was written.
    """
    from facenet2expnet.data.pictures import write_skipped
    from facenet2expnet.files import atomic_path

    writers: dict[str, Callable[[Path], Any]] = {
        ".csv": partial(table.to_csv, index=False),
        ".json": partial(table.to_json, orient="records", indent=1, force_ascii=False),
        ".parquet": partial(table.to_parquet, index=False),
    }
    with atomic_path(path) as temporary:
        writers[path.suffix.lower()](temporary)
    skipped_path(path).unlink(missing_ok=True)  # of an earlier call
    if skipped:
        write_skipped(skipped, skipped_path(path))
    return _written(len(table), len(skipped), path)


def skipped_path(table: Path) -> Path:
    """The list of skipped images beside a table."""
    return table.with_name(f"{table.stem}.skipped.csv")


def _written(rows: int, skipped: int, path: Path) -> list[str]:
    """Lines that say that a table was written, and the list of skipped images beside it."""
    from facenet2expnet.predict.sources import printable

    lines = [f"{rows} row{'' if rows == 1 else 's'} written to {printable(str(path))}"]
    if skipped:
        lines.append(f"{counted(skipped, 'image')} skipped, listed in {printable(str(skipped_path(path)))}")
    return lines
