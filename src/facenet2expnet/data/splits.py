"""Splits of a manifest into training, validation and test rows, with no subject in two of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from facenet2expnet.data.manifest import Manifest, natural_key
from facenet2expnet.errors import UserError
from facenet2expnet.files import read_json, well_formed, write_json

FORMAT = "facenet2expnet-split-1"
PROTOCOLS = ("official", "fold", "split", "subject-groups", "leave-one-subject-out", "stratified")
PARTS = ("train", "validation", "test", "unlabelled")
HELD_OUT = {"test": ("train", "validation", "unlabelled"), "validation": ("train", "unlabelled")}
"""Held-out part -> the parts that may not share a subject, a sequence or a picture with it."""


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a manifest: int64 row numbers, each part sorted.

    Attributes:
        name: of the split, as "fold-01".
        train: labelled rows to train on.
        test: labelled rows to test on; empty only in the split "all", which holds nothing out.
        validation: labelled rows for early stopping, calibration and choosing.
        unlabelled: rows without a label that stage 1 may train on.
    Raises:
        UserError: If train or test is empty, or a row is in two parts or in one part twice.
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    validation: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    unlabelled: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        for part in PARTS:
            object.__setattr__(self, part, np.sort(np.asarray(getattr(self, part), dtype=np.int64)))
        if not len(self.train) or not (len(self.test) or self.name == "all"):
            counts = f"{len(self.train)} labelled pictures to train, {len(self.test)} to test"
            raise UserError(f"split {self.name}: {counts}; expected 1 or more of each")
        rows, times = np.unique(np.concatenate(list(self.parts().values())), return_counts=True)
        if (times > 1).any():
            raise UserError(f"split {self.name}: row {rows[times > 1][0]} is in two parts or in one part twice")

    def parts(self) -> dict[str, np.ndarray]:
        """Name -> rows of train, validation, test and unlabelled."""
        return {part: getattr(self, part) for part in PARTS}


@dataclass(frozen=True)
class Protocol:
    """The splits of a protocol, and sentences for the report.

    `unused` is the number of labelled pictures that are in no part of any split.
    """

    name: str
    splits: list[Split]
    note: str
    unused: int = 0


def choose(manifest: Manifest, protocol: str = "auto", folds: int = 10, seed: int = 0) -> Protocol:
    """Make the splits of a protocol and check that no subject or sequence is on two sides.

    Rows of the column `train_only` join every training part and are never tested.

    Args:
        protocol: one of `PROTOCOLS` (docs/datasets.md describes them), the path of a split file (.json), or "auto": the
            first of official, fold, split, subject-groups (every subject known) and stratified that is possible.
        folds: number of groups of subject-groups and stratified.
        seed: of the stratified folds.
    Raises:
        UserError: If the protocol is unknown, the manifest does not allow it, or a split leaks.
    """
    tested = np.flatnonzero(~manifest.train_only)
    added = np.flatnonzero(manifest.train_only & (manifest.labels >= 0))
    base = manifest.rows(tested)
    known = base.subjects is not None and bool((base.subjects != "").all())
    possible = column_protocol(base) or ("subject-groups" if known else "stratified")
    name = possible if protocol == "auto" else protocol
    if name.endswith(".json"):
        splits, name = read_splits(Path(name), manifest), "saved-split"
    elif name not in PROTOCOLS:
        raise UserError(f"protocol '{name}' is not one of auto, {', '.join(PROTOCOLS)}, or a split file (.json)")
    else:
        in_columns = name in ("official", "fold", "split")
        made = column_splits(base, name) if in_columns else _test_each(base, *_fold_numbers(base, name, folds, seed))
        splits = [Split(s.name, np.append(tested[s.train], added), tested[s.test], tested[s.validation]) for s in made]
        check(manifest, splits)
    used = np.concatenate([rows for split in splits for rows in split.parts().values()])
    unused = len(np.setdiff1d(np.flatnonzero(manifest.labels >= 0), used))
    return Protocol(name, splits, " ".join(_notes(manifest, base, name, splits, unused)), unused)


def official_columns(manifest: Manifest) -> list[str]:
    """The columns `fold_1`, `fold_2`, … that give each picture's part in each official fold."""
    found = [c for c in map(str, manifest.table.columns) if c.startswith("fold_") and c[5:].isdecimal()]
    return sorted(found, key=natural_key)


def column_protocol(manifest: Manifest) -> str:
    """The protocol that columns of the manifest give: "official", "fold" or "split"; "" if none does."""
    table = manifest.table
    filled = [c for c in ("fold", "split") if c in table.columns and (table[c] != "").any()]
    return "official" if official_columns(manifest) else (filled or [""])[0]


def column_splits(manifest: Manifest, protocol: str) -> list[Split]:
    """Splits by columns of the manifest, not checked for leaks.

    "fold": the rows of each value of the column are tested once. "official" (`fold_1`, …) and "split": train, valid
    and test rows of the column; without test rows, valid is the test part (the paper's SFEW). Blank rows are unused.

    Raises:
        UserError: If there is no such column, or a split has no row to train on or to test on.
    """
    columns = (official_columns(manifest) or ["fold_1"]) if protocol == "official" else [protocol]
    if columns[0] not in manifest.table.columns:
        raise UserError(f"manifest '{manifest.name}' has no column {columns[0]}, which the protocol '{protocol}' needs")
    _check_classes(manifest, 0)
    if protocol == "fold":
        names = sorted(set(manifest.table["fold"]) - {""}, key=natural_key)
        return _test_each(manifest, pd.Index(names, dtype=object).get_indexer(manifest.table["fold"]), names)
    splits = []
    for column in columns:
        part = manifest.table[column].where(manifest.labels >= 0, "")
        train, valid, test = (np.flatnonzero(part == name) for name in ("train", "valid", "test"))
        held_out = (test, valid) if len(test) else (valid,)
        splits.append(Split(column.replace("_", "-"), train, *held_out))
    return splits


def with_validation(manifest: Manifest, split: Split, fraction: float, seed: int = 0) -> Split:
    """Take a validation part out of the training part; a split that has one is returned as it is.

    Subjects and sequences stay together, so that the part is near `fraction` of the pictures, not exactly that.
    They are drawn with the classes in proportion, where each counts for the rarest of its classes. Train-only rows,
    and subjects with a train-only row, stay in training. Unlabelled rows of drawn subjects are dropped.

    Args:
        fraction: of the rows that can be drawn, between 0 and 1.
    Raises:
        UserError: If the fraction is out of range, or there are fewer than two subjects (or pictures) to draw from.
    """
    if not 0 < fraction < 1:
        raise UserError(f"the validation fraction is {fraction}, expected a number between 0 and 1")
    if len(split.validation):
        return split
    groups, train_only = manifest.groups, split.train[manifest.train_only[split.train]]
    rows = split.train[~np.isin(groups[split.train], groups[train_only])]
    rows = rows[np.argsort(np.bincount(manifest.labels[rows])[manifest.labels[rows]], kind="stable")]
    names, first, sizes = np.unique(groups[rows], return_index=True, return_counts=True)
    if len(names) < 2:
        held = f"{len(names)} subject, sequence or picture to choose from"
        raise UserError(f"split {split.name}: the training part holds {held}; a validation part needs at least two")
    drawn = _order_in_proportion(manifest.labels[rows[first]], seed)
    excess = np.abs(sizes[drawn].cumsum() - fraction * len(rows))[:-1]
    validation = rows[np.isin(groups[rows], names[drawn[: np.argmin(excess) + 1]])]
    made = replace(split, train=np.setdiff1d(split.train, validation), validation=validation, unlabelled=rows[:0])
    allowed = with_unlabelled(manifest, made).unlabelled
    return replace(made, unlabelled=np.intersect1d(split.unlabelled, allowed))


def merge_validation(split: Split) -> Split:
    """Move the validation part into the training part."""
    return Split(split.name, np.append(split.train, split.validation), split.test, unlabelled=split.unlabelled)


def with_unlabelled(manifest: Manifest, split: Split) -> Split:
    """Fill the part `unlabelled`: rows without a label that share no subject, sequence or fold with held-out rows.

    Held out are the test and the validation part. A sequence counts where the subject of one of two rows is
    unknown. Rows that a column of the manifest puts into a valid or test part are not used in any split.
    """
    table, held = manifest.table, np.concatenate([split.test, split.validation])
    blank = pd.Series("", index=table.index, dtype=object)
    subjects, sequences, folds = (table.get(name, blank) for name in ("subject", "sequence", "fold"))

    def shared(values: pd.Series, rows: np.ndarray) -> pd.Series:
        return values.isin(set(values.iloc[rows]) - {""})

    wrong = shared(subjects, held) | shared(folds, split.test)
    wrong |= shared(sequences, held[subjects.iloc[held] == ""]) | (shared(sequences, held) & (subjects == ""))
    for column in {"split", *official_columns(manifest)} & set(table.columns):
        wrong |= table[column].isin(["valid", "test"])
    return replace(split, unlabelled=np.flatnonzero(~wrong & (manifest.labels < 0)))


def subsample(manifest: Manifest, rows: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Draw `count` rows, sorted, with the classes in proportion; a smaller draw is part of a larger one.

    Raises:
        UserError: If there are fewer rows.
    """
    rows = np.asarray(rows, dtype=np.int64)
    if not 1 <= count <= len(rows):
        raise UserError(f"{count} training pictures were asked for, expected 1 to {len(rows)}")
    return np.sort(rows[_order_in_proportion(manifest.labels[rows], seed)[:count]])


def check(manifest: Manifest, splits: Sequence[Split]) -> None:
    """Raise an error for splits that leak.

    Raises:
        UserError: If a row to train or test on has no label, a held-out row is train-only, or a subject or a sequence
            is on two sides of a split. Rows whose subject and sequence are unknown can't be checked.
    """
    labelled, train_only = manifest.labels >= 0, manifest.train_only
    for split in splits:
        held = np.append(split.validation, split.test)
        used = np.append(split.train, held)
        faults = {"has no label": used[~labelled[used]], "is train-only, but held out": held[train_only[held]]}
        for fault, rows in faults.items():
            if len(rows):
                image = manifest.table["image"][rows[0]]
                raise UserError(f"split {split.name}: {image} {fault}; take it out of the part")
    for name, kind, group, first, second in group_leaks(manifest, splits):
        advice = f"keep all pictures of a {kind} on one side (fn2en data audit lists all leaks)"
        raise UserError(f"split {name} leaks: {kind} {group} is in {first} and in {second}; {advice}")


def group_leaks(manifest: Manifest, splits: Sequence[Split]) -> list[tuple[str, str, str, str, str]]:
    """Subjects and sequences on two sides: split, "subject" or "sequence", its name, and the two parts."""
    subjects, sequences = manifest.subjects, manifest.sequences
    if subjects is not None and sequences is not None:  # a sequence name is unique within its subject only
        sequences = np.where(sequences != "", subjects + "/" + sequences, "")
    found = []
    for kind, values in (("subject", subjects), ("sequence", sequences)):
        if values is None:
            continue
        for split in splits:
            present = {part: set(values[rows]) for part, rows in split.parts().items()}
            for second, others in HELD_OUT.items():
                for first in others:
                    both = sorted((present[first] & present[second]) - {""}, key=natural_key)
                    found += [(split.name, kind, name, first, second) for name in both]
    return found


def write_splits(splits: Sequence[Split], manifest: Manifest, path: Path) -> None:
    """Write splits to a JSON file of image names, with the manifest's hash."""
    images = manifest.table["image"]
    folds = [{"name": s.name} | {part: list(images[rows]) for part, rows in s.parts().items()} for s in splits]
    content = {"format": FORMAT, "manifest": manifest.name, "sha256": manifest.sha256(), "folds": folds}
    write_json(Path(path), content)


def read_splits(path: Path, manifest: Manifest) -> list[Split]:
    """Read splits that `write_splits` wrote; rows are found by image name, in any order.

    Raises:
        UserError: If the file is not a split file, has pictures that the manifest does not have, or leaks.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT or not content.get("folds"):
        raise UserError(f"{path} is not a split file (expected format {FORMAT} and folds)")
    images = pd.Index(manifest.table["image"])
    splits = []
    with well_formed(path, "write it again with fn2en data split"):
        for entry in content["folds"]:
            entry = {"validation": entry.get("valid", [])} | entry  # the part's name in files of earlier versions
            parts = {part: images.get_indexer(entry.get(part, [])) for part in PARTS}
            unknown = [entry[part][row] for part, rows in parts.items() for row in np.flatnonzero(rows < 0)]
            if unknown:
                raise UserError(
                    f"{path} split {entry.get('name')}: {len(unknown)} pictures are not in manifest '{manifest.name}', "
                    f"the first is '{unknown[0]}'; the file was made for '{content.get('manifest')}'"
                )
            splits.append(Split(str(entry.get("name")), **parts))
    check(manifest, splits)
    return splits


def _notes(manifest: Manifest, base: Manifest, name: str, splits: Sequence[Split], unused: int) -> Iterator[str]:
    """What a reader of the results must know about the splits; `base` has no train-only rows."""
    subjects, labels = base.subjects, manifest.labels
    if subjects is None:
        yield (
            "Subjects are unknown: the same person may be in the training and in the test part, so the accuracy may "
            "be too high for new people."
        )
    elif (subjects == "").any():
        yield f"Subjects are known for {(subjects != '').sum()} of {len(base)} pictures only."
    else:
        yield f"The splits are subject-independent: none of {len(set(subjects))} subjects is in two parts of a fold."
    for column in {"split": ["split"], "official": official_columns(base)}.get(name, ()):
        if "test" not in set(base.table[column][base.labels >= 0]):
            yield f"The column {column} has no labelled test rows, so the valid rows are the test part."
    if unused:
        yield f"{unused} labelled pictures are in no part: nothing is trained or tested on them."
    if (labels < 0).any():
        yield f"{(labels < 0).sum()} pictures have no label: they are not tested, and only stage 1 may use them."
    for split in splits:
        lacking = np.setdiff1d(labels[np.append(split.validation, split.test)], labels[split.train])
        if len(lacking):
            yield f"Split {split.name} has no training picture of {', '.join(manifest.classes[n] for n in lacking)}."
    if len(base) < len(manifest):
        yield f"{len(manifest) - len(base)} train-only pictures are trained on in every split and never tested."


def _test_each(manifest: Manifest, fold_of: np.ndarray, names: Sequence[str]) -> list[Split]:
    """One split per number in `fold_of` (N,): its labelled rows are tested; -1 is in no part."""
    used = np.where(manifest.labels >= 0, fold_of, -1)
    return [
        Split(name, np.flatnonzero((used >= 0) & (used != number)), np.flatnonzero(used == number))
        for number, name in enumerate(names)
    ]


def _fold_numbers(manifest: Manifest, protocol: str, count: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Divide the labelled pictures into the folds of subject-groups, leave-one-subject-out or stratified.

    Subjects are in ascending order (S2 before S10); stratified folds keep subjects and sequences together.

    Returns:
        The fold of each row (N,), -1 in none; the names of the folds.
    Raises:
        UserError: If a subject is unknown, or there are fewer subjects or pictures of a class than folds.
    Source: FN2EN, section IV-C (subject-groups).
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if protocol == "leave-one-subject-out":
        count = 0
    elif count < 2:
        raise UserError(f"{count} folds were asked for; at least 2 are needed")
    rows, fold_of = np.flatnonzero(manifest.labels >= 0), np.full(len(manifest), -1)
    if protocol == "stratified":
        groups, what = manifest.groups[rows], "subjects or sequences"
    else:
        subjects = np.full(len(manifest), "", object) if manifest.subjects is None else manifest.subjects
        groups, what = subjects[rows], "subjects"
        if (groups == "").any():
            blank = manifest.table["image"][rows[groups == ""]]
            raise UserError(
                f"manifest '{manifest.name}': {len(blank)} labelled pictures have no subject, the first is "
                f"{blank.iloc[0]}; fill in the column subject, or pass --protocol stratified"
            )
    _check_classes(manifest, count)
    found = set(groups)
    if len(found) < (count or 2):
        fewer = f"pass --folds {len(found)} or fewer, or another --protocol"
        one = f"a test needs two or more: add {what}, or clear the column if it is wrong"
        raise UserError(
            f"{len(found)} {what} can't be divided into {count or 2} folds; {fewer if len(found) > 1 else one}"
        )
    names = [f"fold-{number:0{len(str(count))}d}" for number in range(1, count + 1)]
    if protocol == "stratified":
        alone = len(found) == len(rows)
        folder = (StratifiedKFold if alone else StratifiedGroupKFold)(count, shuffle=True, random_state=seed)
        for fold, (_, tested) in enumerate(folder.split(rows, manifest.labels[rows], None if alone else groups)):
            fold_of[rows[tested]] = fold
        return fold_of, names
    ascending = sorted(found, key=natural_key)
    parts = np.array_split(np.array(ascending, object), count or len(ascending))
    fold_of[rows] = pd.Series({name: fold for fold, part in enumerate(parts) for name in part})[groups]
    return fold_of, names or ascending


def _check_classes(manifest: Manifest, count: int) -> None:
    """Raise a UserError unless two or more classes have pictures, and each of these at least `count`."""
    counts = {name: number for name, number in manifest.counts.items() if number}
    if len(counts) < 2:
        found = ", ".join(counts) or "no class"
        raise UserError(f"manifest '{manifest.name}' has labels of {found} only; at least two classes are needed")
    few = [f"{name} {number}" for name, number in counts.items() if number < count]
    if few and min(counts.values()) < 2:
        raise UserError(
            f"manifest '{manifest.name}' has a class with one picture, which can't be in training and test: "
            f"{', '.join(name for name, number in counts.items() if number < 2)}; add pictures or leave the class out "
            "(fn2en train also takes --no-holdout, which tests nothing)"
        )
    if few:
        raise UserError(
            f"manifest '{manifest.name}' has classes with fewer pictures than the {count} folds: {', '.join(few)}; "
            f"add pictures, leave the class out, or pass --folds {min(counts.values())}"
        )


def _order_in_proportion(labels: np.ndarray, seed: int) -> np.ndarray:
    """A random order (N,) of the items whose beginning, of any length, has the classes in proportion."""
    rng = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(place, kind="stable")
