"""A face store: a folder with the face crops of a manifest, written once and memory-mapped for reading.

Crops are appended to one .npy file, and after each shard a line to a journal, so that a killed preparation continues
after its last whole shard. `store.json` is written last: with it, the store is finished.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from contextlib import closing
from dataclasses import dataclass
from itertools import islice, starmap
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from facenet2expnet.crop import CropContract
from facenet2expnet.data.manifest import Manifest, read_manifest
from facenet2expnet.data.pictures import Skipped, write_contact_sheet, write_skipped
from facenet2expnet.errors import UserError
from facenet2expnet.faces import detect
from facenet2expnet.faces.prepare import CENTRED, NO_FACE, Progress, check_any, crop_files
from facenet2expnet.files import (
    delete_temporary_files,
    folder_lock,
    read_json,
    well_formed,
    write_atomic,
    write_json,
)

FORMAT = 1
SHARD_ROWS = 128
"""Pictures between two points from which a killed preparation can continue."""

FACE_COLUMN = "face"
"""Column of the store's manifest: "found", "centre-crop", or "whole picture" for already-cropped sets."""

PIXELS, CARD, JOURNAL = "faces.npy", "store.json", "unfinished.jsonl"
MANIFEST, SKIPPED, WITHOUT_FACE, SHEET = "manifest.csv", "skipped.csv", "without-face.csv", "without-face.png"


@dataclass(frozen=True, eq=False)
class FaceStore:
    """A finished face store.

    Attributes:
        folder: its folder.
        pixels: (N, stored_px, stored_px, 3) uint8 RGB, memory-mapped, read-only.
        manifest: the N rows that have a crop, in order, with the contract and the column `face`.
        skipped: the pictures that have no crop, each with its reason.
        without_face: the pictures without a found face, skipped or centre-cropped.
    """

    folder: Path
    pixels: np.memmap
    manifest: Manifest
    skipped: list[Skipped]
    without_face: list[Skipped]

    @classmethod
    def open(cls, folder: Path | str, *, verify: bool = True) -> FaceStore:
        """Open the face store that `prepare` wrote.

        Args:
            verify: compare all crops with their checksums, which reads the whole file once.
        Raises:
            UserError: If there is no store, it is unfinished, or its files are not those that were written.
        """
        folder = Path(folder)
        again = f"delete {folder} and prepare the faces again"
        if not is_store(folder):
            raise UserError(f"{folder} is not a face store (it has no {CARD}); make one with 'fn2en data prepare'")
        if not (folder / CARD).is_file():
            raise UserError(f"{folder}: its preparation was not finished; run the same command again to continue")
        card = read_json(folder / CARD)
        if not isinstance(card, dict) or card.get("format") != FORMAT:
            raise UserError(f"{folder / CARD}: expected a face store of format {FORMAT}; {again}")
        try:
            pixels = np.load(folder / PIXELS, mmap_mode="r")
        except Exception as error:  # NumPy reads the header as Python, and raises nearly anything
            raise UserError(f"{folder / PIXELS} can't be read: {error}; {again}") from None
        manifest = read_manifest(folder / MANIFEST, need_pictures=False)
        with well_formed(folder / CARD, again):
            kept, found = card["kept"], (len(pixels), len(manifest))
            if found != (kept, kept):
                raise UserError(f"{folder}: expected {kept} crops and manifest rows, got {found}; {again}")
            start = 0
            for rows, sha256 in card["shards"] if verify else ():
                stop = start + rows
                if hashlib.sha256(pixels[start:stop]).hexdigest() != sha256:
                    raise UserError(f"{folder / PIXELS}: wrong checksum of crops {start} to {stop - 1}; {again}")
                start = stop
            skipped, without_face = (list(starmap(Skipped, card[key])) for key in ("skipped", "without_face"))
        return cls(folder, pixels, manifest, skipped, without_face)

    def __len__(self) -> int:
        return len(self.pixels)


def is_store(folder: Path) -> bool:
    """Whether a folder is a face store, finished or not."""
    return (folder / CARD).is_file() or (folder / JOURNAL).is_file()


def prepare(
    manifest: Manifest,
    contract: CropContract,
    folder: Path | str,
    *,
    centre_crop: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> FaceStore:
    """Crop the faces of all pictures of a manifest and write them to a face store.

    A killed preparation continues after its last shard if it is started again with the same arguments. A finished
    store of the same pictures and contract is opened and returned.

    Args:
        contract: how a face is found, aligned and cut out, at `stored_px`.
        centre_crop: keep the centre square of a picture without a found face, instead of skipping it. Either way it
            is listed in without-face.csv and shown in without-face.png.
        workers: number of threads; None for one per core.
        progress: called after each picture.
    Raises:
        UserError: If a package is missing, no picture could be used, the disk is full, the folder holds
            something else, or another process is preparing the store.
    """
    folder = Path(folder)
    contract = dataclasses.replace(contract, aligned_px=0)
    job = _job(manifest, contract, centre_crop)
    if not (folder / CARD).is_file():
        files = [path for path in folder.iterdir() if path.name[0] != "."] if folder.is_dir() else []
        if files and not is_store(folder):
            raise UserError(f"{folder} exists and is not a face store; give another folder, or delete it")
        detect.check_installed(contract)
        try:
            with folder_lock(folder, "another process is preparing this face store; wait for it, or stop it"):
                delete_temporary_files(folder)
                if not (folder / CARD).is_file():  # no other process has finished it in the meantime
                    _finish(folder, job, manifest, _write_crops(folder, job, manifest, workers, progress))
                (folder / JOURNAL).unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"{folder} can't be written: {error.strerror}; finished work is kept, run the same command again "
                "to continue"
            ) from error
    store = FaceStore.open(folder)
    with well_formed(folder / CARD, f"delete {folder} and prepare the faces again"):
        _check_same_job(job, read_json(folder / CARD)["job"], folder)
    return store


def _write_crops(
    folder: Path, job: dict[str, Any], manifest: Manifest, workers: int | None, progress: Progress | None
) -> list[dict[str, Any]]:
    """Append crops to the pixel file and a line per shard to the journal; return the lines of all shards.

    A line has the reasons of the shard's pictures ("" for a found face), the number of its crops and their checksum.
    """
    contract, centre_crop = CropContract.from_dict(job["contract"]), job["missing"] == "centre-crop"
    total, side = len(manifest), contract.stored_px
    # The finished shards of a killed preparation of the same job; the journal then has only whole lines again.
    text = (folder / JOURNAL).read_bytes() if (folder / JOURNAL).is_file() else b""
    text = text[: text.rfind(b"\n") + 1] or json.dumps(job).encode() + b"\n"
    with well_formed(folder / JOURNAL, f"delete {folder} and prepare the faces again"):
        made, *shards = map(json.loads, text.splitlines())
        _check_same_job(job, made, folder)
        done, kept_before = (sum(map(int, column)) for column in zip((0, 0), *map(_sizes, shards), strict=True))
        if done > total or kept_before > done:
            raise ValueError(f"it has {done} pictures, and the manifest {total}")
    write_atomic(folder / JOURNAL, text)
    needed, free = (total - done) * side**2 * 3, shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the disk of {folder} has {free / 1e6:.0f} MB free, but {total - done} crops of {side} x {side} "
            f"need {needed / 1e6:.0f} MB; free some space, or give a folder on another disk"
        )
    if progress and done:
        progress(done, total)
    (folder / PIXELS).touch()
    results = crop_files(manifest.paths[done:], contract, centre_crop=centre_crop, workers=workers)
    with closing(results), (folder / PIXELS).open("r+b") as file, (folder / JOURNAL).open("ab") as journal:
        _write_header(file, total, side)
        file.seek(kept_before * side**2 * 3, os.SEEK_CUR)
        file.truncate()
        while done < total:
            digest, reasons, kept = hashlib.sha256(), [], 0
            for result in islice(results, SHARD_ROWS):
                reasons.append(result.reason)
                if result.crop is not None:
                    content = result.crop.tobytes()
                    digest.update(content)
                    file.write(content)
                    kept += 1
                done += 1
                if progress:
                    progress(done, total)
            shards.append({"reasons": reasons, "kept": kept, "sha256": digest.hexdigest()})
            _sync(file)
            journal.write(json.dumps(shards[-1]).encode() + b"\n")
            _sync(journal)
        _write_header(file, sum(shard["kept"] for shard in shards), side)
        _sync(file)
    return shards


def _sizes(shard: dict[str, Any]) -> tuple[int, int]:
    """The numbers of pictures and of crops of a line of the journal."""
    reasons, kept, sha256 = shard["reasons"], shard["kept"], shard["sha256"]
    if {str} != {type(value) for value in (*reasons, sha256)} or kept != sum(r in ("", CENTRED) for r in reasons):
        raise ValueError(f"a line with {kept!r} crops of {len(reasons)} pictures")
    return len(reasons), kept


def _finish(folder: Path, job: dict[str, Any], manifest: Manifest, shards: list[dict[str, Any]]) -> None:
    """Write the tables beside the crops and, last, the card that makes the store a finished one."""
    reasons = [reason for shard in shards for reason in shard["reasons"]]
    named = [Skipped(*pair) for pair in zip(map(str, manifest.table["image"]), reasons, strict=True)]
    kept = [row for row, reason in enumerate(reasons) if reason in ("", CENTRED)]
    skipped = [item for item in named if item.reason not in ("", CENTRED)]
    without_face = [item for item in named if item.reason in (NO_FACE, CENTRED)]
    if not kept:
        (folder / PIXELS).unlink()
        (folder / JOURNAL).unlink()
    check_any(len(kept), skipped)
    contract = CropContract.from_dict(job["contract"])
    found = "whole picture" if contract.detector == "already-cropped" else "found"
    faces = ["centre-crop" if reasons[row] else found for row in kept]
    rows = manifest.rows(np.array(kept, dtype=np.int64))
    rows = dataclasses.replace(rows, table=rows.table.assign(**{FACE_COLUMN: faces}), contract=contract)
    rows.save(folder / MANIFEST)
    write_skipped(skipped, folder / SKIPPED)
    if without_face:
        write_skipped(without_face, folder / WITHOUT_FACE)
        paths = [manifest.root / item.image for item in without_face]
        write_contact_sheet(paths, f"no face found: {len(paths)} pictures", folder / SHEET)
    card = {"format": FORMAT, "kept": len(kept), "skipped": skipped, "without_face": without_face, "job": job}
    write_json(folder / CARD, card | {"shards": [(shard["kept"], shard["sha256"]) for shard in shards]})


def _job(manifest: Manifest, contract: CropContract, centre_crop: bool) -> dict[str, Any]:
    """Describe a preparation; only one of the same job is continued or opened."""
    digest = hashlib.sha256()
    for image, path in zip(manifest.table["image"], manifest.paths, strict=True):
        size = path.stat().st_size if path.is_file() else -1
        digest.update(f"{image}\0{size}\n".encode())
    missing = "centre-crop" if centre_crop else "drop"
    files = {"manifest": manifest.sha256(), "pictures": digest.hexdigest()}
    return {"contract": contract.to_dict(), "missing": missing, **files}


def _check_same_job(job: dict[str, Any], other: dict[str, Any], folder: Path) -> None:
    """Raise UserError if a folder was made by another job; the message names what differs."""
    was = {**CropContract.from_dict(other["contract"]).to_dict(), "missing": other["missing"]}
    now = {**job["contract"], "missing": job["missing"]}
    changes = [f"{key} was {was[key]}, now {now[key]}" for key in now if was[key] != now[key]]
    changes += [f"the {name} changed" for name in ("manifest", "pictures") if job[name] != other[name]]
    if changes:
        raise UserError(
            f"{folder} was prepared differently ({'; '.join(changes)}); give another folder, or delete it first"
        )


def _write_header(file: BinaryIO, rows: int, side_px: int) -> None:
    """Write the start of a .npy file; it is equally long for any number of crops."""
    file.seek(0)
    header = {"descr": "|u1", "fortran_order": False, "shape": (rows, side_px, side_px, 3)}
    np.lib.format.write_array_header_1_0(file, header)


def _sync(file: BinaryIO) -> None:
    """Wait until the disk has what was written."""
    file.flush()
    os.fsync(file.fileno())
