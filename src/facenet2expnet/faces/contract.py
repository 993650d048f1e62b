"""The crop contract: how a picture becomes a network's input, as one value that travels with manifest and model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from facenet2expnet.errors import UserError

DETECTORS = ("already-cropped", "viola-jones", "mtcnn", "dlib68")


@dataclass(frozen=True)
class CropContract:
    """Everything that stands between a picture on disk and the numbers that the expression net sees.

    The face is found and aligned as `detector` and `template` say, resized to `stored_px` on a side and kept as
    8-bit RGB. Training cuts a random `crop_px` window out of it, testing the centre one (FN2EN, section IV-A:
    224 out of 256). The expression net then sees `(pixel - mean) / scale`, pixels in 0..255. A face net has a
    preprocessing of its own, which starts from the same 0..255 RGB crop.
    """

    detector: str = "already-cropped"
    template: str = "none"
    stored_px: int = 256
    crop_px: int = 224
    colour: str = "rgb"
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    scale: float = 64.0

    def __post_init__(self) -> None:
        faults = []
        if self.detector not in DETECTORS:
            faults.append(f"detector is '{self.detector}', expected one of {', '.join(DETECTORS)}")
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
        return cls(**{k: tuple(v) if k == "mean" else v for k, v in values.items()})
