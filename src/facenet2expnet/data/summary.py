"""Class counts of datasets beside the paper's Table II."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.errors import UserError
from facenet2expnet.labels import EXPRESSIONS, in_canonical_order


def _paper(total: int, *counts: int | None) -> tuple[dict[str, int], int]:
    return {name: count for name, count in zip(EXPRESSIONS, counts, strict=True) if count is not None}, total


PRINTED = {
    "ckplus": _paper(1308, 135, 54, 177, 75, 147, 84, 249, 327),
    "oulu-casia": _paper(1444, 240, None, 240, 240, 240, 240, 240, None),
    "tfd": _paper(4178, 437, None, 457, 424, 758, 441, 459, 1202),
    "sfew": _paper(1322, 255, None, 75, 124, 256, 234, 150, 228),
}
"""Dataset -> counts per class and total, as printed in FN2EN, Table II."""

CORRECTED = PRINTED | {
    "ckplus": _paper(1308, 135, 54, 177, 75, 207, 84, 249, 327),
    "oulu-casia": _paper(1440, 240, None, 240, 240, 240, 240, 240, None),
}
"""The same without the table's two errors."""

ERRORS = {
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
    for manifest in manifests:
        name, found = manifest.name, manifest.counts
        lines = {"found": (found, sum(found.values()))}
        if name in PRINTED:
            lines["paper, as printed"] = PRINTED[name]
            paper, _ = CORRECTED[name]
            if name in ERRORS:
                lines["paper, corrected"] = CORRECTED[name]
                notes.append(ERRORS[name])
            wrong = [f"{k} {n} (paper {paper.get(k, 0)})" for k, n in found.items() if n != paper.get(k, 0)]
            which = "every class" if set(paper) <= set(found) else f"the classes read ({', '.join(found)})"
            same = f"has the paper's counts in {which}"
            notes.append(f"{name} {'differs from the paper: ' + ', '.join(wrong) if wrong else same}.")
        rows += [[name, kind, *(n.get(label, "") for label in classes), total] for kind, (n, total) in lines.items()]
    return pd.DataFrame(rows, columns=["data", "counts", *classes, "total"]), notes
