"""Find faces with Viola-Jones, MTCNN or dlib: boxes and, where the detector gives them, five landmarks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from facenet2expnet.crop import CropContract
from facenet2expnet.errors import UserError
from facenet2expnet.faces import landmarks
from facenet2expnet.faces.mtcnn import MIN_FACE_PX, Mtcnn

SEARCH_LONGEST_PX, SEARCH_SHORTEST_PX = 1024, 256
"""Larger and smaller pictures are resized for the search only; the crop is still cut from the original."""

SEARCH_BORDER_PX = 64
"""An enlarged picture gets such a border for the search: its face may fill it."""

SMALL_PICTURE_FACE = 0.4
"""In a small picture, Viola-Jones boxes under this fraction of its shorter side are dropped: they are eyes and folds of
skin. Of 500 FER2013 pictures, 4.4 % would have been cropped around such a box."""

VIOLA_JONES_TO_DLIB = (0.09, 0.86)
"""How far below and how wide dlib's own box is, as fractions of the Viola-Jones box's width: medians over 340 FER2013
pictures. The landmarks then differ from those in dlib's own box by 0.9 % of the eye distance, without it by 1.1 %."""

SMALLEST_SHARE = 64
"""In a photograph, the smallest face that is looked for by default is this part of the longer side."""

MIN_SCORES = {"mtcnn": 0.9, "viola-jones": 2.0, "dlib68": 0.0}
"""In photographs, finds with a lower score are dropped. Of 500 press faces pasted into scenes, MTCNN loses 0.6 % so,
and all but one of 19 false finds; Viola-Jones loses 2.4 %, and half of its many false finds."""


@dataclass(frozen=True, eq=False)
class Face:
    """One face found in a picture.

    Attributes:
        box_xyxy_px: (4,) float64 left, top, right, bottom in the picture's pixels; may reach over its edge.
        score: the detector's own confidence, comparable within one detector only.
        points_px: (5, 2) float64 x and y of `landmarks.POINTS`, or None without landmarks.
    """

    box_xyxy_px: np.ndarray
    score: float
    points_px: np.ndarray | None = None


def find_faces(pixels: np.ndarray, contract: CropContract, *, min_face_px: float | None = None) -> list[Face]:
    """Find the faces of a picture, in the contract's order of preference; safe to call from several threads.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        contract: names the detector; its template decides whether landmarks are needed.
        min_face_px: side of the smallest face to look for, in the picture's own pixels; None for a twelfth of the
            picture's shorter side, which suits pictures of one person. dlib's detector ignores it: it finds faces of
            80 px or more in the searched picture.
    Returns:
        The faces, empty if none was found. With "already-cropped" the one face is the whole picture.
    Raises:
        UserError: If the detector's package is not installed.
    """
    height, width = pixels.shape[:2]
    if contract.detector == "already-cropped":
        return [Face(np.array([0.0, 0.0, width, height]), 1.0)]
    longest = max(height, width)
    if min_face_px is None:
        scale = min(max(longest, SEARCH_SHORTEST_PX), SEARCH_LONGEST_PX) / longest
    elif longest < SEARCH_SHORTEST_PX:
        scale = SEARCH_SHORTEST_PX / longest
    else:  # the smallest face becomes as small as the detectors can see
        scale = min(1.0, MIN_FACE_PX / min_face_px)
    border = SEARCH_BORDER_PX if scale > 1 else 0
    picture = np.ascontiguousarray(pixels)
    if scale != 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    picture = cv2.copyMakeBorder(picture, border, border, border, border, cv2.BORDER_REPLICATE)
    smallest_px = min(picture.shape[:2]) / 12 if min_face_px is None else min_face_px * scale
    faces = FINDERS[contract.detector](picture, smallest_px)
    if contract.detector == "viola-jones" and scale > 1:
        smallest = SMALL_PICTURE_FACE * min(height, width) * scale
        faces = [face for face in faces if face.box_xyxy_px[2] - face.box_xyxy_px[0] >= smallest]
    if contract.detector == "viola-jones" and contract.template != "none":
        faces = [_with_dlib_points(picture, face) for face in faces]
    boxes = [(face.box_xyxy_px - border) / scale for face in faces]
    points = [None if face.points_px is None else (face.points_px - border) / scale for face in faces]
    faces = [Face(box, face.score, five) for box, face, five in zip(boxes, faces, points, strict=True)]

    def preference(face: Face) -> tuple[float, float]:
        left, top, right, bottom = face.box_xyxy_px
        area = float((right - left) * (bottom - top))
        offset = float(np.hypot((left + right - width) / 2, (top + bottom - height) / 2))
        return (-area, -face.score) if contract.choice == "largest" else (offset, -area)

    return sorted(faces, key=preference)


def find_in_photo(
    pixels: np.ndarray,
    contract: CropContract,
    *,
    min_face_px: float | None = None,
    min_score: float | None = None,
) -> list[Face]:
    """Find all faces of a photograph or a video frame, the largest first.

    Args:
        pixels, contract: as for `find_faces`.
        min_face_px: side of the smallest face to look for; None for a 64th of the picture's longer side, at least 20.
        min_score: faces with a lower score are dropped; None for the detector's number in `MIN_SCORES`.
    """
    height, width = pixels.shape[:2]
    smallest = min_face_px or max(float(MIN_FACE_PX), max(height, width) / SMALLEST_SHARE)
    threshold = MIN_SCORES[contract.detector] if min_score is None else min_score

    def fits(face: Face) -> bool:
        left, top, right, bottom = face.box_xyxy_px
        middle_inside = 0 <= left + right <= 2 * width and 0 <= top + bottom <= 2 * height
        return bool(middle_inside and right > left and bottom > top and face.score >= threshold)

    return [
        face for face in find_faces(pixels, replace(contract, choice="largest"), min_face_px=smallest) if fits(face)
    ]


def check_installed(contract: CropContract) -> None:
    """Raise UserError if a package that the contract needs is missing; to be called before a long run."""
    picture = np.zeros((64, 64, 3), np.uint8)
    find_faces(picture, contract)
    if contract.detector == "dlib68" or (contract.detector == "viola-jones" and contract.template != "none"):
        landmarks.dlib_landmarks(picture, np.array([8.0, 8.0, 56.0, 56.0]))


_idle: dict[str, list[Any]] = defaultdict(list)


@contextmanager
def _lent(name: str, make: Callable[[], Any]) -> Iterator[Any]:
    """A detector for one thread at a time: detectors keep state during a call, and dlib's takes a second to make."""
    try:
        detector = _idle[name].pop()
    except IndexError:
        detector = make()
    yield detector
    _idle[name].append(detector)


def _cascade() -> Any:
    try:
        return cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")  # type: ignore[attr-defined]
    except AttributeError:
        raise UserError(
            f"OpenCV {cv2.__version__} has no Viola-Jones detector, version 5 removed it: "
            "pip install 'opencv-python-headless<5'"
        ) from None


def _viola_jones(pixels: np.ndarray, smallest_px: float) -> list[Face]:
    """Boxes of OpenCV's frontal Viola-Jones cascade (FN2EN, section IV-A), without landmarks."""
    grey = cv2.equalizeHist(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    smallest = max(24, int(smallest_px))
    with _lent("viola-jones", _cascade) as cascade:
        boxes, _, weights = cascade.detectMultiScale3(
            grey, scaleFactor=1.1, minNeighbors=3, minSize=(smallest, smallest), outputRejectLevels=True
        )
    corners = np.reshape(boxes, (-1, 4)).astype(np.float64)
    corners[:, 2:] += corners[:, :2]
    return [Face(box, float(weight)) for box, weight in zip(corners, np.ravel(weights), strict=True)]


def _with_dlib_points(picture: np.ndarray, face: Face) -> Face:
    """Add dlib's landmarks to a Viola-Jones box, found in the box that dlib's own detector would have given."""
    left, top, right, bottom = face.box_xyxy_px
    width = right - left
    centre = np.array([(left + right) / 2, (top + bottom) / 2 + VIOLA_JONES_TO_DLIB[0] * width])
    half = VIOLA_JONES_TO_DLIB[1] * width / 2
    points = landmarks.dlib_landmarks(picture, np.concatenate([centre - half, centre + half]))
    return Face(face.box_xyxy_px, face.score, points)


def _dlib_faces(pixels: np.ndarray, smallest_px: float) -> list[Face]:
    """Faces of dlib's frontal HOG detector with five of its 68 landmarks."""
    with _lent("dlib68", landmarks.require_dlib().get_frontal_face_detector) as detector:
        found, scores, _ = detector.run(pixels, 0, 0.0)
    boxes = [np.array([r.left(), r.top(), r.right(), r.bottom()], dtype=np.float64) for r in found]
    return [Face(box, score, landmarks.dlib_landmarks(pixels, box)) for box, score in zip(boxes, scores, strict=True)]


def _mtcnn(pixels: np.ndarray, smallest_px: float) -> list[Face]:
    """Faces of the MTCNN cascade with its five landmarks."""
    with _lent("mtcnn", Mtcnn) as detector:
        return [Face(*found) for found in detector.detect(pixels, smallest_px)]


FINDERS: dict[str, Callable[[np.ndarray, float], list[Face]]] = {
    "viola-jones": _viola_jones,
    "mtcnn": _mtcnn,
    "dlib68": _dlib_faces,
}
