"""What would make a result untrue: the same picture, sequence or person on two sides, and labels that disagree."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.splits import (
    Split,
    from_fold_column,
    from_official_folds,
    official_columns,
)
from facenet2expnet.errors import UserError
from facenet2expnet.files import write_atomic

HASH_BITS = 255
NEAR_BITS = 24
"""Two pictures are near duplicates if at most this many bits of their hashes differ.

Measured on 48 x 48 faces of FER2013: JPEG at quality 50 changes at most 22 bits, a fifth less contrast at
most 6. The nearest of 12,000 other pictures is 90 bits away in the median. Of the 475 pairs that the set has
within 24 bits, 24 were drawn and looked at: all were the same photograph. A face cut out two pixels tighter lies
at 76 bits and is not found.
"""

PERSON_DISTANCE = 0.6
"""dlib's own threshold: two descriptors of one person are less than this apart."""

_SIDE, _LOW = 32, 16
_CHUNK = 2048

TABLES = {
    "exact": ("group", "row", "image", "label", "parts"),
    "near": ("first", "second", "first_image", "second_image", "bits", "fold"),
    "leaks": ("fold", "part", "row", "image", "train_row", "train_image", "how"),
    "torn": ("fold", "what", "name", "parts", "pictures"),
    "persons": ("first", "second", "distance", "fold"),
    "labels": ("row", "image", "label", "fault"),
}


def _empty(name: str) -> pd.DataFrame:
    return pd.DataFrame(columns=list(TABLES[name]))


@dataclass(frozen=True, eq=False)
class Audit:
    """What was found; each finding is a table, empty where nothing was found.

    Attributes:
        pictures: how many were looked at.
        checked: the names of the checks that ran.
        exact: pictures that are pixel for pixel the same, one row a picture, numbered by group; `parts` says
            where they stand in the first fold.
        near: pairs that differ by few bits of a perceptual hash and are not the same; `fold` names the first
            fold that has them on two sides, "" if none.
        leaks: pictures to test or to select by that stand in the training part too; `how` is exact or near.
        torn: subjects and sequences on two sides of a fold.
        persons: subjects whose faces are so alike that they may be one person; `fold` as in `near`.
        labels: pictures without a label, and identical pictures with different labels.
    Raises:
        ValueError: If a table lacks a column.
    """

    pictures: int
    checked: tuple[str, ...]
    exact: pd.DataFrame = field(default_factory=lambda: _empty("exact"))
    near: pd.DataFrame = field(default_factory=lambda: _empty("near"))
    leaks: pd.DataFrame = field(default_factory=lambda: _empty("leaks"))
    torn: pd.DataFrame = field(default_factory=lambda: _empty("torn"))
    persons: pd.DataFrame = field(default_factory=lambda: _empty("persons"))
    labels: pd.DataFrame = field(default_factory=lambda: _empty("labels"))

    def __post_init__(self) -> None:
        for name, columns in TABLES.items():
            lacking = set(columns) - set(getattr(self, name).columns)
            if lacking:
                raise ValueError(f"audit: the table {name} lacks {', '.join(sorted(lacking))}")

    @property
    def counts(self) -> dict[str, int]:
        """The findings as numbers."""
        exact_leaks = self.leaks[self.leaks["how"] == "exact"]
        near_leaks = self.leaks[self.leaks["how"] == "near"]
        faults = self.labels["fault"].value_counts()
        return {
            "exact_groups": int(self.exact["group"].nunique()),
            "exact_pictures": len(self.exact),
            "exact_leaks": int(exact_leaks["row"].nunique()),
            "near_pairs": len(self.near),
            "near_leaks": int(near_leaks["row"].nunique()),
            "subjects_torn": int(self.torn.loc[self.torn["what"] == "subject", "name"].nunique()),
            "sequences_torn": int(self.torn.loc[self.torn["what"] == "sequence", "name"].nunique()),
            "persons": len(self.persons),
            "unlabelled": int(faults.get("no label", 0)),
            "doubly_labelled": int(faults.get("labels differ", 0)),
        }

    @property
    def clean(self) -> bool:
        """Whether nothing was found that makes a result untrue."""
        counts = self.counts
        return not any(
            counts[name] for name in ("exact_leaks", "near_leaks", "subjects_torn", "sequences_torn")
        )

    def lines(self) -> list[str]:
        """The findings as plain sentences, the grave ones first; one sentence if there is none."""
        said = {
            "exact_leaks": "{} pictures to test or select by are pixel for pixel in the training part.",
            "near_leaks": "{} pictures to test or select by have a near duplicate in the training part.",
            "subjects_torn": "{} subjects are on two sides of a fold.",
            "sequences_torn": "{} sequences are on two sides of a fold.",
            "persons": "{} pairs of subjects look like one person under two IDs.",
            "doubly_labelled": "{} pictures exist twice with different labels.",
            "unlabelled": "{} pictures have no label.",
        }
        counts = self.counts
        found = [text.format(counts[name]) for name, text in said.items() if counts[name]]
        if counts["exact_groups"] and not counts["exact_leaks"]:
            found.append(f"{counts['exact_pictures']} pictures are copies of one another, all on one side.")
        return found or [f"Nothing found in {self.pictures} pictures ({', '.join(self.checked)})."]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: counts, sentences, and the first 50 rows of each table."""
        tables = {name: getattr(self, name).head(50).to_dict("records") for name in TABLES}
        plain = {
            name: [{k: v.item() if isinstance(v, np.generic) else v for k, v in row.items()} for row in rows]
            for name, rows in tables.items()
        }
        return {
            "pictures": self.pictures,
            "checked": list(self.checked),
            "counts": self.counts,
            "lines": self.lines(),
            "tables": plain,
        }

    def save(self, folder: Path) -> list[Path]:
        """Write each table that is not empty to a CSV file in a folder; the files written."""
        written = []
        for name in TABLES:
            table: pd.DataFrame = getattr(self, name)
            if len(table):
                path = Path(folder) / f"{name}.csv"
                write_atomic(path, table.to_csv(index=False).encode("utf-8", "surrogateescape"))
                written.append(path)
        return written


def audit(
    manifest: Manifest,
    pixels: np.ndarray | None = None,
    folds: Sequence[Split] | None = None,
    embeddings: np.ndarray | None = None,
    *,
    cheap: bool = False,
    near_bits: int = NEAR_BITS,
    person_distance: float = PERSON_DISTANCE,
) -> Audit:
    """Look for everything that would make a result untrue.

    Args:
        pixels: (N, H, W, 3) or (N, H, W) uint8, row by row with the manifest; None leaves pictures alone.
        folds: where the sides are; by default those that the manifest's own columns give, if any; of the column
            `split` with the pictures that have no label.
        embeddings: (N, D) float, a face net's description of each picture; None leaves persons alone.
        cheap: only what costs next to nothing: labels, sequences, subjects, identical pictures. Near
            duplicates compare all pairs, which takes seconds to minutes.
        near_bits: how many of the 255 bits of the hash may differ.
        person_distance: root mean square distance of two subjects' embeddings under which they may be one
            person.
    Raises:
        UserError: If an array does not have one row a picture.
    """
    for name, array in (("pixels", pixels), ("embeddings", embeddings)):
        if array is not None and len(array) != len(manifest):
            raise UserError(
                f"audit: expected {len(manifest)} {name}, one a row of the manifest, got {len(array)}"
            )
    sides = list(folds) if folds is not None else _own_folds(manifest)
    checked = ["labels", "subjects and sequences"]
    labels = [_unlabelled(manifest)]
    found: dict[str, pd.DataFrame] = {"torn": _torn(manifest, sides)}
    leaks: list[pd.DataFrame] = []
    if pixels is not None:
        checked.append("identical pictures")
        group = identical_groups(pixels)
        found["exact"] = _exact(manifest, group, sides)
        labels.append(_doubly_labelled(manifest, found["exact"]))
        leaks.append(_exact_leaks(manifest, group, sides))
        if not cheap:
            checked.append("near duplicates")
            pairs = near_pairs(pixels, near_bits, group)
            found["near"] = _near(manifest, pairs, sides)
            leaks.append(_near_leaks(manifest, pairs, sides))
    if embeddings is not None and not cheap:
        checked.append("persons")
        found["persons"] = _persons(manifest, embeddings, sides, person_distance)
    found["labels"] = _joined("labels", labels)
    found["leaks"] = _joined("leaks", leaks)
    return Audit(len(manifest), tuple(checked), **found)


def without_leaks(folds: Sequence[Split], found: Audit) -> list[Split]:
    """The folds with every training picture taken out that stands in the same fold's test or valid part too."""
    cleaned = []
    for fold in folds:
        twins = found.leaks.loc[found.leaks["fold"] == fold.name, "train_row"].to_numpy(dtype=np.int64)
        twins = np.union1d(twins, _twins_in_train(found.exact, fold))
        cleaned.append(Split(fold.name, np.setdiff1d(fold.train, twins), fold.test, fold.valid))
    return cleaned


def identical_groups(pixels: np.ndarray) -> np.ndarray:
    """A number a picture (N,) int64, equal for pictures that are pixel for pixel the same."""
    numbers: dict[bytes, int] = {}
    found = np.empty(len(pixels), np.int64)
    for row in range(len(pixels)):
        digest = hashlib.blake2b(np.ascontiguousarray(pixels[row]).data, digest_size=16).digest()
        found[row] = numbers.setdefault(digest, len(numbers))
    return found


def perceptual_hashes(pixels: np.ndarray) -> np.ndarray:
    """A 255-bit hash a picture: which low frequencies of the 32 x 32 grey picture are above their median.

    Returns:
        (N, 255) bool. Recompressing, brightening and slight blurring change few bits; moving the crop many.
    Source: the DCT hash of Zauner 2010 (Implementation and Benchmarking of Perceptual Image Hash Functions),
        with 16 x 16 frequencies in place of 8 x 8: with 64 bits, aligned faces of different people are too
        near to each other.
    """
    import cv2
    from scipy.fft import dctn

    hashes = np.empty((len(pixels), HASH_BITS), bool)
    for start in range(0, len(pixels), _CHUNK):
        chunk = np.asarray(pixels[start : start + _CHUNK])
        grey = chunk if chunk.ndim == 3 else [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in chunk]
        small = np.stack([cv2.resize(g, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) for g in grey])
        waves = dctn(small.astype(np.float32), axes=(1, 2), norm="ortho")[:, :_LOW, :_LOW]
        flat = waves.reshape(len(chunk), -1)[:, 1:]
        hashes[start : start + len(chunk)] = flat > np.median(flat, axis=1, keepdims=True)
    return hashes


def near_pairs(pixels: np.ndarray, most_bits: int, group: np.ndarray | None = None) -> np.ndarray:
    """Pairs of pictures whose hashes differ in at most `most_bits` bits: (P, 3) int64 of row, later row, bits.

    Pictures of one colour are left out, and pairs of one `group` (identical pictures).
    """
    signs = perceptual_hashes(pixels).astype(np.float32) * 2 - 1
    usable = np.array([np.ptp(pixels[row]) > 0 for row in range(len(pixels))], bool)
    found = []
    for start in range(0, len(signs), _CHUNK):
        rows = signs[start : start + _CHUNK]
        for other in range(start, len(signs), _CHUNK):
            bits = (HASH_BITS - rows @ signs[other : other + _CHUNK].T) / 2
            first, second = np.nonzero(bits <= most_bits + 0.25)
            distance = np.rint(bits[first, second]).astype(np.int64)
            first, second = first + start, second + other
            kept = (first < second) & usable[first] & usable[second]
            if group is not None:
                kept &= group[first] != group[second]
            found.append(np.stack([first, second, distance], axis=1)[kept])
    return np.concatenate(found) if found else np.empty((0, 3), np.int64)


def _own_folds(manifest: Manifest) -> list[Split]:
    """The folds that the manifest's columns fix; none where they fix none or can't be used."""
    columns = manifest.table.columns
    try:
        if official_columns(manifest):
            return from_official_folds(manifest)
        if "fold" in columns and (manifest.table["fold"] != "").any():
            return from_fold_column(manifest)
        if "split" in columns and (manifest.table["split"] != "").any():
            return [_whole_split(manifest)]
    except UserError:
        return []
    return []


def _whole_split(manifest: Manifest) -> Split:
    """The column `split` as a fold, pictures without a label included: their twins leak as well."""
    split = manifest.table["split"].to_numpy(dtype=object)
    train, valid, test = (np.flatnonzero(split == part) for part in ("train", "valid", "test"))
    return (
        Split("split", train, test, valid if len(valid) else None)
        if len(test)
        else Split("split", train, valid)
    )


def _parts(fold: Split, count: int) -> np.ndarray:
    """The part of each row (N,) as text, "" for rows that the fold leaves out."""
    parts = np.full(count, "", dtype=object)
    for name, rows in fold.parts().items():
        parts[rows] = name
    return parts


def _exact(manifest: Manifest, group: np.ndarray, folds: Sequence[Split]) -> pd.DataFrame:
    counts = np.bincount(group) if len(group) else np.empty(0, np.int64)
    rows = np.flatnonzero(counts[group] > 1) if len(group) else np.empty(0, np.int64)
    rows = rows[np.argsort(group[rows], kind="stable")]
    parts = _parts(folds[0], len(manifest)) if folds else np.full(len(manifest), "", dtype=object)
    _, numbers = np.unique(group[rows], return_inverse=True)
    return pd.DataFrame(
        {
            "group": numbers,
            "row": rows,
            "image": manifest.table["image"].to_numpy(dtype=object)[rows],
            "label": manifest.table["label"].to_numpy(dtype=object)[rows],
            "parts": parts[rows],
        }
    )


def _exact_leaks(manifest: Manifest, group: np.ndarray, folds: Sequence[Split]) -> pd.DataFrame:
    rows = []
    for fold in folds:
        first_in_train = {int(group[row]): int(row) for row in fold.train[::-1]}
        for part, tested in fold.parts().items():
            if part != "train":
                rows += [
                    (fold.name, part, int(row), first_in_train[int(group[row])], "exact")
                    for row in tested
                    if int(group[row]) in first_in_train
                ]
    return _leak_table(manifest, rows)


def _near_leaks(manifest: Manifest, pairs: np.ndarray, folds: Sequence[Split]) -> pd.DataFrame:
    rows = []
    for fold in folds:
        parts = _parts(fold, len(manifest))
        for first, second, _ in pairs.tolist():
            for tested, trained in ((first, second), (second, first)):
                if parts[trained] == "train" and parts[tested] in ("valid", "test"):
                    rows.append((fold.name, parts[tested], tested, trained, "near"))
    return _leak_table(manifest, rows)


def _leak_table(manifest: Manifest, rows: list[tuple[str, str, int, int, str]]) -> pd.DataFrame:
    images = manifest.table["image"].to_numpy(dtype=object)
    return pd.DataFrame(
        [(fold, part, row, images[row], other, images[other], how) for fold, part, row, other, how in rows],
        columns=list(TABLES["leaks"]),
    )


def _near(manifest: Manifest, pairs: np.ndarray, folds: Sequence[Split]) -> pd.DataFrame:
    images = manifest.table["image"].to_numpy(dtype=object)
    first, second, bits = pairs.T
    crossing = _first_crossing(first, second, folds, len(manifest))
    columns = (first, second, images[first], images[second], bits, crossing)
    table = pd.DataFrame(dict(zip(TABLES["near"], columns, strict=True)))
    return table.sort_values("bits", kind="stable", ignore_index=True)


def _first_crossing(first: np.ndarray, second: np.ndarray, folds: Sequence[Split], count: int) -> np.ndarray:
    """For each pair of rows the name of the first fold that has them on two sides, "" if none."""
    names = np.full(len(first), "", dtype=object)
    for fold in reversed(folds):
        parts = _parts(fold, count)
        one, other = parts[first], parts[second]
        names[(one != "") & (other != "") & (one != other)] = fold.name
    return names


def _torn(manifest: Manifest, folds: Sequence[Split]) -> pd.DataFrame:
    subjects, sequences = manifest.subjects, manifest.sequences
    if sequences is not None and subjects is not None:
        sequences = np.array(
            [f"{who}/{what}" if what else "" for who, what in zip(subjects, sequences, strict=True)],
            dtype=object,
        )
    rows = []
    for fold in folds:
        parts = _parts(fold, len(manifest))
        for what, values in (("subject", subjects), ("sequence", sequences)):
            if values is None:
                continue
            used = (parts != "") & (values != "")
            frame = pd.DataFrame({"name": values[used], "part": parts[used]})
            seen = frame.drop_duplicates()["name"]
            for name in sorted(set(seen[seen.duplicated()])):
                parts_of_it = frame.loc[frame["name"] == name, "part"]
                rows.append((fold.name, what, name, " ".join(sorted(set(parts_of_it))), len(parts_of_it)))
    return pd.DataFrame(rows, columns=list(TABLES["torn"]))


def _persons(
    manifest: Manifest, embeddings: np.ndarray, folds: Sequence[Split], within: float
) -> pd.DataFrame:
    """Pairs of subjects by the root mean square distance between all pictures of one and all of the other."""
    subjects = manifest.subjects
    if subjects is None:
        return _empty("persons")
    rows = np.flatnonzero(subjects != "")
    names, who = np.unique(subjects[rows].astype(str), return_inverse=True)
    values = np.asarray(embeddings, dtype=np.float64)[rows]
    size = np.bincount(who)[:, None]
    mean = np.zeros((len(names), values.shape[1]))
    np.add.at(mean, who, values)
    mean /= size
    square = np.bincount(who, (values**2).sum(axis=1)) / size[:, 0]
    distance = np.sqrt(np.maximum(square[:, None] + square[None] - 2 * mean @ mean.T, 0))
    first, second = np.nonzero(np.triu(distance < within, k=1))
    example = {name: int(rows[np.flatnonzero(who == number)[0]]) for number, name in enumerate(names)}
    one, other = (np.array([example[names[i]] for i in side], np.int64) for side in (first, second))
    table = pd.DataFrame(
        {
            "first": names[first].astype(object),
            "second": names[second].astype(object),
            "distance": distance[first, second],
            "fold": _first_crossing(one, other, folds, len(manifest)),
        }
    )
    return table.sort_values("distance", kind="stable", ignore_index=True)


def _unlabelled(manifest: Manifest) -> pd.DataFrame:
    rows = np.flatnonzero(manifest.labels < 0)
    images = manifest.table["image"].to_numpy(dtype=object)[rows]
    return pd.DataFrame({"row": rows, "image": images, "label": "", "fault": "no label"})


def _doubly_labelled(manifest: Manifest, exact: pd.DataFrame) -> pd.DataFrame:
    labelled = exact[exact["label"] != ""]
    kinds = labelled.groupby("group")["label"].transform("nunique") if len(labelled) else pd.Series(dtype=int)
    wrong = labelled[kinds > 1] if len(labelled) else labelled
    return wrong[["row", "image", "label"]].assign(fault="labels differ")


def _joined(name: str, tables: list[pd.DataFrame]) -> pd.DataFrame:
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else _empty(name)


def _twins_in_train(exact: pd.DataFrame, fold: Split) -> np.ndarray:
    """All training rows that are identical to a tested or selecting row, not only the first of each."""
    held = np.concatenate([rows for name, rows in fold.parts().items() if name != "train"])
    groups = set(exact.loc[exact["row"].isin(held), "group"])
    rows = exact.loc[exact["group"].isin(groups), "row"].to_numpy(dtype=np.int64)
    return np.intersect1d(rows, fold.train)
