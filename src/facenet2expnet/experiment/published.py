"""The accuracies that the paper prints in its tables III to VI, as data."""

from __future__ import annotations

from dataclasses import dataclass

SEQUENCE_METHODS = ("3DCNN-DAP", "STM-ExpLet", "DTAGN")
"""Comparators that look at an image sequence, by the paper's own words (section IV-C)."""

PARAMETERS = {"fn2en": 11_000_000, "fine-tune": 138_000_000}
"""Weights as section V rounds them: the expression net and VGG-16."""

MS_PER_PICTURE = 3.0
"""Time of the expression net for one picture on a Titan X, in milliseconds (section V)."""


@dataclass(frozen=True)
class PublishedRow:
    """One line of a table of the paper.

    `accuracy` is a share in 0..1 (the paper prints percent). `citation` is the paper's reference number, None
    for its own three methods. `extra_data` names a further set that was trained on.
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
        """Our name of the method where the paper ran it itself: scratch, fine-tune or fn2en; else None."""
        return _OURS.get(self.name)

    @property
    def sees_sequences(self) -> bool:
        """Whether it needs an image sequence, and so is not to be compared with what sees one image."""
        return self.name in SEQUENCE_METHODS


_OURS = {"Train From Scratch (BN)": "scratch", "VGG Fine-Tune (baseline)": "fine-tune", "FN2EN": "fn2en"}

_Line = tuple[str, int | None, float]


def _block(table: str, dataset: str, classes: int, lines: list[_Line], extra: str = "") -> list[PublishedRow]:
    return [
        PublishedRow(table, dataset, classes, name, round(percent / 100, 4), citation, extra)
        for name, citation, percent in lines
    ]


ROWS: tuple[PublishedRow, ...] = (
    *_block(
        "III",
        "CK+",
        6,
        [
            ("CSPL", 16, 89.9),
            ("AdaGabor", 35, 93.3),
            ("LBPSVM", 36, 95.1),
            ("3DCNN-DAP", 21, 92.4),
            ("BDBN", 19, 96.7),
            ("STM-ExpLet", 20, 94.2),
            ("DTAGN", 22, 97.3),
            ("Inception", 23, 93.2),
            ("LOMo", 37, 95.1),
            ("PPDN", 9, 97.3),
            ("FN2EN", None, 98.6),
        ],
    ),
    *_block(
        "III",
        "CK+",
        8,
        [
            ("AUDN", 18, 92.1),
            ("Train From Scratch (BN)", None, 88.7),
            ("VGG Fine-Tune (baseline)", None, 89.9),
            ("FN2EN", None, 96.8),
        ],
    ),
    *_block(
        "IV",
        "Oulu-CASIA",
        6,
        [
            ("HOG 3D", 38, 70.63),
            ("AdaLBP", 28, 73.54),
            ("Atlases", 39, 75.52),
            ("STM-ExpLet", 20, 74.59),
            ("DTAGN", 22, 81.46),
            ("LOMo", 37, 82.10),
            ("PPDN", 9, 84.59),
            ("Train From Scratch (BN)", None, 76.87),
            ("VGG Fine-Tune (baseline)", None, 83.26),
            ("FN2EN", None, 87.71),
        ],
    ),
    *_block(
        "V",
        "TFD",
        7,
        [
            ("Gabor + PCA", 40, 80.2),
            ("Deep mPoT", 41, 82.4),
            ("CDA+CCA", 42, 85.0),
            ("disRBM", 43, 85.4),
            ("bootstrap-recon", 44, 86.8),
            ("Train From Scratch (BN)", None, 82.5),
            ("VGG Fine-Tune (baseline)", None, 86.7),
            ("FN2EN", None, 88.9),
        ],
    ),
    *_block(
        "VI",
        "SFEW",
        7,
        [
            ("AUDN", 18, 26.14),
            ("STM-ExpLet", 20, 31.73),
            ("Inception", 23, 47.70),
            ("Mapped LBP", 8, 41.92),
            ("Train From Scratch (BN)", None, 39.55),
            ("VGG Fine-Tune (baseline)", None, 41.23),
            ("FN2EN", None, 48.19),
        ],
    ),
    *_block(
        "VI",
        "SFEW",
        7,
        [("Transfer Learning", 25, 48.50), ("Multiple Deep Network", 24, 52.29), ("FN2EN", None, 55.15)],
        extra="FER2013",
    ),
)
"""Tables III to VI, line by line, in the paper's order."""

_NAMES = {
    "ck": "CK+",
    "ckplus": "CK+",
    "oulucasia": "Oulu-CASIA",
    "oulucas": "Oulu-CASIA",
    "tfd": "TFD",
    "sfew": "SFEW",
    "sfewfer2013": "SFEW",
}


def _key(dataset: str) -> str:
    return "".join(c for c in dataset.lower() if c.isascii() and c.isalnum())


def dataset_name(dataset: str) -> str | None:
    """The paper's spelling of a dataset (CK+ for ckplus), or None where the paper does not test on it."""
    return _NAMES.get(_key(dataset))


def published(dataset: str, classes: int) -> tuple[PublishedRow, ...]:
    """The paper's lines for a dataset and class count, in its order; empty where it prints none.

    Args:
        dataset: any spelling of CK+, Oulu-CASIA, TFD or SFEW.
        classes: number of classes; the paper has 6 and 8 for CK+, 6, 7 and 7 for the others.
    Source: FN2EN, tables III to VI.
    """
    name = dataset_name(dataset)
    return tuple(row for row in ROWS if row.dataset == name and row.classes == classes)


def comparable(row: PublishedRow, extra_data: str = "") -> bool:
    """Whether a line may stand beside a method that sees one image and trained on this extra data."""
    return not row.sees_sequences and row.extra_data == extra_data


def paper_accuracies(dataset: str, classes: int) -> dict[str, float]:
    """The paper's own accuracies by our method names, shares in 0..1; empty where it has none.

    A dataset named "SFEW + FER2013" gets the line that trained on both.
    """
    extra = "FER2013" if _key(dataset).endswith("fer2013") else ""
    rows = [row for row in published(dataset, classes) if comparable(row, extra)]
    return {row.ours: row.accuracy for row in rows if row.ours}
