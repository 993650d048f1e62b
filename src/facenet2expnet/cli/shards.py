"""fn2en predict --shard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from facenet2expnet.predict.recognizer import Options


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
    from facenet2expnet.predict.shards import PARTS, Shard, predict_shard
    from facenet2expnet.predict.sources import printable

    shard, recognizer = Shard.parse(text), Recognizer.load(model, device)
    with console.progress(quiet) as display:
        progress = display.of(f"shard {shard}")
        done = predict_shard(recognizer, sources, folder, shard, options, resume=resume, progress=progress)
    print(f"shard {shard}: {done.files:,} files, {done.faces:,} faces, {done.unread:,} files could not be read")
    if done.passed_over:
        print(done.passed_over)
    if done.parts_before:
        print(f"parts that were there: {done.parts_before:,} of {done.parts:,}")
    place = printable(str(folder / PARTS))
    if done.missing:
        print(f"{place}: {done.missing:,} parts of other shards are missing")
    else:
        print(f"{place}: all parts are there; pandas.read_parquet reads the folder as one table")
