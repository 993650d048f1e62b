"""A manifest to folds: who is trained on and who is tested on, with nobody on both sides."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facenet2expnet.data.extra import extra_rows
from facenet2expnet.data.manifest import Manifest, natural_key
from facenet2expnet.errors import UserError
from facenet2expnet.files import write_atomic

FORMAT = "facenet2expnet-split-1"
SUBJECTS_UNKNOWN = (
    "Subjects are unknown: the same person may stand on both sides of a fold, "
    "so the accuracy may be too high for new people."
)


@dataclass(frozen=True, eq=False)
class Split:
    """One cut of a manifest: int64 row numbers, each part sorted.

    Raises:
        UserError: If train or test is empty, or a row stands in two parts or twice.
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    valid: np.ndarray | None = None

    def __post_init__(self) -> None:
        for part, rows in self.parts().items():
            object.__setattr__(self, part, np.sort(np.asarray(rows, dtype=np.int64)))
        together = np.concatenate(list(self.parts().values()))
        rows, times = np.unique(together, return_counts=True)
        if not len(self.train) or not len(self.test):
            raise UserError(
                f"fold {self.name}: {len(self.train)} pictures to train, {len(self.test)} to test"
            )
        if (times > 1).any():
            raise UserError(f"fold {self.name}: row {rows[times > 1][0]} stands in two parts or twice")

    def parts(self) -> dict[str, np.ndarray]:
        """The parts that this fold has, by name: train, valid (if any), test."""
        parts = {"train": self.train, "valid": self.valid, "test": self.test}
        return {name: rows for name, rows in parts.items() if rows is not None}


@dataclass(frozen=True)
class Protocol:
    """Folds with what the report says about them; `note` is one or more plain sentences."""

    name: str
    folds: list[Split]
    subjects_known: bool
    note: str


def subject_groups(manifest: Manifest, count: int = 10) -> list[Split]:
    """Subjects by ascending ID, cut into `count` groups of nearly equal size, each tested once.

    IDs are compared in natural order (S2 before S10). Groups are equal in subjects, not in pictures.

    Raises:
        UserError: If subjects are unknown, fewer than the groups, or a class has fewer pictures than groups.
    Source: FN2EN, section IV-C.
    """
    names = _ordered_subjects(manifest)
    _need_count(count)
    if len(names) < count:
        raise UserError(
            f"{len(names)} subjects can't be cut into {count} groups; pass --folds {max(len(names), 2)} "
            "or fewer"
        )
    _need_classes(manifest, count)
    groups = np.array_split(np.arange(len(names)), count)
    group_of = {names[i]: number for number, group in enumerate(groups) for i in group}
    assert manifest.subjects is not None
    return _held_out(
        manifest, np.array([group_of.get(name, -1) for name in manifest.subjects]), _fold_names(count)
    )


def leave_one_subject_out(manifest: Manifest) -> list[Split]:
    """One fold a subject, in natural order of the IDs; the fold is named as the subject.

    Raises:
        UserError: If subjects are unknown or fewer than two, or fewer than two classes have pictures.
    """
    names = _ordered_subjects(manifest)
    if len(names) < 2:
        raise UserError(f"one subject ({names[0]}) can't be left out; at least two are needed")
    _need_classes(manifest, 0)
    number_of = {name: number for number, name in enumerate(names)}
    assert manifest.subjects is not None
    return _held_out(manifest, np.array([number_of.get(name, -1) for name in manifest.subjects]), names)


def stratified(manifest: Manifest, count: int = 10, seed: int = 0) -> list[Split]:
    """Random folds with the same class shares; what belongs together (a subject, a sequence) stays together.

    Raises:
        UserError: If a class has fewer pictures than folds, or there are fewer subjects and sequences than
            folds.
    """
    _need_count(count)
    _need_classes(manifest, count)
    labels, groups = manifest.labels, units(manifest)
    rows = np.flatnonzero(labels >= 0)
    found = len(np.unique(groups[rows]))
    if found < count:
        raise UserError(
            f"{found} subjects or sequences can't be spread over {count} folds; "
            f"pass --folds {max(found, 2)} or fewer"
        )
    fold_of = np.full(len(manifest), -1)
    fold_of[rows] = _spread(labels[rows], groups[rows], count, seed)
    return _held_out(manifest, fold_of, _fold_names(count))


def from_split_column(manifest: Manifest) -> list[Split]:
    """The column `split`: train on train, test on test; without test rows, valid is the test (FN2EN's SFEW).

    Raises:
        UserError: If there is no such column, or no row to train on or to test on.
    """
    if "split" not in manifest.table.columns:
        raise UserError(f"manifest '{manifest.name}' has no column split; expected train, valid, test in it")
    _need_classes(manifest, 0)
    split = manifest.table["split"].to_numpy(dtype=object)
    return [_fold_from_roles("split", split, manifest, "the column split")]


def from_fold_column(manifest: Manifest) -> list[Split]:
    """The column `fold`: each of its values is tested once and trained on in all other folds.

    Raises:
        UserError: If there is no such column, fewer than two values, or a labelled row without a value.
    """
    if "fold" not in manifest.table.columns:
        raise UserError(
            f"manifest '{manifest.name}' has no column fold; expected a number or name a row in it"
        )
    _need_classes(manifest, 0)
    column = manifest.table["fold"].to_numpy(dtype=object)
    blank = np.flatnonzero((column == "") & (manifest.labels >= 0))
    if len(blank):
        raise UserError(
            f"the column fold is empty for {len(blank)} labelled pictures, the first is "
            f"{manifest.table['image'].iloc[blank[0]]}; fill it in, or take those rows out"
        )
    names = sorted({name for name in column if name}, key=natural_key)
    if len(names) < 2:
        raise UserError(f"the column fold holds one value only ({', '.join(names)}); at least two are needed")
    number_of = {name: number for number, name in enumerate(names)} | {"": -1}
    return _held_out(manifest, np.array([number_of[name] for name in column]), names)


def official_columns(manifest: Manifest) -> list[str]:
    """The columns `fold_1`, `fold_2`, … that give each picture's part in each official fold."""
    found = [c for c in map(str, manifest.table.columns) if c.startswith("fold_") and c[5:].isdecimal()]
    return sorted(found, key=natural_key)


def from_official_folds(manifest: Manifest) -> list[Split]:
    """Official folds with parts of their own, as TFD's five: columns `fold_1`, … of train, valid, test or "".

    Raises:
        UserError: If there is no such column, or a fold has no row to train on or to test on.
    """
    columns = official_columns(manifest)
    if not columns:
        raise UserError(f"manifest '{manifest.name}' has no columns fold_1, fold_2, …; expected one a fold")
    _need_classes(manifest, 0)
    folds = []
    for column in columns:
        roles = manifest.table[column].to_numpy(dtype=object)
        folds.append(_fold_from_roles(column.replace("_", "-"), roles, manifest, f"the column {column}"))
    return folds


def choose(manifest: Manifest, protocol: str = "auto", folds: int = 10, seed: int = 0) -> Protocol:
    """The folds of a protocol, checked.

    Args:
        protocol: "official", "fold", "split", "subject-groups", "leave-one-subject-out", "stratified", the
            path of a saved split (.json), or "auto": the first of official folds, fold column, split column,
            subject groups (every subject known) and stratified that the manifest allows. Rows marked in
            the column `extra` join every training part and are never tested (see `data.extra`).
        folds: number of groups, where the protocol leaves it open.
        seed: of the stratified folds.
    Raises:
        UserError: If the protocol is unknown, the manifest does not allow it, or it would leak.
    """
    extra = extra_rows(manifest)
    base = manifest.rows(~extra) if extra.any() else manifest
    makers: dict[str, Callable[[], list[Split]]] = {
        "official": lambda: from_official_folds(base),
        "fold": lambda: from_fold_column(base),
        "split": lambda: from_split_column(base),
        "subject-groups": lambda: subject_groups(base, folds),
        "leave-one-subject-out": lambda: leave_one_subject_out(base),
        "stratified": lambda: stratified(base, folds, seed),
    }
    name = _automatic(base) if protocol == "auto" else protocol
    if name in makers:
        made = makers[name]()
        if extra.any():
            made = _with_extra(made, extra, manifest.labels)
    elif name.endswith(".json"):
        made, name = read_splits(Path(name), manifest), "saved-split"
    else:
        raise UserError(
            f"protocol '{protocol}' is not one of auto, {', '.join(makers)}, or a saved split file (.json)"
        )
    check(manifest, made)
    subjects = base.subjects
    known = subjects is not None and bool((subjects != "").all())
    notes = _notes(base, name) + _notes_on_folds(manifest, made)
    if extra.any():
        notes.append(f"{int(extra.sum())} extra pictures are trained on in every fold and never tested.")
    return Protocol(name, made, known, " ".join(notes))


def check(manifest: Manifest, folds: Sequence[Split]) -> None:
    """Refuse folds that leak.

    Raises:
        UserError: If a row does not exist or stands in two parts, or a subject or a sequence is on two sides
            of a fold. Rows whose subject and sequence are unknown can't be judged.
    """
    subjects, sequences = manifest.subjects, _sequence_keys(manifest)
    for fold in folds:
        rows = np.concatenate(list(fold.parts().values()))
        if len(rows) and (rows.min() < 0 or rows.max() >= len(manifest)):
            raise UserError(
                f"fold {fold.name} names row {rows.max()}, the manifest has {len(manifest)} rows; "
                "was it made for another manifest?"
            )
        if len(np.unique(rows)) < len(rows):
            raise UserError(f"fold {fold.name}: a row stands in two parts")
        for what, values in (("subject", subjects), ("sequence", sequences)):
            if values is not None:
                _check_sides(fold, what, values)


def split_validation(
    manifest: Manifest, rows: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to learn from and rows to select by, taken from a fold's training rows.

    Subjects and sequences stay together; classes are kept in proportion as well as that allows. Where units
    are large, the second part is near `fraction` of the pictures, not exactly that.

    Returns:
        Two sorted int64 arrays, both not empty, that together are `rows`.
    Raises:
        UserError: If the fraction is not between 0 and 1, or fewer than two subjects (or pictures) are there.
    """
    if not 0 < fraction < 1:
        raise UserError(f"the inner split's fraction is {fraction}, expected a number between 0 and 1")
    rows = np.sort(np.asarray(rows, dtype=np.int64))
    labels, groups = manifest.labels[rows], units(manifest)[rows]
    found = len(np.unique(groups))
    if found < 2:
        raise UserError(
            f"the training part holds {found} subject, sequence or picture; an inner split needs at least two"
        )
    if found == len(rows):
        chosen = _per_class_choice(labels, fraction, seed)
    else:
        chosen = _choice_of_units(labels, groups, fraction, seed)
    return rows[~chosen], rows[chosen]


def subsample(manifest: Manifest, rows: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """So many of the rows, drawn with the classes in proportion; a smaller number's rows are among a larger one's.

    Returns:
        Sorted int64 array (count,).
    Raises:
        UserError: If there are not so many rows.
    """
    rows = np.asarray(rows, dtype=np.int64)
    if not 1 <= count <= len(rows):
        raise UserError(f"{count} training pictures were asked for, expected 1 to {len(rows)}")
    rng = np.random.default_rng(seed)
    place = np.empty(len(rows))
    for label in np.unique(manifest.labels[rows]):
        members = rng.permutation(np.flatnonzero(manifest.labels[rows] == label))
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.sort(rows[np.argsort(place, kind="stable")[:count]])


def units(manifest: Manifest) -> np.ndarray:
    """What must stay together, as numbers (N,) int64: the subject, else the sequence, else the row."""
    subjects, sequences = manifest.subjects, manifest.sequences
    numbers: dict[tuple[str, str], int] = {}
    found = np.empty(len(manifest), np.int64)
    for row in range(len(manifest)):
        if subjects is not None and subjects[row]:
            key = ("subject", subjects[row])
        elif sequences is not None and sequences[row]:
            key = ("sequence", sequences[row])
        else:
            key = ("row", str(row))
        found[row] = numbers.setdefault(key, len(numbers))
    return found


def write_splits(folds: Sequence[Split], manifest: Manifest, path: Path) -> None:
    """Write folds to a JSON file keyed by image names, with the manifest's hash, for others to use."""
    images = manifest.table["image"].to_numpy(dtype=object)
    content = {
        "format": FORMAT,
        "manifest": manifest.name,
        "sha256": manifest.sha256(),
        "folds": [
            {"name": fold.name} | {part: list(images[rows]) for part, rows in fold.parts().items()}
            for fold in folds
        ],
    }
    write_atomic(Path(path), (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode("utf-8"))


def read_splits(path: Path, manifest: Manifest) -> list[Split]:
    """Folds that `write_splits` saved, looked up by image name; the order of the rows does not matter.

    Raises:
        UserError: If the file is not a split, or names pictures that the manifest does not have, or leaks.
    """
    content = _split_content(Path(path))
    row_of = {image: row for row, image in enumerate(manifest.table["image"])}
    folds = []
    for entry in content["folds"]:
        parts = {}
        for part in ("train", "valid", "test"):
            if part not in entry:
                continue
            unknown = [image for image in entry[part] if image not in row_of]
            if unknown:
                raise UserError(
                    f"{path} fold {entry.get('name')}: {len(unknown)} pictures are not in manifest "
                    f"'{manifest.name}', the first is '{unknown[0]}'; the split was made for "
                    f"'{content.get('manifest')}'"
                )
            parts[part] = np.array([row_of[image] for image in entry[part]], np.int64)
        if "train" not in parts or "test" not in parts:
            raise UserError(f"{path} fold {entry.get('name')} lacks train or test")
        folds.append(Split(str(entry.get("name")), parts["train"], parts["test"], parts.get("valid")))
    check(manifest, folds)
    return folds


def _split_content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as fault:
        raise UserError(f"the split file {path} was not found") from fault
    except (OSError, ValueError) as fault:
        raise UserError(f"the split file {path} can't be read as JSON: {fault}") from fault
    if not isinstance(content, dict) or content.get("format") != FORMAT or not content.get("folds"):
        raise UserError(f"{path} is not a split file of ours (expected format {FORMAT} and folds)")
    return content


def _automatic(manifest: Manifest) -> str:
    columns = manifest.table.columns
    subjects = manifest.subjects
    if official_columns(manifest):
        return "official"
    if "fold" in columns and (manifest.table["fold"] != "").any():
        return "fold"
    if "split" in columns and (manifest.table["split"] != "").any():
        return "split"
    return "subject-groups" if subjects is not None and (subjects != "").all() else "stratified"


def _notes(manifest: Manifest, name: str) -> list[str]:
    subjects, labels = manifest.subjects, manifest.labels
    notes = []
    if subjects is None:
        notes.append(SUBJECTS_UNKNOWN)
    elif (subjects == "").any():
        known = int((subjects != "").sum())
        notes.append(f"Subjects are known for {known} of {len(manifest)} pictures only.")
    else:
        notes.append(f"No subject of {len(set(subjects))} is on two sides of a fold.")
    splits = set(manifest.table["split"]) if "split" in manifest.table.columns else set()
    if name == "split" and "test" not in splits:
        notes.append("The split has no test rows: valid is the test.")
    unlabelled = int((labels < 0).sum())
    if unlabelled:
        notes.append(f"{unlabelled} pictures without a label take no part.")
    return notes


def _notes_on_folds(manifest: Manifest, folds: Sequence[Split]) -> list[str]:
    labels, notes = manifest.labels, []
    for fold in folds:
        here = set(labels[np.concatenate(list(fold.parts().values()))])
        lacking = [manifest.classes[k] for k in sorted(here - set(labels[fold.train])) if k >= 0]
        if lacking:
            notes.append(f"Fold {fold.name} has no training picture of {', '.join(lacking)}.")
    return notes


def _with_extra(folds: list[Split], extra: np.ndarray, labels: np.ndarray) -> list[Split]:
    """Folds over the rows that are no extra ones, as folds over all rows, the extra ones in every training part."""
    where, added = np.flatnonzero(~extra), np.flatnonzero(extra & (labels >= 0))
    return [
        Split(
            fold.name,
            np.concatenate([where[fold.train], added]),
            where[fold.test],
            None if fold.valid is None else where[fold.valid],
        )
        for fold in folds
    ]


def _ordered_subjects(manifest: Manifest) -> list[str]:
    subjects = manifest.subjects
    if subjects is None:
        raise UserError(
            f"manifest '{manifest.name}' has no subjects; add a column subject, or pass --protocol stratified"
        )
    blank = np.flatnonzero((subjects == "") & (manifest.labels >= 0))
    if len(blank):
        raise UserError(
            f"manifest '{manifest.name}': {len(blank)} labelled pictures have no subject, the first is "
            f"{manifest.table['image'].iloc[blank[0]]}; fill it in, or pass --protocol stratified"
        )
    labelled = subjects[manifest.labels >= 0]
    if not len(labelled):
        raise UserError(f"manifest '{manifest.name}' has no labelled picture")
    return sorted(set(labelled), key=natural_key)


def _need_count(count: int) -> None:
    if count < 2:
        raise UserError(f"{count} folds were asked for; at least 2 are needed")


def _need_classes(manifest: Manifest, count: int) -> None:
    """At least two classes with pictures, and in every class that has any at least `count`."""
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
    digits = len(str(count))
    return [f"fold-{number:0{digits}d}" for number in range(1, count + 1)]


def _held_out(manifest: Manifest, fold_of: np.ndarray, names: Sequence[str]) -> list[Split]:
    """One fold a number in `fold_of` (N,): its rows are tested, all others trained on; -1 takes no part."""
    used = np.where(manifest.labels >= 0, fold_of, -1)
    folds = []
    for number, name in enumerate(names):
        test, train = np.flatnonzero(used == number), np.flatnonzero((used >= 0) & (used != number))
        if not len(test):
            raise UserError(f"fold {name} has no labelled picture to test on")
        folds.append(Split(name, train, test))
    return folds


def _fold_from_roles(name: str, roles: np.ndarray, manifest: Manifest, where: str) -> Split:
    labelled = manifest.labels >= 0
    train, valid, test = (np.flatnonzero((roles == part) & labelled) for part in ("train", "valid", "test"))
    if not len(train) or not len(test) + len(valid):
        raise UserError(
            f"{where} has {len(train)} labelled pictures to train, {len(valid)} valid and {len(test)} test; "
            "train and one of the two others are needed"
        )
    return Split(name, train, test, valid if len(valid) else None) if len(test) else Split(name, train, valid)


def _sequence_keys(manifest: Manifest) -> np.ndarray | None:
    sequences, subjects = manifest.sequences, manifest.subjects
    if sequences is None or subjects is None:
        return sequences
    keys = [f"{who}/{what}" if what else "" for who, what in zip(subjects, sequences, strict=True)]
    return np.array(keys, dtype=object)


def _check_sides(fold: Split, what: str, values: np.ndarray) -> None:
    sides = {part: set(values[rows]) - {""} for part, rows in fold.parts().items()}
    for first, second in (("train", "test"), ("train", "valid"), ("valid", "test")):
        both = sorted(sides.get(first, set()) & sides.get(second, set()), key=natural_key)
        if both:
            listed = ", ".join(both[:5]) + (f" and {len(both) - 5} more" if len(both) > 5 else "")
            raise UserError(
                f"fold {fold.name} leaks: {what} {listed} is in {first} and in {second}; "
                f"keep all pictures of a {what} on one side"
            )


def _spread(labels: np.ndarray, groups: np.ndarray, count: int, seed: int) -> np.ndarray:
    """A fold number a row (N,): groups stay whole, classes are spread evenly, no fold stays empty."""
    chance = np.random.default_rng(seed)
    names, group_of = np.unique(groups, return_inverse=True)
    if len(names) == len(labels):
        fold_of = np.empty(len(labels), np.int64)
        start = 0
        for label in np.unique(labels):
            rows = chance.permutation(np.flatnonzero(labels == label))
            fold_of[rows] = (start + np.arange(len(rows))) % count
            start += len(rows)
        return fold_of
    counts = np.zeros((len(names), int(labels.max()) + 1))
    np.add.at(counts, (group_of, labels), 1)
    share = np.maximum(counts.sum(axis=0), 1)
    filled = np.zeros((count, counts.shape[1]))
    sizes = np.zeros(count, np.int64)
    chosen = np.empty(len(names), np.int64)
    order = chance.permutation(len(names))
    order = order[np.argsort(-(counts[order] / share).sum(axis=1), kind="stable")]
    for done, group in enumerate(order):
        open_folds = np.arange(count)
        if len(names) - done <= (sizes == 0).sum():
            open_folds = np.flatnonzero(sizes == 0)
        load = ((filled[open_folds] + counts[group]) / share) ** 2 - (filled[open_folds] / share) ** 2
        best = open_folds[np.argmin(load.sum(axis=1))]
        chosen[group] = best
        filled[best] += counts[group]
        sizes[best] += 1
    return chosen[group_of]


def _per_class_choice(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """A mask (N,) of about `fraction` of each class, at least one and never a whole class of two or more."""
    chance = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = chance.permutation(np.flatnonzero(labels == label))
        number = min(max(round(len(rows) * fraction), 1), len(rows) - 1)
        chosen[rows[:number]] = True
    if not chosen.any():
        chosen[chance.integers(len(labels))] = True
    return chosen


def _choice_of_units(labels: np.ndarray, groups: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """A mask (N,) of whole groups, near `fraction` of every class; at least one group, never all."""
    chance = np.random.default_rng(seed)
    names, group_of = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), int(labels.max()) + 2))
    np.add.at(counts, (group_of, labels), 1)
    share = np.maximum(counts.sum(axis=0), 1)
    wanted, have = fraction * counts.sum(axis=0) / share, np.zeros(counts.shape[1])
    chosen: list[int] = []
    for group in chance.permutation(len(names)):
        after = have + counts[group] / share
        nearer = ((after - wanted) ** 2).sum() < ((have - wanted) ** 2).sum()
        if nearer and len(chosen) < len(names) - 1:
            chosen.append(int(group))
            have = after
    if not chosen:
        chosen = [int(np.argmin(counts.sum(axis=1)))]
    return np.isin(group_of, chosen)
