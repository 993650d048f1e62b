"""Temperature scaling: one number that makes class scores tell how sure the network may be."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]

COLDEST, HOTTEST = 0.05, 20.0
"""Temperatures that are looked at; a network that knows nothing ends at the hottest: all classes alike."""


def fit_temperature(scores: Floats, truth: Ints) -> float:
    """The temperature T that makes the mean of -log softmax(scores / T)[truth] smallest.

    In 1 / T that mean is convex, so there is one smallest value. Where no picture speaks against any confidence,
    because every truth has the highest score, the smallest value lies at T = 0: the scores then stay as they are.

    Args:
        scores: (N, K) class scores before softmax, of pictures that the network was not trained on.
        truth: (N,) class numbers.
    Returns:
        From `COLDEST` to `HOTTEST`; 1 where every truth has the highest score, or where there are no pictures.
    Raises:
        ValueError: If the shapes do not go together, or a score is not finite.
    Source: Guo et al., On Calibration of Modern Neural Networks, 2017, section 4.2.
    """
    scores, truth = np.asarray(scores, dtype=np.float64), np.asarray(truth)
    if scores.ndim != 2 or truth.shape != scores.shape[:1]:
        raise ValueError(
            f"expected scores (N, K) and truth (N,), got shapes {scores.shape} and {truth.shape}"
        )
    if not np.isfinite(scores).all():
        raise ValueError("expected finite scores, got one that is not")
    right = scores[np.arange(len(truth)), truth]
    if (right >= scores.max(axis=1, initial=-np.inf)).all():
        return 1.0

    def log_loss(log_temperature: float) -> float:
        colder = np.exp(-log_temperature)
        return float((logsumexp(scores * colder, axis=1) - right * colder).mean())

    found = minimize_scalar(
        log_loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(found.x))


def unscaled(probabilities: Floats, temperatures: Floats) -> npt.NDArray[np.float64]:
    """The probabilities before scaling: softmax(scores) from softmax(scores / T).

    Args:
        probabilities: (N, K) rows that sum to 1.
        temperatures: (N,) the T of each row.
    """
    logs = np.log(np.maximum(np.asarray(probabilities, np.float64), 1e-300)) * temperatures[:, None]
    return np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
