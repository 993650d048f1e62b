"""The crop contract: how a picture becomes a network's input, one value that goes with manifest and model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from facenet2expnet.errors import UserError

DETECTORS = ("already-cropped", "viola-jones", "mtcnn", "dlib68")
"""How a face is found; "already-cropped" takes the picture as the face."""

TEMPLATES = ("none", "eyes-mouth", "eyes")
"""Where the face goes in the crop; "none" is the detector's box (or the whole picture), not turned."""

CHOICES = ("largest", "central")
"""Which of several faces is taken: the one with the largest box, or the one nearest the picture's middle."""


@dataclass(frozen=True)
class CropContract:
    """Everything that stands between a picture on disk and the numbers that the expression net sees.

    The face is found and aligned as `detector` and `template` say, resized to `stored_px` on a side and
    kept as 8-bit RGB. Training cuts a random `crop_px` window out of it, testing the centre one (FN2EN,
    section IV-A: 224 out of 256). The expression net then sees `(pixel - mean) / scale`, pixels in 0..255.
    A face net has a preprocessing of its own, which starts from the same 0..255 RGB crop.

    Attributes:
        detector: one of `DETECTORS`.
        template: one of `TEMPLATES`; "none" with "already-cropped".
        stored_px: side of the stored crop.
        crop_px: side of the window that the nets see.
        colour: always "rgb".
        mean: subtracted from pixels in 0..255, in RGB order.
        scale: divides the difference.
        choice: one of `CHOICES`, for a picture with several faces.
        margin: with a detector and template "none": how much wider the crop is than the box, as a part of the
            box's longer side (0.25: a quarter wider and higher). Of no effect otherwise.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "extra": "forbid",
        "strict": True,
    }  # read as part of a recipe

    detector: str = "already-cropped"
    template: str = "none"
    stored_px: int = 256
    crop_px: int = 224
    colour: str = "rgb"
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    scale: float = 64.0
    choice: str = "largest"
    margin: float = 0.25

    def __post_init__(self) -> None:
        faults = []
        for name, known in (("detector", DETECTORS), ("template", TEMPLATES), ("choice", CHOICES)):
            value = getattr(self, name)
            if value not in known:
                faults.append(f"{name} is '{value}', expected one of {', '.join(known)}")
        if self.detector == "already-cropped" and self.template in TEMPLATES[1:]:
            faults.append(
                f"template '{self.template}' needs landmarks, which 'already-cropped' does not look for; "
                "expected template 'none' or another detector"
            )
        if self.colour != "rgb":
            faults.append(f"colour is '{self.colour}', expected rgb")
        if not 8 <= self.crop_px <= self.stored_px:
            faults.append(
                f"crop_px is {self.crop_px}, expected 8 or more and at most stored_px ({self.stored_px})"
            )
        if len(self.mean) != 3:
            faults.append(f"mean has {len(self.mean)} numbers, expected 3")
        if not self.scale > 0:
            faults.append(f"scale is {self.scale}, expected a number above 0")
        if not 0 <= self.margin <= 4:
            faults.append(f"margin is {self.margin}, expected 0 to 4")
        if faults:
            raise UserError("crop contract: " + "; ".join(faults))

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary for JSON or TOML."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CropContract:
        """The contract that `to_dict` wrote.

        Raises:
            UserError: If a key is unknown or a value out of range.
        """
        unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise UserError(f"crop contract: unknown key {', '.join(sorted(unknown))}")
        if "mean" in values:
            values = {**values, "mean": tuple(values["mean"])}
        return cls(**values)


PAPER = CropContract(detector="viola-jones", template="eyes-mouth")
"""FN2EN, section IV-A: Viola-Jones, landmarks, normalised, 256 x 256; dlib's landmarks for IntraFace's."""
