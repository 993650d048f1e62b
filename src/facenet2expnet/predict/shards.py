"""Predict very many pictures: one list for all machines, a shard of it for each, results in parts that are whole."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import glob
import hashlib
import json
import logging
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from facenet2expnet import claims
from facenet2expnet.claims import Claims
from facenet2expnet.data.folders import passed_over, walk
from facenet2expnet.data.pictures import picture_endings
from facenet2expnet.errors import UserError
from facenet2expnet.faces.prepare import Progress
from facenet2expnet.faces.store import is_store
from facenet2expnet.files import atomic_path, read_json, well_formed, write_json
from facenet2expnet.predict.onnx_model import OnnxModel
from facenet2expnet.predict.options import Options
from facenet2expnet.predict.recognizer import Recognizer
from facenet2expnet.predict.sources import VIDEO_ENDINGS, is_camera, is_url, read_list
from facenet2expnet.predict.table import TableWriter

LIST, CARD, PARTS = "pictures.jsonl", "shards.json", "parts"
PART_PICTURES = 50_000
"""Files whose results are one Parquet file; a killed shard begins its part again."""

SHARDS = 64
"""Of `predict_shards`, for a new folder."""

log = logging.getLogger(__name__)


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
    is a row with a note. Memory hardly grows with the number of files (docs/scale.md).

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
    about = _about(recognizer, sources, shard.count, options, part_pictures)
    _check_sources(sources)
    with Claims(folder / claims.FOLDER) as own:
        total, others = _first_list(own, sources, folder, about)
        if not own.take(_claim(shard)):
            raise UserError(f"{folder}: another process works on shard {shard}; wait for it, or stop it")
        firsts, missing = _parts(folder, shard, total, part_pictures)
        if len(missing) < len(firsts) and not resume:
            raise UserError(f"{folder}: holds parts of shard {shard} already; add --resume to keep them and go on")

        def check() -> None:
            if not own.holds(_claim(shard)):
                _check_there(folder)
                raise UserError(
                    f"{folder}: another process took over shard {shard}, as this one did not update its claim in time; "
                    "nothing is lost: let that one go on"
                )

        result = _predict_missing(recognizer, folder, shard, total, options, part_pictures, progress, check)
    result.passed_over = passed_over(others)
    every = (_parts(folder, Shard(number, shard.count), total, part_pictures) for number in range(1, shard.count + 1))
    result.missing = sum(len(missing) for _, missing in every)
    return result


@dataclass(frozen=True)
class ShardTask:
    """A shard as a worker of `predict_shards` gets it; see `predict_shard`.

    Attributes:
        model, device: for `Recognizer.load`.
    """

    model: str | None
    device: str
    sources: tuple[str, ...]
    folder: Path
    options: Options
    part_pictures: int = PART_PICTURES
    shard: Shard = Shard(1, 1)

    def __str__(self) -> str:
        return f"shard {self.shard}"


class Workers(Protocol):
    """What does tasks side by side: `experiment.workers.Workers` or `experiment.ray_workers.RayWorkers`."""

    def __enter__(self) -> Any: ...
    def __exit__(self, *given: Any) -> None: ...
    @property
    def idle(self) -> bool: ...
    @property
    def running(self) -> int: ...
    def begin(self, task: Any) -> None: ...
    def ended(self, report: Any) -> Iterator[tuple[Any, Any]]: ...


def predict_shards(
    recognizer: Recognizer,
    task: ShardTask,
    count: int | None,
    workers: Workers,
    *,
    resume: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> ShardResult:
    """Predict all shards side by side, into the folder that `predict_shard` fills; either goes on with what is there.

    Args:
        recognizer: the model of the task.
        task: of any shard.
        count: of shards; None for those that the folder was begun with, or SHARDS.
        workers: do `do_shard`.
        resume: keep the parts that are there.
        progress: called with what is being done, how much of it is done, and how much there is.
    Raises:
        UserError: As `predict_shard`; or at the end, naming the shards that failed.
    """
    folder, size = task.folder, task.part_pictures
    if count is None:
        count = SHARDS if (card := _read_card(folder)) is None else card["shards"]
    _check_sources(task.sources)
    failed: dict[str, str] = {}
    with Claims(folder / claims.FOLDER) as own:
        about = _about(recognizer, task.sources, count, task.options, size)
        total, others = _first_list(own, task.sources, folder, about)
        shards = [Shard(number, count) for number in range(1, count + 1)]
        result, waiting = ShardResult(passed_over=passed_over(others)), []
        for shard in shards:
            firsts, missing = _parts(folder, shard, total, size)
            result.parts += len(firsts)
            result.parts_before += len(firsts) - len(missing)
            if missing:
                waiting.append(shard)
        if result.parts_before and not resume:
            raise UserError(f"{folder}: holds parts already; add --resume to keep them and go on")
        todo = len(waiting)
        with workers:
            while waiting or workers.running:
                while waiting and workers.idle:
                    shard = waiting.pop(0)
                    if own.take(_claim(shard)):
                        workers.begin(dataclasses.replace(task, shard=shard))
                    else:
                        log.warning("shard %s is left out: another process works on it.", shard)
                if not workers.running:
                    continue
                for ended, outcome in workers.ended(progress):
                    held = own.holds(_claim(ended.shard))
                    own.release(_claim(ended.shard))
                    if not held:  # this process did not update its claim in time
                        _check_there(folder)
                        log.warning("another process took over %s: it is left to that one.", ended)
                    elif outcome.error:
                        failed[str(ended)] = outcome.error
                        log.warning("%s failed: %s", ended, outcome.error)
                    else:
                        result.files += outcome.value.files
                        result.faces += outcome.value.faces
                        result.unread += outcome.value.unread
                    if progress:
                        progress(str(ended), 1, 1)
                        progress("shards", todo - len(waiting) - workers.running, todo)
    if failed:
        first = next(iter(failed))
        raise UserError(
            f"{len(failed)} of {todo} shards failed; {first}: {failed[first]}. The others are kept; fix the cause and "
            "continue with --resume"
        )
    result.missing = sum(len(_parts(folder, shard, total, size)[1]) for shard in shards)
    return result


def _check_there(folder: Path) -> None:
    """Refuse a folder that has gone: its claims are gone too, and nobody took them over."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder any more; is its disk still there?")


def do_shard(task: ShardTask, progress: Callable[[str, int, int], None]) -> ShardResult:
    """Do one shard, which `predict_shards` has claimed, in a worker."""
    recognizer = _recognizer(task.model, task.device)
    about = _about(recognizer, task.sources, task.shard.count, task.options, task.part_pictures)
    total, _ = _list(task.sources, task.folder, about)

    def named(done: int, of: int) -> None:
        progress(str(task), done, of)

    given = task.folder, task.shard, total, task.options, task.part_pictures
    return _predict_missing(recognizer, *given, named, lambda: None)


@lru_cache(maxsize=1)
def _recognizer(model: str | None, device: str) -> Recognizer:
    return Recognizer.load(model, device)


def _claim(shard: Shard) -> str:
    return f"shard-{shard.number}"


def _about(
    recognizer: Recognizer, sources: Sequence[str], shards: int, options: Options, part_pictures: int
) -> dict[str, Any]:
    """Return what the results depend on."""
    return {
        "sources": list(sources), "shards": shards, "part_pictures": part_pictures,
        "options": dataclasses.asdict(dataclasses.replace(options, workers=None)), "classes": list(recognizer.classes),
        "weights": _identity(recognizer),
    }  # fmt: skip


def _parts(folder: Path, shard: Shard, total: int, part_pictures: int) -> tuple[range, list[int]]:
    """Return the first rows of a shard's parts: of all, and of those that are not there."""
    firsts = shard.rows(total)[::part_pictures]
    return firsts, [first for first in firsts if not _part(folder, first).is_file()]


def _predict_missing(
    recognizer: Recognizer,
    folder: Path,
    shard: Shard,
    total: int,
    options: Options,
    part_pictures: int,
    progress: Progress | None,
    check: Callable[[], None],
) -> ShardResult:
    """Write the parts of a shard that are not there; `check` raises if it is another process's by now."""
    (firsts, missing), rows = _parts(folder, shard, total, part_pictures), shard.rows(total)
    result = ShardResult(parts_before=len(firsts) - len(missing), parts=len(firsts))
    for first in missing:
        _delete_left(folder, f".{_part(folder, first).stem}.*.unfinished.csv")
        _delete_left(folder / PARTS, f".{_part(folder, first).stem}.*")
        part = range(first, min(first + part_pictures, rows.stop))
        _predict_part(recognizer, folder, part, options, result, rows, progress, check)
        _give_memory_back()
    return result


def _give_memory_back() -> None:
    """Return free memory to the system; glibc keeps what lies between used pieces, and more of it after each part."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


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


def _first_list(
    own: Claims, sources: Sequence[str], folder: Path, about: dict[str, Any]
) -> tuple[int, Mapping[str, int]]:
    """Do `_list` in one process at a time."""
    own.wait("list")
    found = _list(sources, folder, about)
    own.release("list")
    return found


def _list(sources: Sequence[str], folder: Path, about: dict[str, Any]) -> tuple[int, Mapping[str, int]]:
    """Write the list of all files, if it is not there; return their number, and other files' numbers by ending.

    Raises:
        UserError: If it was made for something else.
    """
    if (card := _read_card(folder)) is not None:
        if other := [name for name in about if card.get(name) != about[name]]:
            values = ", ".join(f"{name} {card.get(name)}" for name in other if name != "weights")
            raise UserError(
                f"{folder}: was begun with other {', '.join(other)}{f' ({values})' if values else ''}; all shards need "
                "the same command, or choose another --out"
            )
        return card["files"], card.get("others", {})
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


def _read_card(folder: Path) -> dict[str, Any] | None:
    """Return what the folder was begun with; None if it was not.

    Raises:
        UserError: If the file is damaged.
    """
    path = folder / CARD
    if not path.is_file():
        return None
    with well_formed(path, "choose another --out"):
        card = read_json(path)
        return card | {name: int(card[name]) for name in ("shards", "files")}


def _delete_left(folder: Path, pattern: str) -> None:
    """Delete what a process left that was killed; the claim of it is this process's now."""
    for path in folder.glob(pattern):
        path.unlink(missing_ok=True)


def _check_sources(sources: Sequence[str]) -> None:
    for source in sources:
        if is_url(source) or is_camera(source) or is_store(Path(source)):
            raise UserError(f"{source}: shards take files, folders, patterns and lists of files")
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
