"""The comparison of two methods: by hand, against scipy, and its error rate where two methods are equal."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from facenet2expnet.experiment.significance import (
    FoldScores,
    PairedComparison,
    compare_all,
    compare_paired,
    estimate_difference,
    holm,
)

Correct = dict[tuple[str, int], list[int]]
"""(method, seed) -> 1 or 0 for each picture."""

# folds, seeds, pictures, pictures per subject
DESIGNS = [
    (1, 3, 1000, 1),
    (1, 5, 3575, 1),
    (1, 10, 1000, 10),
    (3, 1, 1000, 1),
    (10, 1, 1308, 11),
    (2, 3, 1000, 5),
    (3, 3, 1308, 40),
    (10, 3, 1308, 11),
]


def predictions(correct: Correct, subjects: list[str | None] | None = None, fold: str = "1") -> pd.DataFrame:
    """A predictions table of one fold with two classes."""
    parts = []
    for (method, seed), right in correct.items():
        images = [f"{fold}-{number}.png" for number in range(len(right))]
        part = pd.DataFrame({"image": images, "fold": fold, "seed": seed, "method": method, "truth": "a"})
        part["predicted"] = ["a" if value else "b" for value in right]
        parts.append(part if subjects is None else part.assign(subject=subjects))
    return pd.concat(parts, ignore_index=True)


def random_predictions(folds: int, seeds: int, pictures: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.concat(
        predictions(
            {
                (method, s): list((rng.random(pictures) < chance).astype(int))
                for s in range(seeds)
                for method, chance in (("x", 0.7), ("y", 0.6))
            },
            fold=str(fold),
        )
        for fold in range(folds)
    )


def accuracies(table: pd.DataFrame, method: str, by: list[str]) -> np.ndarray:
    rows = table[table["method"] == method]
    return (rows["truth"] == rows["predicted"]).groupby([rows[name] for name in by]).mean().to_numpy()


def test_folds_with_one_seed_are_a_t_test_over_the_folds() -> None:
    table = random_predictions(folds=6, seeds=1, pictures=40)
    expected = stats.ttest_rel(accuracies(table, "x", ["fold"]), accuracies(table, "y", ["fold"]))
    found = compare_paired(table, "x", "y")
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert (found.units, found.trainings) == (240, 6)


def test_one_training_gives_an_interval_over_subjects_and_no_p_value() -> None:
    x, y = [1, 1, 1, 0, 1, 1], [0, 1, 0, 0, 0, 1]
    found = compare_paired(predictions({("x", 0): x, ("y", 0): y}, ["a", "a", "b", "b", "c", "d"]), "x", "y")
    expected = stats.ttest_1samp([0.5, 0.5, 1.0, 0.0], 0).confidence_interval()
    assert found.difference == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    assert (found.p_value, found.p_holm, found.test, found.trainings) == (None, None, "", 1)
    assert found.covers == "The interval covers the choice of the 4 subjects only, not chance in training."
    assert found.reason.startswith("One training of each method shows no spread between trainings")


def test_seeds_on_one_test_set_by_hand() -> None:
    # Trainings: x 2/4, 4/4; y 1/4, 2/4. Welch's part: var(0.5, 1)/2 + var(0.25, 0.5)/2.
    x, y = np.array([[1, 1, 0, 0], [1, 1, 1, 1]]), np.array([[1, 0, 0, 0], [1, 1, 0, 0]])
    trainings = (0.125 + 0.03125) / 2
    units = np.var([0.0, 0.5, 0.5, 0.5], ddof=1) / 4  # the pictures' mean differences
    interaction = 0.0
    for scores in (x, y):
        rest = scores - scores.mean(0) - scores.mean(1, keepdims=True) + scores.mean()
        interaction += (rest**2).sum() / (1 * 3) / 8  # mean square by its degrees of freedom, over all cells
    expected = max(trainings, units, trainings + units - interaction)
    fold = FoldScores(np.arange(4), np.ones(4, int), np.stack([x, y]).astype(float))
    difference, variance, degrees = estimate_difference([fold])
    assert difference == pytest.approx(0.375)
    assert variance == pytest.approx(expected)
    assert 1 <= degrees <= 3
    table = predictions({("x", 0): list(x[0]), ("x", 1): list(x[1]), ("y", 0): list(y[0]), ("y", 1): list(y[1])})
    found = compare_paired(table, "x", "y")
    assert found.p_value == pytest.approx(2 * stats.t.sf(0.375 / math.sqrt(variance), degrees))
    assert found.covers == (
        "The interval covers the choice of the 4 pictures and chance in 2 trainings of each method."
    )


def test_a_large_spread_between_seeds_gives_welchs_t_test() -> None:
    rng = np.random.default_rng(1)
    chance = {"x": (0.55, 0.75, 0.65, 0.85), "y": (0.6, 0.65, 0.7, 0.65)}
    table = predictions(
        {
            (method, seed): list((rng.random(20_000) < chance[method][seed]).astype(int))
            for method in chance
            for seed in range(4)
        }
    )
    expected = stats.ttest_ind(accuracies(table, "x", ["seed"]), accuracies(table, "y", ["seed"]), equal_var=False)
    assert compare_paired(table, "x", "y").p_value == pytest.approx(expected.pvalue, rel=0.02)


@pytest.mark.parametrize(("folds", "seeds"), [(1, 3), (4, 1), (3, 2)])
def test_p_value_and_interval_agree_and_the_order_of_methods_changes_the_sign_only(folds: int, seeds: int) -> None:
    for seed in range(5):
        table = random_predictions(folds, seeds, 30, seed)
        one, two = compare_paired(table, "x", "y"), compare_paired(table, "y", "x")
        assert (one.p_value < 0.05) == (one.low > 0 or one.high < 0)
        assert two.p_value == pytest.approx(one.p_value)
        assert (two.difference, two.low, two.high) == pytest.approx((-one.difference, -one.high, -one.low))


def test_without_any_spread_there_is_no_p_value_unless_the_methods_are_the_same() -> None:
    table = predictions({(method, seed): [1] * 9 for method in ("x", "y") for seed in (0, 1)})
    same = compare_paired(table, "x", "y")
    assert (same.difference, same.p_value) == (0.0, 1.0)
    table = predictions({(method, seed): [int(method == "x")] * 9 for method in ("x", "y") for seed in (0, 1)})
    other = compare_paired(table, "x", "y")
    assert other.difference == pytest.approx(1.0)
    assert (other.low, other.high, other.p_value) == (None, None, None)
    assert "show the same difference" in other.reason
    one_unit = compare_paired(table.assign(subject="s1"), "x", "y")
    assert (one_unit.units, one_unit.low, one_unit.p_value) == (1, None, None)


def test_subjects_count_the_same_whatever_their_number_of_pictures() -> None:
    table = predictions({("x", 0): [1] * 10, ("y", 0): [0] + [1] * 9}, ["s1"] + ["s2"] * 9)
    assert compare_paired(table, "x", "y").difference == pytest.approx(0.5)


@pytest.mark.parametrize("blank", ["", None])
def test_a_picture_without_a_subject_is_a_unit_of_its_own(blank: str | None) -> None:
    subjects = [
        "s1",
        "s1",
        "s2",
        blank,
        blank,
        "5.png",
    ]  # a subject with a picture's name is not that picture
    table = predictions({("x", 0): [1] * 6, ("y", 0): [1, 0, 0, 0, 1, 0]}, subjects)
    found = compare_paired(table, "x", "y")
    assert (found.unit, found.units) == ("subject or picture", 5)
    assert found.difference == pytest.approx((0.5 + 1 + 1 + 0 + 1) / 5)
    assert "5 subjects or pictures" in found.covers
    all_blank = compare_paired(table.assign(subject=blank), "x", "y")
    assert (all_blank.unit, all_blank.units) == ("picture", 6)


def test_pictures_and_seeds_that_one_method_lacks_are_left_out_and_counted() -> None:
    right = {(method, seed): [1, 1, 0, 0, int(method == "x")] for method in ("x", "y") for seed in (0, 1, 2)}
    table = predictions(right)
    table = table.drop(table.index[(table["method"] == "y") & (table["seed"] == 2)])  # seed 2 of x is left out: 5
    table = table.drop(table.index[(table["method"] == "y") & (table["image"] == "1-0.png") & (table["seed"] == 1)])
    found = compare_paired(table, "x", "y")
    assert (found.units, found.trainings, found.unpaired) == (4, 2, 5 + 3)
    assert found.difference == pytest.approx(1 / 4)
    with pytest.raises(ValueError, match="'x' and 'z' have no picture in common"):
        compare_paired(table, "x", "z")


def test_a_subject_in_several_folds_is_one_unit() -> None:
    rng = np.random.default_rng(0)
    tables, subjects = [], [f"s{number}" for number in range(50)]
    of_subject = (rng.random(50) < 0.6).astype(int)  # each subject is right or wrong for y in every fold
    for fold in range(12):
        right = {("x", 0): [1] * 50, ("y", 0): list(of_subject)}
        right["y", 0][fold] ^= 1
        tables.append(predictions(right, subjects, fold=str(fold)))
    found = compare_paired(pd.concat(tables), "x", "y")
    per_subject = stats.ttest_1samp(1.0 - of_subject, 0).confidence_interval()
    assert found.units == 50
    assert found.high - found.low == pytest.approx(per_subject.high - per_subject.low, rel=0.2)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_all_pairs_are_corrected_together_and_pairs_without_a_p_value_do_not_count() -> None:
    rng = np.random.default_rng(0)
    right = {
        (method, seed): list((rng.random(300) < chance).astype(int))
        for method, chance, seeds in (("a", 0.5, 3), ("b", 0.6, 3), ("c", 0.7, 3), ("once", 0.6, 1))
        for seed in range(seeds)
    }
    found = compare_all(predictions(right))
    assert [(one.first, one.second) for one in found[:3]] == [("b", "a"), ("c", "a"), ("c", "b")]
    tested = [one for one in found if one.p_value is not None]
    assert (len(found), len(tested)) == (6, 3)
    assert [one.p_holm for one in tested] == pytest.approx(holm([one.p_value for one in tested]))
    assert all(one.p_holm is None for one in found if "once" in (one.first, one.second))
    assert set(PairedComparison.__dataclass_fields__) == {
        *("first", "second", "difference", "low", "high", "p_value", "p_holm", "unit", "units", "trainings"),
        *("test", "covers", "reason", "unpaired"),
    }


def simulated(
    rng: np.random.Generator,
    design: tuple[int, int, int, int],
    spread: float,
    own: float,
    difference: float = 0.0,
) -> list[FoldScores]:
    """Two methods on pictures and subjects of different difficulty; about 70 % are right.

    Args:
        design: folds, seeds, pictures, pictures per subject.
        spread: standard deviation between trainings, in points of accuracy.
        own: standard deviation, in logits, of each method's own strength on a subject and on a picture.
        difference: of the methods, in points of accuracy.
    """
    folds, seeds, pictures, each = design
    point = 0.01 / 0.135  # logits that change the accuracy by one point
    found = []
    for units in np.array_split(np.arange(pictures // each), folds):
        size = len(units)
        logits = 1.5 + rng.normal(0, 0.3) + rng.normal(0, 0.7, (size, 1)) + rng.normal(0, 1.8, (size, each))
        of_method = rng.normal(0, own, (2, 1, size, 1)) + rng.normal(0, own, (2, 1, size, each))
        of_training = rng.normal(0, spread * point, (2, seeds, 1, 1))
        of_training[0] += difference * point
        chance = 1 / (1 + np.exp(-(logits + of_method + of_training)))
        scores = (rng.random(chance.shape) < chance).mean(axis=3)
        found.append(FoldScores(units, np.full(size, each), scores))
    return found


def share_below(
    repeats: int, design: tuple[int, int, int, int], spread: float, own: float, difference: float = 0.0
) -> tuple[float, float]:
    """The share of comparisons with p < 0.05, and the share of t tests over units alone, trainings averaged."""
    rng = np.random.default_rng(0)
    below = np.zeros(2)
    for _ in range(repeats):
        folds = simulated(rng, design, spread, own, difference)
        mean, variance, degrees = estimate_difference(folds)
        below[0] += variance > 0 and 2 * stats.t.sf(abs(mean) / math.sqrt(variance), degrees) < 0.05
        units = np.concatenate([(f.scores[0] - f.scores[1]).mean(axis=0) for f in folds])
        below[1] += abs(units.mean()) > 1.96 * units.std(ddof=1) / math.sqrt(len(units))
    return below[0] / repeats, below[1] / repeats


@pytest.mark.parametrize("design", DESIGNS)
def test_equal_methods_rarely_seem_to_differ(design: tuple[int, int, int, int]) -> None:
    """At most 7 % below 0.05, over three spreads and two kinds of equal methods; 130 comparisons each."""
    shares = [share_below(130, design, spread, own)[0] for spread in (0.0, 1.0, 2.0) for own in (0.0, 1.0)]
    assert np.mean(shares) <= 0.07


def test_the_simulation_catches_a_test_that_ignores_trainings() -> None:
    ours, units_alone = share_below(200, (1, 5, 3575, 1), spread=1.0, own=0.0)
    assert ours <= 0.07
    assert units_alone > 0.2


def test_power_with_five_seeds() -> None:
    assert share_below(100, (1, 5, 3575, 1), spread=1.0, own=0.0, difference=3.0)[0] >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("design", [*DESIGNS, (1, 3, 3575, 1), (1, 5, 1308, 40), (5, 1, 3575, 1), (5, 2, 1000, 1)])
def test_equal_methods_at_every_spread(design: tuple[int, int, int, int]) -> None:
    """The same for each case alone, with 2,500 comparisons; `-s` prints the table."""
    for spread in (0.0, 1.0, 2.0):
        for own in (0.0, 1.0):
            ours, units_alone = share_below(2500, design, spread, own)
            power = share_below(300, design, spread, own, difference=3.0)[0]
            print(f"{design} {spread} {own}: {ours:.1%}, over units alone {units_alone:.1%}, power {power:.0%}")
            assert ours <= 0.07
