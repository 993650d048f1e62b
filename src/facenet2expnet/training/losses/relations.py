"""Objectives that compare more than unit with unit: SRD over a batch, attention over positions, RKD over
pairs."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from facenet2expnet.errors import StageStopped
from facenet2expnet.training.losses.base import ObjectiveModule, Options, compared, full_precision

SRD_FLOOR = 1e-5
"""Added to SRD's sum before the logarithm, as in the authors' DeiT code; its own logarithm is taken off again."""


def srd_loss(student: Tensor, teacher: Tensor, exponent: float = 4.0, eps: float = 1e-5) -> Tensor:
    """log(1e-5 + sum |bn(s) - bn(t)|^4) - log(1e-5): batch-normalised, so neither scale nor offset counts.

    bn subtracts a channel's mean and divides by sqrt(variance + eps), both over this batch (and positions),
    with no learned affine. The logarithm keeps the gradient's size about the same from a bad fit to a good
    one. The constant taken off is ours: the value is then 0 where student equals teacher, and above it
    elsewhere. The gradient is the authors'.

    Args:
        student: the bridge's output (the method's linear projector), (B, C, H, W) or (B, U).
        teacher: the same shape.
        exponent: 1 or more; the method's is 4.
        eps: > 0, in the square of the features' units; it keeps a constant feature at 0.
    Raises:
        ValueError: If the shapes differ, or exponent or eps is out of range.
        StageStopped: If a (B, U) batch, or a map of one position, has one picture: one value has no variance.
    Source: Miles & Mikolajczyk, "Understanding the Role of the Projector in Knowledge Distillation", AAAI
        2024, arXiv 2303.11098; the authors' ImageNet code and torchdistill's SRDLoss take the log of this
        sum, with pooled features. We keep the positions of a map. Their DeiT code takes |correlation - 1|^4
        instead.
    """
    _check_srd(exponent, eps)
    student, teacher = compared(student, teacher)
    if student.numel() == student.shape[1]:
        raise StageStopped(
            f"srd normalises over the batch, and one value per unit in {tuple(student.shape)} is too few: expected two "
            "pictures or more (batch_size, or inner_share where early stopping watches so few), or a layer with maps"
        )
    standard_student = functional.batch_norm(student, None, None, training=True, eps=eps)
    standard_teacher = functional.batch_norm(teacher, None, None, training=True, eps=eps)
    powers = (standard_student - standard_teacher).abs().pow(exponent)
    return (powers.sum() + SRD_FLOOR).log() - math.log(SRD_FLOOR)


def _check_srd(exponent: float, eps: float) -> None:
    if not 1 <= exponent < float("inf"):
        raise ValueError(f"exponent is {exponent}, expected a finite number of 1 or more")
    if not 0 < eps < float("inf"):
        raise ValueError(f"eps is {eps}, expected a finite number above 0")


def attention_transfer_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """mean (a(s) - a(t))^2, a(x) = the mean over channels of x^2, as a vector of length 1 over positions.

    Only where a map is strong counts, so the channels may differ. A map of zeros has attention 0 everywhere.

    Args:
        student: (B, C, H, W).
        teacher: (B, C', H, W).
    Raises:
        ValueError: If an output has no positions, or their batch sizes or positions differ.
    Source: Zagoruyko & Komodakis, "Paying More Attention to Attention", ICLR 2017, arXiv 1612.03928, F_sum^2
        and eq. (2); the mean over pictures and positions is the authors' code's (attention-transfer,
        utils.py).
    """
    student, teacher = compared(student, teacher, same_shape=False)
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[2:] != teacher.shape[2:]:
        raise ValueError(
            "attention transfer compares positions: expected (B, C, H, W) outputs with one H and W, got student "
            f"{tuple(student.shape)}, teacher {tuple(teacher.shape)}; choose a convolution layer, or another objective"
        )
    return functional.mse_loss(attention(student), attention(teacher))


def attention(maps: Tensor) -> Tensor:
    """Where a map is strong: (B, C, H, W) -> (B, H * W), >= 0, Euclidean length 1 (0 for a map of zeros)."""
    return functional.normalize(maps.square().mean(1).flatten(1), dim=1)


def rkd_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """mean over pairs of huber(d(s_i, s_j) / m(s), d(t_i, t_j) / m(t)), d Euclidean, m its mean over the
    batch.

    The mean runs over all B^2 pairs, m over those with a distance above 0. Units may differ in number: only
    the relations between pictures count. A batch of one, or of equal pictures, has no distances: they count
    as 0.

    Args:
        student: (B, C, H, W) or (B, U); every picture is one vector.
        teacher: (B, ...) with the same B.
    Raises:
        ValueError: If the batch sizes differ.
    Source: Park et al., "Relational Knowledge Distillation", CVPR 2019, arXiv 1904.05068, eqs. (5) to (8);
        reductions as in the authors' code (lenscloth/RKD, metric/loss.py).
    """
    student, teacher = compared(student, teacher, same_shape=False)
    with full_precision(student):
        return functional.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher))


def rkd_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """mean over triplets of huber(cos angle(s_i, s_j, s_k), cos angle(t_i, t_j, t_k)), the angle being at j.

    The mean runs over all B^3 triplets; an angle with a side of length 0 has cosine 0. The cosines come from
    the batch's Gram matrix, so memory grows with B^3 and not with the number of units.

    Args:
        student: (B, C, H, W) or (B, U); every picture is one vector.
        teacher: (B, ...) with the same B.
    Raises:
        ValueError: If the batch sizes differ.
    Source: Park et al., CVPR 2019, eqs. (9) to (11); reductions as in the authors' code.
    """
    student, teacher = compared(student, teacher, same_shape=False)
    with full_precision(student):
        return functional.smooth_l1_loss(_angle_cosines(student), _angle_cosines(teacher))


def _gram_and_distances(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Gram matrix of the centred pictures and their distances, both (B, B).

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
    _, distances = _gram_and_distances(outputs)
    pairs = (distances > 0).sum()
    return distances if pairs == 0 else distances / (distances.sum() / pairs)


def _angle_cosines(outputs: Tensor) -> Tensor:
    """cosines[j, i, k] of the angle at j between the directions to i and to k, (B, B, B)."""
    gram, distances = _gram_and_distances(outputs)
    norms = gram.diagonal()
    inner = gram.unsqueeze(0) - gram.unsqueeze(2) - gram.unsqueeze(1) + norms.view(-1, 1, 1)
    lengths = distances.unsqueeze(2) * distances.unsqueeze(1)
    apart = lengths > 0
    return torch.where(apart, inner, torch.zeros_like(inner)) / torch.where(
        apart, lengths, torch.ones_like(lengths)
    )


class SRD(ObjectiveModule):
    """See srd_loss."""

    options: ClassVar[Options] = {"exponent": float, "eps": float}

    def __init__(self, exponent: float = 4.0, eps: float = 1e-5) -> None:
        super().__init__()
        _check_srd(exponent, eps)
        self.exponent = exponent
        self.eps = eps

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(B, C, H, W) or (B, U), twice -> scalar."""
        return srd_loss(student, teacher, self.exponent, self.eps)


class AttentionTransfer(ObjectiveModule):
    """See attention_transfer_loss."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(B, C, H, W) and (B, C', H, W) -> scalar."""
        return attention_transfer_loss(student, teacher)


class RelationalKD(ObjectiveModule):
    """distance_weight * rkd_distance_loss + angle_weight * rkd_angle_loss.

    The weights 1 and 2 are the paper's for metric learning; for classification beside cross-entropy it takes
    25 and 50, the same ratio.
    """

    options: ClassVar[Options] = {"distance_weight": float, "angle_weight": float}

    def __init__(self, distance_weight: float = 1.0, angle_weight: float = 2.0) -> None:
        super().__init__()
        for name, weight in (("distance_weight", distance_weight), ("angle_weight", angle_weight)):
            if not 0 <= weight < float("inf"):
                raise ValueError(f"{name} is {weight}, expected a finite number of 0 or more")
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(B, C, H, W) or (B, U), twice, with one B -> scalar."""
        distance = self.distance_weight * rkd_distance_loss(student, teacher)
        return distance + self.angle_weight * rkd_angle_loss(student, teacher)
