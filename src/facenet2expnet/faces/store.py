"""A face store: a folder with every face crop of a manifest, written once and memory-mapped for reading."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from facenet2expnet.crop import CropContract
from facenet2expnet.data.manifest import Manifest, read_manifest
from facenet2expnet.data.pictures import Skipped, write_skipped
from facenet2expnet.errors import UserError
from facenet2expnet.faces import detect
from facenet2expnet.faces.contact_sheet import write_missing_sheet
from facenet2expnet.faces.prepare import (
    CropResult,
    Progress,
    check_any,
    check_missing,
    crop_file,
    image_names,
    one_thread_each,
    worker_count,
)
from facenet2expnet.files import write_atomic

FORMAT = 1
SHARD_ROWS = 128
"""Pictures between two points that a killed preparation can go on from."""

FACE_COLUMN = "face"
"""Column of the store's manifest: "found", "centre-crop", or "whole picture" for already-cropped sets."""

PIXELS, ABOUT, MANIFEST, SKIPPED, WITHOUT_FACE, SHEET = (
    "faces.npy",
    "store.json",
    "manifest.csv",
    "skipped.csv",
    "without-face.csv",
    "without-face.png",
)


@dataclass(frozen=True, eq=False)
class FaceStore:
    """A finished face store.

    Attributes:
        folder: where it is.
        pixels: (N, stored_px, stored_px, 3) uint8 RGB, memory-mapped, read-only.
        manifest: the N rows that have a crop, in order, with the contract set and the column `face`.
        skipped: the pictures that have no crop, each with its reason.
        without_face: the pictures where no face was found, whether left out or centre-cropped.
    """

    folder: Path
    pixels: np.memmap
    manifest: Manifest
    skipped: list[Skipped]
    without_face: list[Skipped]

    @classmethod
    def open(cls, folder: Path | str, *, verify: bool = True) -> FaceStore:
        """The store in a folder.

        Args:
            folder: what `prepare` was given.
            verify: compare every crop with its checksum, which reads the whole file once; the size is always
                compared.
        Raises:
            UserError: If there is no store, it is unfinished, or its crops are not those that were written.
        """
        folder = Path(folder)
        about = _read_about(folder)
        contract = CropContract.from_dict(about["contract"])
        shape = (int(about["kept"]), contract.stored_px, contract.stored_px, 3)
        path = folder / PIXELS
        expected = len(_npy_header(shape)) + int(np.prod(shape))
        found = path.stat().st_size if path.is_file() else 0
        if found != expected:
            raise UserError(
                f"{path}: expected {expected} bytes, found {found}; the face store was cut short: "
                f"delete {folder} and prepare the faces again"
            )
        if verify:
            _verify(path, about["shards"], shape)
        pixels = np.load(path, mmap_mode="r")
        if pixels.shape != shape or pixels.dtype != np.uint8:
            raise UserError(
                f"{path}: expected uint8 {shape}, found {pixels.dtype} {pixels.shape}; prepare again"
            )
        manifest = read_manifest(folder / MANIFEST, need_pictures=False)
        if len(manifest) != shape[0]:
            raise UserError(
                f"{folder / MANIFEST}: expected {shape[0]} rows, one a crop, "
                f"found {len(manifest)}; prepare again"
            )
        skipped = [Skipped(*item) for item in about["skipped"]]
        return cls(folder, pixels, manifest, skipped, [Skipped(*item) for item in about["without_face"]])

    def __len__(self) -> int:
        return len(self.pixels)


def is_store(folder: Path) -> bool:
    """Whether a folder is a face store, finished or not."""
    return (folder / ABOUT).is_file() or folder.with_name(folder.name + ".part").is_dir()


def prepare(
    manifest: Manifest,
    contract: CropContract,
    folder: Path | str,
    *,
    missing: str = "drop",
    workers: int | None = None,
    progress: Progress | None = None,
) -> FaceStore:
    """Make every picture of a manifest ready and write the crops to a face store.

    The work is done in a folder NAME.part beside `folder`, in shards of `SHARD_ROWS` pictures, and renamed
    when all is there. A preparation that was killed goes on after its last finished shard when it is
    started again with the same arguments. A finished store for the same pictures and contract is opened and
    returned.

    Args:
        manifest: the pictures.
        contract: how a face is found, aligned and cut.
        folder: the store to write.
        missing: "drop" leaves out a picture without a found face, "centre-crop" keeps its centre. Either
            way it is listed in without-face.csv and shown in without-face.png.
        workers: threads; None is one a core.
        progress: called with pictures done and pictures in all, after each picture.
    Raises:
        UserError: If a package is missing, no picture could be made ready, the disk is full, the folder holds
            something else, or another process is preparing it.
    """
    folder = Path(folder)
    check_missing(missing)
    job = _job(manifest, contract, missing)
    if (folder / ABOUT).exists():
        _check_same_job(job, _read_about(folder)["job"], folder)
        return FaceStore.open(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there and is not a face store; give another folder, or delete it")
    if not len(manifest):
        check_any(0, [])
    detect.check_installed(contract)
    part = folder.with_name(folder.name + ".part")
    with _clear_errors(part):
        part.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(part / "lock")
        try:
            with lock.acquire(timeout=0):
                if (part / ABOUT).exists():  # killed just before the renaming
                    _check_same_job(job, _read_about(part)["job"], part)
                else:
                    _start(part, job)
                    _check_room(part, len(manifest), contract)
                    with one_thread_each():
                        _write_shards(part, manifest, contract, missing, worker_count(workers), progress)
                    _finish(part, manifest, contract, job)
                shutil.rmtree(part / "shards", ignore_errors=True)
                (part / "job.json").unlink(missing_ok=True)
        except filelock.Timeout as error:
            raise UserError(f"another process is preparing {folder}; wait for it, or stop it") from error
        (part / "lock").unlink(missing_ok=True)
        if folder.is_dir():
            folder.rmdir()
        part.replace(folder)
    return FaceStore.open(folder)


# --- the work, shard by shard ---


def _write_shards(
    part: Path,
    manifest: Manifest,
    contract: CropContract,
    missing: str,
    workers: int,
    progress: Progress | None,
) -> None:
    """Make and write the shards that are not there yet; one is computed while the last is written."""
    paths = manifest.paths
    total = len(paths)
    starts = range(0, total, SHARD_ROWS)
    todo = [start for start in starts if not _shard_done(part, start, contract)]
    done = total - sum(min(SHARD_ROWS, total - start) for start in todo)
    if progress is not None and done:
        progress(done, total)

    def submit(pool: ThreadPoolExecutor, start: int) -> list[Future[CropResult]]:
        return [
            pool.submit(crop_file, path, contract, missing=missing)
            for path in paths[start : start + SHARD_ROWS]
        ]

    pool = ThreadPoolExecutor(workers)
    try:
        pending = submit(pool, todo[0]) if todo else []
        for place, start in enumerate(todo):
            following = submit(pool, todo[place + 1]) if place + 1 < len(todo) else []
            results = []
            for future in pending:
                results.append(future.result())
                done += 1
                if progress is not None:
                    progress(done, total)
            _write_shard(part, start, results)
            pending = following
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _write_shard(part: Path, start: int, results: list[CropResult]) -> None:
    """Write a shard's crops, then its journal entry; the entry stands for the shard being there."""
    crops = [ready.crop for ready in results if ready.crop is not None]
    data = b"".join(np.ascontiguousarray(crop).tobytes() for crop in crops)
    write_atomic(_shard_path(part, start), data)
    entry = {
        "start": start,
        "kept": [start + i for i, ready in enumerate(results) if ready.crop is not None],
        "skipped": [(start + i, ready.reason) for i, ready in enumerate(results) if ready.crop is None],
        "not_found": [
            (start + i, ready.reason)
            for i, ready in enumerate(results)
            if not ready.found and ready.reason.startswith("no face found")
        ],
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    write_atomic(_entry_path(part, start), json.dumps(entry).encode())


def _shard_done(part: Path, start: int, contract: CropContract) -> bool:
    """Whether a shard was finished: its entry is there, and its crops are as that says, or already joined."""
    entry_path, shard_path = _entry_path(part, start), _shard_path(part, start)
    if not entry_path.exists():
        return False
    if (part / PIXELS).exists() and not shard_path.exists():
        return True  # _finish moved it into the whole; FaceStore.open compares the checksum
    entry = json.loads(entry_path.read_text())
    size = len(entry["kept"]) * contract.stored_px**2 * 3
    if not shard_path.exists() or shard_path.stat().st_size != size:
        return False
    return hashlib.sha256(shard_path.read_bytes()).hexdigest() == entry["sha256"]


def _finish(part: Path, manifest: Manifest, contract: CropContract, job: dict[str, Any]) -> None:
    """Join the shards to one file, deleting each once it is safely in, and write what stands beside them."""
    entries = [
        json.loads(_entry_path(part, start).read_text()) for start in range(0, len(manifest), SHARD_ROWS)
    ]
    names = image_names(manifest)
    kept = [row for entry in entries for row in entry["kept"]]
    skipped = [Skipped(names[row], reason) for entry in entries for row, reason in entry["skipped"]]
    not_found = {row: reason for entry in entries for row, reason in entry["not_found"]}
    without_face = [Skipped(names[row], reason) for row, reason in not_found.items()]
    if not kept:
        shutil.rmtree(part)
        check_any(0, skipped)
    _join(part, entries, (len(kept), contract.stored_px, contract.stored_px, 3))
    default = "whole picture" if contract.detector == "already-cropped" else "found"
    ready = manifest.rows(np.array(kept, dtype=np.int64))
    table = ready.table.assign(**{FACE_COLUMN: ["centre-crop" if r in not_found else default for r in kept]})
    dataclasses.replace(ready, table=table, contract=contract).save(part / MANIFEST)
    write_skipped(skipped, part / SKIPPED)
    if without_face:
        write_skipped(without_face, part / WITHOUT_FACE)
        write_missing_sheet([manifest.paths[row] for row in not_found], part / SHEET)
    about = {
        "format": FORMAT,
        "contract": contract.to_dict(),
        "pictures": len(manifest),
        "kept": len(kept),
        "skipped": [(item.image, item.reason) for item in skipped],
        "without_face": [(item.image, item.reason) for item in without_face],
        "shards": [(len(entry["kept"]), entry["sha256"]) for entry in entries],
        "job": job,
    }
    write_atomic(part / ABOUT, json.dumps(about, indent=1).encode())


def _join(part: Path, entries: list[dict[str, Any]], shape: tuple[int, int, int, int]) -> None:
    """Put every shard at its place in one .npy file; started again after a kill, it goes on."""
    header = _npy_header(shape)
    crop_bytes = int(np.prod(shape[1:]))
    path = part / PIXELS
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.write(header)
        place = len(header)
        for entry in entries:
            shard = _shard_path(part, entry["start"])
            if shard.exists():
                file.seek(place)
                file.write(shard.read_bytes())
                file.flush()
                os.fsync(file.fileno())
                shard.unlink()
            place += len(entry["kept"]) * crop_bytes


def _shard_path(part: Path, start: int) -> Path:
    return part / "shards" / f"{start:08d}.u8"


def _entry_path(part: Path, start: int) -> Path:
    return part / "shards" / f"{start:08d}.json"


# --- what a preparation is, and whether it may go on ---


def _job(manifest: Manifest, contract: CropContract, missing: str) -> dict[str, Any]:
    """What decides the crops: the same job may be gone on with, and its store used again."""
    digest = hashlib.sha256()
    for name, path in zip(image_names(manifest), manifest.paths, strict=True):
        size = path.stat().st_size if path.is_file() else -1
        digest.update(f"{name}\0{size}\n".encode())
    return {
        "format": FORMAT,
        "contract": contract.to_dict(),
        "missing": missing,
        "manifest": manifest.sha256(),
        "pictures": digest.hexdigest(),
    }


def _start(part: Path, job: dict[str, Any]) -> None:
    (part / "shards").mkdir(exist_ok=True)
    path = part / "job.json"
    if path.exists():
        _check_same_job(job, json.loads(path.read_text()), part)
    else:
        write_atomic(path, json.dumps(job, indent=1).encode())


def _check_same_job(job: dict[str, Any], other: dict[str, Any], folder: Path) -> None:
    """Raises UserError if a folder was made by another job; the message names what differs."""
    job = json.loads(json.dumps(job))
    if job == other:
        return
    differing = []
    for name in job:
        if job[name] == other.get(name):
            continue
        if name == "contract":
            theirs = other.get("contract", {})
            differing += [
                f"{key} was {theirs.get(key)}, now {value}"
                for key, value in job["contract"].items()
                if theirs.get(key) != value
            ]
        elif name == "missing":
            differing.append(f"missing was {other.get(name)}, now {job[name]}")
        else:
            differing.append(
                {"manifest": "another manifest", "pictures": "the picture files changed"}.get(name, name)
            )
    raise UserError(
        f"{folder} was prepared differently ({'; '.join(differing)}); give another folder, or delete it first"
    )


def _check_room(part: Path, pictures: int, contract: CropContract) -> None:
    """Raises UserError if the disk has too little room for what is still to be written."""
    written = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
    crop_bytes = contract.stored_px**2 * 3
    needed = (pictures + min(pictures, SHARD_ROWS)) * crop_bytes - written
    free = shutil.disk_usage(part).free
    if needed > free:
        raise UserError(
            f"the disk of {part.parent} has {free / 1e6:.0f} MB free, but {pictures} crops of "
            f"{contract.stored_px} x {contract.stored_px} need {needed / 1e6:.0f} MB more; "
            "free some, or give a folder on another disk"
        )


@contextmanager
def _clear_errors(part: Path) -> Iterator[None]:
    """Turn the operating system's refusals into messages that say what to do."""
    try:
        yield
    except (OSError, UserError) as fault:
        error = fault.__cause__ if isinstance(fault, UserError) else fault
        if not isinstance(error, OSError):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"the disk of {part.parent} is full; no store was put in place, what is finished is kept in "
                f"{part}: free some room and run the same command again, it goes on from there"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(
                f"can't write {error.filename or part}: {error.strerror}; give another folder"
            ) from error
        raise


# --- files ---


def _npy_header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _read_about(folder: Path) -> dict[str, Any]:
    path = folder / ABOUT
    if not path.is_file():
        part = folder.with_name(folder.name + ".part")
        if part.is_dir():
            raise UserError(
                f"{folder}: its preparation was not finished; run the same command again, "
                f"it goes on from {part}"
            )
        raise UserError(
            f"{folder} is not a face store: it has no {ABOUT}; make one with 'fn2en data prepare'"
        )
    try:
        about = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); delete {folder} and prepare again") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        came = about.get("format") if isinstance(about, dict) else type(about).__name__
        raise UserError(f"{path}: expected a face store of format {FORMAT}, found {came}; prepare again")
    return about


def _verify(path: Path, shards: list[tuple[int, str]], shape: tuple[int, int, int, int]) -> None:
    """Raises UserError if a part of the crops is not what was written; hashes over all cores."""
    crop_bytes = int(np.prod(shape[1:]))
    places, first = [], 0
    for rows, sha256 in shards:
        places.append((first, rows, sha256))
        first += rows
    offset = len(_npy_header(shape))

    def wrong(place: tuple[int, int, str]) -> bool:
        start, rows, sha256 = place
        with path.open("rb") as file:
            file.seek(offset + start * crop_bytes)
            return hashlib.sha256(file.read(rows * crop_bytes)).hexdigest() != sha256

    with ThreadPoolExecutor(worker_count(None)) as pool:
        for bad, (start, rows, _) in zip(pool.map(wrong, places), places, strict=True):
            if bad:
                raise UserError(
                    f"{path}: the checksum of crops {start} to {start + rows - 1} is wrong, the file was "
                    f"changed or damaged; delete {path.parent} and prepare the faces again"
                )
