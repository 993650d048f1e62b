"""Five landmarks of a face (eyes, nose, mouth corners), and dlib's 68 that they are taken from."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from facenet2expnet.errors import UserError
from facenet2expnet.files import package_file

POINTS = ("left eye", "right eye", "nose", "left mouth corner", "right mouth corner")
"""Order of the five landmarks; left and right as seen in the picture."""

HELP = "pip install 'facenet2expnet[landmarks]', or choose detector 'mtcnn', or template 'none'"


def require_dlib() -> Any:
    """Import dlib, or raise UserError with the command that installs it."""
    try:
        import dlib
    except ImportError as error:
        raise UserError(f"the Python package 'dlib' is not installed; {HELP}") from error
    return dlib


@functools.cache
def _shape_predictor() -> Any:
    path = package_file("face_recognition_models", "models/shape_predictor_68_face_landmarks.dat", HELP)
    return require_dlib().shape_predictor(str(path))


def dlib_landmarks(pixels: np.ndarray, box_xyxy_px: np.ndarray) -> np.ndarray:
    """Find five landmarks of the face in a box, taken from dlib's 68.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        box_xyxy_px: (4,) left, top, right, bottom of the face.
    Returns:
        (5, 2) float64, x and y in pixels, in the order of `POINTS`; an eye is the mean of its six points.
    Raises:
        UserError: If dlib or its landmark file is not installed.
    Source: Kazemi and Sullivan, "One millisecond face alignment with an ensemble of regression trees",
        2014. It replaces the paper's IntraFace, which is no longer distributed.
    """
    left, top, right, bottom = (round(float(v)) for v in box_xyxy_px)
    box = require_dlib().rectangle(left, top, right, bottom)
    shape = _shape_predictor()(np.ascontiguousarray(pixels), box)
    points = np.array([(part.x, part.y) for part in shape.parts()], dtype=np.float64)
    return np.stack([points[36:42].mean(axis=0), points[42:48].mean(axis=0), points[30], points[48], points[54]])
