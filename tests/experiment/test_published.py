"""The published accuracies against the text of the paper."""

from __future__ import annotations

import pytest

from facenet2expnet.experiment.published import ROWS, paper_accuracies, published

# Copied from the text of the paper, tables III to VI, without the citations' brackets.
PRINTED = {
    ("CK+", 6, ""): "CSPL 89.9, AdaGabor 93.3, LBPSVM 95.1, 3DCNN-DAP 92.4, BDBN 96.7, STM-ExpLet 94.2, "
    "DTAGN 97.3, Inception 93.2, LOMo 95.1, PPDN 97.3, FN2EN 98.6",
    ("CK+", 8, ""): "AUDN 92.1, Train From Scratch (BN) 88.7, VGG Fine-Tune (baseline) 89.9, FN2EN 96.8",
    ("Oulu-CASIA", 6, ""): "HOG 3D 70.63, AdaLBP 73.54, Atlases 75.52, STM-ExpLet 74.59, DTAGN 81.46, "
    "LOMo 82.10, PPDN 84.59, Train From Scratch (BN) 76.87, VGG Fine-Tune (baseline) 83.26, FN2EN 87.71",
    ("TFD", 7, ""): "Gabor + PCA 80.2, Deep mPoT 82.4, CDA+CCA 85.0, disRBM 85.4, bootstrap-recon 86.8, "
    "Train From Scratch (BN) 82.5, VGG Fine-Tune (baseline) 86.7, FN2EN 88.9",
    ("SFEW", 7, ""): "AUDN 26.14, STM-ExpLet 31.73, Inception 47.70, Mapped LBP 41.92, "
    "Train From Scratch (BN) 39.55, VGG Fine-Tune (baseline) 41.23, FN2EN 48.19",
    ("SFEW", 7, "FER2013"): "Transfer Learning 48.50, Multiple Deep Network 52.29, FN2EN 55.15",
}


@pytest.mark.parametrize(("dataset", "classes", "extra"), PRINTED)
def test_every_row_is_the_papers(dataset: str, classes: int, extra: str) -> None:
    rows = [row for row in published(dataset, classes) if row.extra_data == extra]
    lines = [line.rsplit(" ", 1) for line in PRINTED[dataset, classes, extra].split(", ")]
    assert [(row.name, round(row.accuracy * 100, 4)) for row in rows] == [(n, float(a)) for n, a in lines]


def test_there_are_no_further_rows() -> None:
    assert len(ROWS) == sum(text.count(", ") + 1 for text in PRINTED.values())


def test_citations() -> None:
    by_name = {row.name: row.citation for row in ROWS}
    expected = {"PPDN": 9, "STM-ExpLet": 20, "bootstrap-recon": 44, "FN2EN": None}
    assert {name: by_name[name] for name in expected} == expected


@pytest.mark.parametrize("spelling", ["CK+", "ckplus", "ck_plus", "CK-Plus"])
def test_spellings_of_a_dataset(spelling: str) -> None:
    assert [row.dataset for row in published(spelling, 8)] == ["CK+"] * 4


@pytest.mark.parametrize(("dataset", "classes"), [("sample", 8), ("FER2013", 7), ("CK+", 7), ("", 8)])
def test_what_the_paper_does_not_print_is_empty(dataset: str, classes: int) -> None:
    assert published(dataset, classes) == ()
    assert paper_accuracies(dataset, classes) == {}


def test_sequence_methods_and_extra_data_are_not_comparable() -> None:
    ck = {row.name for row in published("CK+", 6) if row.sees_sequences}
    assert ck == {"3DCNN-DAP", "STM-ExpLet", "DTAGN"}
    with_fer = [row.name for row in published("SFEW", 7) if row.extra_data == "FER2013"]
    assert with_fer == ["Transfer Learning", "Multiple Deep Network", "FN2EN"]


def test_our_three_methods() -> None:
    assert paper_accuracies("CK+", 8) == {"scratch": 0.887, "fine-tune": 0.899, "fn2en": 0.968}
    assert paper_accuracies("CK+", 6) == {"fn2en": 0.986}
    assert paper_accuracies("SFEW", 7)["fn2en"] == 0.4819
    assert paper_accuracies("SFEW + FER2013", 7) == {"fn2en": 0.5515}
