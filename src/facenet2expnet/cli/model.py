"""fn2en predict."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facenet2expnet.cli.outputs import Closed, Outputs
from facenet2expnet.cli.run import MODEL_FOLDERS, MODELS, Address, Device, Quiet
from facenet2expnet.cli.summary import Summary, live_view

if TYPE_CHECKING:
    from facenet2expnet.predict.options import Options
    from facenet2expnet.predict.recognizer import Recognizer
    from facenet2expnet.predict.sources import Sources

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
        float, typer.Option("--min-probability", help="Label a face uncertain if its best class is less probable.")
    ] = 0.0,
    every: Annotated[
        str | None, typer.Option(help="In videos, use a frame every 0.2s, or every fifth frame, 5f.")
    ] = None,
    detect_every: Annotated[
        int,
        typer.Option("--detect-every", min=1, help="Look for faces in every N-th frame only; boxes stay in between."),
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
            "--max-megapixels", help="Skip larger pictures. Above 89, JPEG and JPEG 2000 are read at a smaller size."
        ),
    ] = 1000.0,
    reduce: Annotated[
        bool,
        typer.Option(
            "--reduce", help="Decode JPEG files at up to 1/8 of their size, as --min-face allows: faster, less exact."
        ),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that read and look for faces. By default one per core.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(help="Process one share of very many pictures, such as 3/64; --out is a folder for all shares."),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="local: this machine; ray: process all shards on a Ray cluster, whose nodes must all see the pictures "
            "and the folder --out under the same path."
        ),
    ] = "local",
    address: Address = None,
    shards: Annotated[
        int | None,
        typer.Option(min=1, help="With --engine ray: number of shards. By default 64, or that of an unfinished --out."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="With --engine ray: shards to run at once; by default as many as fit. Each uses --workers CPUs, or 1.",
        ),
    ] = None,
    jobs_per_gpu: Annotated[
        int, typer.Option("--jobs-per-gpu", min=1, help="With --engine ray: shards that share one GPU.")
    ] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="With --shard or --engine ray: keep finished parts and go on.")
    ] = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Find the faces in pictures, videos or a webcam, and predict their expressions.

    Example: fn2en predict runs/mine holiday/ --out faces.csv --draw drawn/
    """
    from facenet2expnet.cli.main import INTERRUPTED
    from facenet2expnet.errors import UserError
    from facenet2expnet.predict.options import Options
    from facenet2expnet.predict.recognizer import Recognizer
    from facenet2expnet.predict.sources import check_sources

    in_shards = bool(shard) or engine != "local"
    if resume and not in_shards:
        raise UserError("--resume needs --shard (on one machine --shard 1/1) or --engine ray")
    if engine == "local" and (shards, jobs, jobs_per_gpu, address) != (None, None, 1, None):
        raise UserError("--shards, --jobs, --jobs-per-gpu and --address go with --engine ray")
    if reduce and min_face is None:
        raise UserError("--reduce needs --min-face, the smallest face: it says how far pictures may be reduced")
    if reduce and (draw or show):
        raise UserError("--reduce excludes --draw and --show, which need the whole picture")
    asked_s = _seconds(smooth)
    model, sources = split_model(inputs)
    options = Options(
        faces=faces, detector=detector, min_face_px=min_face, min_score=min_score, min_probability=min_probability,
        every=every, detect_every=detect_every, track=track, allow_urls=allow_urls, max_megapixels=max_megapixels,
        reduce=reduce,
        smooth_s=asked_s or (DRAWN_SMOOTH_S if track and (draw or timeline or show) else None), workers=workers,
    )  # fmt: skip
    if in_shards:
        from facenet2expnet.cli.shards import predict_all, predict_one

        if draw or timeline or show or out is None:
            raise UserError(
                "--shard and --engine ray need a folder as --out, and exclude --draw, --timeline and --show"
            )
        how: dict[str, Any] = {"device": device, "resume": resume, "quiet": quiet}
        if shard and engine == "local":
            return predict_one(model, sources, out, shard, options, **how)
        from facenet2expnet.experiment.parallel import Parallel  # loads PyTorch

        if shard:
            raise UserError(f"--shard is {shard}, and --engine {engine} does all shards: leave --shard out")
        parallel = Parallel(jobs, jobs_per_gpu=jobs_per_gpu, engine=engine, address=address)
        return predict_all(model, sources, out, shards, options, parallel=parallel, **how)
    outputs = Outputs(out, draw, timeline, show, smoothed=asked_s is not None)
    outputs.check()
    listed = check_sources(sources, allow_urls=allow_urls)
    outputs.begin_timeline(listed)
    recognizer = Recognizer.load(model, device)
    summary = _stream(recognizer, listed, options, outputs, quiet=quiet)
    outputs.write_timeline()  # all files before anything is printed
    summary.print(out, quiet)
    outputs.print(summary)
    if recognizer.contract.detector == "already-cropped" and faces != "whole-image" and summary.like_cut_outs:
        print("these look like cut-out faces; add --faces whole-image")
    if summary.interrupted:
        raise typer.Exit(INTERRUPTED)
    summary.check()


def _stream(recognizer: Recognizer, sources: Sources, options: Options, outputs: Outputs, *, quiet: bool) -> Summary:
    """Give every result to all outputs; Ctrl-C and a closed window end it, and what was found is kept."""
    from facenet2expnet.cli import console

    summary, live = Summary(), any(source.kind == "camera" for source in sources)
    with console.progress(quiet, bar=not live) as display, contextlib.ExitStack() as stack:
        progress = None if live else display.of("pictures and frames")
        results = stack.enter_context(contextlib.closing(recognizer.stream(sources, options, progress=progress)))
        sinks = stack.enter_context(outputs.opened(sources, recognizer.classes, summary))
        view = stack.enter_context(live_view(live and not quiet, summary))
        try:
            for result in results:
                for sink in sinks:
                    sink(result)
                view()
        except Closed:
            pass
        except KeyboardInterrupt:  # the usual end of a camera
            summary.interrupted = not live
    return summary


def split_model(inputs: Sequence[str]) -> tuple[str | None, list[str]]:
    """Tell the model from the sources: it comes first; a folder, a run, an ONNX file, hf:owner/name or a shipped model.

    Raises:
        UserError: If the first input is neither a model nor a source, or there is no source.
    """
    from facenet2expnet.errors import UserError
    from facenet2expnet.predict.model_folder import SHIPPED_NAMES, is_model, on_hub
    from facenet2expnet.predict.onnx_model import is_onnx
    from facenet2expnet.predict.sources import is_camera, is_url

    first, rest = inputs[0], list(inputs[1:])
    path = Path(first)
    if is_onnx(first) and not on_hub(first) and not path.is_file():
        raise UserError(f"{first}: there is no such ONNX file")
    named = on_hub(first) or (first in SHIPPED_NAMES and not path.exists())
    if named or (path.exists() and is_model(path)):
        if not rest:
            raise UserError(f"{first} is a model; name pictures, a video or webcam after it")
        return first, rest
    pattern = any(sign in first for sign in "*?[")
    if not path.exists() and not is_camera(first) and not is_url(first) and not pattern:
        raise UserError(f"{first}: there is no such model folder, picture, folder or video")
    return None, list(inputs)


def _seconds(text: str | None) -> float | None:
    from facenet2expnet.errors import UserError

    try:
        return None if text is None else float(text.strip().removesuffix("s"))
    except ValueError:
        raise UserError(f"--smooth is '{text}', expected a time as 0.5s") from None
