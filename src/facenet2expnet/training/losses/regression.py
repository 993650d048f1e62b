"""Objectives that compare unit with unit: p-norm, standardised L2, smooth L1, cosine, FitNets' hint."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Self

from torch import Tensor
from torch.nn import functional

from facenet2expnet.training.losses.base import ObjectiveModule, Options, Restoration, compared
from facenet2expnet.training.losses.statistics import (
    PER,
    FeatureStatistics,
    Per,
    standardise,
    unstandardise,
)


def p_norm_loss(student: Tensor, teacher: Tensor, p: float = 2.0) -> Tensor:
    """sum |s - t|^p / (2B): the paper's regression loss with Caffe's reduction.

    The sum runs over pictures, channels and positions. For p = 2 it is Caffe's EuclideanLoss; its gradient
    is D/2 times that of a mean-squared error, D the units of one picture: the paper's rate of 1e-7 at
    D = 25,088 takes the same step as 1.2544e-3 under a mean.

    Args:
        student: g(I), (B, C, H, W) or (B, U).
        teacher: G(I), the same shape.
        p: 1 or more.
    Raises:
        ValueError: If the shapes differ or p is below 1 (its gradient at agreement would be infinite).
    Source: FN2EN, equation (4); the reduction is our reading of "Caffe", see
        caffe/layers/euclidean_loss_layer.
    """
    if not 1 <= p < float("inf"):
        raise ValueError(f"p is {p}, expected a finite number of 1 or more")
    student, teacher = compared(student, teacher)
    difference = student - teacher
    powers = difference.square() if p == 2 else difference.abs() if p == 1 else difference.abs().pow(p)
    return powers.sum() / (2 * student.shape[0])


def standardised_l2_loss(student: Tensor, teacher: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """mean (z - (t - mean) / spread)^2: the student predicts standardised features.

    The mean runs over pictures, channels and positions. 1 is what a constant prediction of 0 (the mean face)
    gives on the training part when no unit is constant, so the rate does not depend on the teacher's scale.

    Args:
        student: z, the prediction in standardised space, (B, C, H, W) or (B, U). `unstandardise` brings it to the
            teacher's scale.
        teacher: t, the raw features, the same shape.
        mean: of the training part, (C, H, W) or (U,), on the device of the outputs.
        spread: its standard deviation, the same shape, above 0.
    Raises:
        ValueError: If the shapes differ.
    Source: ours; the reason is in FeatureStatistics.
    """
    student, teacher = compared(student, teacher)
    return functional.mse_loss(student, standardise(teacher, mean, spread))


def smooth_l1_loss(student: Tensor, teacher: Tensor, beta: float = 1.0) -> Tensor:
    """mean h(s - t), h(d) = d^2 / (2 beta) for |d| < beta, |d| - beta / 2 beyond: outlying units pull less.

    Args:
        student: (B, C, H, W) or (B, U).
        teacher: the same shape.
        beta: > 0, in the units of the features.
    Raises:
        ValueError: If the shapes differ or beta is not above 0.
    Source: Girshick, "Fast R-CNN", ICCV 2015, eq. (3), with PyTorch's beta.
    """
    if not 0 < beta < float("inf"):
        raise ValueError(f"beta is {beta}, expected a finite number above 0")
    student, teacher = compared(student, teacher)
    return functional.smooth_l1_loss(student, teacher, beta=beta)


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """mean (1 - cos(s, t)): only the direction counts, 0 where they agree, 2 where they oppose.

    The vectors are a map's channels at one position, or all units of a (B, U) output; the mean runs over
    positions and pictures. A vector of zeros has cosine 0 with every other, so it gives 1, also against
    itself.

    Args:
        student: (B, C, H, W) or (B, U).
        teacher: the same shape.
    Raises:
        ValueError: If the shapes differ.
    Source: the direction term of normalised-feature distillation, Wang et al., arXiv 2305.17007, without its
        class means; per position as in RADIO, Ranzinger et al., arXiv 2312.06709, section 3.3.
    """
    student, teacher = compared(student, teacher)
    return 1 - functional.cosine_similarity(student, teacher, dim=1, eps=1e-8).mean()


def fitnets_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """mean (s - t)^2: FitNets' hint loss as it is mostly used, in one stage beside the cross-entropy.

    Args:
        student: the guided layer after its regressor (our bridge), (B, C, H, W) or (B, U).
        teacher: the hint layer, the same shape.
    Raises:
        ValueError: If the shapes differ.
    Source: Romero et al., "FitNets", ICLR 2015, arXiv 1412.6550, eq. (3), which halves the sum and trains in
        two stages; the mean and the one stage are the later habit.
    """
    student, teacher = compared(student, teacher)
    return functional.mse_loss(student, teacher)


class PNorm(ObjectiveModule):
    """See p_norm_loss."""

    options: ClassVar[Options] = {"p": float}

    def __init__(self, p: float = 2.0) -> None:
        super().__init__()
        if not 1 <= p < float("inf"):
            raise ValueError(f"p is {p}, expected a finite number of 1 or more")
        self.p = p

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(B, C, H, W) or (B, U), twice -> scalar."""
        return p_norm_loss(student, teacher, self.p)


class StandardisedL2(ObjectiveModule):
    """See standardised_l2_loss. The statistics travel with the module: to a device, and in its state dict."""

    needs_features = True
    space = "standardised"
    options: ClassVar[Options] = {"per": PER}
    mean: Tensor
    spread: Tensor
    constant: Tensor

    def __init__(self, statistics: FeatureStatistics) -> None:
        super().__init__()
        self.per: Per = statistics.per
        self.pictures = statistics.pictures
        self.register_buffer("mean", statistics.mean.clone())
        self.register_buffer("spread", statistics.spread.clone())
        self.register_buffer("constant", statistics.constant.clone())

    @classmethod
    def fit(cls, batches: Iterable[Tensor], **options: Any) -> Self:
        """Measure the statistics on the training part's features; `per` is "unit" (default) or "channel"."""
        return cls(FeatureStatistics.from_features(batches, **options))

    @property
    def statistics(self) -> FeatureStatistics:
        """The statistics, on the module's device."""
        return FeatureStatistics(self.mean, self.spread, self.per, self.pictures, self.constant)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Standardised prediction and raw features, (B, C, H, W) or (B, U) -> scalar."""
        return standardised_l2_loss(student, teacher, self.mean, self.spread)

    def target(self, teacher: Tensor) -> Tensor:
        """Raw features -> standardised features."""
        return standardise(teacher, self.mean, self.spread)

    def restore(self, student: Tensor) -> Tensor:
        """Standardised features -> the teacher's scale."""
        return unstandardise(student, self.mean, self.spread)

    def restoration(self) -> Restoration:
        """`restore` in its parts."""
        return Restoration(None, self.spread, self.mean)


class SmoothL1(ObjectiveModule):
    """See smooth_l1_loss."""

    options: ClassVar[Options] = {"beta": float}

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        if not 0 < beta < float("inf"):
            raise ValueError(f"beta is {beta}, expected a finite number above 0")
        self.beta = beta

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(B, C, H, W) or (B, U), twice -> scalar."""
        return smooth_l1_loss(student, teacher, self.beta)


class Cosine(ObjectiveModule):
    """See cosine_loss."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(B, C, H, W) or (B, U), twice -> scalar."""
        return cosine_loss(student, teacher)


class FitNets(ObjectiveModule):
    """See fitnets_loss."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(B, C, H, W) or (B, U), twice -> scalar."""
        return fitnets_loss(student, teacher)
