"""Read pictures and frames, find their faces and cut them out, in several threads."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from facenet2expnet.crop import CropContract
from facenet2expnet.data.pictures import read_reduced
from facenet2expnet.errors import UserError
from facenet2expnet.faces import detect
from facenet2expnet.faces.detect import Face
from facenet2expnet.faces.prepare import cut_face, whole_picture
from facenet2expnet.predict import video
from facenet2expnet.predict.options import Options
from facenet2expnet.predict.results import CARRIED, DETECTED, PREPARED, WHOLE
from facenet2expnet.predict.sources import Frame, Source, Sources
from facenet2expnet.processor import reading_threads

BATCH_FACES, BATCH_FRAMES = 32, 8
"""Faces are classified together as soon as there are so many, or so many frames wait; of a camera one by one."""

VIDEO_SHARE = 32
"""In videos, the smallest face that is looked for by default is this part of the longer side, twice that of
photographs: a search for faces of half the size takes four times as long."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A frame in which faces were looked for: its pixels, faces, stored faces, or the reason why it was not read.

    Attributes:
        how: how its crops came about; see `FaceResult.crop`.
        reduced: how many times smaller the pixels are than the picture.
    """

    frame: Frame
    pixels: np.ndarray | None
    faces: list[Face]
    crops: list[np.ndarray]
    reason: str = ""
    how: str = DETECTED
    reduced: int = 1

    @property
    def carried(self) -> bool:
        """Whether its boxes are those of an earlier frame."""
        return self.how == CARRIED


def _look(frame: Frame, options: Options, contract: CropContract, as_trained: bool, key: Future[Seen] | None) -> Seen:
    """Read a picture if it is not read yet, find its faces, and cut them out; runs in a thread.

    Args:
        as_trained: look for the face exactly as in training, in place of all faces of a photograph.
        key: the frame whose boxes are carried over to this one; None to look for faces.
    """
    try:
        if frame.pixels is None:
            return Seen(frame, None, [], [], frame.reason)
        pixels, reduced = frame.pixels, frame.source.reduced
        if isinstance(pixels, Path):
            pixels, reduced = read_reduced(pixels, options.max_megapixels, jpeg_reduce(options, contract))
        height, width = pixels.shape[:2]
        if options.faces == "whole-image" or (options.faces is None and frame.source.kind == "face"):
            whole = Face(np.array([0.0, 0.0, width, height]), float("nan"))
            how = PREPARED if frame.source.kind == "face" else WHOLE
            return Seen(frame, pixels, [whole], [whole_picture(pixels, contract)], how=how, reduced=reduced)
        if key is not None:
            faces = key.result().faces
        else:
            smallest = max(height, width) / VIDEO_SHARE if frame.source.moving else None
            if options.min_face_px:
                smallest = options.min_face_px / reduced
            if as_trained:
                faces = detect.find_faces(pixels, contract)
            else:
                faces = detect.find_in_photo(pixels, contract, min_face_px=smallest, min_score=options.min_score)
            faces = faces[:1] if options.faces == "largest" else faces
        crops = [cut_face(pixels, face, contract) for face in faces]
        return Seen(frame, pixels, faces, crops, how=CARRIED if key else DETECTED, reduced=reduced)
    except (UserError, ValueError, MemoryError, cv2.error) as error:
        return Seen(frame, None, [], [], str(error) or type(error).__name__)


def jpeg_reduce(options: Options, contract: CropContract) -> int:
    """How many times smaller JPEG files are decoded; the smallest face then still has about a stored face's pixels."""
    if not options.reduce or options.min_face_px is None:
        return 1
    needed = contract.aligned_px or contract.stored_px
    return next((times for times in (8, 4, 2) if options.min_face_px >= times * needed), 1)


def look_at(
    frames: Generator[Frame, None, None], options: Options, contract: CropContract, as_trained: bool
) -> Generator[list[Seen], None, None]:
    """Look for faces in several threads; yield the frames in their order, a few together, those of a camera alone."""
    with reading_threads(options.workers) as (pool, count), contextlib.closing(frames):
        waiting: deque[Future[Seen]] = deque()
        batch: list[Seen] = []
        source: Source | None = None
        key: Future[Seen] | None = None
        since_key = 0
        fault: Exception | None = None
        while True:
            try:
                frame = next(frames, None)
            except Exception as error:  # raised after the frames before it
                frame, fault = None, error
            if frame is None:
                break
            live = frame.source.kind == "camera"
            carried = frame.source is source and frame.source.moving and since_key + 1 < options.detect_every
            task = pool.submit(_look, frame, options, contract, as_trained, key if carried else None)
            key, since_key, source = (key, since_key + 1, source) if carried else (task, 0, frame.source)
            waiting.append(task)
            while len(waiting) > (0 if live else 2 * count):
                batch.append(waiting.popleft().result())
                if live or _full(batch):
                    yield batch
                    batch = []
        for task in waiting:
            batch.append(task.result())
            if _full(batch):
                yield batch
                batch = []
        if batch:
            yield batch
        if fault:
            raise fault


def read_frames(sources: Iterator[Source], every: video.Every) -> Generator[Frame, None, None]:
    """Yield the frames of all sources in order; what can't be read, or not on, ends with one without pixels."""
    for source in sources:
        if not source.moving:
            if isinstance(source.value, str):
                yield Frame(source, 0, 0.0, None, source.value)
            else:
                yield Frame(source, 0, 0.0, source.value)
            continue
        number, time_s = -1, 0.0
        try:
            with contextlib.closing(_opened(source, every)) as frames:
                for number, time_s, pixels in frames:
                    yield Frame(source, number, time_s, pixels)
        except UserError as error:
            yield Frame(source, number + 1, time_s, None, str(error))


def _opened(source: Source, every: video.Every) -> Any:
    """The frames of a video or a camera; those of a video are read ahead in a thread."""
    if source.kind == "camera":
        choose = every.chooser()
        return (frame for frame in video.read_camera(str(source.value)) if choose(frame.number, frame.time_s))
    assert isinstance(source.value, Path)
    read = video.read_video if source.kind == "video" else video.read_animated_picture
    return video.read_ahead(read(source.value, every))


def count_all(sources: Sources, every: video.Every) -> int:
    """The number of pictures and frames, as far as it is known without reading them."""
    count = 0
    for source in sources:  # downloads are not counted
        if isinstance(source.value, Path):
            count += video.count_frames(source.value, every) if source.kind == "video" else 1
    return count


def _full(batch: Sequence[Seen]) -> bool:
    return len(batch) >= BATCH_FRAMES or sum(len(seen.crops) for seen in batch) >= BATCH_FACES
