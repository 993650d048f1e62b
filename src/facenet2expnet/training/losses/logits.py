"""The objective on class scores: Hinton's soft labels."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from facenet2expnet.training.losses.base import ObjectiveModule, Options, compared


def soft_label_loss(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """T^2 * KL(softmax(t / T) || softmax(s / T)), averaged over pictures.

    T^2 keeps the gradient's size when T changes, so that the weight beside the cross-entropy can stay.

    Args:
        student: class scores before softmax, (B, K).
        teacher: class scores of the fine-tuned face net, (B, K), the same classes in the same order.
        temperature: T > 0; 1 leaves the probabilities as they are, more makes them softer.
    Raises:
        ValueError: If the shapes differ or are not (B, K), or the temperature is not above 0.
    Source: Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, section
        2. 4 is the habit of later work; the paper names none.
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}, expected a finite number above 0")
    if student.ndim != 2:
        raise ValueError(f"soft labels compare class scores (B, K), got {tuple(student.shape)}")
    student, teacher = compared(student, teacher)
    student_log = functional.log_softmax(student / temperature, dim=1)
    teacher_log = functional.log_softmax(teacher / temperature, dim=1)
    divergence = functional.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True)
    return divergence * temperature**2


class SoftLabels(ObjectiveModule):
    """See soft_label_loss."""

    reads = "logits"
    options: ClassVar[Options] = {"temperature": float}

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature is {temperature}, expected a finite number above 0")
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Class scores (B, K), twice -> scalar."""
        return soft_label_loss(student, teacher, self.temperature)
