"""fn2en predict."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facenet2expnet.cli.run import Device, Quiet

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from rich.table import Table

    from facenet2expnet.data.pictures import Skipped
    from facenet2expnet.predict.results import FrameResult
    from facenet2expnet.report.timeline import Timeline

ModelFolder = Annotated[Path, typer.Argument(help="A model folder, or a run folder with one model.")]
TableFile = Annotated[Path | None, typer.Option("--out", "-o", help="Write the table: .csv, .json or .parquet.")]
SHOWN = 40
SKIPPED_SHOWN = 10
FILLS, MANY = 0.7, 0.8
"""A face box with so large a part of its picture's shorter side fills it; and so many pictures are nearly every one."""

DRAWN_SMOOTH_S = 0.5
"""Time constant of the smoothing in drawings and timelines, unless --smooth names another."""


def add(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command()(predict)


def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] SOURCE...",
            help="MODEL: a model folder, a run or an ONNX file; no model is shipped yet, so name one. "
            "SOURCE: pictures, folders, patterns, lists (.txt), videos, webcam or camera:1.",
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the table: .csv, .jsonl or .parquet.")] = None,
    faces: Annotated[
        str | None, typer.Option(help="all, largest, or whole-image: each picture is one cut-out face.")
    ] = None,
    detector: Annotated[str | None, typer.Option(help="mtcnn, viola-jones or dlib68.")] = None,
    min_face: Annotated[
        float | None,
        typer.Option("--min-face", help="Smallest face in pixels. Default: 1/64 of the longer side, 1/32 in videos."),
    ] = None,
    min_score: Annotated[
        float | None, typer.Option("--min-score", help="Leave out faces with a lower detection score; mtcnn: 0.9.")
    ] = None,
    every: Annotated[str | None, typer.Option(help="Of videos: a frame each 0.2s, or every fifth, 5f.")] = None,
    detect_every: Annotated[
        int, typer.Option("--detect-every", min=1, help="Look for faces in every N-th frame; boxes stay in between.")
    ] = 1,
    track: Annotated[bool, typer.Option("--track/--no-track", help="Number the people of a video.")] = True,
    smooth: Annotated[
        str | None, typer.Option(help="Add columns averaged over time, with this time constant: 0.5s.")
    ] = None,
    draw: Annotated[
        Path | None, typer.Option(help="Write annotated pictures and videos: a folder, a picture, or .mp4.")
    ] = None,
    timeline: Annotated[
        Path | None, typer.Option(help="Draw a video's classes over time: .svg or .png; numbers in NAME.timeline.csv.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Show drawings in a window; q closes it.")] = False,
    allow_urls: Annotated[bool, typer.Option("--allow-urls", help="Download sources that are web addresses.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that read and look for faces. By default one a core.")
    ] = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Find the faces in pictures, videos or a webcam, and predict their expressions.

    Example: fn2en predict runs/mine holiday/ --out faces.csv --draw drawn/
    """
    from facenet2expnet.cli import console
    from facenet2expnet.cli.main import INTERRUPTED
    from facenet2expnet.errors import UserError
    from facenet2expnet.predict.recognizer import Options, Recognizer
    from facenet2expnet.predict.sources import check_sources, is_camera, printable
    from facenet2expnet.predict.table import TableWriter, check_table_name

    if out:
        check_table_name(out)
    model, sources = split_model(inputs)
    asked_s = _seconds(smooth)
    smooth_s = asked_s or (DRAWN_SMOOTH_S if track and (draw or timeline or show) else None)
    options = Options(
        faces=faces, detector=detector, min_face_px=min_face, min_score=min_score, every=every,
        detect_every=detect_every, track=track, smooth_s=smooth_s, allow_urls=allow_urls, workers=workers,
    )  # fmt: skip
    check_sources(sources, allow_urls=allow_urls)
    live = any(is_camera(source) for source in sources)
    lines = _timeline(timeline)
    recognizer, summary, interrupted = Recognizer.load(model, device), Summary(), False
    with console.progress(quiet, bar=not live) as display, contextlib.ExitStack() as stack:
        sinks = [summary.add, *_sinks(draw, sources, lines, show, stack)]
        progress = None if live else display.of("pictures and frames")
        results = stack.enter_context(contextlib.closing(recognizer.stream(sources, options, progress=progress)))
        if out:
            writer = stack.enter_context(TableWriter(out, recognizer.classes, smoothed=asked_s is not None))
            sinks = [writer.write, stack.enter_context(_skipped_list(skipped_path(out))), *sinks]
        view = stack.enter_context(_live_view(live and not quiet, summary))
        try:
            for result in results:
                for sink in sinks:
                    sink(result)
                view()
        except _Closed:
            pass
        except KeyboardInterrupt:  # the usual end of a camera
            interrupted = not live
    summary.print(out, quiet)
    if draw:
        print(f"drawn to {printable(str(draw))}")
    if out:
        if interrupted:
            print(f"rows so far in {printable(str(out))}")
        _say_written(writer.rows_written, summary.unread, out)
    if recognizer.contract.detector == "already-cropped" and faces != "whole-image" and summary.like_cut_outs:
        print("these look like cut-out faces; add --faces whole-image")
    if lines and lines.faces:
        lines.write()
        print(f"timeline: {timeline}")
    elif lines:
        print(f"no timeline was drawn: {timeline} needs a video with faces, and there is none", file=sys.stderr)
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    if summary.lost:
        raise UserError(f"{summary.lost.image}: {summary.lost.reason}")
    if summary.skipped and not summary.read:
        named = _count(summary.unread, "source")
        raise UserError(f"nothing could be read of {named}; the first: {summary.skipped[0].reason}")
    if not summary.read:
        raise UserError("no frames were read")


def split_model(inputs: Sequence[str]) -> tuple[str | None, list[str]]:
    """Tell the model from the sources: it comes first; a model or run folder, an ONNX file, or a shipped model's name.

    Raises:
        UserError: If the first input is neither a model nor a source, or there is no source.
    """
    from facenet2expnet.errors import UserError
    from facenet2expnet.predict.model_folder import SHIPPED_NAMES, is_model
    from facenet2expnet.predict.onnx_model import is_onnx
    from facenet2expnet.predict.sources import check_sources, is_camera, is_url

    first, rest = inputs[0], list(inputs[1:])
    if first.startswith("hf:"):
        raise UserError(
            f"{first}: models on Hugging Face can't be used for prediction yet; give a model folder or a run"
        )
    path = Path(first)
    if is_onnx(first) and not path.is_file():
        raise UserError(f"{first}: there is no such ONNX file")
    named = first in SHIPPED_NAMES and not path.exists()
    if named or (path.exists() and is_model(path)):
        if not rest:
            raise UserError(f"{first} is a model; name pictures, a video or webcam after it")
        return first, rest
    if not path.exists() and not is_camera(first) and not is_url(first):
        try:
            check_sources([first])
        except UserError:
            raise UserError(f"{first}: there is no such model folder, picture, folder or video") from None
    return None, list(inputs)


class Summary:
    """What is printed at the end: the first rows, and what was found in all.

    Attributes:
        skipped: the first of what could not be read, and why; `unread` counts all.
        lost: a camera that is not there, or gave no more frames.
    """

    def __init__(self) -> None:
        self.first: list[FrameResult] = []
        self.skipped: list[Skipped] = []
        self.lost: Skipped | None = None
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
        if sum(max(1, len(one.faces)) for one in self.first) < SHOWN:
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

        result = self.last
        title = f"{result.source}  {result.time_s:.1f} s  {self.per_second:.1f} frames/s" if result else "waiting"
        table = Table(title=title, caption="Ctrl-C ends", title_justify="left", caption_justify="left")
        for name in ("person", "expression", "probability", ""):
            table.add_column(name, justify="right" if name == "probability" else "left")
        for face, label in zip(result.faces, result.labels, strict=True) if result else ():
            share = float(face.probabilities.max())
            table.add_row(f"#{face.track or ''}", label, f"{share:.0%}", "█" * round(20 * share))
        if result and not result.faces:
            table.add_row("", result.note, "", "")
        return table

    def print(self, out: Path | None, quiet: bool) -> None:
        """Print the pictures that could not be read, the first rows, and the counts."""
        from facenet2expnet.cli import console

        for skipped in self.skipped:
            print(f"skipped {skipped.image}: {skipped.reason}")
        if self.unread > len(self.skipped):
            print(f"... and {self.unread - len(self.skipped)} more skipped")
        if self.read and (not quiet or not out):
            table = _as_text([result for result in self.first if not result.unread])
            console.out.print(table)
            rows = self.rows - self.unread
            if rows > table.row_count:
                print(f"... and {rows - table.row_count} more{'' if out else '; --out writes all of them'}")
        counted = [_count(self.read - self.moving, "picture"), _count(self.moving, "frame"), _count(self.faces, "face")]
        labels = ", ".join(f"{label} {count}" for label, count in self.labels.most_common())
        print(", ".join(filter(None, counted)) + (f": {labels}" if labels else ""))
        if self.without:
            print(f"without a face: {self.without} (in the table with a note)")


def _sinks(
    draw: Path | None, sources: Sequence[str], lines: Timeline | None, show: bool, stack: contextlib.ExitStack
) -> list[Callable[[FrameResult], object]]:
    """What takes every result, apart from the table; `stack` closes it."""
    sinks: list[Callable[[FrameResult], object]] = []
    if draw:
        from facenet2expnet.predict.draw import DrawingWriter

        sinks.append(stack.enter_context(DrawingWriter(draw, sources)).write)
    if lines:
        sinks.append(lines.add)
    if show:
        sinks.append(stack.enter_context(_window()))
    return sinks


def _timeline(path: Path | None) -> Timeline | None:
    if path is None:
        return None
    from facenet2expnet.report.timeline import Timeline

    return Timeline(path)


@contextlib.contextmanager
def _skipped_list(path: Path) -> Iterator[Callable[[FrameResult], None]]:
    """Write what could not be read, with its reason, as it comes; no file if there is nothing."""
    import csv

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


class _Closed(Exception):
    """The window was closed: the work ends, and what was found is kept."""


@contextlib.contextmanager
def _window() -> Iterator[Callable[[FrameResult], None]]:
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
                raise _Closed

    try:
        yield put
    finally:
        cv2.destroyWindow(title)


@contextlib.contextmanager
def _live_view(live: bool, summary: Summary) -> Iterator[Callable[[], None]]:
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


def _seconds(text: str | None) -> float | None:
    from facenet2expnet.errors import UserError

    try:
        return None if text is None else float(text.strip().removesuffix("s"))
    except ValueError:
        raise UserError(f"--smooth is '{text}', expected a time as 0.5s") from None


def write_table(table: pd.DataFrame, skipped: Sequence[Skipped], path: Path) -> None:
    """Write a table in the format of its file name's ending, and the list of skipped images beside it."""
    from facenet2expnet.data.pictures import write_skipped
    from facenet2expnet.files import atomic_path

    writers: dict[str, Callable[[Path], Any]] = {
        ".csv": partial(table.to_csv, index=False),
        ".json": partial(table.to_json, orient="records", indent=1, force_ascii=False),
        ".parquet": partial(table.to_parquet, index=False),
    }
    with atomic_path(path) as temporary:
        writers[path.suffix.lower()](temporary)
    if skipped:
        write_skipped(skipped, skipped_path(path))
    _say_written(len(table), len(skipped), path)


def skipped_path(table: Path) -> Path:
    """The list of skipped images beside a table."""
    return table.with_name(f"{table.stem}.skipped.csv")


def _say_written(rows: int, skipped: int, path: Path) -> None:
    """Say that a table was written, and the list of skipped images beside it."""
    from facenet2expnet.predict.sources import printable

    print(f"{rows} row{'' if rows == 1 else 's'} written to {printable(str(path))}")
    if skipped:
        print(f"{_count(skipped, 'image')} skipped, listed in {printable(str(skipped_path(path)))}")


def _count(number: int, what: str) -> str:
    """2, "face" -> "2 faces"; empty for none."""
    return f"{number} {what}{'' if number == 1 else 's'}" if number else ""


def _as_text(results: Sequence[FrameResult]) -> Table:
    """The first faces for a terminal: file name, time and track of a video, box, class, all classes in percent.

    pandas is not needed: a short command would spend half of its time on loading it.
    """
    from rich.table import Table
    from rich.text import Text

    from facenet2expnet.predict.sources import readable

    moving = any(result.time_s > 0 or any(face.track for face in result.faces) for result in results)
    classes = results[0].classes
    table = Table()
    for name in ("source", *(("time, s", "track") if moving else ()), "face", "expression", *classes):
        table.add_column(Text(readable(name)), justify="left" if name == "source" else "right")
    for result in results:
        start = [Path(result.source).name or result.source]
        time_s = [f"{result.time_s:.2f}"] if moving else []
        rows: list[list[str]] = [] if result.faces else [[*start, *time_s, *([""] if moving else []), "", result.note]]
        for face, label in zip(result.faces, result.labels, strict=True):
            left, top, right, bottom = face.box_xyxy_px
            track = [f"#{face.track}" if face.track else ""] if moving else []
            box = f"{right - left:.0f} x {bottom - top:.0f} at {left:.0f}, {top:.0f}"
            rows.append([*start, *time_s, *track, box, label, *(f"{p:.0%}" for p in face.probabilities)])
        for row in rows[: SHOWN - table.row_count]:
            table.add_row(*(Text(readable(cell)) for cell in row))
    return table
