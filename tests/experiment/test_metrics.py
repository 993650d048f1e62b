"""The scores and the summary of a run, recomputed independently."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from facenet2expnet.experiment import metrics

CLASSES = ("anger", "fear", "joy")


def guesses(rows: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truths, predicted classes and probabilities that are right somewhat more often than by chance."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, rows)
    logits = rng.normal(size=(rows, classes)) + 1.2 * np.eye(classes)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return truth, probabilities.argmax(axis=1), probabilities


def one_method(correct: list[bool]) -> pd.DataFrame:
    """A predictions table of one method with the classes a and b; every truth is a."""
    return pd.DataFrame(
        {
            "image": [f"{number}.png" for number in range(len(correct))],
            "fold": "1",
            "method": "only",
            "seed": 0,
            "truth": "a",
            "predicted": ["a" if right else "b" for right in correct],
            "p_a": [0.9 if right else 0.2 for right in correct],
            "p_b": [0.1 if right else 0.8 for right in correct],
        }
    )


def by_hand(truth: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """The scores by loops over classes, pictures and bins."""
    recalls, f1_scores = [], []
    for label in range(probabilities.shape[1]):
        right = sum((truth == label) & (predicted == label))
        there, named = sum(truth == label), sum(predicted == label)
        if there:
            recalls.append(right / there)
        if there + named:
            f1_scores.append(2 * right / (there + named))
    error = 0.0
    confidence = probabilities[np.arange(len(truth)), predicted]
    for number in range(15):
        chosen = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if chosen.any():
            error += abs(confidence[chosen].sum() - (truth == predicted)[chosen].sum()) / len(truth)
    return {
        "accuracy": sum(truth == predicted) / len(truth),
        "balanced_accuracy": sum(recalls) / len(recalls),
        "macro_f1": sum(f1_scores) / len(f1_scores),
        "negative_log_likelihood": sum(-math.log(p[t]) for p, t in zip(probabilities, truth, strict=True)) / len(truth),
        "expected_calibration_error": error,
    }


@pytest.mark.parametrize("absent", [None, "pictures", "predictions", "both"])
def test_scores_by_hand_with_and_without_an_empty_class(absent: str | None) -> None:
    truth, predicted, probabilities = guesses(300, 5)
    if absent in ("pictures", "both"):
        truth[truth == 2] = 3
    if absent in ("predictions", "both"):
        predicted[predicted == 2] = 1
    scores = metrics.scores_of(probabilities, predicted, truth)
    assert scores == pytest.approx(by_hand(truth, predicted, probabilities), abs=1e-12)
    assert tuple(scores) == metrics.SCORES


def test_confusion_counts_names_and_numbers() -> None:
    truth, predicted = ["joy", "joy", "anger"], ["joy", "fear", "joy"]
    assert metrics.confusion(truth, predicted, CLASSES).tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 1]]
    assert metrics.confusion([2, 2, 0], [2, 1, 2], range(3)).tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 1]]


def test_log_likelihood_of_a_certain_mistake_is_finite() -> None:
    value = metrics.negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1]))
    assert value == pytest.approx(-math.log(1e-12))


def test_calibration_error_by_hand() -> None:
    # Bin (0.6, 0.8]: mean confidence 0.75, accuracy 1/2. Bin (0.8, 1.0]: 0.9 and 1.
    # (2 * 0.25 + 1 * 0.1) / 3 = 0.2.
    confidence, correct = np.array([0.7, 0.8, 0.9]), np.array([True, False, True])
    assert metrics.expected_calibration_error(confidence, correct, bins=5) == pytest.approx(0.2)
    bins = metrics.reliability(confidence, correct, bins=5)
    assert [part["pictures"] for part in bins] == [0, 0, 0, 2, 1]
    assert bins[3] == {
        "low": pytest.approx(0.6),
        "high": pytest.approx(0.8),
        "pictures": 2,
        "confidence": pytest.approx(0.75),
        "accuracy": 0.5,
    }
    assert math.isnan(bins[0]["accuracy"])


def test_a_bin_holds_its_upper_edge_and_the_first_one_zero() -> None:
    bins = metrics.reliability(np.array([0.0, 0.5, 1.0]), np.array([True, True, True]), bins=2)
    assert [part["pictures"] for part in bins] == [2, 1]


def test_probabilities_before_temperature_scaling_come_back() -> None:
    rng = np.random.default_rng(0)
    scores, temperatures = rng.normal(size=(50, 5)) * 6, rng.uniform(0.3, 4, 50)
    scaled = softmax(scores / temperatures[:, None], axis=1)
    assert np.allclose(metrics.unscaled(scaled, temperatures), softmax(scores, axis=1), atol=1e-10)
    assert metrics.unscaled(np.array([[1.0, 0.0]]), np.array([3.0])).tolist() == [[1.0, 0.0]]


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


def test_summary_has_mean_and_sample_deviation_over_folds() -> None:
    table = cross_validated()
    summary = metrics.summarise(table, CLASSES)
    rows = table[table["method"] == "fn2en"]
    per_fold = [(part["truth"] == part["predicted"]).mean() for _, part in rows.groupby("fold")]
    counts = pd.crosstab(rows["truth"], rows["predicted"])
    method = summary["methods"]["fn2en"]
    assert list(summary["methods"]) == ["scratch", "fn2en"]
    assert method["mean"]["accuracy"] == pytest.approx(np.mean(per_fold))
    assert method["std"]["accuracy"] == pytest.approx(np.std(per_fold, ddof=1))
    assert method["std_over_seeds"]["accuracy"] is None
    assert [run["accuracy"] for run in method["runs"]] == pytest.approx(per_fold)
    assert method["pooled"]["confusion"] == counts.to_numpy().tolist()
    for row in method["per_class"]:
        right, name = counts.loc[row["class"], row["class"]], row["class"]
        assert row["pictures"] == counts.loc[name].sum()
        assert row["recall"] == pytest.approx(right / counts.loc[name].sum())
        assert row["precision"] == pytest.approx(right / counts[name].sum())
        assert row["f1"] == pytest.approx(2 / (1 / row["recall"] + 1 / row["precision"]))
    assert [s["subject"] for s in method["per_subject"]] == [f"S{i}" for i in range(12)]
    (test,) = summary["paired_tests"]
    assert (test["first"], test["second"], test["unit"]) == ("fn2en", "scratch", "subject")
    assert test["p_holm"] == test["p_value"]


def test_summary_averages_seeds_before_folds() -> None:
    table = cross_validated(seeds=(0, 1))
    method = metrics.summarise(table, CLASSES)["methods"]["scratch"]
    rows = table[table["method"] == "scratch"].assign(correct=lambda t: t["truth"] == t["predicted"])
    grid = rows.groupby(["fold", "seed"])["correct"].mean().unstack()
    assert method["seeds"] == [0, 1]
    assert method["std"]["accuracy"] == pytest.approx(grid.mean(axis=1).std(ddof=1))
    assert method["std_over_seeds"]["accuracy"] == pytest.approx(grid.mean(axis=0).std(ddof=1))


def test_summary_compares_log_loss_and_calibration_error_before_and_after_scaling() -> None:
    table, columns = cross_validated(), [f"p_{name}" for name in CLASSES]
    scaled = table.assign(temperature=np.where(table["fold"] == "fold 0", 2.0, 3.0))
    powers = table[columns].to_numpy(np.float64) ** (1 / scaled["temperature"].to_numpy()[:, None])
    scaled[columns] = powers / powers.sum(axis=1, keepdims=True)
    plain = metrics.summarise(table, CLASSES)["methods"]["fn2en"]
    found = metrics.summarise(scaled, CLASSES)["methods"]["fn2en"]
    assert "scaling" not in plain
    assert found["scaling"]["temperatures"] == [2.0, 3.0, 3.0]
    for name in ("negative_log_likelihood", "expected_calibration_error"):
        assert found["scaling"]["before"][name] == pytest.approx(plain["pooled"][name], rel=1e-5)
        assert found["scaling"]["after"][name] == found["pooled"][name] != plain["pooled"][name]


def test_summary_is_strict_json_with_null_for_undefined_numbers() -> None:
    table = one_method([True, False])
    summary = json.loads(json.dumps(metrics.summarise(table, ("a", "b")), allow_nan=False))
    method = summary["methods"]["only"]
    assert method["per_class"][1]["recall"] is None
    assert method["std"]["accuracy"] is None
    assert method["per_subject"] == []
    assert summary["paired_tests"] == []


def test_summary_leaves_out_and_counts_rows_without_a_truth() -> None:
    table = one_method([True, False, True])
    table.loc[2, "truth"] = ""
    summary = metrics.summarise(table, ("a", "b"))
    assert summary["unlabelled"] == 1
    assert summary["methods"]["only"]["pooled"]["pictures"] == 2


def test_summary_uses_the_predicted_column_where_probabilities_tie() -> None:
    table = one_method([True, False]).assign(p_a=0.5, p_b=0.5)
    scores = metrics.summarise(table, ("a", "b"))["methods"]["only"]["pooled"]
    assert scores["accuracy"] == 0.5
    assert scores["expected_calibration_error"] == pytest.approx(0.0)


def test_summary_names_an_unknown_class_and_a_missing_column() -> None:
    table = one_method([True])
    with pytest.raises(ValueError, match="truth 'a' is not one of the classes b"):
        metrics.summarise(table, ("b",))
    with pytest.raises(ValueError, match="'p_c', which is missing"):
        metrics.summarise(table, ("a", "b", "c"))
