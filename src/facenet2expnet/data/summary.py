"""The paper's Table II for the data that is here, beside the paper's counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.errors import UserError
from facenet2expnet.labels import EXPRESSIONS, in_canonical_order


@dataclass(frozen=True)
class PaperCounts:
    """A row of Table II as printed; None where the set does not have the class.

    Attributes:
        title: the set's name in the table.
        printed: class name -> pictures.
        total: the printed total.
        corrected: what must stand in the place of a slip; "total" or a class name -> pictures.
        slip: one sentence about the slip, "" where there is none.
    """

    title: str
    printed: Mapping[str, int]
    total: int
    corrected: Mapping[str, int]
    slip: str = ""

    @property
    def counts(self) -> dict[str, int]:
        """Class name -> pictures, with the slip put right."""
        return {name: self.corrected.get(name, count) for name, count in self.printed.items()}

    @property
    def right_total(self) -> int:
        return self.corrected.get("total", self.total)


def _row(*counts: int | None) -> dict[str, int]:
    return {name: count for name, count in zip(EXPRESSIONS, counts, strict=True) if count is not None}


TABLE_TWO: Mapping[str, PaperCounts] = {
    "ckplus": PaperCounts(
        "CK+",
        _row(135, 54, 177, 75, 147, 84, 249, 327),
        1308,
        {"happiness": 207},
        "CK+ happiness is printed as 147 and must be 207: only so does the row sum to 1,308.",
    ),
    "oulu-casia": PaperCounts(
        "Oulu-CASIA",
        _row(240, None, 240, 240, 240, 240, 240, None),
        1444,
        {"total": 1440},
        "Oulu-CASIA's total is printed as 1,444 and must be 1,440, six classes of 240.",
    ),
    "tfd": PaperCounts("TFD", _row(437, None, 457, 424, 758, 441, 459, 1202), 4178, {}),
    "sfew": PaperCounts("SFEW", _row(255, None, 75, 124, 256, 234, 150, 228), 1322, {}),
}
"""Source: FN2EN, Table II."""


@dataclass(frozen=True)
class SummaryRow:
    """One line: what was found or what the paper says; `counts` follow the columns, None where there is no class."""

    data: str
    whose: str
    counts: tuple[int | None, ...]
    total: int


@dataclass(frozen=True)
class Summary:
    """A table like the paper's Table II: column names, rows, and sentences about what differs."""

    columns: tuple[str, ...]
    rows: tuple[SummaryRow, ...]
    notes: tuple[str, ...]


def summarise_counts(manifests: Sequence[Manifest]) -> Summary:
    """How many pictures of each class are here, beside the paper's counts where the paper used the set.

    A manifest is compared by its name (ckplus, oulu-casia, tfd, sfew). Only classes that were read are
    compared, so that CK+ read with six classes is held against the paper's same six.

    Raises:
        UserError: If no manifest is given.
    Source: FN2EN, Table II.
    """
    if not manifests:
        raise UserError("the summary needs at least one manifest")
    found = in_canonical_order(name for manifest in manifests for name in manifest.classes)
    rows, notes = [], []
    for manifest in manifests:
        counts = manifest.counts
        rows.append(
            SummaryRow(
                manifest.name, "found", tuple(counts.get(name) for name in found), sum(counts.values())
            )
        )
        paper = TABLE_TWO.get(manifest.name)
        if paper is None:
            continue
        printed = {name: paper.printed.get(name) for name in found}
        rows.append(SummaryRow(manifest.name, "paper, as printed", tuple(printed.values()), paper.total))
        if paper.slip:
            right = {name: paper.counts.get(name) for name in found}
            rows.append(
                SummaryRow(manifest.name, "paper, put right", tuple(right.values()), paper.right_total)
            )
            notes.append(paper.slip)
        notes += _differences(manifest.name, counts, paper)
    return Summary(found, tuple(rows), tuple(notes))


def _differences(name: str, counts: Mapping[str, int], paper: PaperCounts) -> list[str]:
    wrong = [
        f"{label} {counts[label]} (paper {paper.counts.get(label, 0)})"
        for label in counts
        if counts[label] != paper.counts.get(label, 0)
    ]
    if wrong:
        return [f"{name} differs from the paper: {', '.join(wrong)}."]
    missing = [label for label in paper.counts if label not in counts]
    which = f"the classes read ({', '.join(counts)})" if missing else "every class"
    return [f"{name} has the paper's counts in {which}."]
