"""Checks for what makes a result untrue: copies, subjects on two sides, doubtful labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from facenet2expnet.data.duplicates import identical_in, near_in, near_pairs, picture_hashes
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.splits import Split, group_leaks, official_columns
from facenet2expnet.errors import UserError
from facenet2expnet.files import atomic_path

SAME_SUBJECT_DISTANCE = 0.6
"""dlib's own threshold: two descriptors of one person are closer than this."""

TABLES = {
    "identical": ("group", "row", "image", "label"),
    "near": ("first", "second", "first_image", "second_image", "bits"),
    "leaks": ("split", "part", "row", "image", "train_row", "train_image", "how"),
    "group_leakage": ("split", "kind", "name", "first_part", "second_part"),
    "same_subject": ("first", "second", "distance"),
    "labels": ("row", "image", "label", "fault"),
}
"""Table -> columns.

identical: pictures that are identical pixel by pixel, numbered by group. near: pairs with similar perceptual
hashes. leaks: test and validation pictures with a copy in the training or unlabelled part; `how` is identical or
near. group_leakage: subjects and sequences in two parts of a split. same_subject: pairs of subjects whose faces are
so similar that they may be one person. labels: pictures without a label, identical pictures with different labels.
"""


@dataclass(frozen=True, eq=False)
class Audit:
    """Findings of an audit: number of pictures, names of the checks, and the tables of `TABLES`."""

    pictures: int
    checked: tuple[str, ...]
    tables: dict[str, pd.DataFrame]

    @property
    def counts(self) -> dict[str, int]:
        """Name -> number of findings; pictures, subjects and sequences are counted once over all splits."""
        leaks, groups, faults = (self.tables[name] for name in ("leaks", "group_leakage", "labels"))
        return {
            "identical_groups": int(self.tables["identical"]["group"].nunique()),
            "identical_pictures": len(self.tables["identical"]),
            "identical_leaks": int(leaks.loc[leaks["how"] == "identical", "row"].nunique()),
            "near_pairs": len(self.tables["near"]),
            "near_leaks": int(leaks.loc[leaks["how"] == "near", "row"].nunique()),
            "subject_leaks": int(groups.loc[groups["kind"] == "subject", "name"].nunique()),
            "sequence_leaks": int(groups.loc[groups["kind"] == "sequence", "name"].nunique()),
            "same_subject": len(self.tables["same_subject"]),
            "unlabelled": int((faults["fault"] == "no label").sum()),
            "conflicting_labels": int((faults["fault"] == "labels differ").sum()),
        }

    @property
    def clean(self) -> bool:
        """Whether no picture, subject or sequence is on two sides of a split."""
        return not any(count for name, count in self.counts.items() if name.endswith("_leaks"))

    def lines(self) -> list[str]:
        """The findings as sentences, leaks first; one sentence if there is none."""
        sentences = {
            "identical_leaks": "{} test or validation pictures have an identical copy in the training part.",
            "near_leaks": "{} test or validation pictures have a near-duplicate in the training part.",
            "subject_leaks": "{} subjects are on two sides of a split.",
            "sequence_leaks": "{} sequences are on two sides of a split.",
            "same_subject": "{} pairs of subjects look like one person with two IDs.",
            "conflicting_labels": "{} identical pictures have different labels.",
            "unlabelled": "{} pictures have no label.",
        }
        counts = self.counts
        found = [text.format(counts[name]) for name, text in sentences.items() if counts[name]]
        if counts["identical_groups"] and not counts["identical_leaks"]:
            found.append(
                f"{counts['identical_pictures']} pictures are copies of one another, all on one side."
            )
        return found or [f"Nothing was found in {self.pictures} pictures ({', '.join(self.checked)})."]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: counts, sentences, and the first 50 rows of each table."""
        return {
            "pictures": self.pictures,
            "checked": list(self.checked),
            "counts": self.counts,
            "lines": self.lines(),
            "tables": {
                name: table.head(50).astype(object).to_dict("records") for name, table in self.tables.items()
            },
        }

    def save(self, folder: Path) -> list[Path]:
        """Write each table that is not empty to a CSV file in a folder; return the files."""
        written = [Path(folder) / f"{name}.csv" for name, table in self.tables.items() if len(table)]
        for path in written:
            with atomic_path(path) as temporary:
                self.tables[path.stem].to_csv(temporary, index=False, errors="surrogateescape")
        return written


def audit(
    manifest: Manifest,
    pixels: np.ndarray | None = None,
    splits: Sequence[Split] | None = None,
    embeddings: np.ndarray | None = None,
    *,
    cheap: bool = False,
) -> Audit:
    """Search for copies, leaks and doubtful labels.

    Args:
        pixels: (N, H, W, 3) or (N, H, W) uint8, one per row of the manifest; None skips the pictures.
        splits: the splits to check; by default those of the manifest's columns (official folds, fold or split),
            pictures without a label included.
        embeddings: (N, D) float, a face net's descriptor of each picture; None skips the search for one person
            with two IDs.
        cheap: skip near-duplicates, which compare all pairs and take seconds to minutes.
    Raises:
        UserError: If an array does not have one row per picture.
    """
    for name, array in (("pixels", pixels), ("embeddings", embeddings)):
        if array is not None and len(array) != len(manifest):
            raise UserError(
                f"audit: expected {len(manifest)} {name}, one per row of the manifest, got {len(array)}"
            )
    splits = _splits_of_columns(manifest) if splits is None else splits
    image, label = (manifest.table[column].to_numpy(dtype=object) for column in ("image", "label"))
    checked = ["labels", "subjects and sequences"]
    blank = np.flatnonzero(manifest.labels < 0)
    labels = [(row, image[row], "", "no label") for row in blank]
    rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in TABLES} | {"labels": labels}
    for split, kind, names, first, second in group_leaks(manifest, splits):
        rows["group_leakage"] += [(split.name, kind, name, first, second) for name in names]
    if pixels is not None:
        checked.append("identical pictures")
        groups = picture_hashes(pixels)
        copies = np.flatnonzero(np.bincount(groups, minlength=1)[groups] > 1)
        copies = copies[np.argsort(groups[copies], kind="stable")]
        numbers = np.unique(groups[copies], return_inverse=True)[1]
        rows["identical"] = list(zip(numbers, copies, image[copies], label[copies], strict=True))
        for number in range(len(np.unique(numbers))):
            same = copies[numbers == number]
            if len(set(label[same]) - {""}) > 1:
                labels += [(row, image[row], label[row], "labels differ") for row in same if label[row]]
        pairs = np.empty((0, 3), np.int64)
        if not cheap:
            checked.append("near-duplicates")
            pairs = near_pairs(pixels, groups)
            pairs = pairs[np.argsort(pairs[:, 2], kind="stable")]
            rows["near"] = [(a, b, image[a], image[b], bits) for a, b, bits in pairs]
        for split in splits:
            trained = np.sort(np.append(split.train, split.unlabelled))
            for part in ("test", "validation"):
                held = split.parts()[part]
                for how, twins in (
                    ("identical", identical_in(held, trained, groups)),
                    ("near", near_in(held, trained, pairs)),
                ):
                    rows["leaks"] += [
                        (split.name, part, row, image[row], twin, image[twin], how)
                        for row, twin in zip(held, twins, strict=True)
                        if twin >= 0
                    ]
    if embeddings is not None and manifest.subjects is not None:
        checked.append("one person with two IDs")
        rows["same_subject"] = _same_subject(manifest.subjects, embeddings)
    tables = {name: pd.DataFrame(found, columns=list(TABLES[name])) for name, found in rows.items()}
    return Audit(len(manifest), tuple(checked), tables)


def _splits_of_columns(manifest: Manifest) -> list[Split]:
    """The splits that the manifest's columns give, whether a picture has a label or not; none without columns."""
    columns = [c for c in (*official_columns(manifest), "split") if c in manifest.table.columns]
    splits = []
    for column in columns:
        if column == "split" and splits:
            break
        part = manifest.table[column]
        train, valid, test = (np.flatnonzero(part == name) for name in ("train", "valid", "test"))
        if len(train) and len(test) + len(valid):
            splits.append(Split(column, train, test, valid) if len(test) else Split(column, train, valid))
    if not splits and "fold" in manifest.table.columns:
        fold = manifest.table["fold"]
        names = sorted(set(fold) - {""})
        splits = [
            Split(name, np.flatnonzero((fold != "") & (fold != name)), np.flatnonzero(fold == name))
            for name in (names if len(names) > 1 else [])
        ]
    return splits


def _same_subject(subjects: np.ndarray, embeddings: np.ndarray) -> list[tuple[str, str, float]]:
    """Pairs of subjects by the root mean square distance between all pictures of one and all of the other."""
    rows = np.flatnonzero(subjects != "")
    names, who = np.unique(subjects[rows].astype(str), return_inverse=True)
    values = np.asarray(embeddings, dtype=np.float64)[rows]
    size = np.bincount(who)[:, None]
    mean = np.zeros((len(names), values.shape[1]))
    np.add.at(mean, who, values)
    mean /= size
    square = np.bincount(who, (values**2).sum(axis=1)) / size[:, 0]
    distance = np.sqrt(np.maximum(square[:, None] + square[None] - 2 * mean @ mean.T, 0))
    pairs = np.argwhere(np.triu(distance < SAME_SUBJECT_DISTANCE, k=1))
    found = [(str(names[a]), str(names[b]), float(distance[a, b])) for a, b in pairs]
    return sorted(found, key=lambda pair: pair[2])
