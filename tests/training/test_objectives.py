"""Every objective: a value by hand, the identity case, its gradient, extreme inputs; the statistics and R2."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from facenet2expnet.errors import UserError
from facenet2expnet.training import objectives
from facenet2expnet.training.losses import FeatureStatistics, WeightedSum

MAP = (4, 6, 3, 3)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def features(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Gaussian features whose channels differ in mean and spread, as a face net's do."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    scale = torch.linspace(0.5, 3, shape[1], dtype=torch.float64).view(1, -1, *[1] * (len(shape) - 2))
    return (noise * scale + 2 * scale).to(dtype)


def every(dtype: torch.dtype = torch.float32) -> dict[str, objectives.ObjectiveModule]:
    """All objectives for features of the shape MAP, soft labels aside."""
    training = [features(32, *MAP[1:], seed=9, dtype=dtype)]
    return {n: objectives.build(n, training) for n in objectives.REGISTRY if n != "soft-labels"}


NAMES = [name for name in objectives.REGISTRY if name != "soft-labels"]


def agreeing(objective: objectives.ObjectiveModule, teacher: Tensor) -> Tensor:
    """The student's output that agrees with the teacher's, in the objective's own space."""
    return objective.target(teacher)


# ---------------------------------------------------------------------------------------------- all of them


def test_the_registry_names_every_objective_of_the_design() -> None:
    assert set(objectives.REGISTRY) == {
        *("p-norm", "standardised-l2", "smooth-l1", "cosine", "phi-s", "srd"),
        *("attention-transfer", "rkd", "fitnets", "soft-labels"),
    }


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_that_of_the_value(name: str) -> None:
    objective = every(torch.float64)[name].double()
    student = features(*MAP, seed=1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: objective(s, features(*MAP, dtype=torch.float64)), student)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"attention-transfer"}))
def test_gradient_on_vectors(name: str) -> None:
    objective = objectives.build(name, [features(32, 5, seed=9)]).double()
    student = features(4, 5, seed=1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: objective(s, features(4, 5, dtype=torch.float64)), student)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
def test_gradient_of_the_p_norm(p: float) -> None:
    student = features(2, 3, 2, 2, seed=1, dtype=torch.float64).requires_grad_()
    teacher = features(2, 3, 2, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: objectives.p_norm_loss(s, teacher, p), student)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agreement_costs_nothing(name: str, dtype: torch.dtype) -> None:
    objective = every()[name].to(dtype)
    teacher = features(*MAP, dtype=dtype)
    student = agreeing(objective, teacher).requires_grad_()
    loss = objective(student, teacher)
    assert loss.item() == pytest.approx(0, abs=TOLERANCE[dtype])
    loss.backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert objective(agreeing(objective, teacher) + features(*MAP, seed=3, dtype=dtype), teacher) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_reaches_the_teacher_and_the_value_is_a_scalar(name: str) -> None:
    student, teacher = features(*MAP, seed=1).requires_grad_(), features(*MAP).requires_grad_()
    loss = every()[name](student, teacher)
    assert loss.shape == ()
    loss.backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0


def constant_channel(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, 0] = 3.0
    return x


EXTREMES: dict[str, Callable[[Tensor], Tensor]] = {
    "zeros": torch.zeros_like,
    "ten thousand": lambda x: torch.full_like(x, 1e4),
    "spread of ten thousand": lambda x: x * 1e4,
    "tiny": lambda x: x * 1e-8,
    "a constant channel": constant_channel,
    "one picture repeated": lambda x: x[:1].expand_as(x).clone(),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("student_kind", EXTREMES)
@pytest.mark.parametrize("teacher_kind", EXTREMES)
def test_extreme_inputs_stay_finite(name: str, student_kind: str, teacher_kind: str) -> None:
    student = EXTREMES[student_kind](features(*MAP, seed=1)).requires_grad_()
    loss = every()[name](student, EXTREMES[teacher_kind](features(*MAP)))
    loss.backward()
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_one(name: str) -> None:
    student = features(1, *MAP[1:], seed=1).requires_grad_()
    loss = every()[name](student, features(1, *MAP[1:]))
    loss.backward()
    assert torch.isfinite(loss)
    if name == "rkd":
        assert loss == 0


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_widened_before_it_can_overflow(name: str) -> None:
    student, teacher = features(*MAP, seed=1) * 300, features(*MAP) * 300
    loss = every()[name](student.half(), teacher.half())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(every()[name](student, teacher).item(), rel=2e-2)


@pytest.mark.parametrize("name", NAMES)
def test_mixed_precision_changes_nothing(name: str) -> None:
    objective, student, teacher = every()[name], features(*MAP, seed=1), features(*MAP)
    plain = objective(student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = objective(student, teacher)
    assert mixed.item() == pytest.approx(plain.item(), rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_teacher_output_from_inference_mode_can_be_used(name: str) -> None:
    with torch.inference_mode():
        teacher = features(*MAP).clone()
    assert teacher.is_inference()
    student = features(*MAP, seed=1).requires_grad_()
    every()[name](student, teacher).backward()
    assert student.grad is not None


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"rkd", "attention-transfer"}))
def test_shapes_that_differ_are_named(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"student \(4, 6, 3, 3\), teacher \(4, 6, 2, 3\); the bridge has to"
    ):
        every()[name](features(*MAP), features(4, 6, 2, 3))


def test_inputs_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="floating-point"):
        objectives.fitnets_loss(torch.ones(2, 3), torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="at least one picture"):
        objectives.fitnets_loss(torch.ones(0, 3), torch.ones(0, 3))
    with pytest.raises(ValueError, match=r"\(B, C, H, W\) or \(B, U\)"):
        objectives.fitnets_loss(torch.ones(2, 3, 4), torch.ones(2, 3, 4))


# --------------------------------------------------------------------------------------------- values by hand


def test_p_norm_by_hand() -> None:
    student, teacher = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([[0.0, 4.0], [0.0, 2.0]])
    # Differences 1, -2, 0, -3; B = 2.
    assert objectives.p_norm_loss(student, teacher) == (1 + 4 + 9) / 4
    assert objectives.p_norm_loss(student, teacher, p=1) == (1 + 2 + 3) / 4
    assert objectives.p_norm_loss(student, teacher, p=3) == pytest.approx((1 + 8 + 27) / 4)
    assert objectives.PNorm(p=1)(student, teacher) == 1.5


@pytest.mark.parametrize("p", [0.5, 0.0, -1.0, float("nan"), float("inf")])
def test_p_below_one_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="expected a finite number of 1 or more"):
        objectives.p_norm_loss(torch.ones(1, 1), torch.ones(1, 1), p=p)
    with pytest.raises(ValueError, match="expected a finite number of 1 or more"):
        objectives.PNorm(p=p)


def test_the_paper_rate_equals_a_mean_squared_error_at_half_the_units_times_it() -> None:
    """sum/(2N) at 1e-7 takes the step of the mean-squared error at 1e-7 * D / 2 = 1.2544e-3, D = 512 * 7 * 7."""
    units = 512 * 7 * 7
    assert units == 25_088
    torch.manual_seed(0)
    paper = nn.Conv2d(4, 512, 1).double()
    mean = copy.deepcopy(paper)
    start = paper.weight.detach().clone()
    inputs, teacher = torch.randn(3, 4, 7, 7).double(), 50 * torch.randn(3, 512, 7, 7).double()
    by_paper = torch.optim.SGD(paper.parameters(), lr=1e-7, momentum=0.9)
    by_mean = torch.optim.SGD(mean.parameters(), lr=1e-7 * units / 2, momentum=0.9)
    assert by_mean.param_groups[0]["lr"] == pytest.approx(1.2544e-3)
    for _ in range(3):
        for net, optimiser, loss in (
            (paper, by_paper, objectives.p_norm_loss),
            (mean, by_mean, functional.mse_loss),
        ):
            optimiser.zero_grad()
            loss(net(inputs), teacher).backward()
            optimiser.step()
    step = paper.weight.detach() - start
    assert step.abs().max() > 1e-6
    torch.testing.assert_close(mean.weight.detach() - start, step, rtol=1e-9, atol=1e-15)


def test_standardised_l2_by_hand() -> None:
    statistics = FeatureStatistics(mean=torch.tensor([1.0, 2.0]), spread=torch.tensor([2.0, 4.0]))
    teacher, student = torch.tensor([[3.0, 10.0]]), torch.tensor([[0.0, 1.0]])
    # Targets (3 - 1) / 2 = 1 and (10 - 2) / 4 = 2.
    assert (
        objectives.standardised_l2_loss(student, teacher, statistics.mean, statistics.spread) == (1 + 1) / 2
    )
    assert objectives.StandardisedL2(statistics)(student, teacher) == 1.0


@pytest.mark.parametrize("per", ["unit", "channel"])
def test_predicting_the_mean_face_costs_one_in_standardised_space(per: str) -> None:
    training = features(64, 6, 3, 3)
    objective = objectives.build("standardised-l2", [training], per=per)
    assert objective(torch.zeros_like(training), training).item() == pytest.approx(1, abs=1e-5)


def test_smooth_l1_by_hand() -> None:
    student, teacher = torch.tensor([[0.5, 3.0]]), torch.zeros(1, 2)
    assert objectives.smooth_l1_loss(student, teacher) == (0.125 + 2.5) / 2
    assert objectives.smooth_l1_loss(student, teacher, beta=2.0) == (0.0625 + 2.0) / 2
    with pytest.raises(ValueError, match="beta is 0"):
        objectives.SmoothL1(beta=0)


def test_cosine_by_hand() -> None:
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    student = torch.tensor([[5.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.0, 0.0]])
    assert objectives.cosine_loss(student, teacher).item() == pytest.approx((0 + 1 + 2 + 1) / 4)


def test_cosine_compares_the_channels_of_each_position() -> None:
    teacher = torch.tensor([[[[1.0, 1.0]], [[0.0, 0.0]]]])
    student = torch.tensor([[[[7.0, 0.0]], [[0.0, 2.0]]]])
    # Position 0 agrees in direction, position 1 is at a right angle.
    assert objectives.cosine_loss(student, teacher).item() == pytest.approx(0.5)


def test_fitnets_by_hand() -> None:
    assert objectives.fitnets_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 5.0]])) == 5.0


def test_srd_by_hand() -> None:
    # Normalised over the batch: the student (-1, 1), the teacher (1, -1): two differences of 2.
    student, teacher = torch.tensor([[10.0], [30.0]]).double(), torch.tensor([[0.7], [0.1]]).double()
    # log(1e-5 + 2 * 2^4) - log(1e-5), and with exponent 1 log(1e-5 + 4) - log(1e-5).
    assert objectives.srd_loss(student, teacher, eps=1e-12).item() == pytest.approx(math.log(1 + 32e5))
    assert objectives.srd_loss(student, teacher, exponent=1, eps=1e-12).item() == pytest.approx(
        math.log(1 + 4e5)
    )


def test_srd_has_the_gradient_of_the_authors_logarithm() -> None:
    student, teacher = features(*MAP, seed=1).requires_grad_(), features(*MAP)
    (found,) = torch.autograd.grad(objectives.srd_loss(student, teacher), student)
    normed = [functional.batch_norm(x, None, None, training=True) for x in (student, teacher)]
    theirs = ((normed[0] - normed[1]).abs().pow(4).sum() + 1e-5).log()
    (expected,) = torch.autograd.grad(theirs, student)
    assert torch.equal(found, expected)


def test_srd_does_not_see_scale_and_offset_of_a_channel() -> None:
    student, teacher = features(*MAP, seed=1).double(), features(*MAP).double()
    plain = objectives.srd_loss(student, teacher, eps=1e-12)
    torch.testing.assert_close(objectives.srd_loss(5 * student - 3, 0.1 * teacher + 7, eps=1e-12), plain)


def test_srd_refuses_one_value_per_unit() -> None:
    with pytest.raises(ValueError, match=r"one value per unit in \(1, 5\) is too few"):
        objectives.srd_loss(torch.ones(1, 5), torch.ones(1, 5))


def test_attention_transfer_by_hand() -> None:
    student = torch.tensor([[[[3.0, 0.0]], [[0.0, 0.0]]]])
    teacher = torch.tensor([[[[0.0, 2.0]]]])
    # Attention (1, 0) against (0, 1), although the channels differ in number.
    assert objectives.attention_transfer_loss(student, teacher).item() == pytest.approx(1.0)
    mixed = torch.tensor([[[[1.0, 1.0]]]])
    away = (1 - math.sqrt(0.5)) ** 2 + 0.5
    assert objectives.attention_transfer_loss(mixed, teacher).item() == pytest.approx(away / 2)


def test_attention_transfer_needs_positions() -> None:
    with pytest.raises(ValueError, match="choose a convolution layer"):
        objectives.attention_transfer_loss(torch.ones(2, 5), torch.ones(2, 5))
    with pytest.raises(ValueError, match=r"student \(4, 6, 3, 3\), teacher \(4, 6, 2, 3\)"):
        objectives.attention_transfer_loss(features(*MAP), features(4, 6, 2, 3))


def test_soft_labels_by_hand() -> None:
    teacher = torch.tensor([[math.log(3.0), 0.0]]).double()
    student = torch.zeros(1, 2).double()
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert objectives.soft_label_loss(student, teacher, 1.0).item() == pytest.approx(divergence)
    assert objectives.soft_label_loss(2 * student, 2 * teacher, 2.0).item() == pytest.approx(4 * divergence)
    assert objectives.soft_label_loss(
        student.repeat(5, 1), teacher.repeat(5, 1), 1.0
    ).item() == pytest.approx(divergence)


def test_soft_labels_gradient_identity_extremes() -> None:
    student, teacher = features(4, 8, seed=1).double().requires_grad_(), features(4, 8).double()
    assert torch.autograd.gradcheck(lambda s: objectives.soft_label_loss(s, teacher), student)
    objective = objectives.build("soft-labels", temperature=2.0)
    assert objective(teacher, teacher).item() == pytest.approx(0, abs=1e-12)
    for kind in EXTREMES.values():
        scores = kind(features(4, 8, seed=2)).requires_grad_()
        loss = objective(scores, kind(features(4, 8)) * -1)
        loss.backward()
        assert torch.isfinite(loss)
        assert scores.grad is not None
        assert torch.isfinite(scores.grad).all()
    with pytest.raises(ValueError, match=r"class scores \(B, K\)"):
        objective(features(*MAP), features(*MAP))
    with pytest.raises(ValueError, match="temperature is 0"):
        objectives.SoftLabels(temperature=0)


# ------------------------------------------------------------------------------------------------------- RKD


def direct_rkd(student: Tensor, teacher: Tensor) -> tuple[float, float]:
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

    def huber(a: Tensor, b: Tensor) -> float:
        gap = (a - b).abs()
        return float(torch.where(gap < 1, gap.square() / 2, gap - 0.5).mean())

    (d_s, c_s), (d_t, c_t) = relations(student.flatten(1)), relations(teacher.flatten(1))
    return huber(d_s, d_t), huber(c_s, c_t)


def test_rkd_agrees_with_the_definition() -> None:
    student, teacher = features(5, 3, 2, 2, seed=1).double(), features(5, 7).double()
    distance, angle = direct_rkd(student, teacher)
    assert distance > 1e-3
    assert angle > 1e-3
    assert objectives.rkd_distance_loss(student, teacher).item() == pytest.approx(distance, rel=1e-9)
    assert objectives.rkd_angle_loss(student, teacher).item() == pytest.approx(angle, rel=1e-9)
    assert objectives.RelationalKD()(student, teacher).item() == pytest.approx(distance + 2 * angle, rel=1e-9)


def test_rkd_by_hand() -> None:
    student, teacher = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [1.0], [3.0]])
    # Distances 1, 1, 2 (mean 4/3) and 1, 2, 3 (mean 2), each pair twice among nine.
    gaps = [1 / (4 / 3) - 1 / 2, 1 / (4 / 3) - 2 / 2, 2 / (4 / 3) - 3 / 2]
    assert objectives.rkd_distance_loss(student, teacher).item() == pytest.approx(
        sum(2 * gap**2 / 2 for gap in gaps) / 9
    )
    # On a line in the same order all angles are the same.
    assert objectives.rkd_angle_loss(student, teacher).item() == pytest.approx(0, abs=1e-6)


def test_rkd_is_exact_in_32_bits_on_large_maps_far_from_zero() -> None:
    student, teacher = features(16, 64, 7, 7, seed=1) * 100, features(16, 64, 7, 7) * 100
    for loss in (objectives.rkd_distance_loss, objectives.rkd_angle_loss):
        assert loss(student, teacher).item() == pytest.approx(
            loss(student.double(), teacher.double()).item(), rel=1e-3
        )


def test_rkd_refuses_batches_of_different_size() -> None:
    with pytest.raises(ValueError, match="one batch size B"):
        objectives.RelationalKD()(features(3, 5), features(4, 5))
    with pytest.raises(ValueError, match="angle_weight is -1"):
        objectives.RelationalKD(angle_weight=-1)


# -------------------------------------------------------------------------------------------- sums and names


def test_a_weighted_sum_is_the_sum_of_its_weighted_terms() -> None:
    student, teacher = features(*MAP, seed=1), features(*MAP)
    total = WeightedSum([(2.0, objectives.FitNets()), (0.5, objectives.Cosine()), (0.0, objectives.SRD())])
    expected = 2 * objectives.fitnets_loss(student, teacher) + 0.5 * objectives.cosine_loss(student, teacher)
    torch.testing.assert_close(total(student, teacher), expected)
    plain = WeightedSum([(3.0, lambda s, t: (s - t).sum())])
    torch.testing.assert_close(plain(student, teacher), 3 * (student - teacher).sum())


def test_a_term_of_weight_0_is_not_computed_and_keeps_its_space() -> None:
    def infinite(student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).sum() * torch.inf

    student, teacher = features(*MAP, seed=1), features(*MAP)
    total = WeightedSum([(0.0, infinite), (1.0, objectives.FitNets())])
    torch.testing.assert_close(total(student, teacher), objectives.fitnets_loss(student, teacher))
    spaced = objectives.build_sum("0 * standardised-l2 + cosine", [features(32, *MAP[1:], seed=9)])
    z = spaced.target(teacher)
    assert not torch.equal(z, teacher)
    torch.testing.assert_close(spaced(student, teacher), objectives.cosine_loss(student, z))


def test_terms_follow_the_one_that_has_a_space_of_its_own() -> None:
    student, teacher = features(*MAP, seed=1), features(*MAP)
    training = [features(32, *MAP[1:], seed=9)]
    total = objectives.build_sum("0.5 * cosine + standardised-l2", training)
    own = objectives.build("standardised-l2", training)
    z = own.target(teacher)
    assert total.space == "standardised"
    torch.testing.assert_close(
        total(student, teacher), own(student, teacher) + 0.5 * objectives.cosine_loss(student, z)
    )
    assert total(z, teacher).item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(total.restore(z), teacher)
    assert "members.1.mean" in total.state_dict()


def test_gradient_of_a_weighted_sum() -> None:
    total = objectives.build_sum("phi-s + 0.1 * srd + 2 * rkd", [features(32, *MAP[1:], seed=9)]).double()
    student = features(*MAP, seed=1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: total(s, features(*MAP, dtype=torch.float64)), student)


def test_sums_that_make_no_sense_are_refused() -> None:
    training = features(32, *MAP[1:], seed=9)
    with pytest.raises(ValueError, match="at least one"):
        WeightedSum([])
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="a weight of the sum is"):
            WeightedSum([(weight, objectives.FitNets())])
    with pytest.raises(UserError, match="every weight of the sum is 0"):
        objectives.build_sum("0 * fitnets + 0 * cosine")
    with pytest.raises(ValueError, match="some terms of the sum read features, others logits"):
        objectives.build_sum("fitnets + soft-labels")
    with pytest.raises(ValueError, match=r"2 terms .* space of their own \(standardised, phi-s\)"):
        objectives.build_sum("standardised-l2 + phi-s", [training])


def test_build_names_what_is_wrong() -> None:
    with pytest.raises(UserError, match="no objective 'mse'; expected one of p-norm, standardised-l2"):
        objectives.build("mse")
    with pytest.raises(UserError, match="'phi-s' measures the training part's features first"):
        objectives.build("phi-s")
    with pytest.raises(UserError, match=r"'p-norm' can't be made from \{'q': 3\}"):
        objectives.build("p-norm", q=3)
    assert isinstance(objectives.build("p-norm", p=1), objectives.PNorm)
