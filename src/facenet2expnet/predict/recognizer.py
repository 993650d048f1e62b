"""Find the faces of pictures, videos and cameras, and predict their expressions with a trained model."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facenet2expnet.crop import CropContract
from facenet2expnet.data.folders import passed_over
from facenet2expnet.data.pictures import Skipped
from facenet2expnet.errors import UserError
from facenet2expnet.faces import detect
from facenet2expnet.faces.prepare import NO_FACE, Progress
from facenet2expnet.faces.store import FaceStore
from facenet2expnet.predict import video
from facenet2expnet.predict.looking import Seen, count_all, jpeg_reduce, look_at, read_frames
from facenet2expnet.predict.model_folder import Model, load_model, locate_model, onnx_instead
from facenet2expnet.predict.onnx_model import OnnxModel, is_onnx, load_onnx
from facenet2expnet.predict.options import Options
from facenet2expnet.predict.results import (
    FaceResult,
    FrameResult,
    to_table,
)
from facenet2expnet.predict.scores import Classifier, torch_classifier
from facenet2expnet.predict.sources import Source, Sources, check_sources, expand, known_files, printable
from facenet2expnet.predict.tracking import Describer, Smoother, Tracker, load_describer

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import nn

CUT_BY = ("detector", "template", "margin")
"""The parts of the crop contract in which a face store should agree with the model."""

log = logging.getLogger(__name__)


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
        if options.reduce and jpeg_reduce(options, contract) == 1:
            log.warning(
                "JPEG files are decoded whole: the smallest face has %g pixels, and they are reduced from %d on.",
                options.min_face_px, 2 * (contract.aligned_px or contract.stored_px),
            )  # fmt: skip
        for store in listed.stores:
            self._compare_store(store)
        every = video.Every(options.every)
        total = count_all(listed, every) if progress else 0
        people, done = _People(options, contract.detector), 0
        as_trained = contract == self.contract and options.faces == contract.choice == "largest"
        as_trained = as_trained and options.min_face_px is None and options.min_score is None
        with contextlib.closing(look_at(read_frames(expand(listed), every), options, contract, as_trained)) as batches:
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

    def _classify(self, batch: Sequence[Seen], people: _People) -> Iterator[FrameResult]:
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

    def follow(self, seen: Seen) -> list[int | None]:
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
