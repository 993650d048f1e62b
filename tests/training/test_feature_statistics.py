"""What is measured on the teacher's features before training: mean and spread, PHI-S's rotation; and R2."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from facenet2expnet.errors import StageStopped, UserError
from facenet2expnet.training import objectives
from facenet2expnet.training.losses import FeatureStatistics, IsotropicStatistics, RSquared
from facenet2expnet.training.losses.phi_s import equalising_rotation, hadamard_matrix

MAP = (4, 6, 3, 3)


def features(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Gaussian features whose channels differ in mean and spread, as a face net's do."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    scale = torch.linspace(0.5, 3, shape[1], dtype=torch.float64).view(1, -1, *[1] * (len(shape) - 2))
    return (noise * scale + 2 * scale).to(dtype)


# ------------------------------------------------------------------------------------------------ statistics


@pytest.mark.parametrize("per", ["unit", "channel"])
@pytest.mark.parametrize("shape", [(6, 3, 2), (9,)])
def test_streamed_statistics_are_those_of_all_features(per: str, shape: tuple[int, ...]) -> None:
    training = features(101, *shape)
    parts = training.split([1, 40, 0, 60])
    statistics = FeatureStatistics.from_features(parts, per=per)  # type: ignore[arg-type]
    over = (0, 2, 3) if per == "channel" and len(shape) == 3 else (0,)
    mean = training.double().mean(over, keepdim=True)[0].expand(shape).float()
    spread = training.double().std(over, unbiased=False, keepdim=True)[0].expand(shape).float()
    torch.testing.assert_close(statistics.mean, mean)
    torch.testing.assert_close(statistics.spread, spread)
    assert statistics.pictures == 101
    assert not statistics.constant.any()
    torch.testing.assert_close(statistics.restore(statistics.apply(training)), training)


def test_statistics_far_from_zero_do_not_lose_the_spread() -> None:
    """A sum of squares in 32 bits would lose a spread of 1 beside a mean of 10,000."""
    noise = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    statistics = FeatureStatistics.from_features((noise + 1e4).split(64))
    torch.testing.assert_close(statistics.spread, noise.std(0, unbiased=False), rtol=1e-3, atol=1e-3)


def test_constant_units_get_spread_one_and_are_flagged() -> None:
    training = features(30, 4, 2, 2)
    training[:, 1] = 0.1
    training[:, 2, 0, 0] = 0.0
    statistics = FeatureStatistics.from_features(training.split(7))
    expected = torch.zeros(4, 2, 2, dtype=torch.bool)
    expected[1] = True
    expected[2, 0, 0] = True
    assert torch.equal(statistics.constant, expected)
    assert (statistics.spread[expected] == 1).all()
    assert (statistics.spread[~expected] > 0.1).all()
    assert statistics.apply(training)[:, expected].abs().max() < 1e-6
    channel = FeatureStatistics.from_features([training], per="channel")
    assert channel.constant.flatten(1).all(1).tolist() == [False, True, False, False]


@pytest.mark.parametrize("per", ["unit", "channel"])
def test_features_that_are_all_constant_are_refused(per: str) -> None:
    with pytest.raises(StageStopped, match="are constant over 6 pictures, expected some to vary"):
        FeatureStatistics.from_features([torch.ones(6, 4, 2, 2)] * 1, per=per)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", [FeatureStatistics, IsotropicStatistics])
def test_features_that_are_not_finite_are_refused(
    bad: float, kind: type[FeatureStatistics] | type[IsotropicStatistics]
) -> None:
    broken = features(5, 4, 2, 2)
    broken[3, 1, 0, 1] = bad
    with pytest.raises(
        UserError, match="face net, batch 2: 1 of 80 features are not finite; look at its weights"
    ):
        kind.from_features([features(5, 4, 2, 2), broken])


@pytest.mark.parametrize("kind", [FeatureStatistics, IsotropicStatistics])
def test_batches_that_do_not_fit_are_refused(
    kind: type[FeatureStatistics] | type[IsotropicStatistics],
) -> None:
    with pytest.raises(ValueError, match=r"batch 2: features are \(4, 3, 2\), those before \(4, 2, 2\)"):
        kind.from_features([features(5, 4, 2, 2), features(5, 4, 3, 2)])
    with pytest.raises(ValueError, match="there are no features to measure"):
        kind.from_features([])
    with pytest.raises(ValueError, match=r"batch 1: expected features \(B, C, H, W\)"):
        kind.from_features([torch.ones(2, 3, 4)])
    with pytest.raises(ValueError, match="per is 'pixel'"):
        kind.from_features([features(5, 4)], per="pixel")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"statistics are of \(4,\) features, the batch is \(5, 3\)"):
        kind.from_features([features(5, 4)]).apply(features(5, 3))


def test_statistics_check_themselves() -> None:
    with pytest.raises(ValueError, match="every spread has to be above 0, the smallest is 0"):
        FeatureStatistics(torch.zeros(2), torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="of one shape"):
        FeatureStatistics(torch.zeros(2), torch.ones(3))
    with pytest.raises(ValueError, match="finite"):
        FeatureStatistics(torch.tensor([float("nan")]), torch.ones(1))


@pytest.mark.parametrize("name", ["standardised-l2", "phi-s"])
def test_statistics_travel_in_the_state_dict(name: str) -> None:
    teacher = features(*MAP)
    saved = objectives.build(name, [features(32, *MAP[1:], seed=9)])
    other = objectives.build(name, [features(32, *MAP[1:], seed=8)])
    assert not torch.equal(saved.target(teacher), other.target(teacher))
    other.load_state_dict(saved.state_dict())
    assert torch.equal(saved.target(teacher), other.target(teacher))
    torch.testing.assert_close(other.statistics.apply(teacher), saved.target(teacher))


# -------------------------------------------------------------------------------------------------------- R2


def test_r_squared_is_zero_for_the_mean_and_one_for_exact_predictions() -> None:
    targets = features(40, 6, 3, 3)
    mean = targets.mean(0)
    assert objectives.r_squared(targets, targets, mean) == 1.0
    assert objectives.r_squared(mean.expand_as(targets), targets, mean) == pytest.approx(0, abs=1e-6)
    assert objectives.r_squared(-targets, targets, mean) < 0


def test_r_squared_by_hand_and_over_batches() -> None:
    targets, predictions = torch.tensor([[1.0, 10.0], [3.0, 14.0]]), torch.tensor([[1.0, 11.0], [2.0, 14.0]])
    mean = torch.tensor([2.0, 12.0])
    # Unexplained 0 + 1 + 1 + 0, total 1 + 4 + 1 + 4.
    assert objectives.r_squared(predictions, targets, mean) == pytest.approx(1 - 2 / 10)
    streamed = RSquared(mean)
    streamed.update(predictions[:1], targets[:1])
    streamed.update(predictions[1:], targets[1:])
    assert streamed.compute() == pytest.approx(0.8)
    assert streamed.pictures == 2


def test_r_squared_is_not_flattered_by_the_mean_face() -> None:
    """The mean face explains nearly all variance about one overall mean, and none about the per-unit mean."""
    targets = features(40, 6) + 100 * torch.arange(6.0)
    mean = targets.mean(0)
    face = mean.expand_as(targets)
    assert objectives.r_squared(face, targets, targets.mean().expand(6)) > 0.99
    assert objectives.r_squared(face, targets, mean) == pytest.approx(0, abs=1e-4)


def test_r_squared_of_standardised_features_takes_a_scalar_mean() -> None:
    targets = features(10, 4, 2, 2)
    expected = objectives.r_squared(targets * 0.5, targets, torch.zeros(4, 2, 2))
    assert objectives.r_squared(targets * 0.5, targets, torch.zeros(())) == pytest.approx(expected)
    assert expected == pytest.approx(0.75)


def test_r_squared_agrees_with_scikit_learn() -> None:
    from sklearn.metrics import r2_score

    targets, predictions = features(50, 7).double(), features(50, 7).double() + 0.3 * features(50, 7, seed=4)
    ours = objectives.r_squared(predictions, targets, targets.mean(0))
    theirs = r2_score(targets.numpy(), predictions.numpy(), multioutput="variance_weighted")
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_r_squared_in_32_bits_is_that_of_64_on_many_units_far_from_zero() -> None:
    targets = features(64, 512, 7, 7) + 1000
    predictions = targets + 0.1 * features(64, 512, 7, 7, seed=4)
    mean = targets.double().mean(0)
    streamed = RSquared(mean)
    for batch in (slice(0, 40), slice(40, 64)):
        streamed.update(predictions[batch], targets[batch])
    wide = targets.double()
    unexplained = (wide - predictions.double()).square().sum()
    expected = 1 - unexplained / (wide - mean).square().sum()
    assert streamed.compute() == pytest.approx(expected.item(), rel=1e-6)


def test_r_squared_waits_for_no_batch() -> None:
    """A tensor without values can be summed up, but not read: reading one would wait for the device."""
    streamed = RSquared(torch.zeros(6, 3, 3))
    for _ in range(2):
        streamed.update(torch.empty(4, 6, 3, 3, device="meta"), torch.empty(4, 6, 3, 3, device="meta"))
    assert streamed.pictures == 8
    with pytest.raises((RuntimeError, NotImplementedError)):
        streamed.compute()


def test_r_squared_where_it_has_no_meaning() -> None:
    targets = torch.ones(3, 2)
    assert objectives.r_squared(targets, targets, torch.ones(2)) == 1.0
    assert objectives.r_squared(targets + 1, targets, torch.ones(2)) == 0.0
    assert not math.isfinite(objectives.r_squared(targets * float("nan"), targets, torch.zeros(2)))
    with pytest.raises(ValueError, match="call update first"):
        RSquared(torch.ones(2)).compute()
    with pytest.raises(ValueError, match=r"one shape \(B, 2\), got \(3, 2\) and \(3, 1\)"):
        RSquared(torch.ones(2)).update(targets, targets[:, :1])


# ----------------------------------------------------------------------------------------------------- PHI-S

CHANNELS = [1, 2, 3, 4, 5, 7, 8, 12, 20, 28, 36, 64, 92, 100]


@pytest.mark.parametrize("size", [1, 2, 4, 8, 12, 20, 24, 28, 36, 44, 60, 64, 128, 1792])
def test_hadamard_matrices_have_orthogonal_rows_of_plus_and_minus_one(size: int) -> None:
    matrix = hadamard_matrix(size)
    assert matrix is not None
    assert matrix.shape == (size, size)
    assert (matrix.abs() == 1).all()
    torch.testing.assert_close(matrix @ matrix.T, size * torch.eye(size, dtype=torch.float64))


@pytest.mark.parametrize("size", [3, 5, 6, 7, 10, 18, 50, 92])
def test_where_no_hadamard_matrix_is_known_none_is_given(size: int) -> None:
    assert hadamard_matrix(size) is None


@pytest.mark.parametrize("size", CHANNELS)
def test_the_rotation_is_orthogonal_and_spreads_the_variance_evenly(size: int) -> None:
    variances = torch.logspace(-4, 3, size, dtype=torch.float64)
    rotation, exact = equalising_rotation(variances)
    assert exact == (hadamard_matrix(size) is not None)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(size, dtype=torch.float64))
    diagonal = (rotation * variances @ rotation.T).diagonal()
    torch.testing.assert_close(diagonal, variances.mean().expand(size))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1e4), min_size=2, max_size=15).filter(lambda v: sum(v) > 1e-3))
def test_the_rotation_holds_for_any_variances(values: list[float]) -> None:
    variances = torch.tensor(values, dtype=torch.float64)
    rotation, _ = equalising_rotation(variances)
    diagonal = (rotation * variances @ rotation.T).diagonal()
    torch.testing.assert_close(diagonal, variances.mean().expand(len(values)), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("channels", [6, 8])
@pytest.mark.parametrize("per", ["channel", "unit"])
def test_phi_s_gives_every_dimension_variance_one_and_keeps_ratios_of_distances(
    channels: int, per: str
) -> None:
    mixing = torch.randn(channels, channels, generator=torch.Generator().manual_seed(3))
    training = torch.einsum("dc,bchw->bdhw", mixing, features(200, channels, 2, 3)) + torch.arange(3.0)
    statistics = IsotropicStatistics.from_features(training.split(77), per=per)  # type: ignore[arg-type]
    z = statistics.apply(training).double()
    variance = z.movedim(1, -1).reshape(-1, channels).var(0, unbiased=False)
    torch.testing.assert_close(variance, torch.ones_like(variance), rtol=1e-4, atol=1e-4)
    mean = z.mean(0) if per == "unit" else z.mean((0, 2, 3))
    assert mean.abs().max() < 1e-4
    torch.testing.assert_close(statistics.restore(statistics.apply(training)), training, rtol=1e-4, atol=1e-4)
    raw = (training[0] - training[1]).norm() / (training[2] - training[3]).norm()
    rotated = (z[0] - z[1]).norm() / (z[2] - z[3]).norm()
    assert rotated.item() == pytest.approx(raw.item(), rel=1e-4)


def test_phi_s_batches_do_not_matter() -> None:
    training = features(50, 8, 2, 3)
    whole = IsotropicStatistics.from_features([training])
    parts = IsotropicStatistics.from_features(training.split([1, 30, 19]))
    torch.testing.assert_close(parts.rotation, whole.rotation, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts.mean, whole.mean)
    assert parts.phi == pytest.approx(whole.phi)


def test_phi_s_by_hand() -> None:
    # Variances 4 and 1 along the axes: phi^2 = 2.5, and the rotation mixes both half and half.
    training = torch.tensor([[2.0, 1.0], [-2.0, 1.0], [2.0, -1.0], [-2.0, -1.0]])
    objective = objectives.build("phi-s", [training])
    targets = objective.target(training)
    torch.testing.assert_close(
        targets.abs().sort(1).values, torch.tensor([[1.0, 3.0]]).expand(4, 2) / math.sqrt(5)
    )
    assert objective(torch.zeros(4, 2), training).item() == pytest.approx(1.0)
    # A wrong prediction costs its squared length in the teacher's space, over phi^2, per unit.
    student = targets + targets.new_tensor([0.3, 0.4])
    assert objective(student, training).item() == pytest.approx(0.25 / 2)


@pytest.mark.parametrize("name", ["phi-s", "standardised-l2"])
@pytest.mark.parametrize("per", ["unit", "channel"])
def test_the_parts_of_the_restoration_are_the_restoration(name: str, per: str) -> None:
    training = features(20, 6, 2, 3)
    objective = objectives.build_sum(f"0.5 * {name}(per={per}) + cosine", [training])
    parts = objective.restoration()
    z = objective.target(training)
    turned = z if parts.rotation is None else torch.einsum("dc,bchw->bdhw", parts.rotation, z)
    assert (parts.rotation is not None) == (name == "phi-s")
    torch.testing.assert_close(parts.scale * turned + parts.shift, training, rtol=1e-4, atol=1e-4)


def test_without_a_space_of_its_own_there_is_nothing_to_restore() -> None:
    parts = objectives.build_sum("srd + attention-transfer").restoration()
    assert (parts.rotation, parts.scale.item(), parts.shift.item()) == (None, 1.0, 0.0)


def test_phi_s_refuses_constant_features() -> None:
    with pytest.raises(StageStopped, match="constant over 5 pictures"):
        IsotropicStatistics.from_features([torch.full((5, 4, 2, 2), 7.0)])
