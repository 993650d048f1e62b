"""How pictures, videos and cameras are looked at: the options of a prediction."""

from __future__ import annotations

from dataclasses import dataclass

from facenet2expnet.crop import DETECTORS
from facenet2expnet.data.pictures import MAX_MEGAPIXELS
from facenet2expnet.errors import UserError
from facenet2expnet.predict import video
from facenet2expnet.predict.tracking import Smoother

FACES = ("all", "largest", "whole-image")
"""Which faces of a picture are classified. "whole-image" takes each picture for one cut-out face."""


@dataclass(frozen=True)
class Options:
    """How `Recognizer.stream` looks at its sources.

    Attributes:
        faces: one of `FACES`; None for "all", and "whole-image" for the faces of a face store. "largest" with a model
            that has a detector of its own looks for and cuts out the face exactly as its training did, if that took
            the largest, too.
        detector: "mtcnn", "viola-jones" or "dlib68"; None for the model's own, or "mtcnn" if it learned from cut-outs.
        min_face_px: side of the smallest face to look for; None for a 64th of a photograph's longer side and a 32nd of
            a video's, at least 20.
        min_score: faces with a lower detection score are left out; None for the detector's number in
            `faces.detect.MIN_SCORES`.
        min_probability: faces whose most probable class has less than this are labelled "uncertain".
        every: of videos: "0.2s" takes a frame each 0.2 seconds, "5f" every fifth; None takes all.
        detect_every: look for faces in every n-th of these frames only; the boxes stay where they are in between.
        track: give each person of a video a number.
        smooth_s: time constant in seconds of an average of each person's probabilities over time; None for none.
        allow_urls: download sources that are addresses on the web.
        max_megapixels: larger pictures are skipped; see `data.pictures.read_reduced`.
        reduce: decode JPEG files at half, a quarter or an eighth of their size, as far as the smallest face, which
            `min_face_px` must name, keeps about the pixels of a stored face. It saves time; answers change a little.
        workers: threads that read pictures and look for faces; None for one per core.
    """

    faces: str | None = None
    detector: str | None = None
    min_face_px: float | None = None
    min_score: float | None = None
    min_probability: float = 0.0
    every: str | float | None = None
    detect_every: int = 1
    track: bool = True
    smooth_s: float | None = None
    allow_urls: bool = False
    max_megapixels: float = MAX_MEGAPIXELS
    reduce: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.faces is not None and self.faces not in FACES:
            raise UserError(f"faces is '{self.faces}', expected one of {', '.join(FACES)}")
        if self.detector is not None and self.detector not in DETECTORS[1:]:
            raise UserError(f"detector is '{self.detector}', expected one of {', '.join(DETECTORS[1:])}")
        if self.min_face_px is not None and not 1 <= self.min_face_px <= 10_000:
            raise UserError(f"min_face_px is {self.min_face_px}, expected 1 to 10000")
        if not 0 <= self.min_probability <= 1:
            raise UserError(f"min_probability is {self.min_probability}, expected 0 to 1")
        if not self.max_megapixels > 0:
            raise UserError(f"max_megapixels is {self.max_megapixels}, expected a number above 0")
        if self.reduce and self.min_face_px is None:
            raise UserError("reduce needs min_face_px, the smallest face: it says how far pictures may be reduced")
        if self.reduce and self.faces == "whole-image":
            raise UserError("reduce excludes faces='whole-image', whose pictures are faces already")
        if self.detect_every < 1:
            raise UserError(f"detect_every is {self.detect_every}, expected 1 or more")
        if self.smooth_s is not None:
            Smoother(self.smooth_s)
            if not self.track:
                raise UserError("smoothing needs tracks: it averages the probabilities of one person over time")
        video.Every(self.every)
