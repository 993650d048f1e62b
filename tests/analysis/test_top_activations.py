"""The running top K against plain sorting; ties, few pictures, constant units."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facenet2expnet.analysis.top_activations import TopPictures
from facenet2expnet.errors import UserError


def run(values: np.ndarray, labels: np.ndarray, top: int, classes: int, batch: int) -> TopPictures:
    found = TopPictures(values.shape[1], top, classes)
    for first in range(0, len(values), batch):
        part = slice(first, first + batch)
        found.update(torch.from_numpy(values[part]), torch.from_numpy(labels[part]))
    return found


def plain_pictures(values: np.ndarray, top: int) -> np.ndarray:
    return np.argsort(-values, axis=0, kind="stable")[:top].T


def plain_shares(column: np.ndarray, labels: np.ndarray, top: int, classes: int) -> np.ndarray:
    """Every order of tied pictures, averaged: each picture above the K-th counts 1, tied ones share what is left."""
    kept = min(top, len(column))
    threshold = np.sort(column)[::-1][kept - 1]
    counts = np.bincount(labels[column > threshold], minlength=classes).astype(float)
    tied = np.bincount(labels[column == threshold], minlength=classes)
    return (counts + tied * (kept - counts.sum()) / tied.sum()) / kept


@settings(max_examples=60, deadline=None)
@given(
    pictures=st.integers(1, 40), top=st.integers(1, 12), batch=st.integers(1, 9), levels=st.integers(1, 6),
    seed=st.integers(0, 9999),
)  # fmt: skip
def test_any_batches_with_ties_give_what_sorting_gives(pictures, top, batch, levels, seed):
    generator = np.random.default_rng(seed)
    values = (generator.integers(-levels, levels, (pictures, 7)) / 3).astype(np.float32)
    labels = generator.integers(0, 3, pictures)
    found = run(values, labels, top, 3, batch)
    np.testing.assert_array_equal(found.pictures.numpy(), plain_pictures(values, top))
    expected = np.stack([plain_shares(values[:, unit], labels, top, 3) for unit in range(7)])
    np.testing.assert_allclose(found.histograms().numpy(), expected, atol=1e-12)


def test_real_numbers_of_all_sizes_sort_as_numbers_do():
    generator = np.random.default_rng(1)
    size = 10.0 ** generator.integers(-30, 30, (200, 50))
    values = (generator.standard_normal((200, 50)) * size).astype(np.float32)
    found = run(values, np.zeros(200, np.int64), 20, 2, 37)
    np.testing.assert_array_equal(found.pictures.numpy(), plain_pictures(values, 20))


def test_minus_zero_and_zero_are_one_response():
    values = np.array([[-0.0], [0.0], [-1.0]], np.float32)
    assert run(values, np.array([0, 1, 0]), 2, 2, 3).pictures.tolist() == [[0, 1]]


def test_the_order_of_pictures_has_no_say_in_histograms():
    generator = np.random.default_rng(2)
    values = np.maximum(generator.standard_normal((60, 20)), 0.8).astype(np.float32)  # most are tied at 0.8
    labels = np.sort(generator.integers(0, 4, 60))
    order = generator.permutation(60)
    straight = run(values, labels, 25, 4, 16).histograms()
    shuffled = run(values[order], labels[order], 25, 4, 11).histograms()
    torch.testing.assert_close(straight, shuffled)


def test_a_constant_unit_has_the_shares_of_the_whole_set():
    labels = np.repeat([0, 1], [90, 10])  # sorted: the first pictures are all of one class
    found = run(np.full((100, 1), 3.0, np.float32), labels, 10, 2, 32)
    assert found.constant.tolist() == [True]
    np.testing.assert_allclose(found.histograms().numpy(), [[0.9, 0.1]])


def test_a_unit_that_answers_once_is_not_constant():
    values = np.zeros((50, 2), np.float32)
    values[49, 1] = 1
    assert run(values, np.zeros(50, np.int64), 5, 2, 7).constant.tolist() == [True, False]


def test_fewer_pictures_than_top_all_count():
    values = np.random.default_rng(3).standard_normal((6, 3)).astype(np.float32)
    found = run(values, np.array([0, 0, 0, 1, 1, 2]), 100, 3, 4)
    assert found.pictures.shape == (3, 6)
    np.testing.assert_allclose(found.histograms().numpy(), np.tile([3 / 6, 2 / 6, 1 / 6], (3, 1)))


def test_nothing_seen_and_nothing_asked_are_errors():
    with pytest.raises(UserError, match="one picture at least"):
        TopPictures(3, 5, 2).histograms()
    with pytest.raises(UserError, match="top is 0"):
        TopPictures(3, 0, 2)
