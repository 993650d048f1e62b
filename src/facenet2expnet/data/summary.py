"""Class counts of datasets beside the paper's Table II."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.errors import UserError
from facenet2expnet.labels import EXPRESSIONS, in_canonical_order


def _row(*counts: int | None) -> dict[str, int]:
    return {name: count for name, count in zip(EXPRESSIONS, counts, strict=True) if count is not None}


PRINTED: dict[str, tuple[dict[str, int], int]] = {
    "ckplus": (_row(135, 54, 177, 75, 147, 84, 249, 327), 1308),
    "oulu-casia": (_row(240, None, 240, 240, 240, 240, 240, None), 1444),
    "tfd": (_row(437, None, 457, 424, 758, 441, 459, 1202), 4178),
    "sfew": (_row(255, None, 75, 124, 256, 234, 150, 228), 1322),
}
"""Dataset -> counts per class and total, as printed in FN2EN, Table II."""

CORRECTED: dict[str, tuple[dict[str, int], int]] = PRINTED | {
    "ckplus": (PRINTED["ckplus"][0] | {"happiness": 207}, 1308),
    "oulu-casia": (PRINTED["oulu-casia"][0], 1440),
}
"""The same without the table's two errors."""

ERRORS: dict[str, str] = {
    "ckplus": "CK+ happiness is printed as 147 and must be 207: the row sums to 1,308 only with 207.",
    "oulu-casia": "Oulu-CASIA's total is printed as 1,444 and must be 1,440, six classes of 240.",
}


def summarise_counts(manifests: Sequence[Manifest]) -> tuple[pd.DataFrame, list[str]]:
    """Count the pictures of each class, beside the paper's counts for the datasets that the paper used.

    A manifest is compared by its name (ckplus, oulu-casia, tfd, sfew), and only in the classes that it has: CK+
    with six classes is compared with the paper's same six.

    Returns:
        A table with the columns data, counts ("found", "paper, as printed" or "paper, corrected"), the classes and
        total, "" where a dataset has no such class; and sentences about the differences.
    Raises:
        UserError: If no manifest is given.
    Source: FN2EN, Table II.
    """
    if not manifests:
        raise UserError("the summary needs at least one manifest")
    classes = in_canonical_order(name for manifest in manifests for name in manifest.classes)
    rows: list[list[object]] = []
    notes = []

    def add(name: str, kind: str, counts: Mapping[str, int], total: int) -> None:
        rows.append([name, kind, *(counts.get(label, "") for label in classes), total])

    for manifest in manifests:
        name, counts = manifest.name, manifest.counts
        add(name, "found", counts, sum(counts.values()))
        if name not in PRINTED:
            continue
        add(name, "paper, as printed", *PRINTED[name])
        if name in ERRORS:
            add(name, "paper, corrected", *CORRECTED[name])
            notes.append(ERRORS[name])
        paper = CORRECTED[name][0]
        wrong = [f"{k} {n} (paper {paper.get(k, 0)})" for k, n in counts.items() if n != paper.get(k, 0)]
        if wrong:
            notes.append(f"{name} differs from the paper: {', '.join(wrong)}.")
        else:
            which = "every class" if set(paper) <= set(counts) else f"the classes read ({', '.join(counts)})"
            notes.append(f"{name} has the paper's counts in {which}.")
    return pd.DataFrame(rows, columns=["data", "counts", *classes, "total"]), notes
