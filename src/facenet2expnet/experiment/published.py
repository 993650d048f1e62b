"""The accuracies that the paper prints in its tables III to VI."""

from __future__ import annotations

import re
from dataclasses import dataclass

SEQUENCE_METHODS = ("3DCNN-DAP", "STM-ExpLet", "DTAGN")
"""Methods that read an image sequence (section IV-C)."""

PARAMETERS = {"fn2en": 11_000_000, "fine-tune": 138_000_000}
"""Weights of the expression net and of VGG-16, as section V rounds them."""

MS_PER_PICTURE = 3.0
"""Time of the expression net per picture on a Titan X, in milliseconds (section V)."""

OUR_METHODS = {"Train From Scratch (BN)": "scratch", "VGG Fine-Tune (baseline)": "fine-tune", "FN2EN": "fn2en"}


@dataclass(frozen=True)
class PublishedRow:
    """One row of a table of the paper.

    Attributes:
        table: its number in the paper, as "III".
        accuracy: in 0..1 (the paper prints percent).
        citation: the paper's reference number; None for its own three methods.
        extra_data: a further dataset that was trained on, or "".
    """

    table: str
    dataset: str
    classes: int
    name: str
    accuracy: float
    citation: int | None = None
    extra_data: str = ""

    @property
    def ours(self) -> str | None:
        """Our name of the method if the paper's authors ran it: scratch, fine-tune or fn2en; else None."""
        return OUR_METHODS.get(self.name)

    @property
    def sees_sequences(self) -> bool:
        """Whether it reads an image sequence, and so can't be compared with methods that read one image."""
        return self.name in SEQUENCE_METHODS


TABLES = {
    "III CK+ 6": "CSPL [16] 89.9, AdaGabor [35] 93.3, LBPSVM [36] 95.1, 3DCNN-DAP [21] 92.4, BDBN [19] 96.7, "
    "STM-ExpLet [20] 94.2, DTAGN [22] 97.3, Inception [23] 93.2, LOMo [37] 95.1, PPDN [9] 97.3, FN2EN [] 98.6",
    "III CK+ 8": "AUDN [18] 92.1, Train From Scratch (BN) [] 88.7, VGG Fine-Tune (baseline) [] 89.9, FN2EN [] 96.8",
    "IV Oulu-CASIA 6": "HOG 3D [38] 70.63, AdaLBP [28] 73.54, Atlases [39] 75.52, STM-ExpLet [20] 74.59, "
    "DTAGN [22] 81.46, LOMo [37] 82.10, PPDN [9] 84.59, Train From Scratch (BN) [] 76.87, "
    "VGG Fine-Tune (baseline) [] 83.26, FN2EN [] 87.71",
    "V TFD 7": "Gabor + PCA [40] 80.2, Deep mPoT [41] 82.4, CDA+CCA [42] 85.0, disRBM [43] 85.4, "
    "bootstrap-recon [44] 86.8, Train From Scratch (BN) [] 82.5, VGG Fine-Tune (baseline) [] 86.7, FN2EN [] 88.9",
    "VI SFEW 7": "AUDN [18] 26.14, STM-ExpLet [20] 31.73, Inception [23] 47.70, Mapped LBP [8] 41.92, "
    "Train From Scratch (BN) [] 39.55, VGG Fine-Tune (baseline) [] 41.23, FN2EN [] 48.19",
    "VI SFEW + FER2013 7": "Transfer Learning [25] 48.50, Multiple Deep Network [24] 52.29, FN2EN [] 55.15",
}
"""Table, dataset (with further training data), number of classes -> name [citation] percent, in the paper's order."""


def _rows(title: str, text: str) -> list[PublishedRow]:
    (table, name), classes, rows = title[:-2].split(" ", 1), int(title[-1]), []
    dataset, _, extra = name.partition(" + ")
    for entry in text.split(", "):
        method, citation, percent = re.split(r" \[|\] ", entry)
        share, number = round(float(percent) / 100, 4), int(citation) if citation else None
        rows.append(PublishedRow(table, dataset, classes, method, share, number, extra))
    return rows


ROWS = tuple(row for title, text in TABLES.items() for row in _rows(title, text))
"""Tables III to VI, row by row, in the paper's order."""

_DATASETS = {"ck": "CK+", "ckplus": "CK+", "oulucasia": "Oulu-CASIA", "oulucas": "Oulu-CASIA", "tfd": "TFD"}
_DATASETS |= {"sfew": "SFEW", "sfewfer2013": "SFEW"}


def published(dataset: str, classes: int) -> tuple[PublishedRow, ...]:
    """The paper's rows for a dataset and number of classes, in its order; empty where it prints none.

    Args:
        dataset: any spelling of CK+, Oulu-CASIA, TFD or SFEW.
        classes: number of classes; the paper has 6 and 8 for CK+, 6 for Oulu-CASIA, 7 for TFD and SFEW.
    Source: FN2EN, tables III to VI.
    """
    name = _DATASETS.get(_key(dataset))
    return tuple(row for row in ROWS if row.dataset == name and row.classes == classes)


def paper_accuracies(dataset: str, classes: int) -> dict[str, float]:
    """The paper's accuracies of our methods, in 0..1; empty where it has none.

    A dataset named "SFEW + FER2013" gets the row that trained on both.
    """
    extra = "FER2013" if _key(dataset).endswith("fer2013") else ""
    return {row.ours: row.accuracy for row in published(dataset, classes) if row.ours and row.extra_data == extra}


def _key(dataset: str) -> str:
    return "".join(c for c in dataset.lower() if c.isascii() and c.isalnum())
