"""Every loss: agreement, a value by hand, its gradient, extreme inputs, half precision; and their weighted sum."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from tiny_training import features
from torch import Tensor

from facenet2expnet.recipe import LossTerm
from facenet2expnet.training.losses import (
    LOSSES,
    FeatureLoss,
    fitnets_loss,
    p_norm_loss,
    rkd_loss,
    soft_label_loss,
    standardised_l2_loss,
)
from facenet2expnet.training.statistics import measure_features

MAP, VECTOR = (4, 6, 3, 3), (4, 6)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


every_loss = pytest.mark.parametrize("loss", [*LOSSES.values(), soft_label_loss], ids=[*LOSSES, "soft labels"])


def constant_channel(values: Tensor) -> Tensor:
    return values.index_fill(1, torch.tensor([0]), 3.0)


EXTREMES: dict[str, Callable[[Tensor], Tensor]] = {
    "zeros": torch.zeros_like,
    "ten thousand": lambda values: torch.full_like(values, 1e4),
    "large": lambda values: values * 1e4,
    "tiny": lambda values: values * 1e-8,
    "a constant channel": constant_channel,
    "one picture repeated": lambda values: values[:1].expand_as(values).clone(),
}


@every_loss
@pytest.mark.parametrize("shape", [MAP, VECTOR])
def test_the_gradient_is_that_of_the_value(loss: Callable[..., Tensor], shape: tuple[int, ...]) -> None:
    teacher = features(*shape, dtype=torch.float64).requires_grad_()
    student = features(*shape, seed=1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: loss(values, teacher.detach()), student)
    value = loss(student, teacher)
    assert value.shape == ()
    value.backward()
    assert teacher.grad is None


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agreement_costs_nothing(loss: Callable[..., Tensor], dtype: torch.dtype) -> None:
    teacher = features(*MAP, dtype=dtype)
    student = teacher.clone().requires_grad_()
    value = loss(student, teacher)
    assert value.item() == pytest.approx(0, abs=TOLERANCE[dtype])
    value.backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert loss(teacher + features(*MAP, seed=3, dtype=dtype), teacher) > 1e-3


@every_loss
@pytest.mark.parametrize("student_kind", EXTREMES)
def test_extreme_inputs_give_finite_losses_and_gradients(loss: Callable[..., Tensor], student_kind: str) -> None:
    for teacher_kind in EXTREMES:
        student = EXTREMES[student_kind](features(*MAP, seed=1)).requires_grad_()
        value = loss(student, EXTREMES[teacher_kind](features(*MAP)))
        value.backward()
        assert torch.isfinite(value), teacher_kind
        assert student.grad is not None
        assert torch.isfinite(student.grad).all(), teacher_kind


@every_loss
def test_a_batch_of_one_picture_is_allowed(loss: Callable[..., Tensor]) -> None:
    value = loss(features(1, 6, 3, 3, seed=1), features(1, 6, 3, 3))
    assert (value == 0) if loss is rkd_loss else (torch.isfinite(value) and value > 0)  # one has no relations


@every_loss
def test_half_precision_does_not_overflow(loss: Callable[..., Tensor]) -> None:
    student, teacher = 300 * features(*MAP, seed=1), 300 * features(*MAP)
    value = loss(student.half(), teacher.half())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(student, teacher).item(), rel=2e-2)


@every_loss
def test_mixed_precision_does_not_change_the_loss(loss: Callable[..., Tensor]) -> None:
    student, teacher = features(*MAP, seed=1), features(*MAP)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss(student, teacher)
    assert mixed.item() == pytest.approx(loss(student, teacher).item(), rel=1e-6)


@every_loss
def test_wrong_shapes_are_refused(loss: Callable[..., Tensor]) -> None:
    for student, teacher in (
        ((4, 6, 3, 3), (4, 6, 2, 3)),
        ((3, 5), (4, 5)),
        ((0, 5), (0, 5)),
        ((2, 3, 4),) * 2,
    ):
        with pytest.raises(ValueError, match=r"one shape \(B, C, H, W\) or \(B, U\), got student \("):
            loss(torch.ones(student), torch.ones(teacher))


def test_p_norm_by_hand() -> None:
    student, teacher = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([[0.0, 4.0], [0.0, 2.0]])
    # Differences 1, -2, 0, -3; B = 2.
    assert p_norm_loss(student, teacher) == (1 + 4 + 9) / 4


def test_the_papers_rate_takes_the_steps_of_a_mean_of_squares_at_1_2544e_3() -> None:
    """At 512 x 7 x 7 units the sum over 2N has D / 2 = 12,544 times the gradient of the mean."""
    student, teacher = features(2, 512, 7, 7, seed=1).requires_grad_(), features(2, 512, 7, 7)
    gradients = [torch.autograd.grad(loss(student, teacher), student)[0] for loss in (p_norm_loss, fitnets_loss)]
    torch.testing.assert_close(1e-7 * gradients[0], 1.2544e-3 * gradients[1])


def test_fitnets_and_standardised_l2_are_means_of_squares_by_hand() -> None:
    for loss in (fitnets_loss, standardised_l2_loss):
        assert loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 5.0]])) == (1 + 9) / 2


def test_soft_labels_by_hand() -> None:
    student, teacher = torch.zeros(1, 2).double(), torch.tensor([[math.log(3.0), 0.0]]).double()
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert soft_label_loss(student, teacher, 1.0).item() == pytest.approx(divergence)
    assert soft_label_loss(student, 2 * teacher, 2.0).item() == pytest.approx(4 * divergence)
    repeated = soft_label_loss(student.repeat(5, 1), teacher.repeat(5, 1), 1.0)
    assert repeated.item() == pytest.approx(divergence)
    with pytest.raises(ValueError, match="temperature is 0, expected a finite number above 0"):
        soft_label_loss(student, teacher, 0)


def rkd_by_definition(student: Tensor, teacher: Tensor) -> tuple[float, float]:
    """Distance and angle losses written out pair by pair and triplet by triplet."""

    def relations(vectors: Tensor) -> tuple[Tensor, Tensor]:
        count = len(vectors)
        distances = torch.zeros(count, count, dtype=vectors.dtype)
        cosines = torch.zeros(count, count, count, dtype=vectors.dtype)
        for j in range(count):
            for i in range(count):
                distances[j, i] = torch.linalg.vector_norm(vectors[i] - vectors[j])
                for k in range(count):
                    if j not in (i, k):
                        first, second = vectors[i] - vectors[j], vectors[k] - vectors[j]
                        cosines[j, i, k] = first @ second / (first.norm() * second.norm())
        return distances / distances[distances > 0].mean(), cosines

    def huber(first: Tensor, second: Tensor) -> float:
        gap = (first - second).abs()
        return float(torch.where(gap < 1, gap.square() / 2, gap - 0.5).mean())

    (d_s, c_s), (d_t, c_t) = relations(student.flatten(1)), relations(teacher.flatten(1))
    return huber(d_s, d_t), huber(c_s, c_t)


def test_rkd_agrees_with_its_definition() -> None:
    student, teacher = features(5, 3, 2, 2, seed=1).double(), features(5, 3, 2, 2).double()
    distance, angle = rkd_by_definition(student, teacher)
    assert min(distance, angle) > 1e-3
    assert rkd_loss(student, teacher).item() == pytest.approx(distance + 2 * angle, rel=1e-9)


def test_rkd_by_hand() -> None:
    student, teacher = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [1.0], [3.0]])
    # Distances 1, 1, 2 (mean 4/3) and 1, 2, 3 (mean 2), each pair twice among nine; on a line all angles agree.
    gaps = [1 / (4 / 3) - 1 / 2, 1 / (4 / 3) - 2 / 2, 2 / (4 / 3) - 3 / 2]
    expected = sum(2 * gap**2 / 2 for gap in gaps) / 9
    assert rkd_loss(student, teacher).item() == pytest.approx(expected, abs=1e-6)


def test_rkd_is_exact_in_32_bits_on_large_maps_far_from_zero() -> None:
    student, teacher = features(16, 64, 7, 7, seed=1) * 100, features(16, 64, 7, 7) * 100
    exact = rkd_loss(student.double(), teacher.double()).item()
    assert rkd_loss(student, teacher).item() == pytest.approx(exact, rel=1e-3)


def test_a_feature_loss_is_the_weighted_sum_of_its_terms() -> None:
    student, teacher = features(*MAP, seed=1), features(*MAP)
    statistics = measure_features([features(32, *MAP[1:], seed=9)])
    loss = FeatureLoss([LossTerm("p-norm", 0.5), LossTerm("rkd", 2.0)], statistics)
    assert loss.target(teacher) is teacher
    assert torch.equal(loss.target_mean(), statistics.mean)
    expected = 0.5 * p_norm_loss(student, teacher) + 2 * rkd_loss(student, teacher)
    torch.testing.assert_close(loss(student, teacher), expected)


def test_all_terms_compare_standardised_features_if_one_does() -> None:
    training = features(32, *MAP[1:], seed=9)
    statistics = measure_features([training])
    loss = FeatureLoss([LossTerm("fitnets", 0.5), LossTerm("standardised-l2")], statistics)
    target = loss.target(training)
    mean, std = training.double().mean(0), training.double().std(0, unbiased=False)
    torch.testing.assert_close(target, ((training - mean) / std).float(), rtol=1e-4, atol=1e-5)
    assert not loss.target_mean().any()
    mean_face = loss.target_mean().expand_as(target)
    assert loss(mean_face, target).item() == pytest.approx(1.5, rel=1e-5)  # 1 for each unit of weight
    assert loss(target + 0.1, target).item() == pytest.approx(1.5 * 0.01, rel=1e-4)
