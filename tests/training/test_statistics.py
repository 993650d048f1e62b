"""Mean and standard deviation of a face net's features against NumPy's, and R2 against scikit-learn's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score
from tiny_training import features

from facenet2expnet.errors import StageStopped
from facenet2expnet.training.statistics import RSquared, measure_features


@pytest.mark.parametrize("sizes", [[101], [1, 40, 60], [60, 40, 1]])
def test_batches_of_any_size_give_the_statistics_of_all_features(sizes: list[int]) -> None:
    training = features(101, 6, 3, 2)
    batches = iter(training.split(sizes))  # an iterator: one pass
    statistics = measure_features(batches)
    exact = training.double().numpy()
    np.testing.assert_allclose(statistics.mean, exact.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(statistics.std, exact.std(axis=0), rtol=1e-6)
    assert statistics.mean.dtype == statistics.std.dtype == torch.float32
    standardised = statistics.standardise(training).double().numpy()
    np.testing.assert_allclose(standardised, (exact - exact.mean(0)) / exact.std(0), atol=1e-5)


def test_a_mean_far_from_zero_does_not_hide_the_deviation() -> None:
    """A sum of squares in 32 bits would lose a deviation of 1 beside a mean of 10,000."""
    noise = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    statistics = measure_features((noise + 1e4).split(64))
    torch.testing.assert_close(statistics.std, noise.std(0, unbiased=False), rtol=1e-3, atol=1e-3)


def test_constant_units_have_a_deviation_of_one() -> None:
    training = features(30, 4, 2, 2)
    training[:, 1] = 0.1  # has no exact binary value
    training[:, 2, 0, 0] = 0.0
    constant = torch.zeros(4, 2, 2, dtype=torch.bool)
    constant[1] = True
    constant[2, 0, 0] = True
    statistics = measure_features(training.split(7))
    assert (statistics.std[constant] == 1).all()
    assert (statistics.std[~constant] > 0.1).all()
    assert (statistics.std[~constant] != 1).all()
    assert statistics.standardise(training)[:, constant].abs().max() < 1e-6


def test_features_without_any_variance_are_refused() -> None:
    with pytest.raises(StageStopped, match=r"all 16 units .* constant over 6 pictures, .* another layer"):
        measure_features([torch.ones(3, 4, 2, 2)] * 2)
    with pytest.raises(StageStopped, match="there are no pictures to distil"):
        measure_features([])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite_are_refused(bad: float) -> None:
    broken = features(5, 4, 2, 2)
    broken[3, 1, 0, 1] = bad
    with pytest.raises(StageStopped, match="face net, batch 2: 1 of 80 features are not finite; look at its"):
        measure_features([features(5, 4, 2, 2), broken])


def test_r2_by_hand_over_batches_and_from_the_start_after_a_reset() -> None:
    targets, predictions = torch.tensor([[1.0, 10.0], [3.0, 14.0]]), torch.tensor([[1.0, 11.0], [2.0, 14.0]])
    r2 = RSquared(torch.tensor([2.0, 12.0]))
    r2.update(predictions[:1], targets[:1])
    r2.update(predictions[1:], targets[1:])
    assert r2.compute() == pytest.approx(1 - 2 / 10)  # unexplained 0 + 1 + 1 + 0, total 1 + 4 + 1 + 4
    r2.update(targets, targets)
    assert r2.compute() == 1.0


def test_r2_agrees_with_scikit_learn() -> None:
    targets = features(50, 7).double()
    predictions = targets + 0.3 * features(50, 7, seed=4)
    r2 = RSquared(targets.mean(0))
    for batch in (slice(0, 20), slice(20, 50)):
        r2.update(predictions[batch], targets[batch])
    expected = r2_score(targets.numpy(), predictions.numpy(), multioutput="variance_weighted")
    assert r2.compute() == pytest.approx(expected, rel=1e-6)


def test_r2_does_not_reward_the_mean_face() -> None:
    """The mean face explains nearly all variance about one overall mean, and none about the mean of each unit."""
    targets = features(40, 6) + 100 * torch.arange(6.0)
    overall, of_units = RSquared(targets.mean().expand(6)), RSquared(targets.mean(0))
    for r2 in (overall, of_units):
        r2.update(targets.mean(0).expand_as(targets), targets)
    assert overall.compute() > 0.99
    assert of_units.compute() == pytest.approx(0, abs=1e-4)


def test_r2_is_exact_in_32_bits_on_many_units_far_from_zero() -> None:
    targets = features(64, 512, 7, 7) + 1000
    predictions = targets + 0.1 * features(64, 512, 7, 7, seed=4)
    exact, mean = targets.double(), targets.double().mean(0)
    r2 = RSquared(mean)
    r2.update(predictions, targets)
    expected = 1 - (exact - predictions).square().sum() / (exact - mean).square().sum()
    assert r2.compute() == pytest.approx(expected.item(), rel=1e-6)


def test_r2_does_not_wait_for_the_device() -> None:
    """A tensor without values can be summed, but not read: reading one would wait for the device."""
    r2 = RSquared(torch.zeros(6, 3, 3))
    for _ in range(2):
        r2.update(torch.empty(4, 6, 3, 3, device="meta"), torch.empty(4, 6, 3, 3, device="meta"))
    with pytest.raises((RuntimeError, NotImplementedError)):
        r2.compute()


def test_r2_without_variance_of_the_targets() -> None:
    targets, r2 = torch.ones(3, 2), RSquared(torch.ones(2))
    for predictions, expected in ((targets, 1.0), (targets + 1, 0.0)):
        r2.update(predictions, targets)
        assert r2.compute() == expected
    r2.update(targets * float("nan"), targets + 1)
    assert math.isnan(r2.compute())
