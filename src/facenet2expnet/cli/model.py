"""fn2en predict."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facenet2expnet.cli.run import MODEL_FOLDERS, MODELS, Address, Device, Quiet
from facenet2expnet.cli.summary import Summary, counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from facenet2expnet.data.pictures import Skipped
    from facenet2expnet.predict.results import FrameResult
    from facenet2expnet.report.timeline import Timeline

ModelFolder = Annotated[str, typer.Argument(metavar="MODEL", help=f"Expected: {MODEL_FOLDERS}.")]
TableFile = Annotated[Path | None, typer.Option("--out", "-o", help="Write the table: .csv, .json or .parquet.")]
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
            help=f"MODEL: {MODELS}; by default standard. "
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
    min_probability: Annotated[
        float, typer.Option("--min-probability", help="Label faces whose best class has less than this uncertain.")
    ] = 0.0,
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
    max_megapixels: Annotated[
        float,
        typer.Option(
            "--max-megapixels", help="Larger pictures are skipped. Above 89, JPEG and JPEG 2000 are read reduced."
        ),
    ] = 1000.0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that read and look for faces. By default one a core.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(help="Of very many pictures, do one share, as 3/64; --out is a folder for the parts of all."),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="local: on this machine; ray: do all shards on the nodes of a Ray cluster, which must all see the "
            "pictures and --out, a folder, under one path."
        ),
    ] = "local",
    address: Address = None,
    shards: Annotated[
        int | None,
        typer.Option(min=1, help="With --engine ray: so many shards; 64, or those that --out was begun with."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="With --engine ray: at most so many shards at once, each on --workers CPUs, by default 1. By default "
            "as many as the cluster has CPUs for.",
        ),
    ] = None,
    jobs_per_gpu: Annotated[
        int, typer.Option("--jobs-per-gpu", min=1, help="With --engine ray: shards that share a GPU.")
    ] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="With --shard or --engine ray: keep the parts that are there.")
    ] = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Find the faces in pictures, videos or a webcam, and predict their expressions.

    Example: fn2en predict runs/mine holiday/ --out faces.csv --draw drawn/
    """
    from facenet2expnet.cli import console
    from facenet2expnet.cli.main import INTERRUPTED
    from facenet2expnet.errors import UserError
    from facenet2expnet.files import check_writable
    from facenet2expnet.predict.recognizer import Options, Recognizer
    from facenet2expnet.predict.sources import check_sources, is_camera, printable
    from facenet2expnet.predict.table import TableWriter, check_table_name

    in_shards = bool(shard) or engine != "local"
    if resume and not in_shards:
        raise UserError("--resume goes with --shard, as --shard 1/1")
    if engine == "local" and (shards, jobs, jobs_per_gpu, address) != (None, None, 1, None):
        raise UserError("--shards, --jobs, --jobs-per-gpu and --address go with --engine ray")
    if out and not in_shards:
        check_table_name(out)
        check_writable(skipped_path(out))
    drawn = draw / "a.png" if draw and (draw.is_dir() or not draw.suffix) else draw
    for other in filter(None, (timeline, drawn)):
        check_writable(other)
    model, sources = split_model(inputs)
    asked_s = _seconds(smooth)
    smooth_s = asked_s or (DRAWN_SMOOTH_S if track and (draw or timeline or show) else None)
    options = Options(
        faces=faces, detector=detector, min_face_px=min_face, min_score=min_score, min_probability=min_probability,
        every=every, detect_every=detect_every, track=track, smooth_s=smooth_s, allow_urls=allow_urls,
        max_megapixels=max_megapixels, workers=workers,
    )  # fmt: skip
    if in_shards:
        from facenet2expnet.cli.shards import predict_all, predict_one

        if draw or timeline or show or out is None:
            raise UserError(
                f"--{'shard' if shard else 'engine'} needs --out with a folder, and neither draws nor shows"
            )
        if engine == "local":
            predict_one(model, sources, out, str(shard), options, device=device, resume=resume, quiet=quiet)
            return
        from facenet2expnet.experiment.parallel import Parallel

        if shard:
            raise UserError(f"--shard is {shard}, and --engine {engine} does all shards: leave --shard out")
        parallel = Parallel(jobs, jobs_per_gpu=jobs_per_gpu, engine=engine, address=address)
        predict_all(model, sources, out, shards, options, parallel=parallel, device=device, resume=resume, quiet=quiet)
        return
    check_sources(sources, allow_urls=allow_urls)
    live = any(is_camera(source) for source in sources)
    lines = _timeline(timeline, sources)
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
    if lines and lines.faces:  # all files before anything is printed
        lines.write()
    summary.print(out, quiet)
    if draw:
        print(f"drawn to {printable(str(draw))}")
    if out:
        if interrupted:
            print(f"rows so far in {printable(str(out))}")
        print(*_written(writer.rows_written, summary.unread, out), sep="\n")
    if recognizer.contract.detector == "already-cropped" and faces != "whole-image" and summary.like_cut_outs:
        print("these look like cut-out faces; add --faces whole-image")
    if lines and lines.faces:
        print(f"timeline: {printable(str(timeline))}")
    elif lines:
        print(f"no timeline was drawn: {timeline} needs a video with faces, and there is none", file=sys.stderr)
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    if summary.lost:
        raise UserError(f"{summary.lost.image}: {summary.lost.reason}")
    if summary.skipped and not summary.read:
        named = counted(summary.unread, "source")
        raise UserError(f"nothing could be read of {named}; the first: {summary.skipped[0].reason}")
    if not summary.read:
        raise UserError("no frames were read")


def split_model(inputs: Sequence[str]) -> tuple[str | None, list[str]]:
    """Tell the model from the sources: it comes first; a folder, a run, an ONNX file, hf:owner/name or a shipped model.

    Raises:
        UserError: If the first input is neither a model nor a source, or there is no source.
    """
    from facenet2expnet.errors import UserError
    from facenet2expnet.predict.model_folder import SHIPPED_NAMES, is_model, on_hub
    from facenet2expnet.predict.onnx_model import is_onnx
    from facenet2expnet.predict.sources import check_sources, is_camera, is_url

    first, rest = inputs[0], list(inputs[1:])
    path = Path(first)
    if is_onnx(first) and not on_hub(first) and not path.is_file():
        raise UserError(f"{first}: there is no such ONNX file")
    named = on_hub(first) or (first in SHIPPED_NAMES and not path.exists())
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


def _timeline(path: Path | None, sources: Sequence[str]) -> Timeline | None:
    """The timeline to be filled.

    Raises:
        UserError: Before any work, if there are several videos, or the picture would be taken for a source.
    """
    if path is None:
        return None
    from facenet2expnet.errors import UserError
    from facenet2expnet.predict.sources import check_output, expand
    from facenet2expnet.report.timeline import Timeline

    timeline = Timeline(path)
    if path.suffix.lower() == ".png":  # .svg is never a source
        check_output(path, sources)
    videos = [source.name for source in expand(sources) if source.moving]
    if len(videos) > 1:
        first = ", ".join(videos[:3]) + (", ..." if len(videos) > 3 else "")
        raise UserError(f"{path}: a timeline shows one video, got {len(videos)} ({first}); draw them one by one")
    return timeline


@contextlib.contextmanager
def _skipped_list(path: Path) -> Iterator[Callable[[FrameResult], None]]:
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
