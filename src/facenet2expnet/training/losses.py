"""The losses between a student's output and a teacher's: equation (4) of the paper, and what it is compared with.

Student g(I) and teacher G(I) have one shape, (B, C, H, W) or (B, U), else a loss raises ValueError. The teacher gets no
gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from facenet2expnet.recipe import LossTerm
from facenet2expnet.training.statistics import FeatureStatistics


def p_norm_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute sum (s - t)^2 / (2B): the paper's equation (4), ||g(I) - G(I)||_p^p with p = 2, as Caffe reduces it.

    The sum runs over pictures, channels and positions. Its gradient is D/2 times that of a mean-squared error, D the
    units of one picture: the paper's rate of 1e-7 at D = 25,088 takes the same step as 1.2544e-3 under a mean.

    Source: FN2EN, equation (4); the reduction is our reading of "Caffe", see caffe/layers/euclidean_loss_layer.
    """
    student, teacher = _checked(student, teacher)
    return (student - teacher).square().sum() / (2 * student.shape[0])


def fitnets_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute mean (s - t)^2: FitNets' hint loss with the reduction that later work uses.

    The student is the guided layer after its regressor (our bridge), the teacher the hint layer.

    Source: Romero et al., "FitNets", ICLR 2015, arXiv 1412.6550, eq. (3), which halves the sum.
    """
    return functional.mse_loss(*_checked(student, teacher))


def standardised_l2_loss(student: Tensor, standardised_teacher: Tensor) -> Tensor:
    """Compute mean (z - (t - mean) / std)^2, where the student predicts standardised features, as `target` gives them.

    A constant prediction of 0 (the mean face) gives 1 on the training part, so that the learning rate does not depend
    on the teacher's scale.

    Source: ours; the reason is in FeatureStatistics.
    """
    return functional.mse_loss(*_checked(student, standardised_teacher))


def rkd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute relational distillation: the distances and angles between the pictures of a batch.

    mean over pairs of huber(d(s_i, s_j) / m(s), d(t_i, t_j) / m(t)), d Euclidean and m its mean over the pairs with a
    distance above 0, plus 2 times the mean over triplets of huber(cos angle(s_i, s_j, s_k), cos angle(t_i, t_j, t_k)),
    the angle at j. Memory grows with B^3, not with the number of units. Equal pictures have distance 0 and cosine 0.

    Source: Park et al., "Relational Knowledge Distillation", CVPR 2019, arXiv 1904.05068, eqs. (5) to (11), with the
        weights 1 and 2 of its metric learning (25 and 50 beside cross-entropy, the same ratio); reductions as in the
        authors' code (lenscloth/RKD, metric/loss.py).
    """
    student, teacher = _checked(student, teacher)
    with torch.autocast(student.device.type, enabled=False):  # products of 32 bits under mixed precision
        distance = functional.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher))
        angle = functional.smooth_l1_loss(_angle_cosines(student), _angle_cosines(teacher))
    return distance + 2 * angle


def soft_label_loss(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Compute T^2 * KL(softmax(t / T) || softmax(s / T)), averaged over pictures.

    T^2 keeps the gradient's size when T changes, so that the weight beside the cross-entropy can stay.

    Args:
        student: class scores before softmax, (B, K).
        teacher: class scores of the fine-tuned face net, (B, K), the same classes in the same order.
        temperature: T > 0; 1 leaves the probabilities as they are, more makes them softer.
    Raises:
        ValueError: If the temperature is not above 0.
    Source: Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, section 2.
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}, expected a finite number above 0")
    student, teacher = _checked(student, teacher)
    student_log = functional.log_softmax(student / temperature, dim=1)
    teacher_log = functional.log_softmax(teacher / temperature, dim=1)
    divergence = functional.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True)
    return divergence * temperature**2


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "p-norm": p_norm_loss,
    "standardised-l2": standardised_l2_loss,
    "rkd": rkd_loss,
    "fitnets": fitnets_loss,
}
"""Name in `stage1.losses` -> loss of student and target."""


class FeatureLoss:
    """The weighted sum of losses between the student's bridge output and the teacher's tapped features.

    If one term is "standardised-l2", the student predicts standardised features, and the other terms compare it with
    the standardised features too: a student has one output.

    Args:
        terms: the recipe's.
        statistics: of the teacher's features on the training part.
    """

    def __init__(self, terms: Sequence[LossTerm], statistics: FeatureStatistics) -> None:
        self.terms = [(term.weight, LOSSES[term.loss]) for term in terms]
        self.standardises = any(term.loss == "standardised-l2" for term in terms)
        self.statistics = statistics

    def target(self, teacher: Tensor) -> Tensor:
        """Return what the student's output is compared with, the same shape as the teacher's (B, C, H, W)."""
        return self.statistics.standardise(teacher) if self.standardises else teacher

    def target_mean(self) -> Tensor:
        """Return the mean of the targets over the training part, (C, H, W): the mean face, which has R2 = 0."""
        mean = self.statistics.mean
        return torch.zeros_like(mean) if self.standardises else mean

    def __call__(self, student: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of the student's output and `target` of the teacher's -> scalar."""
        total = student.new_zeros((), dtype=torch.promote_types(student.dtype, torch.float32))
        for weight, loss in self.terms:
            total = total + weight * loss(student, target)
        return total


def _checked(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Check the shapes; bring both to 32 bits or more, as half precision overflows in sums of squares."""
    if student.shape != teacher.shape or student.ndim not in (2, 4) or student.numel() == 0:
        raise ValueError(
            "expected two outputs of one shape (B, C, H, W) or (B, U), got "
            f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
        )
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    return student.to(dtype), teacher.detach().to(dtype)


def _gram_and_distances(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Gram matrix of the centred pictures and their distances, both (B, B).

    Distances below the rounding of the Gram matrix count as 0, and pass no gradient.
    """
    vectors = outputs.flatten(1)
    vectors = vectors - vectors.mean(0)
    gram = vectors @ vectors.T
    norms = gram.diagonal()
    squared = norms.unsqueeze(0) + norms.unsqueeze(1) - 2 * gram
    rounding = 10 * torch.finfo(gram.dtype).eps * norms.detach().max()
    apart = (squared > rounding) & ~torch.eye(len(gram), dtype=torch.bool, device=gram.device)
    distances = torch.where(apart, squared, torch.ones_like(squared)).sqrt() * apart
    return gram, distances


def _relative_distances(outputs: Tensor) -> Tensor:
    """Return the distances divided by the mean of those above 0, (B, B)."""
    distances = _gram_and_distances(outputs)[1]
    pairs = (distances > 0).sum()
    return distances / (distances.sum() / pairs.clamp(min=1)).where(pairs > 0, 1.0)


def _angle_cosines(outputs: Tensor) -> Tensor:
    """Return cosines[j, i, k] of the angle at j between the directions to i and to k, (B, B, B)."""
    gram, distances = _gram_and_distances(outputs)
    norms = gram.diagonal()
    inner = gram.unsqueeze(0) - gram.unsqueeze(2) - gram.unsqueeze(1) + norms.view(-1, 1, 1)
    lengths = distances.unsqueeze(2) * distances.unsqueeze(1)
    apart = lengths > 0
    return torch.where(apart, inner, torch.zeros_like(inner)) / torch.where(apart, lengths, torch.ones_like(lengths))
