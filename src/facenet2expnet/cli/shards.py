"""fn2en predict --shard and --engine ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from facenet2expnet.experiment.parallel import Parallel
    from facenet2expnet.predict.options import Options
    from facenet2expnet.predict.shards import ShardResult


def predict_one(
    model: str | None,
    sources: Sequence[str],
    folder: Path,
    text: str,
    options: Options,
    *,
    device: str,
    resume: bool,
    quiet: bool,
) -> None:
    """Predict one shard and print what was done and what is missing."""
    from facenet2expnet.cli import console
    from facenet2expnet.predict.recognizer import Recognizer
    from facenet2expnet.predict.shards import Shard, predict_shard

    shard, recognizer = Shard.parse(text), Recognizer.load(model, device)
    with console.progress(quiet) as display:
        progress = display.of(f"shard {shard}")
        done = predict_shard(recognizer, sources, folder, shard, options, resume=resume, progress=progress)
    _print(f"shard {shard}", done, folder)


def predict_all(
    model: str | None,
    sources: Sequence[str],
    folder: Path,
    count: int | None,
    options: Options,
    *,
    parallel: Parallel,
    device: str,
    resume: bool,
    quiet: bool,
) -> None:
    """Predict all shards side by side and print what was done."""
    from dataclasses import replace

    from facenet2expnet.cli import console
    from facenet2expnet.experiment.workers import sigterm_interrupts
    from facenet2expnet.predict.recognizer import Recognizer
    from facenet2expnet.predict.shards import ShardTask, do_shard, predict_shards

    threads, compute = options.workers or 1, parallel.device(device)
    task = ShardTask(model, compute.type, tuple(sources), folder, replace(options, workers=threads))
    with console.progress(quiet) as display, sigterm_interrupts():
        workers = parallel.workers(do_shard, folder, compute, threads)
        done = predict_shards(Recognizer.load(model, "cpu"), task, count, workers, resume=resume, progress=display)
    _print("all shards", done, folder)


def _print(what: str, done: ShardResult, folder: Path) -> None:
    from facenet2expnet.predict.shards import PARTS
    from facenet2expnet.predict.sources import printable

    print(f"{what}: {done.files:,} files, {done.faces:,} faces, {done.unread:,} files could not be read")
    if done.passed_over:
        print(done.passed_over)
    if done.parts_before:
        print(f"parts that were there: {done.parts_before:,} of {done.parts:,}")
    place = printable(str(folder / PARTS))
    if done.missing:
        print(f"{place}: {done.missing:,} parts of other shards are missing")
    else:
        print(f"{place}: all parts are there; pandas.read_parquet reads the folder as one table")
