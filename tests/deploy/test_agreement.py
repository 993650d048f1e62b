"""How far an exported model is from PyTorch, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from facenet2expnet.deploy.agreement import Agreement, check_close, check_same, compare
from facenet2expnet.errors import UserError

BEFORE = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])


def test_by_hand() -> None:
    after = BEFORE.copy()
    after[2] = [0.55, 0.45]
    found = compare(BEFORE, after, np.array([0, 1, 1, -1]), "some faces")
    assert (found.faces, found.changed, found.labelled) == (4, 1, 3)
    assert found.changed_percent == 25
    assert found.largest_difference == pytest.approx(0.25)
    assert found.accuracy_before == pytest.approx(200 / 3)
    assert found.drop == pytest.approx(100 / 3)
    assert found.lines() == [
        "compared with PyTorch on 4 faces of some faces: largest difference of a probability 2.5e-01, 1 answers "
        "changed (25.00 %)",
        "accuracy on 3 labelled faces: 66.67 % before, 33.33 % after",
    ]
    assert found.to_dict()["changed_percent"] == 25


def test_without_labels_only_answers_count() -> None:
    found = compare(BEFORE, BEFORE, np.full(4, -1), "some faces")
    assert found.drop is None
    assert found.lines()[1] == "accuracy: not measured, no face has a label that is a class of the model"
    check_close(found, 0.0, "int8")


def test_a_float32_file_may_differ_by_1e_5() -> None:
    check_same(Agreement("a", 10, 1e-5, 0, 0, None, None))
    with pytest.raises(UserError, match=r"nothing was written: .* differs from PyTorch by 1.1e-05 .* expected 1e-05"):
        check_same(Agreement("a", 10, 1.1e-5, 0, 0, None, None))
    with pytest.raises(UserError, match="by nan"):
        check_same(Agreement("a", 10, float("nan"), 0, 0, None, None))


@pytest.mark.parametrize(
    ("changed", "after", "message"),
    [
        (
            0,
            79.4,
            r"accuracy falls by 0.60 points, from 80.00 % to 79.40 % on 500 labelled faces \(at most 0.5",
        ),
        (11, 80.0, r"1.10 % of the answers change, 11 of 1,000 \(at most 1 % allowed\)"),
        (11, 79.0, "accuracy falls by 1.00 points.* and 1.10 % of the answers"),
    ],
)
def test_fewer_bits_may_lose_half_a_point(changed: int, after: float, message: str) -> None:
    check_close(Agreement("a", 1000, 0.1, 10, 500, 80.0, 79.5), 0.5, "int8")
    with pytest.raises(UserError, match=f"nothing was written: in int8, on faces of a, {message}"):
        check_close(Agreement("a", 1000, 0.1, changed, 500, 80.0, after), 0.5, "int8")


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UserError, match="its probabilities are not finite"):
        check_close(Agreement("a", 10, float("nan"), 0, 0, None, None), 0.5, "float16")
