"""Crop the faces of pictures as the crop contract says."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from facenet2expnet.crop import CropContract, resize_square
from facenet2expnet.data.pictures import Skipped, read_picture
from facenet2expnet.errors import UserError
from facenet2expnet.faces import detect
from facenet2expnet.faces.align import crop_matrix, warp
from facenet2expnet.faces.detect import Face
from facenet2expnet.processor import reading_threads

NO_FACE = "no face found"
CENTRED = f"{NO_FACE}, centre-cropped"

Progress = Callable[[int, int], None]
"""Called with the number of finished pictures and the number of all."""


class CropResult(NamedTuple):
    """The crop of one picture.

    Attributes:
        crop: (stored_px, stored_px, 3) uint8 RGB, or None if the picture is skipped.
        reason: why it is skipped, or `CENTRED`; empty if a face was found.
    """

    crop: np.ndarray | None
    reason: str = ""


def crop_picture(pixels: np.ndarray, contract: CropContract, *, centre_crop: bool = False) -> CropResult:
    """Crop the face of a picture: the only way from a picture to a stored face, in training and in prediction.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        centre_crop: keep the centre square of a picture without a found face, instead of skipping it.
    Raises:
        UserError: If a package that the contract needs is not installed.
    """
    faces = detect.find_faces(pixels, contract)
    if faces and contract.detector != "already-cropped":
        return CropResult(cut_face(pixels, faces[0], contract))
    if faces or centre_crop:
        return CropResult(whole_picture(pixels, contract), "" if faces else CENTRED)
    return CropResult(None, NO_FACE)


def cut_face(pixels: np.ndarray, face: Face, contract: CropContract) -> np.ndarray:
    """Cut a found face out of a picture (H, W, 3) uint8 RGB -> (stored_px, stored_px, 3)."""
    aligned = warp(pixels, crop_matrix(face, contract), contract.aligned_px or contract.stored_px)
    return resize_square(aligned, contract.stored_px)


def whole_picture(pixels: np.ndarray, contract: CropContract) -> np.ndarray:
    """Take the centre square of a picture (H, W, 3) uint8 RGB for the face -> (stored_px, stored_px, 3)."""
    return resize_square(resize_square(pixels, contract.aligned_px or contract.stored_px), contract.stored_px)


def crop_file(path: Path | np.ndarray, contract: CropContract, *, centre_crop: bool = False) -> CropResult:
    """Crop the face of a file or picture; one that can't be read or cropped is skipped, with the reason."""
    try:
        pixels = path if isinstance(path, np.ndarray) else read_picture(path)
        return crop_picture(pixels, contract, centre_crop=centre_crop)
    except (UserError, ValueError, cv2.error) as error:
        return CropResult(None, str(error))


def crop_files(
    paths: Sequence[Path | np.ndarray],
    contract: CropContract,
    *,
    centre_crop: bool = False,
    workers: int | None = None,
) -> Generator[CropResult, None, None]:
    """Crop the faces of many files or pictures, in their order, with `workers` threads (None: one per core).

    Only a few pictures per thread are in memory at a time. Raises UserError if a package that the contract needs is not
    installed.
    """
    detect.check_installed(contract)
    waiting: deque[Future[CropResult]] = deque()
    with reading_threads(workers) as (pool, count):
        for path in paths:
            waiting.append(pool.submit(crop_file, path, contract, centre_crop=centre_crop))
            if len(waiting) > 4 * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def check_any(kept: int, skipped: Sequence[Skipped]) -> None:
    """Raise UserError if no picture could be used."""
    if not kept:
        first = f"the first: {skipped[0].image}: {skipped[0].reason}" if skipped else "the manifest is empty"
        raise UserError(
            f"none of the {len(skipped)} pictures could be used; {first}; "
            "check the manifest's root folder, or try another detector or fn2en data prepare --centre-crop"
        )
