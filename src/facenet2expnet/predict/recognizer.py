"""Find the faces of pictures, videos and cameras, and predict their expressions with a trained model."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from facenet2expnet.crop import DETECTORS, CropContract
from facenet2expnet.data.folders import passed_over
from facenet2expnet.data.pictures import MAX_MEGAPIXELS, Skipped, read_reduced
from facenet2expnet.errors import UserError
from facenet2expnet.faces import detect
from facenet2expnet.faces.detect import Face
from facenet2expnet.faces.prepare import NO_FACE, Progress, cut_face, whole_picture
from facenet2expnet.faces.store import FaceStore
from facenet2expnet.predict import video
from facenet2expnet.predict.model_folder import Model, load_model, locate_model, onnx_instead
from facenet2expnet.predict.onnx_model import OnnxModel, is_onnx, load_onnx
from facenet2expnet.predict.results import (
    CARRIED,
    DETECTED,
    PREPARED,
    WHOLE,
    FaceResult,
    FrameResult,
    to_table,
)
from facenet2expnet.predict.scores import Classifier, torch_classifier
from facenet2expnet.predict.sources import Frame, Source, Sources, check_sources, expand, known_files, printable
from facenet2expnet.predict.tracking import Describer, Smoother, Tracker, load_describer
from facenet2expnet.processor import reading_threads

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import nn

FACES = ("all", "largest", "whole-image")
"""Which faces of a picture are classified. "whole-image" takes each picture for one cut-out face."""

BATCH_FACES, BATCH_FRAMES = 32, 8
"""Faces are classified together as soon as there are so many, or so many frames wait; of a camera one by one."""

VIDEO_SHARE = 32
"""In videos, the smallest face that is looked for by default is this part of the longer side, twice that of
photographs: a search for faces of half the size takes four times as long."""

CUT_BY = ("detector", "template", "margin")
"""The parts of the crop contract in which a face store should agree with the model."""

log = logging.getLogger(__name__)


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
            `min_face_px` must name, keeps the pixels of a stored face. It saves time, and answers change a little.
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
        if self.detect_every < 1:
            raise UserError(f"detect_every is {self.detect_every}, expected 1 or more")
        if self.smooth_s is not None:
            Smoother(self.smooth_s)
            if not self.track:
                raise UserError("smoothing needs tracks: it averages the probabilities of one person over time")
        video.Every(self.every)


@dataclass(frozen=True, eq=False)
class Predictions:
    """All faces of some sources, and their expressions.

    Attributes:
        results: one per picture or frame, without their pixels.
        classes: class names, K.
        skipped: the pictures that could not be read, each with the reason.
    """

    results: list[FrameResult]
    classes: tuple[str, ...]
    skipped: list[Skipped]

    def __len__(self) -> int:
        """The number of faces."""
        return sum(len(result.faces) for result in self.results)

    @property
    def labels(self) -> list[str]:
        """The most probable class of every face."""
        return [label for result in self.results for label in result.labels]

    @property
    def probabilities(self) -> np.ndarray:
        """(N, K) float32, one row a face; rows sum to 1."""
        rows = [face.probabilities for result in self.results for face in result.faces]
        return np.array(rows, np.float32).reshape(-1, len(self.classes))

    def table(self) -> pd.DataFrame:
        """One row a face, and one for each picture or frame without any; see `results.columns`."""
        return to_table(self.results, self.classes)


class Recognizer:
    """A trained model that finds faces and classifies their expressions.

        recognizer = Recognizer.load("runs/mine/model")
        print(recognizer.predict(["party.jpg"]).table())
        for result in recognizer.stream("clip.mp4"):
            print(result.time_s, result.labels)

    Attributes:
        model: the module, RGB crops (B, 3, H, W) in 0..255 -> class scores (B, K); or the ONNX file's session.
        probabilities: stored faces (N, S, S, 3) uint8 RGB -> class probabilities (N, K); see `scores.Classifier`.
        device: where it computes.
        classes, contract, metadata: see `Model` and `OnnxModel`.
    """

    model: nn.Module | OnnxModel
    probabilities: Classifier
    device: torch.device | str

    def __init__(self, model: Model | OnnxModel, device: str | torch.device = "auto") -> None:
        self.classes = model.classes
        self.contract = model.contract
        self.metadata = model.metadata
        if isinstance(model, OnnxModel):
            self.model = self.probabilities = model
            self.device = model.device
            return
        from facenet2expnet.device import choose_device

        self.device = choose_device(device) if isinstance(device, str) else device
        self.model = model.module.to(self.device).eval()
        self.probabilities = torch_classifier(self.model, model.contract.crop_px, self.device)

    @classmethod
    def load(cls, path: str | Path | None = None, device: str | torch.device = "auto") -> Recognizer:
        """Load a model onto "auto", "cpu", "cuda", "mps" or a torch.device.

        An ONNX file runs on ONNX Runtime, without PyTorch. A folder runs on PyTorch where that is installed, otherwise
        on ONNX Runtime if the folder has a `model.onnx`.

        Args:
            path: an ONNX file of `fn2en export`, a model folder, a run folder with one model, a model on the hub
                (hf:owner/name or hf:owner/name@revision), or the name of a model of the package; by default its
                "standard".
        Raises:
            UserError: If there is no model, a file is damaged, a package is not installed, or there is no such device.
        """
        found = locate_model(path)
        onnx = found if is_onnx(found) else onnx_instead(found)
        if onnx:
            return cls(load_onnx(onnx, str(device)))
        return cls(load_model(found), device)

    def stream(
        self,
        sources: Any,
        options: Options | None = None,
        *,
        progress: Progress | None = None,
        check: bool = True,
        **changes: Any,
    ) -> Generator[FrameResult, None, None]:
        """Yield the result of each picture or frame, in order; memory does not grow with their number.

            for result in recognizer.stream("clip.mp4", every="0.2s"):
                print(result.time_s, result.labels)

        Reading, looking for faces and classifying overlap. What can't be read gives a result with a note, and does not
        stop the others.

        Args:
            sources: pictures, folders, patterns, lists (.txt), videos, "webcam", "camera:1", face stores, arrays
                (H, W, 3) uint8 RGB, tensors, pictures of Pillow, or the bytes of picture files; one or many; or what
                `check_sources` returns.
            options, changes: how to look; `changes` are fields of `Options`.
            progress: called with the number of finished pictures and frames, and of all as far as that is known.
            check: False for paths of pictures and videos that were found before: one that is gone gives a result with
                a note.
        Raises:
            UserError: Before any work, if a source does not exist, holds no picture or can't be read, or a package is
                not installed.
        """
        chosen = replace(options or Options(), **changes)
        listed = check_sources(sources, allow_urls=chosen.allow_urls) if check else known_files(sources)
        contract = self.contract.for_photos(chosen.detector)
        if chosen.faces != "whole-image":
            detect.check_installed(contract)
        for folder, others in listed.folders.items():
            if others:
                log.info("%s: %s", folder, passed_over(others))
        return self._stream(listed, chosen, contract, progress)

    def predict(self, sources: Any, *, progress: Progress | None = None, **changes: Any) -> Predictions:
        """Classify all faces of some sources, as `stream` does, and return them together.

        Pixels are not kept, but every row is: take `stream` for long videos.
        """
        results = []
        for result in self.stream(sources, progress=progress, **changes):
            results.append(replace(result, pixels=None))
        skipped = [Skipped(result.source, result.note) for result in results if result.unread]
        return Predictions(results, self.classes, skipped)

    def _stream(
        self,
        listed: Sources,
        options: Options,
        contract: CropContract,
        progress: Progress | None,
    ) -> Generator[FrameResult, None, None]:
        if contract.detector != self.contract.detector and contract.framing is None and options.faces != "whole-image":
            log.warning(
                "The model does not say how tightly the faces that it learned from were cut; faces are cut out with "
                "a margin of %.0f %%.", 100 * contract.margin,
            )  # fmt: skip
        for store in listed.stores:
            self._compare_store(store)
        every = video.Every(options.every)
        total = _count(listed, every) if progress else 0
        people, done = _People(options, contract.detector), 0
        as_trained = contract == self.contract and options.faces == contract.choice == "largest"
        as_trained = as_trained and options.min_face_px is None and options.min_score is None
        with contextlib.closing(_look_at(_frames(expand(listed), every), options, contract, as_trained)) as batches:
            for batch in batches:
                for result in self._classify(batch, people):
                    done += 1
                    if progress:
                        progress(done, max(done, total))
                    yield result

    def _compare_store(self, store: FaceStore) -> None:
        """Log a warning for a face store whose faces were cropped in another way than those of the training."""
        stored = store.manifest.contract
        if stored is None:
            return
        pairs = {name: (getattr(stored, name), getattr(self.contract, name)) for name in CUT_BY}
        differ = [f"{name} {its}, not {own}" for name, (its, own) in pairs.items() if its != own]
        if differ:
            log.warning("%s: its faces were cropped differently from the model's: %s.", store.folder, "; ".join(differ))

    def _classify(self, batch: Sequence[_Seen], people: _People) -> Iterator[FrameResult]:
        """Classify the faces of several frames together, follow the people, and yield the results in order."""
        crops = [crop for seen in batch for crop in seen.crops]
        side = self.contract.stored_px
        pixels = np.stack(crops) if crops else np.zeros((0, side, side, 3), np.uint8)
        probabilities = self.probabilities(pixels)
        if not np.isfinite(probabilities).all():
            raise UserError("the model's probabilities are not finite: its weights are damaged; get it again")
        first = 0
        for seen in batch:
            own = probabilities[first : first + len(seen.crops)]
            first += len(seen.crops)
            frame = seen.frame
            numbers = people.follow(seen)
            faces = []
            for face, values, number in zip(seen.faces, own, numbers, strict=True):
                smoothed = people.smooth(number, frame.time_s, values)
                faces.append(FaceResult(face.box_xyxy_px, face.score, values, number, smoothed, seen.how))
            note = printable(seen.reason) or ("" if faces else NO_FACE)
            yield FrameResult(
                frame.source.name, frame.number, frame.time_s, tuple(faces), self.classes, seen.pixels, note,
                unread=bool(seen.reason), moving=frame.source.moving, reduced=seen.reduced,
                min_probability=people.options.min_probability,
            )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Seen:
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


@dataclass(eq=False)
class _People:
    """Tracks and smoothed probabilities of the video that is being read; another video begins anew."""

    options: Options
    detector: str
    source: Source | None = None
    tracker: Tracker | None = None
    smoother: Smoother | None = None
    describe: Describer | None = None
    asked: bool = False
    numbers: list[int] = field(default_factory=list)

    def follow(self, seen: _Seen) -> list[int | None]:
        """The number of the person of each face; None in pictures, and without tracking."""
        source = seen.frame.source
        if not self.options.track or not source.moving or seen.pixels is None or self.options.faces == "whole-image":
            return [None] * len(seen.faces)
        if source is not self.source:
            if not self.asked:
                self.describe, self.asked = load_describer(), True
                if self.describe is None:
                    log.warning(
                        "People who leave and return get a new track: the face net that recognises them is not "
                        "installed (pip install 'facenet2expnet[facenet]')."
                    )
            self.source, self.tracker = source, Tracker(self.describe, self.detector)
            self.smoother = Smoother(self.options.smooth_s) if self.options.smooth_s else None
        assert self.tracker is not None
        if not seen.carried:  # carried boxes are no observation: a moving person would seem to stand still
            self.numbers = self.tracker.update(seen.pixels, seen.frame.time_s, seen.faces)
        return list(self.numbers[: len(seen.faces)])  # none after a frame that could not be read

    def smooth(self, number: int | None, time_s: float, probabilities: np.ndarray) -> np.ndarray | None:
        """The averaged probabilities of a person; None without smoothing."""
        return self.smoother.update(number, time_s, probabilities) if self.smoother and number else None


def _look(frame: Frame, options: Options, contract: CropContract, as_trained: bool, key: Future[_Seen] | None) -> _Seen:
    """Read a picture if it is not read yet, find its faces, and cut them out; runs in a thread.

    Args:
        as_trained: look for the face exactly as in training, in place of all faces of a photograph.
        key: the frame whose boxes are carried over to this one; None to look for faces.
    """
    try:
        if frame.pixels is None:
            return _Seen(frame, None, [], [], frame.reason)
        pixels, reduced = frame.pixels, frame.source.reduced
        if isinstance(pixels, Path):
            pixels, reduced = read_reduced(pixels, options.max_megapixels, _jpeg_reduce(options, contract))
        height, width = pixels.shape[:2]
        if options.faces == "whole-image" or (options.faces is None and frame.source.kind == "face"):
            whole = Face(np.array([0.0, 0.0, width, height]), float("nan"))
            how = PREPARED if frame.source.kind == "face" else WHOLE
            return _Seen(frame, pixels, [whole], [whole_picture(pixels, contract)], how=how, reduced=reduced)
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
        return _Seen(frame, pixels, faces, crops, how=CARRIED if key else DETECTED, reduced=reduced)
    except (UserError, ValueError, MemoryError, cv2.error) as error:
        return _Seen(frame, None, [], [], str(error) or type(error).__name__)


def _jpeg_reduce(options: Options, contract: CropContract) -> int:
    """How many times smaller JPEG files are decoded; the smallest face then still has a stored face's pixels."""
    if not options.reduce or options.min_face_px is None or options.faces == "whole-image":
        return 1
    needed = contract.aligned_px or contract.stored_px
    return next((times for times in (8, 4, 2) if options.min_face_px >= times * needed), 1)


def _look_at(
    frames: Generator[Frame, None, None], options: Options, contract: CropContract, as_trained: bool
) -> Generator[list[_Seen], None, None]:
    """Look for faces in several threads; yield the frames in their order, a few together, those of a camera alone."""
    with reading_threads(options.workers) as (pool, count), contextlib.closing(frames):
        waiting: deque[Future[_Seen]] = deque()
        batch: list[_Seen] = []
        source: Source | None = None
        key: Future[_Seen] | None = None
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


def _frames(sources: Iterator[Source], every: video.Every) -> Generator[Frame, None, None]:
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


def _count(sources: Sources, every: video.Every) -> int:
    """The number of pictures and frames, as far as it is known without reading them."""
    count = 0
    for source in sources:  # downloads are not counted
        if isinstance(source.value, Path):
            count += video.count_frames(source.value, every) if source.kind == "video" else 1
    return count


def _full(batch: Sequence[_Seen]) -> bool:
    return len(batch) >= BATCH_FRAMES or sum(len(seen.crops) for seen in batch) >= BATCH_FACES
