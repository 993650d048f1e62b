"""What is found in a picture or a frame: its faces, their expressions, and their rows of the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

PLACE = ("source", "frame", "time_s", "track", "x", "y", "width", "height", "detection_score")
"""The first columns of the table; the class columns, `crop` and `note` follow."""

DETECTED, CARRIED, WHOLE, PREPARED = "detected", "box of an earlier frame", "whole picture", "prepared face"
"""How a face's crop came about."""

UNCERTAIN = "uncertain"
"""The label of a face whose most probable class is less probable than was asked for."""


@dataclass(frozen=True, eq=False)
class FaceResult:
    """One face and its expression.

    Attributes:
        box_xyxy_px: (4,) float64 left, top, right, bottom in pixels of the picture; may reach over its edge.
        detection_score: the detector's own confidence, comparable within one detector only; NaN for a whole picture.
        probabilities: (K,) float32, one per class, sums to 1.
        track: the number of the person in a video, from 1; None in pictures, and without tracking.
        smoothed: (K,) float32, the probabilities averaged over time; None without smoothing.
        crop: how its crop came about: DETECTED, CARRIED, WHOLE (no face was looked for) or PREPARED (of a face store).
    """

    box_xyxy_px: np.ndarray
    detection_score: float
    probabilities: np.ndarray
    track: int | None = None
    smoothed: np.ndarray | None = None
    crop: str = DETECTED

    def __post_init__(self) -> None:
        if self.box_xyxy_px.shape != (4,) or not np.isfinite(self.box_xyxy_px).all():
            raise ValueError(f"box_xyxy_px is {self.box_xyxy_px}, expected 4 finite numbers")
        for name, values in (("probabilities", self.probabilities), ("smoothed", self.smoothed)):
            if values is not None and (values.ndim != 1 or not abs(float(values.sum()) - 1) < 1e-3):
                raise ValueError(f"{name} is {values}, expected one number a class, with sum 1")
        if self.track is not None and self.track < 1:
            raise ValueError(f"track is {self.track}, expected 1 or more")


@dataclass(frozen=True, eq=False)
class FrameResult:
    """The faces of a picture, or of a frame of a video.

    Attributes:
        source: the path or name of the picture, video or camera.
        frame: number of the frame in its source, from 0; 0 for a picture.
        time_s: its time from the beginning of the video, in seconds; 0.0 for a picture.
        faces: the faces, the largest first.
        classes: class names, K.
        pixels: (H, W, 3) uint8 RGB; None if it could not be read.
        note: why there are no faces: "no face found", or why the picture could not be read; empty otherwise.
        unread: whether the picture could not be read.
        moving: whether it is a frame of a video or a camera.
        min_probability: faces whose most probable class has less than this are labelled `UNCERTAIN`.
        reduced: how many times smaller `pixels` are than the picture, which was too large to be read whole, or was read
            with `Options.reduce`; 1 if they are not. The boxes of `faces` are in `pixels`, those of `rows` in the
            picture.
    """

    source: str
    frame: int
    time_s: float
    faces: tuple[FaceResult, ...]
    classes: tuple[str, ...]
    pixels: np.ndarray | None
    note: str = ""
    unread: bool = False
    moving: bool = False
    min_probability: float = 0.0
    reduced: int = 1

    def __post_init__(self) -> None:
        if self.pixels is not None and (self.pixels.ndim != 3 or self.pixels.shape[2] != 3):
            raise ValueError(f"pixels are {self.pixels.shape}, expected (H, W, 3)")
        if any(len(face.probabilities) != len(self.classes) for face in self.faces):
            raise ValueError(f"expected {len(self.classes)} probabilities a face, one for each of {self.classes}")
        if bool(self.faces) == bool(self.note):
            raise ValueError(f"{len(self.faces)} faces and the note '{self.note}': expected faces, or a note why not")

    @property
    def labels(self) -> list[str]:
        """The most probable class of every face, or `UNCERTAIN`."""
        return [self._label(face.probabilities) for face in self.faces]

    def rows(self, *, smoothed: bool = False) -> list[list[Any]]:
        """One list for each face, or one without a face, in the order of `columns`; None where there is nothing."""
        place = [self.source, self.frame, self.time_s]
        if not self.faces:
            empty = len(columns(self.classes, smoothed=smoothed)) - len(place) - 1
            return [[*place, *[None] * empty, self.note]]
        rows = []
        for face in self.faces:
            left, top, right, bottom = (float(v) * self.reduced for v in face.box_xyxy_px)
            score = None if np.isnan(face.detection_score) else float(face.detection_score)
            row = [*place, face.track, left, top, right - left, bottom - top, score, *self._best(face.probabilities)]
            if smoothed:
                row += self._best(face.probabilities if face.smoothed is None else face.smoothed)
            rows.append([*row, face.crop if self.reduced == 1 else f"{face.crop}, at 1/{self.reduced} size", ""])
        return rows

    def table(self) -> pd.DataFrame:
        """The rows as a table; see `columns`."""
        return to_table([self])

    def draw(self) -> np.ndarray:
        """Return a copy of the picture, (H, W, 3) uint8 RGB, with boxes, labels and tracks.

        Raises:
            ValueError: If the picture was not read, or its pixels were not kept.
        """
        from facenet2expnet.predict.draw import draw_faces

        if self.pixels is None:
            raise ValueError(f"{self.source}: there are no pixels to draw on: {self.note or 'they were not kept'}")
        shown = [face.probabilities if face.smoothed is None else face.smoothed for face in self.faces]
        return draw_faces(self.pixels, self.faces, [self._label(probabilities) for probabilities in shown])

    def _label(self, probabilities: np.ndarray) -> str:
        sure = probabilities.max() >= self.min_probability
        return self.classes[int(probabilities.argmax())] if sure else UNCERTAIN

    def _best(self, probabilities: np.ndarray) -> list[Any]:
        return [self._label(probabilities), float(probabilities.max()), *(float(p) for p in probabilities)]


def columns(classes: Sequence[str], *, smoothed: bool = False) -> list[str]:
    """The columns of the table.

    `source`, `frame`, `time_s`; `track`; `x`, `y`, `width`, `height` of the box in pixels; `detection_score`; `label`,
    `probability`, and `p_<class>` for every class; with `smoothed` the same averaged over time, as `smoothed_label`,
    `smoothed_probability` and `smoothed_p_<class>`; `crop`; `note`.
    """
    names = ["label", "probability", *(f"p_{name}" for name in classes)]
    return [*PLACE, *names, *([f"smoothed_{name}" for name in names] if smoothed else []), "crop", "note"]


def column_types(names: Sequence[str]) -> dict[str, str]:
    """The pandas type of every column: nullable integers for `frame` and `track`, text, and numbers."""
    text = ("source", "label", "smoothed_label", "crop", "note")
    return {name: "Int64" if name in ("frame", "track") else "string" if name in text else "float64" for name in names}


def to_table(results: Sequence[FrameResult], classes: Sequence[str] = ()) -> pd.DataFrame:
    """The rows of several results as one table; `classes` are needed if there are no results."""
    import pandas as pd

    smoothed = any(face.smoothed is not None for result in results for face in result.faces)
    names = columns(results[0].classes if results else classes, smoothed=smoothed)
    rows = [row for result in results for row in result.rows(smoothed=smoothed)]
    return pd.DataFrame(rows, columns=names).astype(column_types(names))
