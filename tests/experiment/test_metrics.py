"""The scores against scikit-learn, scipy or a sum done by hand."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
from scipy import stats

from facenet2expnet.experiment import metrics

CLASSES = ("anger", "fear", "joy")


def guesses(rows: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truths, predicted classes and probabilities that are right somewhat more often than by chance."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, rows)
    logits = rng.normal(size=(rows, classes)) + 1.2 * np.eye(classes)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return truth, probabilities.argmax(axis=1), probabilities


def predictions_table(
    correct_by_method: dict[str, list[bool]], subjects: list[str] | None, seed: int = 0, fold: str = "1"
) -> pd.DataFrame:
    """A predictions table with two classes where each method is right as given."""
    parts = []
    for method, correct in correct_by_method.items():
        n = len(correct)
        columns = {
            "image": [f"{i}.png" for i in range(n)],
            "fold": fold,
            "method": method,
            "seed": seed,
            "truth": ["a"] * n,
            "predicted": ["a" if c else "b" for c in correct],
            "p_a": [0.9 if c else 0.2 for c in correct],
            "p_b": [0.1 if c else 0.8 for c in correct],
        }
        if subjects is not None:
            columns["subject"] = subjects
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def test_scores_agree_with_scikit_learn():
    truth, predicted, probabilities = guesses(400, 5)
    counts = metrics.confusion(truth, predicted, 5)
    assert counts.tolist() == sklearn.metrics.confusion_matrix(truth, predicted, labels=range(5)).tolist()
    assert metrics.accuracy(truth, predicted) == pytest.approx(
        sklearn.metrics.accuracy_score(truth, predicted)
    )
    assert metrics.balanced_accuracy(counts) == pytest.approx(
        sklearn.metrics.balanced_accuracy_score(truth, predicted)
    )
    assert metrics.macro_f1(counts) == pytest.approx(
        sklearn.metrics.f1_score(truth, predicted, average="macro")
    )
    assert metrics.recalls(counts) == pytest.approx(
        sklearn.metrics.recall_score(truth, predicted, average=None)
    )
    assert metrics.precisions(counts) == pytest.approx(
        sklearn.metrics.precision_score(truth, predicted, average=None)
    )
    assert metrics.negative_log_likelihood(probabilities, truth) == pytest.approx(
        sklearn.metrics.log_loss(truth, probabilities)
    )


def test_a_class_without_pictures_counts_in_no_mean():
    truth, predicted = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    counts = metrics.confusion(truth, predicted, 3)
    assert counts.tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert np.isnan(metrics.recalls(counts)[2])
    assert np.isnan(metrics.precisions(counts)[2])
    assert metrics.balanced_accuracy(counts) == pytest.approx((0.5 + 1.0) / 2)
    assert metrics.macro_f1(counts) == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_a_class_only_named_lowers_f1_but_not_balanced_accuracy():
    truth, predicted = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    counts = metrics.confusion(truth, predicted, 3)
    assert metrics.balanced_accuracy(counts) == pytest.approx(0.75)
    assert metrics.macro_f1(counts) == pytest.approx(
        sklearn.metrics.f1_score(truth, predicted, average="macro", zero_division=0)
    )


def test_one_class_alone():
    counts = metrics.confusion(np.zeros(3, int), np.zeros(3, int), 1)
    assert counts.tolist() == [[3]]
    assert metrics.balanced_accuracy(counts) == 1.0
    assert metrics.negative_log_likelihood(np.ones((3, 1)), np.zeros(3, int)) == 0.0


def test_log_likelihood_of_a_certain_mistake_is_finite():
    value = metrics.negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1]))
    assert value == pytest.approx(-math.log(1e-12))


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        (np.array([0, 1]), np.array([0]), "two arrays of one length"),
        (np.array([], int), np.array([], int), "at least one prediction"),
        (np.array([0, 3]), np.array([0, 1]), r"truth: expected class numbers 0\.\.2, got 0\.\.3"),
        (np.array([0, 1]), np.array([-1, 1]), r"predicted: expected class numbers 0\.\.2, got -1\.\.1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(truth: np.ndarray, predicted: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        metrics.confusion(truth, predicted, 3)


def test_log_likelihood_refuses_other_lengths():
    with pytest.raises(ValueError, match="expected 2 truths"):
        metrics.negative_log_likelihood(np.full((2, 2), 0.5), np.array([0]))


def test_calibration_error_by_hand():
    # Bin (0.6, 0.8]: mean confidence 0.75, accuracy 1/2. Bin (0.8, 1.0]: 0.9 and 1.
    # (2 * 0.25 + 1 * 0.1) / 3 = 0.2.
    confidence, correct = np.array([0.7, 0.8, 0.9]), np.array([True, False, True])
    assert metrics.expected_calibration_error(confidence, correct, bins=5) == pytest.approx(0.2)
    bins = metrics.reliability(confidence, correct, bins=5)
    assert [b.pictures for b in bins] == [0, 0, 0, 2, 1]
    assert math.isnan(bins[0].accuracy)


def test_calibration_bins_keep_their_upper_edge_and_both_ends():
    bins = metrics.reliability(np.array([0.0, 0.5, 1.0]), np.array([True, True, True]), bins=2)
    assert [b.pictures for b in bins] == [2, 1]


def test_calibration_error_recomputed_over_many_pictures():
    truth, predicted, probabilities = guesses(1000, 4, seed=3)
    confidence, correct = probabilities.max(axis=1), predicted == truth
    by_hand = 0.0
    for i in range(15):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        if inside.any():
            by_hand += inside.sum() / 1000 * abs(confidence[inside].mean() - correct[inside].mean())
    assert metrics.expected_calibration_error(confidence, correct) == pytest.approx(by_hand)


def test_sign_flips_are_exact_for_few_units():
    differences = np.array([0.3, 0.1, -0.05, 0.2, 0.4, 0.0])
    means = [
        abs(np.mean(differences * signs)) for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    by_hand = np.mean(np.array(means) >= abs(differences.mean()) - 1e-12)
    assert metrics.sign_flip_p_value(differences) == pytest.approx(by_hand)


def test_sign_flips_by_chance_agree_with_scipy():
    differences = np.random.default_rng(1).normal(0.15, 1.0, 60)
    witness = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=20_000,
        rng=np.random.default_rng(2),
    )
    assert metrics.sign_flip_p_value(differences) == pytest.approx(witness.pvalue, abs=0.015)


def test_sign_flips_of_equal_steps_are_the_binomial_test():
    differences = np.array([1.0] * 40 + [-1.0] * 22 + [0.0] * 100)
    assert metrics.sign_flip_p_value(differences) == pytest.approx(stats.binomtest(40, 62).pvalue, abs=0.005)


def test_no_difference_at_all_has_p_one():
    assert metrics.sign_flip_p_value(np.zeros(30)) == 1.0
    table = predictions_table({"x": [True, False] * 5, "y": [True, False] * 5}, None)
    test = metrics.paired_test(table, "x", "y")
    assert (test.p_value, test.difference, test.low, test.high) == (1.0, 0.0, 0.0, 0.0)


def test_bootstrap_interval_agrees_with_scipy():
    values = np.random.default_rng(4).normal(0.2, 0.5, 80)
    witness = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(5)
    ).confidence_interval
    assert metrics.bootstrap_interval(values) == pytest.approx((witness.low, witness.high), abs=0.01)
    assert all(math.isnan(edge) for edge in metrics.bootstrap_interval(np.array([0.1])))


def test_paired_test_without_subjects_is_mcnemar():
    table = predictions_table(
        {"x": [True] * 12 + [False] * 3 + [True] * 5, "y": [False] * 12 + [True] * 3 + [True] * 5}, None
    )
    test = metrics.paired_test(table, "x", "y")
    assert (test.test, test.unit, test.units) == ("exact McNemar test", "picture", 20)
    assert test.p_value == pytest.approx(stats.binomtest(12, 15).pvalue)
    assert test.difference == pytest.approx(9 / 20)
    assert test.low < test.difference < test.high


def test_paired_test_with_subjects_counts_subjects_not_pictures():
    # Ten pictures each; x is better for both subjects. Two subjects cannot give a p below 1/2.
    table = predictions_table({"x": [True] * 20, "y": [False] * 20}, ["s1"] * 10 + ["s2"] * 10)
    test = metrics.paired_test(table, "x", "y")
    assert (test.test, test.unit, test.units) == ("sign-flip permutation test", "subject", 2)
    assert test.p_value == pytest.approx(0.5)
    assert test.difference == 1.0


def test_subjects_weigh_the_same_whatever_their_number_of_pictures():
    table = predictions_table({"x": [True] * 10, "y": [False] + [True] * 9}, ["s1"] + ["s2"] * 9)
    assert metrics.paired_test(table, "x", "y").difference == pytest.approx(0.5)


@pytest.mark.parametrize("blank", ["", None])
def test_a_picture_without_a_subject_is_a_unit_of_its_own(blank: str | None):
    # s1 1/2, s2 1, and of the two pictures without a subject one is better; they are not one person.
    table = predictions_table(
        {"x": [True] * 5, "y": [True, False, False, False, True]}, ["s1", "s1", "s2", blank, blank]
    )
    test = metrics.paired_test(table, "x", "y")
    assert (test.test, test.unit, test.units) == ("sign-flip permutation test", "subject or picture", 4)
    assert test.difference == pytest.approx((0.5 + 1 + 1 + 0) / 4)
    assert test.p_value == pytest.approx(2 / 8)


def test_a_subject_called_as_a_picture_is_not_that_picture():
    table = predictions_table({"x": [True] * 3, "y": [False] * 3}, ["1.png", "", ""])
    assert metrics.paired_test(table, "x", "y").units == 3


def test_blank_subjects_only_are_none():
    table = predictions_table({"x": [True] * 4, "y": [False] * 4}, [""] * 4)
    assert metrics.paired_test(table, "x", "y").test == "exact McNemar test"


def test_several_seeds_are_one_unit_a_picture():
    tables = [
        predictions_table({"x": [True] * 6, "y": [False] * 6}, None, seed=0),
        predictions_table({"x": [True] * 6, "y": [True] * 6}, None, seed=1),
    ]
    test = metrics.paired_test(pd.concat(tables), "x", "y")
    assert (test.test, test.unit, test.units) == ("sign-flip permutation test", "picture", 6)
    assert test.difference == pytest.approx(0.5)
    assert test.p_value == pytest.approx(2 / 64)


def test_only_common_pictures_are_compared_and_the_rest_is_counted():
    table = predictions_table({"x": [True] * 6, "y": [False] * 6}, None)
    table = table.drop(table.index[(table["method"] == "y") & (table["image"] == "0.png")])
    test = metrics.paired_test(table, "x", "y")
    assert (test.units, test.unpaired) == (5, 1)


def test_an_unknown_method_is_named():
    table = predictions_table({"x": [True], "y": [True]}, None)
    with pytest.raises(ValueError, match="no predictions of method 'z', only of x, y"):
        metrics.paired_test(table, "x", "z")


def test_holm_by_hand():
    assert metrics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert metrics.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert metrics.holm([]) == []


def cross_validated(seeds: tuple[int, ...] = (0,)) -> pd.DataFrame:
    parts = []
    for seed, fold, method in itertools.product(seeds, range(3), ("scratch", "fn2en")):
        truth, predicted, probabilities = guesses(40, 3, seed=seed * 100 + fold * 10 + len(method))
        part = pd.DataFrame(probabilities.astype(np.float32), columns=[f"p_{c}" for c in CLASSES])
        part["truth"] = [CLASSES[i] for i in truth]
        part["predicted"] = [CLASSES[i] for i in predicted]
        part["image"] = [f"{fold}/{i}.png" for i in range(40)]
        part["subject"] = [f"S{fold * 4 + i // 10}" for i in range(40)]
        parts.append(part.assign(fold=f"fold {fold}", method=method, seed=seed))
    return pd.concat(parts, ignore_index=True)


def test_summary_has_mean_and_sample_deviation_over_folds():
    table = cross_validated()
    summary = metrics.summarise(table, CLASSES)
    rows = table[table["method"] == "fn2en"]
    per_fold = [
        sklearn.metrics.accuracy_score(part["truth"], part["predicted"]) for _, part in rows.groupby("fold")
    ]
    method = summary["methods"]["fn2en"]
    assert list(summary["methods"]) == ["scratch", "fn2en"]
    assert method["mean"]["accuracy"] == pytest.approx(np.mean(per_fold))
    assert method["std"]["accuracy"] == pytest.approx(np.std(per_fold, ddof=1))
    assert method["std_over_seeds"]["accuracy"] is None
    assert [run["accuracy"] for run in method["runs"]] == pytest.approx(per_fold)
    assert method["pooled"]["confusion"] == (
        sklearn.metrics.confusion_matrix(rows["truth"], rows["predicted"], labels=CLASSES).tolist()
    )
    assert [s["subject"] for s in method["per_subject"]] == [f"S{i}" for i in range(12)]
    assert [(t["first"], t["second"], t["unit"]) for t in summary["paired_tests"]] == [
        ("fn2en", "scratch", "subject")
    ]


def test_summary_averages_seeds_before_folds():
    table = cross_validated(seeds=(0, 1))
    method = metrics.summarise(table, CLASSES)["methods"]["scratch"]
    rows = table[table["method"] == "scratch"].assign(correct=lambda t: t["truth"] == t["predicted"])
    grid = rows.groupby(["fold", "seed"])["correct"].mean().unstack()
    assert method["seeds"] == [0, 1]
    assert method["std"]["accuracy"] == pytest.approx(grid.mean(axis=1).std(ddof=1))
    assert method["std_over_seeds"]["accuracy"] == pytest.approx(grid.mean(axis=0).std(ddof=1))


def test_summary_goes_through_strict_json_with_undefined_numbers_as_null():
    table = predictions_table({"only": [True, False]}, None)
    summary = json.loads(json.dumps(metrics.summarise(table, ("a", "b")), allow_nan=False))
    method = summary["methods"]["only"]
    assert method["per_class"][1]["recall"] is None
    assert method["std"]["accuracy"] is None
    assert method["per_subject"] == []
    assert summary["paired_tests"] == []


def test_summary_leaves_out_and_counts_rows_without_a_truth():
    table = predictions_table({"only": [True, False, True]}, None)
    table.loc[2, "truth"] = ""
    summary = metrics.summarise(table, ("a", "b"))
    assert summary["unlabelled"] == 1
    assert summary["methods"]["only"]["pooled"]["pictures"] == 2


def test_summary_takes_the_predicted_column_at_its_word_when_probabilities_tie():
    table = predictions_table({"only": [True, False]}, None).assign(p_a=0.5, p_b=0.5)
    scores = metrics.summarise(table, ("a", "b"))["methods"]["only"]["pooled"]
    assert scores["accuracy"] == 0.5
    assert scores["expected_calibration_error"] == pytest.approx(0.0)


def test_summary_names_a_strange_class_and_a_missing_column():
    table = predictions_table({"only": [True]}, None)
    with pytest.raises(ValueError, match="truth 'a' is not one of the classes b"):
        metrics.summarise(table, ("b",))
    with pytest.raises(ValueError, match="'p_c', which is missing"):
        metrics.summarise(table, ("a", "b", "c"))
