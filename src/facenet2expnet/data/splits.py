"""Splits of a manifest into training, validation and test rows, with no subject in two of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from facenet2expnet.data.manifest import Manifest, natural_key
from facenet2expnet.errors import UserError
from facenet2expnet.files import read_json, write_json

FORMAT = "facenet2expnet-split-1"
SUBJECTS_UNKNOWN = (
    "Subjects are unknown: the same person may be in the training and in the test part, "
    "so the accuracy may be too high for new people."
)
PARTS = ("train", "validation", "test", "unlabelled")
SIDES = (
    *(("train", "test"), ("train", "validation"), ("validation", "test")),
    *(("unlabelled", "test"), ("unlabelled", "validation")),
)
"""Pairs of parts that may share nothing; unlabelled rows are on the side of training."""


def _no_rows() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a manifest: int64 row numbers, each part sorted.

    Attributes:
        name: of the split, as "fold-01".
        train: rows to train on, all labelled.
        test: rows to test on; empty only in the split "all", which holds nothing out.
        validation: rows for early stopping, calibration and choosing; no training on them.
        unlabelled: rows without a label that stage 1 may train on.
    Raises:
        UserError: If train or test is empty, or a row is in two parts or in one part twice.
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    validation: np.ndarray = field(default_factory=_no_rows)
    unlabelled: np.ndarray = field(default_factory=_no_rows)

    def __post_init__(self) -> None:
        for part in PARTS:
            object.__setattr__(self, part, np.sort(np.asarray(getattr(self, part), dtype=np.int64)))
        rows, times = np.unique(np.concatenate(list(self.parts().values())), return_counts=True)
        if not len(self.train) or not (len(self.test) or self.name == "all"):
            raise UserError(
                f"split {self.name}: {len(self.train)} pictures to train, {len(self.test)} to test; "
                "both must be 1 or more"
            )
        if (times > 1).any():
            raise UserError(
                f"split {self.name}: row {rows[times > 1][0]} is in two parts or in one part twice"
            )

    def parts(self) -> dict[str, np.ndarray]:
        """Name -> rows of train, validation, test and unlabelled."""
        return {part: getattr(self, part) for part in PARTS}


@dataclass(frozen=True)
class Protocol:
    """The splits of a protocol.

    Attributes:
        name: of the protocol.
        splits: one or more.
        subjects_known: whether the subject of every picture is known.
        note: one or more sentences for the report.
        unused: number of labelled pictures that are in no part of any split.
    """

    name: str
    splits: list[Split]
    subjects_known: bool
    note: str
    unused: int = 0


def choose(manifest: Manifest, protocol: str = "auto", folds: int = 10, seed: int = 0) -> Protocol:
    """Make the splits of a protocol and check that no subject or sequence is on two sides.

    Rows of the column `train_only` join every training part and are never tested.

    Args:
        protocol: one of
            "official": columns `fold_1`, `fold_2`, … with train, valid, test or "" in each row, as for TFD;
            "fold": the rows of each value of the column `fold` are tested once;
            "split": the column `split`; without test rows, valid is the test part (the paper's SFEW);
            "subject-groups": subjects by ascending ID in natural order (S2 before S10), cut into `folds` groups
                of nearly equal size (FN2EN, section IV-C);
            "leave-one-subject-out": each subject is tested once;
            "stratified": random folds of scikit-learn with nearly equal class shares; subjects and sequences
                stay together;
            "auto": the first of official, fold, split, subject-groups (every subject known) and stratified
                that the manifest allows;
            the path of a split file (.json).
        folds: number of groups for the protocols that do not fix it.
        seed: of the stratified folds.
    Raises:
        UserError: If the protocol is unknown, the manifest does not allow it, or a split leaks.
    """
    tested = np.flatnonzero(~manifest.train_only)
    added = np.flatnonzero(manifest.train_only & (manifest.labels >= 0))
    base = manifest.rows(tested)
    makers: dict[str, Callable[[], list[Split]]] = {
        "official": lambda: _column_splits(base, official_columns(base), "fold_1, fold_2, …"),
        "fold": lambda: _fold_column(base),
        "split": lambda: _column_splits(base, [c for c in base.table.columns if c == "split"], "split"),
        "subject-groups": lambda: _subject_groups(base, folds),
        "leave-one-subject-out": lambda: _subject_groups(base, None),
        "stratified": lambda: _stratified(base, folds, seed),
    }
    name = _automatic(base) if protocol == "auto" else protocol
    if name in makers:
        if folds < 2:
            raise UserError(f"{folds} folds were asked for; at least 2 are needed")
        splits = [
            Split(s.name, np.append(tested[s.train], added), tested[s.test], tested[s.validation])
            for s in makers[name]()
        ]
        check(manifest, splits)
    elif name.endswith(".json"):
        splits, name = read_splits(Path(name), manifest), "saved-split"
    else:
        raise UserError(
            f"protocol '{protocol}' is not one of auto, {', '.join(makers)}, or a saved split file (.json)"
        )
    used = np.concatenate([rows for split in splits for rows in split.parts().values()])
    unused = len(np.setdiff1d(np.flatnonzero(manifest.labels >= 0), used))
    subjects_known = base.subjects is not None and bool((base.subjects != "").all())
    note = " ".join(_notes(manifest, base, name, splits, unused))
    return Protocol(name, splits, subjects_known, note, unused)


def official_columns(manifest: Manifest) -> list[str]:
    """The columns `fold_1`, `fold_2`, … that give each picture's part in each official fold."""
    found = [c for c in map(str, manifest.table.columns) if c.startswith("fold_") and c[5:].isdecimal()]
    return sorted(found, key=natural_key)


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
    groups, train_only = group_ids(manifest), split.train[manifest.train_only[split.train]]
    rows = split.train[~np.isin(groups[split.train], groups[train_only])]
    rows = rows[np.argsort(np.bincount(manifest.labels[rows])[manifest.labels[rows]], kind="stable")]
    names, first, sizes = np.unique(groups[rows], return_index=True, return_counts=True)
    if len(names) < 2:
        raise UserError(
            f"split {split.name}: the training part holds {len(names)} subject, sequence or picture to choose from; "
            "a validation part needs at least two"
        )
    drawn = _order_in_proportion(manifest.labels[rows[first]], seed)
    excess = np.abs(sizes[drawn].cumsum() - fraction * len(rows))[:-1]
    validation = rows[np.isin(groups[rows], names[drawn[: np.argmin(excess) + 1]])]
    made = replace(split, train=np.setdiff1d(split.train, validation), validation=validation, unlabelled=[])
    allowed = with_unlabelled(manifest, made).unlabelled
    return replace(made, unlabelled=np.intersect1d(split.unlabelled, allowed))


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
    """Draw `count` rows with the classes in proportion; a smaller draw is part of a larger one.

    Returns:
        Sorted int64 array (count,).
    Raises:
        UserError: If there are fewer rows.
    """
    rows = np.asarray(rows, dtype=np.int64)
    if not 1 <= count <= len(rows):
        raise UserError(f"{count} training pictures were asked for, expected 1 to {len(rows)}")
    return np.sort(rows[_order_in_proportion(manifest.labels[rows], seed)[:count]])


def group_ids(manifest: Manifest) -> np.ndarray:
    """Numbers (N,) int64 of what must stay together: the subject, else the sequence, else the row itself."""
    count, subjects, sequences = len(manifest), manifest.subjects, manifest.sequences
    ids = np.arange(2 * count, 3 * count)
    if sequences is not None:
        ids = np.where(sequences != "", count + pd.factorize(sequences)[0], ids)
    if subjects is not None:
        ids = np.where(subjects != "", pd.factorize(subjects)[0], ids)
    return pd.factorize(ids)[0].astype(np.int64)


def check(manifest: Manifest, splits: Sequence[Split]) -> None:
    """Raise an error for splits that leak.

    Raises:
        UserError: If a row does not exist, or a subject or a sequence is on two sides of a split. Rows whose
            subject and sequence are unknown can't be checked.
    """
    for split in splits:
        last = max((int(rows[-1]) for rows in split.parts().values() if len(rows)), default=-1)
        if last >= len(manifest):
            raise UserError(f"split {split.name} has row {last}, the manifest has {len(manifest)} rows")
    for split, what, names, first, second in group_leaks(manifest, splits):
        listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise UserError(
            f"split {split.name} leaks: {what} {listed} is in {first} and in {second}; "
            f"keep all pictures of a {what} on one side"
        )


def group_leaks(
    manifest: Manifest, splits: Sequence[Split]
) -> Iterator[tuple[Split, str, list[str], str, str]]:
    """Find subjects and sequences on two sides: split, "subject" or "sequence", their names, the two parts.

    Unlabelled rows are on the side of training.
    """
    subjects, sequences = manifest.subjects, manifest.sequences
    if subjects is not None and sequences is not None:  # a sequence name is unique within its subject only
        sequences = np.where(sequences != "", subjects + "/" + sequences, "")
    for what, values in (("subject", subjects), ("sequence", sequences)):
        if values is None:
            continue
        codes, names = pd.factorize(values)
        for split in splits:
            present = {
                part: np.isin(np.arange(len(names)), codes[rows]) for part, rows in split.parts().items()
            }
            for first, second in SIDES:
                both = set(names[present[first] & present[second]]) - {""}
                if both:
                    yield split, what, sorted(both, key=natural_key), first, second


def write_splits(splits: Sequence[Split], manifest: Manifest, path: Path) -> None:
    """Write splits to a JSON file of image names, with the manifest's hash."""
    images = manifest.table["image"].to_numpy(dtype=object)
    folds = [
        {"name": split.name} | {part: list(images[rows]) for part, rows in split.parts().items() if len(rows)}
        for split in splits
    ]
    write_json(
        Path(path), {"format": FORMAT, "manifest": manifest.name, "sha256": manifest.sha256(), "folds": folds}
    )


def read_splits(path: Path, manifest: Manifest) -> list[Split]:
    """Read splits that `write_splits` wrote; rows are found by image name, in any order.

    Raises:
        UserError: If the file is not a split file, has pictures that the manifest does not have, or leaks.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"the split file {path} was not found")
    content: Any = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT or not content.get("folds"):
        raise UserError(f"{path} is not a split file (expected format {FORMAT} and folds)")
    images = pd.Index(manifest.table["image"])
    splits = []
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


def _automatic(manifest: Manifest) -> str:
    filled = [c for c in ("fold", "split") if c in manifest.table.columns and (manifest.table[c] != "").any()]
    if official_columns(manifest) or filled:
        return "official" if official_columns(manifest) else filled[0]
    subjects = manifest.subjects
    return "subject-groups" if subjects is not None and (subjects != "").all() else "stratified"


def _notes(
    manifest: Manifest, base: Manifest, name: str, splits: Sequence[Split], unused: int
) -> Iterator[str]:
    """What a reader of the results must know about the splits; `base` has no train-only rows."""
    subjects, labels = base.subjects, manifest.labels
    if subjects is None:
        yield SUBJECTS_UNKNOWN
    elif (subjects == "").any():
        yield f"Subjects are known for {(subjects != '').sum()} of {len(base)} pictures only."
    else:
        yield f"The splits are subject-independent: no subject of {len(set(subjects))} is on two sides."
    if name == "split" and "test" not in set(base.table["split"]):
        yield "The column split has no test rows, so the valid rows are the test part."
    elif any(len(split.validation) for split in splits):
        count = max(len(split.validation) for split in splits)
        yield f"The validation part is the official one ({count} pictures)."
    if unused:
        yield f"{unused} labelled pictures are in no part: nothing is trained or tested on them."
    if (labels < 0).any():
        yield f"{(labels < 0).sum()} pictures have no label: they are not tested, and only stage 1 may use them."
    for split in splits:
        missing = np.setdiff1d(labels[np.concatenate([split.validation, split.test])], labels[split.train])
        if len(missing):
            names = ", ".join(manifest.classes[label] for label in missing)
            yield f"Split {split.name} has no training picture of {names}."
    if len(base) < len(manifest):
        yield f"{len(manifest) - len(base)} train-only pictures are trained on in every split and never tested."


def _subject_groups(manifest: Manifest, count: int | None) -> list[Split]:
    """Cut the subjects by ascending ID into `count` groups; None makes each subject a group with its own name."""
    subjects, labelled = manifest.subjects, manifest.labels >= 0
    if subjects is None:
        raise UserError(
            f"manifest '{manifest.name}' has no subjects; add a column subject, or pass --protocol stratified"
        )
    blank = np.flatnonzero((subjects == "") & labelled)
    if len(blank):
        raise UserError(
            f"manifest '{manifest.name}': {len(blank)} labelled pictures have no subject, the first is "
            f"{manifest.table['image'].iloc[blank[0]]}; fill it in, or pass --protocol stratified"
        )
    _check_classes(manifest, count or 0)
    names = sorted(set(subjects[labelled]), key=natural_key)
    if len(names) < (count or 2):
        raise UserError(
            f"{len(names)} subjects can't be cut into {count or 2} groups; pass --folds {max(len(names), 2)} or fewer, "
            "or --protocol stratified"
        )
    groups = np.array_split(np.arange(len(names)), count or len(names))
    group_of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    fold_of = np.append(group_of, -1)[pd.Index(names, dtype=object).get_indexer(subjects)]
    return _test_each(manifest, fold_of, _fold_names(count) if count else names)


def _stratified(manifest: Manifest, count: int, seed: int) -> list[Split]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    _check_classes(manifest, count)
    rows = np.flatnonzero(manifest.labels >= 0)
    labels, groups = manifest.labels[rows], group_ids(manifest)[rows]
    found = len(np.unique(groups))
    if found < count:
        raise UserError(
            f"{found} subjects or sequences can't be divided into {count} folds; "
            f"pass --folds {max(found, 2)} or fewer"
        )
    kind = StratifiedKFold if found == len(rows) else StratifiedGroupKFold
    fold_of = np.full(len(manifest), -1)
    for fold, (_, test) in enumerate(
        kind(count, shuffle=True, random_state=seed).split(rows, labels, groups)
    ):
        fold_of[rows[test]] = fold
    return _test_each(manifest, fold_of, _fold_names(count))


def _fold_column(manifest: Manifest) -> list[Split]:
    if "fold" not in manifest.table.columns:
        raise UserError(
            f"manifest '{manifest.name}' has no column fold; expected a number or name in each row of it"
        )
    _check_classes(manifest, 0)
    column = manifest.table["fold"]
    names = sorted(set(column) - {""}, key=natural_key)
    if len(names) < 2:
        raise UserError(f"the column fold holds one value only ({', '.join(names)}); at least two are needed")
    return _test_each(manifest, pd.Index(names, dtype=object).get_indexer(column), names)


def _column_splits(manifest: Manifest, columns: Sequence[str], expected: str) -> list[Split]:
    """One split per column of train, valid, test or ""; without test rows, valid is the test part."""
    if not columns:
        raise UserError(
            f"manifest '{manifest.name}' has no column {expected}; expected train, valid, test in it"
        )
    _check_classes(manifest, 0)
    splits = []
    for column in columns:
        part = manifest.table[column].where(manifest.labels >= 0, "")
        train, valid, test = (np.flatnonzero(part == name) for name in ("train", "valid", "test"))
        if not len(train) or not len(test) + len(valid):
            raise UserError(
                f"the column {column} has {len(train)} labelled pictures to train, {len(valid)} valid and "
                f"{len(test)} test; train and one of the other two are needed"
            )
        name = column.replace("_", "-")
        splits.append(Split(name, train, test, valid) if len(test) else Split(name, train, valid))
    return splits


def _check_classes(manifest: Manifest, count: int) -> None:
    """Check that two or more classes have pictures, and that each of these has at least `count`."""
    counts = {name: number for name, number in manifest.counts.items() if number}
    if len(counts) < 2:
        found = f"one class only ('{next(iter(counts))}')" if counts else "no labelled picture"
        raise UserError(f"manifest '{manifest.name}' holds {found}; at least two classes are needed")
    few = {name: number for name, number in counts.items() if number < count}
    if few:
        listed = ", ".join(f"{name} {number}" for name, number in few.items())
        raise UserError(
            f"manifest '{manifest.name}' has classes with fewer pictures than the {count} folds: {listed}; "
            f"add pictures, leave the class out, or pass --folds {max(2, min(few.values()))}"
        )


def _fold_names(count: int) -> list[str]:
    return [f"fold-{number:0{len(str(count))}d}" for number in range(1, count + 1)]


def _test_each(manifest: Manifest, fold_of: np.ndarray, names: Sequence[str]) -> list[Split]:
    """One split per number in `fold_of` (N,): its labelled rows are tested; -1 is in no part."""
    used = np.where(manifest.labels >= 0, fold_of, -1)
    counts = np.bincount(used[used >= 0], minlength=len(names))
    if not counts.all():
        raise UserError(
            f"split {names[int(np.argmin(counts))]} has no labelled picture to test on; pass a smaller --folds"
        )
    return [
        Split(name, np.flatnonzero((used >= 0) & (used != number)), np.flatnonzero(used == number))
        for number, name in enumerate(names)
    ]


def _order_in_proportion(labels: np.ndarray, seed: int) -> np.ndarray:
    """A random order (N,) of the items whose beginning, of any length, has the classes in proportion."""
    rng = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(place, kind="stable")
