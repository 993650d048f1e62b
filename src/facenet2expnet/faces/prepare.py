"""One picture, or a few in memory, made ready as the crop contract says."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from facenet2expnet.crop import CropContract
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.pictures import Skipped, fit_square, read_picture
from facenet2expnet.errors import UserError
from facenet2expnet.faces import detect
from facenet2expnet.faces.align import crop_face

MISSING = ("drop", "centre-crop")
"""What becomes of a picture without a found face."""

NO_FACE = "no face found"

Progress = Callable[[int, int], None]
"""Called with how many pictures are done and how many there are."""


@dataclass(frozen=True, eq=False)
class CropResult:
    """What became of one picture.

    Attributes:
        crop: (stored_px, stored_px, 3) uint8 RGB, or None where the picture is left out.
        found: whether a face was found ("already-cropped": the picture was read).
        reason: why it was left out or centre-cropped; empty where a face was found.
    """

    crop: np.ndarray | None
    found: bool
    reason: str = ""


def crop_picture(pixels: np.ndarray, contract: CropContract, *, missing: str = "drop") -> CropResult:
    """A picture's face crop.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        contract: how the face is found, aligned and cut.
        missing: one of `MISSING`; what to do where no face is found.
    Raises:
        UserError: If a package that the contract needs is not installed, or `missing` is not known.
    """
    check_missing(missing)
    if contract.detector == "already-cropped":
        return CropResult(fit_square(pixels, contract.stored_px), True)
    faces = detect.find_faces(pixels, contract)
    if faces:
        return CropResult(crop_face(pixels, faces[0], contract), True)
    if missing == "centre-crop":
        return CropResult(fit_square(pixels, contract.stored_px), False, f"{NO_FACE}, centre-cropped")
    return CropResult(None, False, NO_FACE)


def crop_file(path: Path, contract: CropContract, *, missing: str = "drop") -> CropResult:
    """The same for a picture on disk; a picture that can't be read is left out, with the reason."""
    try:
        pixels = read_picture(path)
    except UserError as error:
        return CropResult(None, False, str(error))
    try:
        return crop_picture(pixels, contract, missing=missing)
    except (cv2.error, ValueError) as error:
        if isinstance(error, UserError):
            raise
        return CropResult(None, False, f"could not be cropped: {error}")


def crop_files(
    paths: Sequence[Path], contract: CropContract, *, missing: str = "drop", workers: int | None = None
) -> Iterator[CropResult]:
    """The same for many pictures, in their order, over `workers` threads (None: one a core).

    Decoding, OpenCV, dlib and PyTorch let go of the interpreter's lock, so threads use the cores.
    """
    count = worker_count(workers)
    pool = ThreadPoolExecutor(count)
    waiting: deque[Future[CropResult]] = deque()
    try:
        for path in paths:
            waiting.append(pool.submit(crop_file, path, contract, missing=missing))
            if len(waiting) > 4 * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """While worker threads have a picture each, OpenCV and PyTorch start no further threads of their own."""
    torch = sys.modules.get("torch")
    before = (cv2.getNumThreads(), torch.get_num_threads() if torch else 1)
    cv2.setNumThreads(1)
    if torch:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before[0])
        if torch:
            torch.set_num_threads(before[1])


def load_crops(
    manifest: Manifest,
    contract: CropContract,
    workers: int | None = None,
    *,
    missing: str = "drop",
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray, list[Skipped]]:
    """The face crops of a small set, in memory; `store.prepare` does the same on disk.

    Returns:
        pixels: (N, stored_px, stored_px, 3) uint8 RGB.
        rows: (N,) int64, the manifest row of each crop, ascending.
        skipped: the pictures left out, each with its reason.
    Raises:
        UserError: If a package is missing, or no picture at all could be made ready.
    """
    check_missing(missing)
    detect.check_installed(contract)
    total = len(manifest)
    pixels = np.empty((total, contract.stored_px, contract.stored_px, 3), np.uint8)
    rows: list[int] = []
    skipped: list[Skipped] = []
    names = image_names(manifest)
    with one_thread_each():
        all_ready = crop_files(manifest.paths, contract, missing=missing, workers=workers)
        for row, ready in enumerate(all_ready):
            if ready.crop is None:
                skipped.append(Skipped(names[row], ready.reason))
            else:
                pixels[len(rows)] = ready.crop
                rows.append(row)
            if progress is not None:
                progress(row + 1, total)
    check_any(len(rows), skipped)
    return pixels[: len(rows)], np.array(rows, dtype=np.int64), skipped


def image_names(manifest: Manifest) -> list[str]:
    """The manifest's image column as plain strings."""
    return [str(name) for name in manifest.table["image"]]


def check_missing(missing: str) -> None:
    """Raises UserError if `missing` is not one of `MISSING`."""
    if missing not in MISSING:
        raise UserError(f"missing is '{missing}', expected one of {', '.join(MISSING)}")


def check_any(kept: int, skipped: Iterable[Skipped]) -> None:
    """Raises UserError if nothing is left, with the commonest reason."""
    if kept:
        return
    reasons = [item.reason for item in skipped]
    if not reasons:
        raise UserError("the manifest has no pictures, expected one at least")
    commonest = max(sorted(set(reasons)), key=reasons.count)
    advice = (
        "try another detector, or keep the middle of such pictures: fn2en data prepare --centre-crop"
        if commonest == NO_FACE
        else "check the manifest's root folder"
    )
    raise UserError(
        f"none of the {len(reasons)} pictures could be made ready; most often: {commonest}; {advice}"
    )


def worker_count(workers: int | None) -> int:
    """The number of threads: the given one, else one for each core that this process may use."""
    if workers is not None:
        if workers < 1:
            raise UserError(f"workers is {workers}, expected 1 or more")
        return workers
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
