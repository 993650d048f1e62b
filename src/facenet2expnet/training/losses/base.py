"""What every objective is: a student's output and the teacher's in, one number to make small out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from torch import Tensor, nn

from facenet2expnet.errors import UserError

Choice = type[float] | type[bool] | tuple[str, ...]
"""What an option may be: a number, true or false, or one of some words."""

Options = Mapping[str, Choice]
"""An objective's options by name."""


class Objective(Protocol):
    """Anything that compares a student's output with the teacher's and gives a scalar."""

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Student and teacher outputs, (B, C, H, W) or (B, U) -> scalar, small where they agree."""
        ...


class ObjectiveModule(nn.Module):
    """Base of the objectives that a recipe can name.

    Attributes:
        reads: what the two arguments are, the tapped "features" or the class scores ("logits").
        space: where the student's output lives. "teacher": it is the teacher's feature itself. Otherwise it
            is an affine image of it, and `target` and `restore` go there and back.
        needs_features: whether `fit` has to see the teacher's features of the training part.
        options: what a recipe may give it, by name.
    """

    reads: Literal["features", "logits"] = "features"
    space: str = "teacher"
    needs_features: ClassVar[bool] = False
    options: ClassVar[Options] = {}

    @classmethod
    def fit(cls, batches: Iterable[Tensor], **options: Any) -> Self:
        """Make the objective, measuring on the training part's features what it needs; most need nothing.

        Args:
            batches: the teacher's features of the training part, each (B, C, H, W) or (B, U). Not read unless
                `needs_features` is set.
            options: the constructor's own numbers.
        """
        return cls(**options)

    def target(self, teacher: Tensor) -> Tensor:
        """The teacher's output in the space that the student's output lives in."""
        return teacher

    def restore(self, student: Tensor) -> Tensor:
        """The student's output in the teacher's own space; the inverse of `target`."""
        return student

    def restoration(self) -> Restoration:
        """`restore` in its parts, for the bridge to take over."""
        return Restoration(None, torch.ones(()), torch.zeros(()))


@dataclass(frozen=True, eq=False)
class Restoration:
    """restore(z) = scale * (rotation z) + shift.

    Attributes:
        rotation: orthogonal, over channels, (C, C); None where nothing is turned.
        scale: broadcasts to (C, H, W) or (U,).
        shift: the same.
    """

    rotation: Tensor | None
    scale: Tensor
    shift: Tensor


def check_terms(terms: Sequence[tuple[float, object]]) -> None:
    """Refuse (weight, objective) pairs that can't be summed; an objective or its class will do.

    Raises:
        UserError: If there is no term, a weight is negative or not finite, none is above 0, some terms read features
            and some logits, or more than one term has a space of its own.
    """
    if not terms:
        raise UserError("a weighted sum needs at least one (weight, objective) term, got none")
    for weight, _ in terms:
        if not 0 <= weight < float("inf"):
            raise UserError(f"a weight of the sum is {weight}, expected a finite number of 0 or more")
    if not any(weight for weight, _ in terms):
        raise UserError("every weight of the sum is 0, expected one above it")
    if len({getattr(term, "reads", "features") for _, term in terms}) > 1:
        raise UserError("some terms of the sum read features, others logits; make one sum for each")
    spaces = [space for _, term in terms if (space := getattr(term, "space", "teacher")) != "teacher"]
    if len(spaces) > 1:
        raise UserError(
            f"{len(spaces)} terms of the sum have a space of their own ({', '.join(spaces)}), "
            "but the student has one output; keep one of them"
        )


class WeightedSum(ObjectiveModule):
    """sum_i w_i * objective_i(student, teacher): several objectives on the same pair of outputs.

    One term may have a space of its own, such as standardised features. The student has one output only, so
    it then lives in that space, and all other terms compare it with the teacher's output brought there.

    Args:
        terms: (weight, objective) pairs, one or more; weights are finite and not negative.
    Raises:
        UserError: If they can't be summed; see `check_terms`.
    """

    def __init__(self, terms: Sequence[tuple[float, Objective]]) -> None:
        super().__init__()
        check_terms(terms)
        self.weights = [float(weight) for weight, _ in terms]
        self.terms = [term for _, term in terms]
        self.members = nn.ModuleList([term for term in self.terms if isinstance(term, nn.Module)])
        self.reads = getattr(self.terms[0], "reads", "features")
        guide = self._guide()
        self.space = guide.space if guide else "teacher"

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Student and teacher outputs as the terms take them -> scalar."""
        target = self.target(teacher)
        total = student.new_zeros((), dtype=torch.promote_types(student.dtype, torch.float32))
        for weight, term in self.weighed():
            own_space = getattr(term, "space", "teacher") != "teacher"
            total = total + weight * term(student, teacher if own_space else target)
        return total

    def weighed(self) -> list[tuple[float, Objective]]:
        """The terms whose weight is above 0: the others are not computed, but for the space they may bring."""
        return [(w, term) for w, term in zip(self.weights, self.terms, strict=True) if w]

    def target(self, teacher: Tensor) -> Tensor:
        """The teacher's output in the space that the student's output lives in."""
        guide = self._guide()
        return teacher if guide is None else guide.target(teacher)

    def restore(self, student: Tensor) -> Tensor:
        """The student's output in the teacher's own space."""
        guide = self._guide()
        return student if guide is None else guide.restore(student)

    def restoration(self) -> Restoration:
        """`restore` in its parts."""
        guide = self._guide()
        return super().restoration() if guide is None else guide.restoration()

    def _guide(self) -> ObjectiveModule | None:
        """The term with a space of its own, if there is one."""
        return next((t for t in self.terms if isinstance(t, ObjectiveModule) and t.space != "teacher"), None)


def compared(student: Tensor, teacher: Tensor, *, same_shape: bool = True) -> tuple[Tensor, Tensor]:
    """Check a pair of outputs; bring both to one dtype of 32 bits or more, the teacher's without a gradient.

    Half precision would overflow in sums of squares. A teacher's output made under inference mode is copied,
    as autograd can't keep such a tensor.

    Args:
        student: (B, C, H, W) or (B, U), floating point.
        teacher: the same shape; only the same B with `same_shape` off.
    Raises:
        ValueError: If the shapes do not fit, the batch is empty, or a tensor is not floating point.
    """
    if not (student.is_floating_point() and teacher.is_floating_point()):
        raise ValueError(
            f"expected floating-point outputs, got student {student.dtype}, teacher {teacher.dtype}"
        )
    shapes = f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
    if same_shape and student.shape != teacher.shape:
        raise ValueError(
            f"student and teacher outputs differ in shape: {shapes}; the bridge has to match them"
        )
    if student.ndim not in (2, 4) or teacher.ndim not in (2, 4) or student.shape[0] != teacher.shape[0]:
        raise ValueError(f"expected (B, C, H, W) or (B, U) with one batch size B, got {shapes}")
    if student.numel() == 0 or teacher.numel() == 0:
        raise ValueError(f"expected at least one picture and one unit, got {shapes}")
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    fixed = teacher.clone() if teacher.is_inference() else teacher.detach()
    return student.to(dtype), fixed.to(dtype)


def full_precision(output: Tensor) -> AbstractContextManager[None]:
    """Matrix products inside this context keep 32 bits under automatic mixed precision."""
    return torch.autocast(output.device.type, enabled=False)
