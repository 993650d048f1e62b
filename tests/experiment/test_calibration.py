"""The temperature: by hand, against another minimiser, at its ends; and what it does to probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

import tiny
from facenet2expnet.experiment.calibration import COLDEST, HOTTEST, fit_temperature, unscaled
from facenet2expnet.nets.classifier import ExpressionClassifier, FaceClassifier, divide_scores
from facenet2expnet.nets.expnet import ExpNet


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def log_loss(scores: np.ndarray, truth: np.ndarray) -> float:
    return float(-np.log(softmax(scores)[np.arange(len(truth)), truth]).mean())


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_too_sure_by_a_factor_is_that_temperature(factor: float) -> None:
    """Ten pictures, of which the network should say 60, 30 and 10 %: so it is right six times in ten."""
    scores = np.tile(factor * np.log([0.6, 0.3, 0.1]), (10, 1))
    truth = np.array([0] * 6 + [1] * 3 + [2])
    assert fit_temperature(scores, truth) == pytest.approx(factor, rel=1e-4)
    moved = scores + np.arange(10)[:, None]  # softmax does not see it
    assert fit_temperature(moved, truth) == pytest.approx(factor, rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_it_agrees_with_another_minimiser(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, 200)
    scores = rng.normal(size=(200, 4)) * 4
    scores[np.arange(200), truth] += 3
    found = minimize(lambda t: log_loss(scores / t[0], truth), [1.5], bounds=[(COLDEST, HOTTEST)])
    assert fit_temperature(scores, truth) == pytest.approx(found.x[0], rel=1e-3)
    assert log_loss(scores / fit_temperature(scores, truth), truth) <= found.fun + 1e-9


def test_the_ends() -> None:
    sure = np.array([[5.0, 0.0], [0.0, 5.0]])
    assert fit_temperature(sure, np.array([0, 1])) == 1.0, "all right: nothing speaks against any confidence"
    assert fit_temperature(sure, np.array([1, 0])) == pytest.approx(HOTTEST, rel=1e-3), "all wrong"
    assert fit_temperature(sure * 1e-3, np.array([0, 0])) == pytest.approx(HOTTEST, rel=1e-3), (
        "half of them right"
    )
    assert fit_temperature(np.zeros((3, 2)), np.array([0, 1, 0])) == 1.0, "it says nothing of any"
    assert fit_temperature(np.zeros((0, 2)), np.zeros(0, np.int64)) == 1.0
    nearly = np.tile([1e-4, 0.0], (1000, 1))
    assert fit_temperature(nearly, np.array([0] * 999 + [1])) == pytest.approx(COLDEST, rel=1e-3)


def test_one_class_alone_can_be_fitted() -> None:
    scores = np.tile(2 * np.log([0.8, 0.2]), (5, 1))
    scores[4] = scores[4, ::-1]
    assert fit_temperature(scores, np.zeros(5, np.int64)) == pytest.approx(2.0, rel=1e-4)


def test_extreme_scores_stay_finite() -> None:
    scores = np.array([[1e4, -1e4], [-1e4, 1e4], [1e4, -1e4]])
    assert fit_temperature(scores, np.array([0, 1, 1])) == pytest.approx(HOTTEST, rel=1e-3)


@pytest.mark.parametrize(
    ("scores", "truth", "message"),
    [
        (np.zeros((3, 2)), np.zeros(2, np.int64), r"got shapes \(3, 2\) and \(2,\)"),
        (np.array([[np.nan, 0.0]]), np.zeros(1, np.int64), "expected finite scores"),
    ],
)
def test_bad_input(scores: np.ndarray, truth: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_temperature(scores, truth)


def test_the_probabilities_before_come_back() -> None:
    rng = np.random.default_rng(0)
    scores, temperatures = rng.normal(size=(50, 5)) * 6, rng.uniform(0.3, 4, 50)
    scaled = softmax(scores / temperatures[:, None])
    assert np.allclose(unscaled(scaled, temperatures), softmax(scores), atol=1e-10)
    assert unscaled(np.array([[1.0, 0.0]]), np.array([3.0])).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("kind", ["expression net", "face net"])
def test_a_network_gives_divided_scores_and_the_same_answers(kind: str) -> None:
    torch.manual_seed(0)
    net = ExpNet(3, input_px=32, bridge_chw=(16, 8, 8), width=0.1, hidden=16)
    model: nn.Module = ExpressionClassifier(net, (127.5, 127.5, 127.5), 64.0)
    if kind == "face net":
        model = FaceClassifier(tiny.TinyFaceNet(), 3, head_norm=True, head_dropout=0.5)
    model.eval()
    crops = torch.rand(20, 3, 32, 32) * 255
    with torch.no_grad():
        before = model(crops)
        divide_scores(model, 2.5)
        after = model(crops)
    assert torch.allclose(after, before / 2.5, atol=1e-6)
    assert after.argmax(1).equal(before.argmax(1))
