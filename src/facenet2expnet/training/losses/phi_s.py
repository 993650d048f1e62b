"""PHI-S: the teacher's feature rotated and scaled by one number, so that every dimension has variance 1."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from scipy import linalg
from torch import Tensor
from torch.nn import functional

from facenet2expnet.errors import StageStopped
from facenet2expnet.training.losses.base import (
    ObjectiveModule,
    Options,
    Restoration,
    compared,
    full_precision,
)
from facenet2expnet.training.losses.statistics import PER, Per, check_features, check_units


@dataclass(frozen=True, eq=False)
class IsotropicStatistics:
    """z = R (t - mean) / phi: R orthogonal over channels, phi one number, every z_c of variance 1 over training.

    Unlike a spread for each unit it keeps the ratios of distances: an error of a given size in the teacher's
    space costs the same in every direction.

    Attributes:
        mean: (C, H, W) or (U,).
        rotation: R, (C, C) or (U, U), orthogonal.
        phi: square root of the covariance's mean eigenvalue, > 0.
        per: "channel": one mean for a channel over all positions, the authors'. "unit": a mean for every
            position, which takes the mean face out; the covariance is then that of the rest.
        hadamard: whether R holds a Hadamard matrix; see equalising_rotation.
    """

    mean: Tensor
    rotation: Tensor
    phi: float
    per: Per = "channel"
    hadamard: bool = True

    def __post_init__(self) -> None:
        channels = self.mean.shape[0] if self.mean.ndim in (1, 3) else 0
        if channels == 0 or self.rotation.shape != (channels, channels):
            raise ValueError(
                "expected a mean (C, H, W) or (U,) and a rotation (C, C) or (U, U), got "
                f"{tuple(self.mean.shape)} and {tuple(self.rotation.shape)}"
            )
        if not 0 < self.phi < float("inf"):
            raise ValueError(f"phi is {self.phi}, expected a finite number above 0")

    @classmethod
    def from_features(cls, batches: Iterable[Tensor], per: Per = "channel") -> Self:
        """Measure the covariance batch by batch, in 64 bits, and make the rotation from it.

        With covariance V diag(l) V^T (over pictures and positions): R = H V^T with H from equalising_rotation, and
        phi = sqrt(mean l). Every row of R then has variance mean(l).

        Args:
            batches: features of the training part alone, each (B, C, H, W) or (B, U). The covariance is C x
                C: take no layer of very many units.
            per: "channel" or "unit".
        Returns:
            Statistics on the CPU in 32 bits.
        Raises:
            StageStopped: If a feature is not finite, or all are constant.
            ValueError: If there is no picture, or the shapes differ between batches.
        """
        if per not in ("unit", "channel"):
            raise ValueError(f"per is {per!r}, expected 'unit' or 'channel'")
        mean, covariance, pictures = _moments(batches, per)
        variances, vectors = torch.linalg.eigh(covariance)
        variances = variances.clamp_min(0)
        phi = float(variances.mean().sqrt())
        if not phi > 1e-6 * float(mean.square().mean().sqrt()):
            raise StageStopped(
                f"the face net's feature is constant over {pictures} pictures, expected one that varies: "
                "give more and different pictures, or choose another layer"
            )
        # eigh leaves the sign of each vector open; fixed here, so that every machine has the same rotation.
        largest = vectors.abs().argmax(0, keepdim=True)
        vectors = vectors * vectors.load_dataset(0, largest).sign()
        equaliser, hadamard = equalising_rotation(variances)
        return cls(mean.float(), (equaliser @ vectors.T).float(), phi, per, hadamard)

    def apply(self, features: Tensor) -> Tensor:
        """Features (B, C, H, W) or (B, U) -> R (features - mean) / phi, the same shape."""
        return isotropic(features, self.mean, self.rotation, self.phi)

    def restore(self, standardised: Tensor) -> Tensor:
        """phi R^T z + mean; the inverse of `apply`."""
        return anisotropic(standardised, self.mean, self.rotation, self.phi)


def isotropic(features: Tensor, mean: Tensor, rotation: Tensor, phi: Tensor | float) -> Tensor:
    """Features (B, C, H, W) or (B, U) -> R (features - mean) / phi; see IsotropicStatistics."""
    check_units(features, mean)
    return rotate(features - mean, rotation) / phi


def anisotropic(standardised: Tensor, mean: Tensor, rotation: Tensor, phi: Tensor | float) -> Tensor:
    """phi R^T z + mean; the inverse of `isotropic`."""
    check_units(standardised, mean)
    return rotate(standardised, rotation.T) * phi + mean


def rotate(features: Tensor, rotation: Tensor) -> Tensor:
    """Multiply the channels of (B, C, H, W) or (B, U) by a square matrix, in the features' precision."""
    with full_precision(features):
        return torch.einsum("dc,bc...->bd...", rotation.to(features.dtype), features)


def _moments(batches: Iterable[Tensor], per: Per) -> tuple[Tensor, Tensor, int]:
    """Mean (C, H, W) or (U,), covariance over channels (C, C), and how many pictures; merged as in
    statistics."""
    shape: torch.Size | None = None
    pictures = 0
    mean = products = torch.zeros(())
    for number, batch in enumerate(batches, start=1):
        shape = check_features(batch, number, shape)
        if batch.shape[0] == 0:
            continue
        positions = batch.detach().to("cpu", torch.float64).reshape(batch.shape[0], batch.shape[1], -1)
        if pictures == 0:
            mean = torch.zeros(positions.shape[1:], dtype=torch.float64)
            products = torch.zeros(positions.shape[1], positions.shape[1], dtype=torch.float64)
        # Deviations from the mean of their own position; the mean face's pattern is added at the end if wanted.
        total = pictures + positions.shape[0]
        batch_mean = positions.mean(0)
        delta = batch_mean - mean
        rows = (positions - batch_mean).movedim(1, -1).reshape(-1, positions.shape[1])
        products = products + rows.T @ rows + delta @ delta.T * (pictures * positions.shape[0] / total)
        mean = mean + delta * (positions.shape[0] / total)
        pictures = total
    if shape is None or pictures == 0:
        raise ValueError("there are no features to measure: expected at least one batch with one picture")
    covariance = products / (pictures * mean.shape[1])
    if per == "channel":
        channel_mean = mean.mean(1, keepdim=True)
        pattern = mean - channel_mean
        covariance = covariance + pattern @ pattern.T / mean.shape[1]
        mean = channel_mean.expand_as(mean)
    return mean.reshape(shape).contiguous(), covariance, pictures


def equalising_rotation(variances: Tensor) -> tuple[Tensor, bool]:
    """An orthogonal matrix H for which H diag(variances) H^T has one value all along its diagonal.

    A Hadamard matrix divided by sqrt(C) is one, whatever the variances, as all its entries have the same
    size. Where `hadamard_matrix` has none of that size, the Hartley transform (entries up to sqrt(2) of the
    others' size) is corrected by at most C - 1 plane rotations until the diagonal is equal for these
    variances.

    Args:
        variances: (C,), >= 0, 64-bit.
    Returns:
        H (C, C), 64-bit; whether it is a Hadamard matrix.
    Source: PHI-S, Ranzinger et al., arXiv 2410.01680, section 3. Sizes without a Hadamard matrix are our
        addition (the authors' code refuses them); the rotations are Bendel & Mickey's, Comm. Statist. B 7(2),
        1978.
    """
    size = len(variances)
    hadamard = hadamard_matrix(size)
    if hadamard is not None:
        return hadamard / math.sqrt(size), True
    angles = torch.arange(size, dtype=torch.float64).outer(torch.arange(size, dtype=torch.float64))
    angles = (angles % size) * (2 * math.pi / size)
    rotation = (angles.cos() + angles.sin()) / math.sqrt(size)
    symmetric = rotation * variances @ rotation.T
    goal = variances.mean()
    open_rows = torch.ones(size, dtype=torch.bool)
    for _ in range(size - 1):
        excess = torch.where(open_rows, symmetric.diagonal() - goal, 0.0)
        low, high = int(excess.argmin()), int(excess.argmax())
        if not (excess[low] < 0 < excess[high]):
            break
        # tan of the angle at which the low row reaches the goal: the smaller root of a quadratic.
        cross = symmetric[low, high]
        root = (cross.square() - excess[low] * excess[high]).sqrt()
        tangent = excess[low] / (cross + torch.copysign(root, cross))
        cosine = 1 / (1 + tangent.square()).sqrt()
        turn = torch.stack(
            [torch.stack([cosine, -tangent * cosine]), torch.stack([tangent * cosine, cosine])]
        )
        pair = [low, high]
        rotation[pair] = turn @ rotation[pair]
        symmetric[pair] = turn @ symmetric[pair]
        symmetric[:, pair] = symmetric[:, pair] @ turn.T
        open_rows[low] = False
    return rotation, False


def hadamard_matrix(size: int) -> Tensor | None:
    """A matrix of +1 and -1 with orthogonal rows, (size, size), 64-bit; None where no construction below gives one.

    Sylvester's for powers of two, Paley's two over prime fields, and the Kronecker product of Sylvester's
    with one of Paley's. This covers the channel counts of the usual face nets (64 to 4096, and 1792).

    Raises:
        ValueError: If the size is below 1.
    Source: Paley, "On Orthogonal Matrices", J. Math. Phys. 12, 1933.
    """
    if size < 1:
        raise ValueError(f"size is {size}, expected 1 or more")
    power = size & -size
    if power == size:
        return torch.from_numpy(linalg.hadamard(size)).double()
    while power >= 1:
        paley = _paley(size // power)
        if paley is not None:
            return torch.kron(torch.from_numpy(linalg.hadamard(power)).double(), paley)
        power //= 2
    return None


def _paley(size: int) -> Tensor | None:
    """Paley's first construction for size = q + 1, q = 3 mod 4; his second for 2 (q + 1), q = 1 mod 4; q prime."""
    if size % 4 == 0 and _is_prime(size - 1):
        skew = _bordered_residues(size - 1)
        skew[1:, 0] = -1
        return skew + torch.eye(size, dtype=torch.float64)
    if size % 4 == 0 and size // 2 % 4 == 2 and _is_prime(size // 2 - 1):
        conference = _bordered_residues(size // 2 - 1)
        plus = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
        zero = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
        return torch.kron(conference, plus) + torch.kron(torch.eye(size // 2, dtype=torch.float64), zero)
    return None


def _bordered_residues(prime: int) -> Tensor:
    """0 in the corner, ones along the first row and column, and the quadratic character of i - j inside."""
    numbers = torch.arange(prime)
    character = -torch.ones(prime, dtype=torch.float64)
    character[numbers.square() % prime] = 1
    character[0] = 0
    bordered = torch.ones(prime + 1, prime + 1, dtype=torch.float64)
    bordered[0, 0] = 0
    bordered[1:, 1:] = character[(numbers.unsqueeze(1) - numbers.unsqueeze(0)) % prime]
    return bordered


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def phi_s_loss(
    student: Tensor, teacher: Tensor, mean: Tensor, rotation: Tensor, phi: Tensor | float
) -> Tensor:
    """mean (z - R (t - mean) / phi)^2: the student predicts the rotated feature, every dimension of variance 1.

    Args:
        student: z, (B, C, H, W) or (B, U). `anisotropic` brings it back to the teacher's space.
        teacher: t, the raw features, the same shape.
        mean: of the training part, (C, H, W) or (U,), on the device of the outputs; so are the others.
        rotation: R, (C, C) or (U, U).
        phi: the one scale, above 0.
    Raises:
        ValueError: If the shapes differ.
    Source: PHI-S, Ranzinger et al., arXiv 2410.01680; the authors train with it under a mean squared error.
    """
    student, teacher = compared(student, teacher)
    return functional.mse_loss(student, isotropic(teacher, mean, rotation, phi))


class PhiS(ObjectiveModule):
    """See phi_s_loss. The statistics travel with the module: to a device, and in its state dict."""

    needs_features = True
    space = "phi-s"
    options: ClassVar[Options] = {"per": PER}
    mean: Tensor
    rotation: Tensor
    phi: Tensor

    def __init__(self, statistics: IsotropicStatistics) -> None:
        super().__init__()
        self.per: Per = statistics.per
        self.hadamard = statistics.hadamard
        self.register_buffer("mean", statistics.mean.clone())
        self.register_buffer("rotation", statistics.rotation.clone())
        self.register_buffer("phi", torch.tensor(statistics.phi))

    @classmethod
    def fit(cls, batches: Iterable[Tensor], **options: Any) -> Self:
        """Measure the statistics on the training part's features; `per` is "channel" (default) or "unit"."""
        return cls(IsotropicStatistics.from_features(batches, **options))

    @property
    def statistics(self) -> IsotropicStatistics:
        """The statistics, on the module's device."""
        return IsotropicStatistics(self.mean, self.rotation, float(self.phi), self.per, self.hadamard)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Rotated prediction and raw features, (B, C, H, W) or (B, U) -> scalar."""
        return phi_s_loss(student, teacher, self.mean, self.rotation, self.phi)

    def target(self, teacher: Tensor) -> Tensor:
        """Raw features -> rotated and scaled features."""
        return isotropic(teacher, self.mean, self.rotation, self.phi)

    def restore(self, student: Tensor) -> Tensor:
        """Rotated and scaled features -> the teacher's own."""
        return anisotropic(student, self.mean, self.rotation, self.phi)

    def restoration(self) -> Restoration:
        """`restore` in its parts."""
        return Restoration(self.rotation.T, self.phi, self.mean)
