"""What every objective is: a student's output and the teacher's in, one number to make small out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from torch import Tensor, nn


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
    """

    reads: Literal["features", "logits"] = "features"
    space: str = "teacher"
    needs_features: ClassVar[bool] = False

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


class WeightedSum(ObjectiveModule):
    """sum_i w_i * objective_i(student, teacher): several objectives on the same pair of outputs.

    One term may have a space of its own, such as standardised features. The student has one output only, so
    it then lives in that space, and all other terms compare it with the teacher's output brought there.

    Args:
        terms: (weight, objective) pairs, one or more; weights are finite and not negative.
    Raises:
        ValueError: If there is no term, a weight is negative or not finite, some terms read features and some
            logits, or more than one term has a space of its own.
    """

    def __init__(self, terms: Sequence[tuple[float, Objective]]) -> None:
        super().__init__()
        if not terms:
            raise ValueError("a weighted sum needs at least one (weight, objective) term, got none")
        self.weights = [float(weight) for weight, _ in terms]
        for weight in self.weights:
            if not 0 <= weight < float("inf"):
                raise ValueError(f"a weight of the sum is {weight}, expected a finite number of 0 or more")
        self.terms = [term for _, term in terms]
        self.members = nn.ModuleList([term for term in self.terms if isinstance(term, nn.Module)])
        reads = {str(getattr(term, "reads", "features")) for term in self.terms}
        if len(reads) > 1:
            raise ValueError("some terms of the sum read features, others logits; make one sum for each")
        self.reads = "logits" if reads == {"logits"} else "features"
        guides = [t for t in self.terms if isinstance(t, ObjectiveModule) and t.space != "teacher"]
        if len(guides) > 1:
            raise ValueError(
                f"{len(guides)} terms of the sum have a space of their own ({', '.join(g.space for g in guides)}), "
                "but the student has one output; keep one of them"
            )
        self.space = guides[0].space if guides else "teacher"

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Student and teacher outputs as the terms take them -> scalar."""
        target = self.target(teacher)
        total = student.new_zeros((), dtype=torch.promote_types(student.dtype, torch.float32))
        for weight, term in zip(self.weights, self.terms, strict=True):
            own_space = getattr(term, "space", "teacher") != "teacher"
            total = total + weight * term(student, teacher if own_space else target)
        return total

    def target(self, teacher: Tensor) -> Tensor:
        """The teacher's output in the space that the student's output lives in."""
        guide = self._guide()
        return teacher if guide is None else guide.target(teacher)

    def restore(self, student: Tensor) -> Tensor:
        """The student's output in the teacher's own space."""
        guide = self._guide()
        return student if guide is None else guide.restore(student)

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
