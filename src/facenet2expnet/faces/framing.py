"""Estimate how tightly pictures are cut around their faces, so that new photographs can be cut in the same way."""

from __future__ import annotations

import logging

import numpy as np

from facenet2expnet.crop import PHOTO_DETECTOR, CropContract, Framing
from facenet2expnet.errors import UserError
from facenet2expnet.faces.detect import find_faces

SAMPLE = 64
"""Pictures that are looked at: the median's standard error is then a sixth of the spread between pictures."""

log = logging.getLogger(__name__)


def estimate_framing(pixels: np.ndarray, rows: np.ndarray, *, sample: int = SAMPLE) -> Framing | None:
    """Look for the faces of a sample of cut-out pictures with MTCNN, and say where they are.

    The sample is evenly spaced over the rows, so that the same rows give the same numbers.

    Args:
        pixels: (N, S, S, 3) uint8 RGB stored faces, "already-cropped".
        rows: (M,) the rows of the training part.
        sample: how many pictures to look at, at most.
    Returns:
        The framing, or None if MTCNN found no face, or is not installed.
    """
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(sample, len(rows))).astype(int))]
    contract, found = CropContract(detector=PHOTO_DETECTOR), []
    for row in chosen:
        try:
            faces = find_faces(np.asarray(pixels[row]), contract)
        except UserError as error:
            log.warning("How tightly the pictures are cut around the faces is not known: %s", error)
            return None
        if faces:
            left, top, right, bottom = faces[0].box_xyxy_px / pixels.shape[1]
            found.append(((left + right) / 2, (top + bottom) / 2, max(right - left, bottom - top)))
    if not found:
        return None
    places = np.array(found)
    x, y, size = np.median(places, axis=0).round(4)
    x_spread, y_spread, size_spread = (1.4826 * np.median(np.abs(places - (x, y, size)), axis=0)).round(4)
    return Framing(
        PHOTO_DETECTOR,
        (float(x), float(y)),
        float(np.clip(size, 0.05, 5)),
        (float(x_spread), float(y_spread)),
        float(size_spread),
        len(chosen),
        round(1 - len(found) / len(chosen), 4),
    )
