"""How far an exported model is from the PyTorch model that it was made of, measured on real faces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from facenet2expnet.errors import UserError

LARGEST_DIFFERENCE = 1e-5
"""Largest difference of a probability that a float32 file may have."""

MAX_DROP, MAX_CHANGED = 0.5, 1.0
"""Points of accuracy that fp16 and int8 may lose by default, and percent of the answers that may change."""


@dataclass(frozen=True)
class Agreement:
    """Two models on the same faces.

    Attributes:
        data: the name of the faces' data.
        faces: number of faces compared.
        largest_difference: of any probability.
        changed: number of faces whose most probable class is another one.
        labelled: number of faces with a label that is a class of the model; only they count for the accuracy.
        accuracy_before, accuracy_after: in percent, of PyTorch and of the exported model; None without labelled faces.
    """

    data: str
    faces: int
    largest_difference: float
    changed: int
    labelled: int
    accuracy_before: float | None
    accuracy_after: float | None

    @property
    def changed_percent(self) -> float:
        """Share of the answers that changed, in percent."""
        return 100 * self.changed / self.faces

    @property
    def drop(self) -> float | None:
        """Points of accuracy lost; negative if it is better than before, None without labelled faces."""
        if self.accuracy_before is None or self.accuracy_after is None:
            return None
        return self.accuracy_before - self.accuracy_after

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dictionary for JSON."""
        return vars(self) | {"changed_percent": self.changed_percent}

    def lines(self) -> list[str]:
        """What was measured, in plain sentences."""
        found = [
            f"compared with PyTorch on {self.faces:,} faces of {self.data}: largest difference of a probability "
            f"{self.largest_difference:.1e}, {self.changed:,} answers changed ({self.changed_percent:.2f} %)"
        ]
        if self.accuracy_before is None:
            return [*found, "accuracy: not measured, no face has a label that is a class of the model"]
        return [
            *found,
            f"accuracy on {self.labelled:,} labelled faces: {self.accuracy_before:.2f} % before, "
            f"{self.accuracy_after:.2f} % after",
        ]


def compare(before: np.ndarray, after: np.ndarray, labels: np.ndarray, data: str) -> Agreement:
    """Compare the probabilities (N, K) of two models, N > 0; labels (N,) are class numbers, -1 for none."""
    labelled = labels >= 0
    count = int(labelled.sum())
    answers = before.argmax(axis=1), after.argmax(axis=1)
    right = [100 * float((found == labels)[labelled].mean()) if count else None for found in answers]
    return Agreement(
        data, len(before), float(np.abs(before - after).max()), int((answers[0] != answers[1]).sum()), count, *right
    )


def check_same(agreement: Agreement) -> None:
    """Raise UserError if a float32 file differs from PyTorch; a number that is not finite differs, too."""
    if not agreement.largest_difference <= LARGEST_DIFFERENCE:
        raise UserError(
            f"nothing was written: the ONNX file differs from PyTorch by {agreement.largest_difference:.1e} in a "
            f"probability, on {agreement.faces:,} faces of {agreement.data}; expected {LARGEST_DIFFERENCE:.0e} at "
            "most. Please report this with the versions of torch and onnxruntime"
        )


def check_close(agreement: Agreement, max_drop: float, precision: str) -> None:
    """Raise UserError if a file of fewer bits loses more accuracy, or changes more answers, than is allowed."""
    drop = agreement.drop
    faults = []
    if drop is not None and drop > max_drop:
        faults.append(
            f"accuracy falls by {drop:.2f} points, from {agreement.accuracy_before:.2f} % to "
            f"{agreement.accuracy_after:.2f} % on {agreement.labelled:,} labelled faces (at most {max_drop:g} allowed)"
        )
    if not agreement.changed_percent <= MAX_CHANGED:
        faults.append(
            f"{agreement.changed_percent:.2f} % of the answers change, {agreement.changed:,} of "
            f"{agreement.faces:,} (at most {MAX_CHANGED:g} % allowed)"
        )
    if not np.isfinite(agreement.largest_difference):
        faults.append("its probabilities are not finite")
    if faults:
        raise UserError(
            f"nothing was written: in {precision}, on faces of {agreement.data}, {' and '.join(faults)}; give faces "
            "like those of the training with --data, or export without it"
        )
