"""The crop contract: how a picture becomes a network's input. It is saved with prepared faces and with models."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from facenet2expnet.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

DETECTORS = ("already-cropped", "viola-jones", "mtcnn", "dlib68")
"""How a face is found. "already-cropped" uses the whole picture as the face."""

PHOTO_DETECTOR = "mtcnn"
"""The detector for whole photographs, unless the contract or the user names another."""

MOSTLY_NOT_FOUND = 0.5
"""A framing of a sample with a larger share of pictures without a face is not used."""

TEMPLATES = ("none", "eyes-mouth", "eyes")
"""How the face is aligned. "none" uses the detector's box (or the whole picture) without rotation."""

CHOICES = ("largest", "central")
"""Which of several faces is used: the one with the largest box, or the one nearest the centre of the picture."""

MAX_SIDE_PX = 4096
"""Largest side of a stored or aligned face; with more the memory of each face would be over 50 MB."""


@dataclass(frozen=True)
class Framing:
    """How tightly pictures were cut around their faces: where the face box is in a picture's centre square.

    Positions and sizes are fractions of the square's side, and medians over a sample of pictures.

    Attributes:
        detector: the detector whose boxes they are.
        centre_xy: centre of the face box, from the square's left and top.
        size: longer side of the face box; above 1 for pictures that cut the face itself.
        centre_spread_xy, size_spread: standard deviations, from the median absolute deviation.
        pictures: number of pictures in the sample.
        not_found: share of them in which no face was found.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    detector: str
    centre_xy: tuple[float, float]
    size: float
    centre_spread_xy: tuple[float, float] = (0.0, 0.0)
    size_spread: float = 0.0
    pictures: int = 0
    not_found: float = 0.0

    def __post_init__(self) -> None:
        if self.detector not in DETECTORS[1:]:
            raise UserError(f"framing: detector is '{self.detector}', expected one of {', '.join(DETECTORS[1:])}")
        if len(self.centre_xy) != 2 or not all(map(math.isfinite, self.centre_xy)):
            raise UserError(f"framing: centre_xy is {self.centre_xy}, expected 2 finite numbers")
        if not 0.05 <= self.size <= 5:
            raise UserError(f"framing: size is {self.size}, expected 0.05 to 5")


@dataclass(frozen=True)
class CropContract:
    """All the steps from a picture on disk to the numbers that the expression net sees.

    1. The face is found and cut out, aligned by the template: a square of `aligned_px`.
    2. `resize_square` makes it a stored face of `stored_px`, 8-bit RGB.
    3. Training cuts a random window of `crop_px` out of it, testing the centre window.
    4. The expression net sees `(pixel - mean) / scale`, pixels in 0..255; a face net has its own preprocessing.

    The paper (FN2EN, section IV-A) uses Viola-Jones, landmarks and windows of 224 out of 256.

    Attributes:
        detector: one of `DETECTORS`.
        template: one of `TEMPLATES`; "none" with "already-cropped".
        stored_px: side of the stored face.
        crop_px: side of the window that the networks see.
        mean: subtracted from pixels in 0..255, in RGB order.
        scale: divides the difference.
        choice: one of `CHOICES`, for a picture with several faces.
        margin: with a detector and template "none": how much wider the crop is than the box, as a fraction of the
            box's longer side (0.25: a quarter wider and higher). Not used otherwise.
        aligned_px: side at which the face is cut out; 0 for `stored_px`. Faces from a face store have the store's
            side here, so that a model trained on them crops new pictures in the same two steps.
        framing: how tightly "already-cropped" training pictures are cut, estimated in training; with a detector and
            template "none" the face is cut out like this, and `margin` is not used.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}  # in a recipe

    detector: str = "already-cropped"
    template: str = "none"
    stored_px: int = 256
    crop_px: int = 224
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    scale: float = 64.0
    choice: str = "largest"
    margin: float = 0.25
    aligned_px: int = 0
    framing: Framing | None = None

    def __post_init__(self) -> None:
        faults = [
            f"{name} is '{getattr(self, name)}', expected one of {', '.join(known)}"
            for name, known in (("detector", DETECTORS), ("template", TEMPLATES), ("choice", CHOICES))
            if getattr(self, name) not in known
        ]
        if self.detector == "already-cropped" and self.template in TEMPLATES[1:]:
            faults.append(
                f"template '{self.template}' needs landmarks, and detector 'already-cropped' finds none; "
                "use template 'none' or another detector"
            )
        if not 8 <= self.crop_px <= self.stored_px:
            faults.append(f"crop_px is {self.crop_px}, expected 8 or more and at most stored_px ({self.stored_px})")
        if self.stored_px > MAX_SIDE_PX:
            faults.append(f"stored_px is {self.stored_px}, expected at most {MAX_SIDE_PX}")
        if self.aligned_px and not 8 <= self.aligned_px <= MAX_SIDE_PX:
            faults.append(f"aligned_px is {self.aligned_px}, expected 8 to {MAX_SIDE_PX}, or 0 for stored_px")
        if len(self.mean) != 3 or not all(map(math.isfinite, self.mean)):
            faults.append(f"mean is {self.mean}, expected 3 finite numbers")
        if not 0 < self.scale < math.inf:
            faults.append(f"scale is {self.scale}, expected a finite number above 0")
        if not 0 <= self.margin <= 4:
            faults.append(f"margin is {self.margin}, expected 0 to 4")
        if faults:
            raise UserError("crop contract: " + "; ".join(faults))

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dictionary for JSON or TOML; without `framing` if there is none."""
        values = dataclasses.asdict(self)
        if self.framing is None:
            del values["framing"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CropContract:
        """Build the contract that `to_dict` wrote; raise UserError for an unknown key or a value out of range.

        The key `colour` of earlier versions is ignored: its only value was "rgb".
        """
        try:
            return cls._from_dict(values)
        except UserError:
            raise
        except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
            raise UserError(f"crop contract: a value has the wrong type: {error}") from error

    @classmethod
    def _from_dict(cls, values: dict[str, Any]) -> CropContract:
        values = {name: value for name, value in values.items() if (name, value) != ("colour", "rgb")}
        unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise UserError(f"crop contract: unknown key {', '.join(sorted(unknown))}")
        if "mean" in values:
            values["mean"] = tuple(values["mean"])
        if values.get("framing") is not None:
            framing: dict[str, Any] = dict(values["framing"])
            framing |= {name: tuple(framing[name]) for name in ("centre_xy", "centre_spread_xy") if name in framing}
            values["framing"] = Framing(**framing)
        return cls(**values)

    def for_photos(self, detector: str | None = None) -> CropContract:
        """Return the contract that cuts the faces out of whole photographs as this one's training pictures were cut.

        A contract with a detector cuts as it always does. "already-cropped" pictures are imitated by their framing,
        or, if that is not known, by the detector's box and `margin`.

        Args:
            detector: another detector than the contract's own; by default that, or "mtcnn" for "already-cropped". Its
                boxes are converted to those of the detector that the training pictures were cut with.
        """
        own = self.detector if self.detector != DETECTORS[0] else None
        found = detector or own or PHOTO_DETECTOR
        framing = self.framing
        if own is None and framing and framing.not_found > MOSTLY_NOT_FOUND:
            framing = None
        if own is not None and framing is None and found != own:
            framing = Framing(own, (0.5, 0.5), 1 / (1 + self.margin))
        return dataclasses.replace(self, detector=found, framing=framing)


def resize_square(picture: np.ndarray, side_px: int) -> np.ndarray:
    """Resize the centre square of an (H, W, 3) uint8 picture to (side_px, side_px, 3).

    Shrinking averages areas, enlarging is cubic. A square of the right size is returned as a view, not a copy.
    """
    import cv2

    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = picture[top : top + side, left : left + side]
    if side == side_px:
        return square
    method = cv2.INTER_AREA if side > side_px else cv2.INTER_CUBIC
    return cv2.resize(square, (side_px, side_px), interpolation=method)


def centre_crop(faces: Tensor, crop_px: int) -> Tensor:
    """Cut the centre window, the one test crop: (..., S, S) -> (..., crop_px, crop_px), as float."""
    window = centre_window(faces.shape[-1], crop_px)
    return faces[..., window, window].float()


def centre_window(side_px: int, crop_px: int) -> slice:
    """The rows, and the columns, of the centre window of a square."""
    start = (side_px - crop_px) // 2
    return slice(start, start + crop_px)
