"""What every objective is: a student's output and the teacher's in, one number to make small out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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

    reads: ClassVar[Literal["features", "logits"]] = "features"
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

    Args:
        terms: (weight, objective) pairs, one or more; weights are finite and not negative.
    Raises:
        ValueError: If there is no term, a weight is negative or not finite, or the terms read different
            outputs or compare in different spaces: a sum of them would pull one output towards two targets.
    """

    def __init__(self, terms: Sequence[tuple[float, Objective]]) -> None:
        super().__init__()
        if not terms:
            raise ValueError("a weighted sum needs at least one (weight, objective) term, got none")
        weights = [float(weight) for weight, _ in terms]
        for weight in weights:
            if not 0 <= weight < float("inf"):
                raise ValueError(f"a weight of the sum is {weight}, expected a finite number of 0 or more")
        for attribute in ("reads", "space"):
            found = {str(getattr(term, attribute, getattr(ObjectiveModule, attribute))) for _, term in terms}
            if len(found) > 1:
                raise ValueError(
                    f"the terms of a weighted sum differ in '{attribute}': {', '.join(sorted(found))}; "
                    "sum only objectives that compare the same outputs in the same space"
                )
        self.weights = weights
        self.terms = [term for _, term in terms]
        self.members = nn.ModuleList([term for term in self.terms if isinstance(term, nn.Module)])
        self.space = str(getattr(self.terms[0], "space", "teacher"))
        # Shadows the class attribute: a sum reads what its terms read.
        self.reads = getattr(self.terms[0], "reads", "features")  # type: ignore[misc]

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Student and teacher outputs as the terms take them -> scalar."""
        total = student.new_zeros((), dtype=torch.promote_types(student.dtype, torch.float32))
        for weight, term in zip(self.weights, self.terms, strict=True):
            total = total + weight * term(student, teacher)
        return total

    def target(self, teacher: Tensor) -> Tensor:
        """The target of the terms' common space."""
        first = self.terms[0]
        return first.target(teacher) if isinstance(first, ObjectiveModule) else teacher

    def restore(self, student: Tensor) -> Tensor:
        """The student's output in the teacher's own space."""
        first = self.terms[0]
        return first.restore(student) if isinstance(first, ObjectiveModule) else student


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
