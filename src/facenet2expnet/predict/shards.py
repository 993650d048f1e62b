"""Predict very many pictures: one list for all machines, a shard of it for each, results in parts that are whole."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import json
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from facenet2expnet import claims
from facenet2expnet.claims import Claims
from facenet2expnet.data.folders import passed_over, walk
from facenet2expnet.data.pictures import picture_endings
from facenet2expnet.errors import UserError
from facenet2expnet.faces.prepare import Progress
from facenet2expnet.faces.store import is_store
from facenet2expnet.files import atomic_path, read_json, write_json
from facenet2expnet.predict.onnx_model import OnnxModel
from facenet2expnet.predict.recognizer import Options, Recognizer
from facenet2expnet.predict.sources import VIDEO_ENDINGS, is_camera, is_url, read_list
from facenet2expnet.predict.table import TableWriter

LIST, CARD, PARTS = "pictures.jsonl", "shards.json", "parts"
PART_PICTURES = 50_000
"""Files whose results are one Parquet file; a killed shard begins its part again."""


@dataclass(frozen=True)
class Shard:
    """One of `count` equal shares of a list, numbered from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "3/64".

        Raises:
            UserError: If it is not a number of at most the second, and both at least 1.
        """
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise UserError(f"--shard is '{text}', expected e.g. 3/64, from 1/64 to 64/64")
        return cls(int(number), int(count))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def rows(self, total: int) -> range:
        """Return the numbers of this shard's files, from 0."""
        return range(total * (self.number - 1) // self.count, total * self.number // self.count)


@dataclass
class ShardResult:
    """What was done.

    Attributes:
        files, faces, unread: numbers of files and faces, and of files that could not be read.
        parts_before, parts: of this shard: that were there before, and in all.
        missing: parts of all shards that are not there yet.
        passed_over: a sentence on files of the folders that are neither pictures nor videos; "" if there are none.
    """

    files: int = 0
    faces: int = 0
    unread: int = 0
    parts_before: int = 0
    parts: int = 0
    missing: int = 0
    passed_over: str = ""


def predict_shard(
    recognizer: Recognizer,
    sources: Sequence[str],
    folder: Path,
    shard: Shard,
    options: Options,
    *,
    resume: bool = False,
    part_pictures: int = PART_PICTURES,
    progress: Progress | None = None,
) -> ShardResult:
    """Predict a shard of the files of some sources, into `folder`/parts.

    The first process lists all files; the others, on whatever machine, read its list. A part is one Parquet file,
    renamed when it is whole, so that any number of processes may be killed and begin again. A file that can't be read
    is a row with a note. Memory does not grow with the number of files.

    Args:
        recognizer: the model, the same in all processes.
        sources: pictures, videos, folders, patterns or lists of them (.txt); the same in all processes.
        folder: of the results, shared by all.
        shard: which share to do.
        options: how to look; the same in all processes.
        resume: keep the parts of this shard that are there.
        part_pictures: files in a part; the same in all processes.
        progress: called with the number of finished files of this shard, and of all of them.
    Raises:
        UserError: If a source can't be used, the folder holds results of others, of this shard without `resume`, or
            another process works on this shard.
    """
    about = {
        "sources": list(sources), "shards": shard.count, "part_pictures": part_pictures,
        "options": dataclasses.asdict(dataclasses.replace(options, workers=None)), "classes": list(recognizer.classes),
        "weights": _identity(recognizer),
    }  # fmt: skip
    _check_sources(sources)
    with Claims(folder / claims.FOLDER) as own:
        own.wait("list")
        total, others = _list(sources, folder, about)
        own.release("list")
        if not own.take(f"shard-{shard.number}"):
            raise UserError(f"{folder}: another process works on shard {shard}; wait for it, or stop it")
        firsts = list(shard.rows(total)[::part_pictures])
        there = {first for first in firsts if _part(folder, first).is_file()}
        if there and not resume:
            raise UserError(f"{folder}: holds parts of shard {shard} already; add --resume to keep them and go on")
        result = ShardResult(parts_before=len(there), parts=len(firsts), passed_over=passed_over(others))

        def check() -> None:
            if not own.holds(f"shard-{shard.number}"):
                raise UserError(
                    f"{folder}: another process took over shard {shard}, as this one did not update its claim in time; "
                    "nothing is lost: let that one go on"
                )

        for first in (first for first in firsts if first not in there):
            _delete_left(folder, f".{_part(folder, first).stem}.*.unfinished.csv")
            _delete_left(folder / PARTS, f".{_part(folder, first).stem}.*")
            rows = range(first, min(first + part_pictures, shard.rows(total).stop))
            _predict_part(recognizer, folder, rows, options, result, shard.rows(total), progress, check)
    every = (Shard(number, shard.count).rows(total)[::part_pictures] for number in range(1, shard.count + 1))
    result.missing = sum(not _part(folder, first).is_file() for firsts in every for first in firsts)
    return result


def _predict_part(
    recognizer: Recognizer,
    folder: Path,
    rows: range,
    options: Options,
    result: ShardResult,
    all_rows: range,
    progress: Progress | None,
    check: Callable[[], None],
) -> None:
    """Write one part; `check` raises if it is another process's by now."""
    with (folder / LIST).open(encoding="ascii") as lines:
        files = [json.loads(line) for line in islice(lines, rows.start, rows.stop)]
    path, last, done = _part(folder, rows.start), "", rows.start
    unfinished = folder / f".{path.stem}.{uuid.uuid4().hex[:8]}.unfinished.csv"
    writer = TableWriter(path, recognizer.classes, smoothed=bool(options.smooth_s), rows_path=unfinished)
    with contextlib.ExitStack() as stack:
        stack.callback(writer.discard)
        for frame in stack.enter_context(contextlib.closing(recognizer.stream(files, options, check=False))):
            writer.write(frame)
            result.faces += len(frame.faces)
            result.unread += frame.unread
            if frame.source != last:  # the frames of a video follow each other
                last, done = frame.source, done + 1
                if progress:
                    progress(done - all_rows.start, len(all_rows))
        check()
        writer.close()
    result.files += len(files)


def _list(sources: Sequence[str], folder: Path, about: dict[str, Any]) -> tuple[int, Mapping[str, int]]:
    """Write the list of all files, if it is not there; return their number, and other files' numbers by ending.

    Raises:
        UserError: If it was made for something else.
    """
    if (folder / CARD).is_file():
        card = read_json(folder / CARD)
        if other := [name for name in about if card.get(name) != about[name]]:
            values = ", ".join(f"{name} {card.get(name)}" for name in other if name != "weights")
            raise UserError(
                f"{folder}: was begun with other {', '.join(other)}{f' ({values})' if values else ''}; all shards need "
                "the same command, or choose another --out"
            )
        return int(card["files"]), card.get("others", {})
    if any(path.name not in (claims.FOLDER, LIST) and not path.name.startswith(".") for path in folder.iterdir()):
        raise UserError(f"{folder}: exists and is not empty; choose another --out")
    for name in (LIST, CARD):
        _delete_left(folder, f".{Path(name).stem}.*")
    count, others = 0, Counter[str]()
    with atomic_path(folder / LIST) as temporary, temporary.open("w", encoding="ascii") as file:
        for path in _files(sources, others):
            file.write(json.dumps(path) + "\n")
            count += 1
    if not count:
        sentence = passed_over(others)
        raise UserError(f"{', '.join(sources)}: no pictures or videos" + (f"; {sentence[:-1]}" if sentence else ""))
    write_json(folder / CARD, about | {"files": count, "others": others})
    return count, others


def _delete_left(folder: Path, pattern: str) -> None:
    """Delete what a process left that was killed; the claim of it is this process's now."""
    for path in folder.glob(pattern):
        path.unlink(missing_ok=True)


def _check_sources(sources: Sequence[str]) -> None:
    for source in sources:
        if is_url(source) or is_camera(source) or is_store(Path(source)):
            raise UserError(f"{source}: --shard takes files, folders, patterns and lists of files")
        if not Path(source).exists() and not glob.glob(source, recursive=True):
            raise UserError(f"{source}: there is no such picture, folder, pattern or list")


def _files(sources: Sequence[str], others: Counter[str]) -> Iterator[str]:
    """Yield the absolute paths of all files; the names of one folder are in memory at a time.

    Files that are neither pictures nor videos are counted in `others`.
    """
    for source in sources:
        path = os.path.abspath(source)
        if os.path.isdir(path):
            yield from map(str, walk(Path(path), (*picture_endings(), *VIDEO_ENDINGS), others))
        elif path.lower().endswith(".txt"):
            yield from _files([os.path.join(os.path.dirname(path), line) for line in read_list(Path(path))], others)
        elif not os.path.exists(path) and (found := sorted(glob.glob(path, recursive=True))):
            yield from _files(found, others)
        else:  # a file of a list that is gone becomes a row that says so
            yield path


def _identity(recognizer: Recognizer) -> str:
    """Return a hash by which two processes know that their models are the same."""
    if isinstance(recognizer.model, OnnxModel):
        about = [recognizer.metadata, recognizer.contract.to_dict()]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    from facenet2expnet.nets.face import weights_sha256

    return weights_sha256(recognizer.model)


def _part(folder: Path, first: int) -> Path:
    return folder / PARTS / f"part-{first:010}.parquet"
