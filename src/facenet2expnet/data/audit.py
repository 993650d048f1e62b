"""Checks for what makes a result untrue: copies, subjects on two sides, doubtful labels, blank pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from facenet2expnet.data.duplicates import find_copies, near_pairs, picture_hashes
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.splits import HELD_OUT, Split, column_protocol, column_splits, group_leaks, with_unlabelled
from facenet2expnet.errors import UserError
from facenet2expnet.files import atomic_path

SAME_SUBJECT_DISTANCE = 0.6
"""dlib's own threshold: two descriptors of one person are closer than this."""

BLANK_STD = 4.0
"""Standard deviation of grey levels (0..255) below which a picture shows nothing; dim faces have 10 and more."""

GREY_DIFFERENCE, GREY_CLASS = 0.1, 20
"""Grey pictures are listed if two classes of at least so many pictures differ by this much in their share of them."""

TABLES = {
    "identical": ("group", "row", "image", "label"),
    "near": ("first", "second", "first_image", "second_image", "bits"),
    "leaks": ("split", "part", "row", "image", "train_row", "train_image", "how"),
    "group_leakage": ("split", "kind", "name", "first_part", "second_part"),
    "same_subject": ("first", "second", "distance"),
    "labels": ("row", "image", "label", "fault"),
    "blank": ("row", "image", "label", "kind"),
    "grey": ("row", "image", "label"),
}
"""Table -> columns.

identical: pictures that are identical pixel by pixel, numbered by group. near: pairs with similar perceptual
hashes. leaks: test and validation pictures with a copy in the training or unlabelled part; `how` is identical or
near. group_leakage: subjects and sequences in two parts of a split. same_subject: pairs of subjects whose faces are
so similar that they may be one person. labels: pictures without a label, identical pictures with different labels.
blank: pictures that show nothing; `kind` is black, white, constant or nearly constant. grey: pictures
without colour, if classes differ in their share.
"""

SENTENCES = {
    "identical_leaks": "{} test or validation pictures have an identical copy in the training part.",
    "near_leaks": "{} test or validation pictures have a near-duplicate in the training part.",
    "subject_leaks": "{} subjects are on two sides of a split.",
    "sequence_leaks": "{} sequences are on two sides of a split.",
    "same_subject": "{} pairs of subjects look like one person with two IDs.",
    "conflicting_labels": "{} identical pictures have different labels.",
    "unlabelled": "{} pictures have no label.",
    "blank": "{} pictures are blank: black, white, or of one grey level or nearly so.",
    "grey": "{} pictures have no colour, in some classes far more than in others: a network may learn that.",
}


@dataclass(frozen=True, eq=False)
class Audit:
    """Findings of an audit: number of pictures, names of the checks, and the tables of `TABLES`."""

    pictures: int
    checked: tuple[str, ...]
    tables: dict[str, pd.DataFrame]

    @property
    def counts(self) -> dict[str, int]:
        """Name -> number of findings; pictures, subjects and sequences are counted once over all splits."""
        tables = self.tables
        rows = tables["leaks"].groupby("how")["row"].nunique()
        groups = tables["group_leakage"].groupby("kind")["name"].nunique()
        faults = tables["labels"]["fault"].value_counts()
        return {
            "identical_pictures": len(tables["identical"]),
            "identical_leaks": int(rows.get("identical", 0)),
            "near_pairs": len(tables["near"]),
            "near_leaks": int(rows.get("near", 0)),
            "subject_leaks": int(groups.get("subject", 0)),
            "sequence_leaks": int(groups.get("sequence", 0)),
            "same_subject": len(tables["same_subject"]),
            "conflicting_labels": int(faults.get("labels differ", 0)),
            "unlabelled": int(faults.get("no label", 0)),
            "blank": len(tables["blank"]),
            "grey": len(tables["grey"]),
        }

    @property
    def clean(self) -> bool:
        """Whether no picture, subject or sequence is on two sides of a split."""
        return not any(count for name, count in self.counts.items() if name.endswith("_leaks"))

    def lines(self) -> list[str]:
        """The findings as sentences, leaks first; one sentence if there is none."""
        counts = self.counts
        found = [text.format(counts[name]) for name, text in SENTENCES.items() if counts[name]]
        if counts["identical_pictures"] and not counts["identical_leaks"]:
            found.append(f"{counts['identical_pictures']} pictures are copies of one another, none across a split.")
        return found or [f"Nothing was found in {self.pictures} pictures ({', '.join(self.checked)})."]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: counts, sentences, and the first 50 rows of each table."""
        return {
            "pictures": self.pictures,
            "checked": list(self.checked),
            "counts": self.counts,
            "lines": self.lines(),
            "tables": {name: table.head(50).astype(object).to_dict("records") for name, table in self.tables.items()},
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
        splits: the splits to check; by default those of the manifest's columns (official folds, fold or split).
        embeddings: (N, D) float, a face net's descriptor of each picture; None skips the search for one person
            with two IDs.
        cheap: skip near-duplicates, which compare all pairs and take seconds to minutes.
    Raises:
        UserError: If an array does not have one row per picture.
    """
    for name, array in (("pixels", pixels), ("embeddings", embeddings)):
        if array is not None and len(array) != len(manifest):
            raise UserError(f"audit: expected {len(manifest)} {name}, one per row of the manifest, got {len(array)}")
    if splits is None:
        try:
            splits = [with_unlabelled(manifest, s) for s in column_splits(manifest, column_protocol(manifest))]
        except UserError:  # no column gives splits
            splits = []
    known = manifest.subjects is not None or manifest.sequences is not None
    checked = ["labels", *(["subjects and sequences"] if splits and known else [])]
    table = manifest.table[["image", "label"]].assign(row=np.arange(len(manifest)))
    labels = [table[table["label"] == ""].assign(fault="no label")]
    found: dict[str, Any] = dict.fromkeys(TABLES) | {"group_leakage": group_leaks(manifest, splits)}
    if pixels is not None:
        checked += ["blank pictures", "colour", "identical pictures"]
        kinds = np.array([blank_kind(face) for face in pixels], dtype=object)
        found["blank"] = table.assign(kind=kinds)[kinds != ""]
        grey = np.array([face.ndim == 2 or bool((face[..., :2] == face[..., 1:]).all()) for face in pixels])
        shown = table.assign(grey=grey)[kinds == ""]
        shares = shown[shown["label"] != ""].groupby("label")["grey"].agg(["mean", "size"])
        shares = shares.loc[shares["size"] >= GREY_CLASS, "mean"]
        found["grey"] = shown[shown["grey"] & (shares.max() - shares.min() >= GREY_DIFFERENCE)]
        groups, pairs = picture_hashes(pixels), None
        same = table.assign(group=groups).sort_values("group", kind="stable")
        same = same[same.duplicated("group", keep=False)]
        found["identical"] = same.assign(group=pd.factorize(same["group"])[0])
        same = same[same["label"] != ""]
        labels.append(same[same.groupby("group")["label"].transform("nunique") > 1].assign(fault="labels differ"))
        image = table["image"].to_numpy()
        if not cheap:
            checked.append("near-duplicates")
            pairs = near_pairs(pixels, groups)
            nearest_first = pairs[np.argsort(pairs[:, 2], kind="stable")]
            found["near"] = [(a, b, image[a], image[b], bits) for a, b, bits in nearest_first]
        found["leaks"] = leaks = []
        for split in splits:
            trained = np.sort(np.append(split.train, split.unlabelled))
            for part in HELD_OUT:
                rows = split.parts()[part]
                copies = zip(rows, *find_copies(rows, trained, groups, pairs), strict=True)
                leaks += [
                    (split.name, part, row, image[row], copy, image[copy], how) for row, copy, how in copies if how
                ]
    if embeddings is not None and manifest.subjects is not None:
        checked.append("one person with two IDs")
        found["same_subject"] = _same_subject(manifest.subjects, embeddings)
    found["labels"] = pd.concat(labels, ignore_index=True)
    tables = {name: pd.DataFrame(found[name], columns=list(columns)) for name, columns in TABLES.items()}
    return Audit(len(manifest), tuple(checked), tables)


def blank_kind(pixels: np.ndarray) -> str:
    """Black, white, constant or nearly constant for a picture (H, W) or (H, W, 3) uint8 that shows nothing; else ""."""
    import cv2

    if cv2.meanStdDev(pixels)[1].max() >= BLANK_STD:  # per colour; a hundred times as fast as NumPy
        return ""
    lowest, highest = pixels.min(axis=(0, 1)), pixels.max(axis=(0, 1))
    if (lowest != highest).any():
        return "nearly constant"
    return "black" if not highest.any() else "white" if (lowest == 255).all() else "constant"


def _same_subject(subjects: np.ndarray, embeddings: np.ndarray) -> list[tuple[str, str, float]]:
    """Pairs of subjects by the root mean square distance between all pictures of one and all of the other."""
    rows = np.flatnonzero(subjects != "")
    names, who = np.unique(subjects[rows].astype(str), return_inverse=True)
    values = pd.DataFrame(np.asarray(embeddings, dtype=np.float64)[rows])
    mean = values.groupby(who).mean().to_numpy()
    square = (values**2).sum(axis=1).groupby(who).mean().to_numpy()
    distance = np.sqrt(np.maximum(square[:, None] + square - 2 * mean @ mean.T, 0))
    pairs = np.argwhere(np.triu(distance < SAME_SUBJECT_DISTANCE, k=1))
    found = [(str(names[a]), str(names[b]), float(distance[a, b])) for a, b in pairs]
    return sorted(found, key=lambda pair: pair[2])
