"""Sums of objectives as a recipe writes them: what is read, and what is refused with which words."""

from __future__ import annotations

import pytest
import torch

from facenet2expnet.errors import UserError
from facenet2expnet.training import objectives
from facenet2expnet.training.losses import Term, terms_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("p-norm", [Term(1.0, "p-norm", {})]),
        (" p-norm( p = 1 ) ", [Term(1.0, "p-norm", {"p": 1.0})]),
        (
            "standardised-l2(per=channel) + 0.5 * attention-transfer",
            [Term(1.0, "standardised-l2", {"per": "channel"}), Term(0.5, "attention-transfer", {})],
        ),
        (
            "cosine+1e-2*rkd(distance_weight=25,angle_weight=5e+1)+.5*srd()",
            [
                Term(1.0, "cosine", {}),
                Term(0.01, "rkd", {"distance_weight": 25.0, "angle_weight": 50.0}),
                Term(0.5, "srd", {}),
            ],
        ),
        ("0 * phi-s + cosine", [Term(0.0, "phi-s", {}), Term(1.0, "cosine", {})]),
        ("p-norm(p=1) + p-norm", [Term(1.0, "p-norm", {"p": 1.0}), Term(1.0, "p-norm", {})]),
    ],
)
def test_sums_that_are_read(text: str, expected: list[Term]) -> None:
    assert list(terms_of(text)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected an objective where '' stands"),
        ("cosine +", "expected an objective where '' stands"),
        ("cosine - 0.5 * rkd", r"expected '\+' or the end where '- 0.5 \* rkd' stands; write it as"),
        ("cosine rkd", r"expected '\+' or the end where 'rkd' stands"),
        ("two * rkd", "there is no objective 'two'; expected one of p-norm, standardised-l2"),
        ("0.5 rkd", "expected an objective where '0.5 rkd' stands"),
        ("p-norm(p=1", r"expected '\+' or the end where '\(p=1' stands"),
        ("-1 * cosine", "a weight of the sum is -1.0, expected a finite number of 0 or more"),
        ("1e999 * cosine", "a weight of the sum is inf"),
        ("0 * cosine", "every weight of the sum is 0"),
        ("cosine + mse", "there is no objective 'mse'"),
        ("p-norm(q=1)", r"'q=1': p-norm has no such option; its options are p=a number"),
        ("p-norm(p=1, p=2)", r"'p=2': p-norm has it twice"),
        ("p-norm(1)", r"'1': p-norm has no such option"),
        ("p-norm(p=one)", r"'p=one' of p-norm: expected a number"),
        ("p-norm(p=nan)", r"'p=nan' of p-norm: expected a number"),
        ("p-norm(p=0.5)", r"p-norm: p is 0.5, expected a finite number of 1 or more"),
        ("srd(eps=0)", r"srd: eps is 0.0, expected a finite number above 0"),
        ("cosine(per=unit)", r"cosine has no such option; its options are none"),
        ("phi-s(per=picture)", r"'per=picture' of phi-s: expected unit or channel"),
        ("phi-s + standardised-l2", r"2 terms .* space of their own \(phi-s, standardised\)"),
        ("cosine + soft-labels", "some terms of the sum read features, others logits"),
    ],
)
def test_sums_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        terms_of(text)


def test_options_may_be_true_or_false() -> None:
    class Signed(objectives.ObjectiveModule):
        options = {"signed": bool}  # noqa: RUF012

        def __init__(self, signed: bool = True) -> None:
            super().__init__()

    parse = objectives.parse
    assert parse("mine(signed=false)", {"mine": Signed})[0].options == {"signed": False}
    with pytest.raises(UserError, match="'signed=0' of mine: expected true or false"):
        parse("mine(signed=0)", {"mine": Signed})


def test_every_option_that_is_told_of_is_taken() -> None:
    training = [torch.randn(9, 4, 2, 2)]
    for name, kind in objectives.REGISTRY.items():
        for key, choice in kind.options.items():
            value = choice[-1] if isinstance(choice, tuple) else 2.0
            objective = objectives.build(name, training, **{key: value})
            assert getattr(objective, key) == value


def test_the_value_of_a_sum_by_hand() -> None:
    student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    total = objectives.build_sum("p-norm + 0.5 * cosine + 2 * p-norm(p=1)")
    # (1 + 4) / 2 + 0.5 * 1 + 2 * (1 + 2) / 2
    assert total(student, teacher).item() == pytest.approx(2.5 + 0.5 + 3)
