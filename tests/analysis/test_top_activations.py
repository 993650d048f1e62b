"""The running top K against plain sorting; ties, few images, constant units."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facenet2expnet.analysis.top_activations import TopActivations, default_top


def run(values: np.ndarray, labels: np.ndarray, top: int, classes: int, batch: int) -> TopActivations:
    found = TopActivations(values.shape[1], top, classes)
    for first in range(0, len(values), batch):
        part = slice(first, first + batch)
        found.update(torch.from_numpy(values[part]), torch.from_numpy(labels[part]))
    return found


def plain_shares(column: np.ndarray, labels: np.ndarray, top: int, classes: int) -> np.ndarray:
    """The mean over all orders of tied images: each above the K-th counts 1, tied ones share the places left."""
    kept = min(top, len(column))
    threshold = np.sort(column)[::-1][kept - 1]
    counts = np.bincount(labels[column > threshold], minlength=classes).astype(float)
    tied = np.bincount(labels[column == threshold], minlength=classes)
    return (counts + tied * (kept - counts.sum()) / tied.sum()) / kept


@settings(max_examples=60, deadline=None)
@given(
    images=st.integers(1, 40), top=st.integers(1, 12), batch=st.integers(1, 9), levels=st.integers(1, 6),
    seed=st.integers(0, 9999),
)  # fmt: skip
def test_any_batches_with_ties_give_the_same_as_sorting(images, top, batch, levels, seed):
    generator = np.random.default_rng(seed)
    values = (generator.integers(-levels, levels, (images, 7)) / 3).astype(np.float32)
    labels = generator.integers(0, 3, images)
    found = run(values, labels, top, 3, batch)
    np.testing.assert_array_equal(found.images.numpy(), np.argsort(-values, axis=0, kind="stable")[:top].T)
    expected = np.stack([plain_shares(values[:, unit], labels, top, 3) for unit in range(7)])
    np.testing.assert_allclose(found.class_shares().numpy(), expected, atol=1e-12)
    assert found.constant.tolist() == (values == values[0]).all(axis=0).tolist()


def test_a_constant_unit_has_the_shares_of_the_whole_set():
    labels = np.repeat([0, 1], [90, 10])  # sorted: the first images are all of one class
    values = np.full((100, 2), 3.0, np.float32)
    values[99, 1] = 4.0
    found = run(values, labels, 10, 2, 32)
    assert found.constant.tolist() == [True, False]
    np.testing.assert_allclose(found.class_shares().numpy()[0], [0.9, 0.1])


def test_default_top_is_the_papers_share():
    assert [default_top(n) for n in (1308, 4178, 654, 20)] == [100, 100, 50, 5]
    assert [default_top(n, 30) for n in (1308, 5000, 654, 10)] == [30, 30, 15, 5]
