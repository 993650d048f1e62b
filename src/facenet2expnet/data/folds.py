"""Fold numbers: subjects in groups, stratified folds, and what must stay together."""

from __future__ import annotations

import numpy as np
import pandas as pd

from facenet2expnet.data.manifest import Manifest, natural_key
from facenet2expnet.errors import UserError


def subject_groups(manifest: Manifest, count: int | None) -> tuple[np.ndarray, list[str]]:
    """Cut the subjects by ascending ID (S2 before S10) into groups of nearly equal size.

    Args:
        count: number of groups; None makes each subject a group with its own name.
    Returns:
        The group of each row (N,), -1 for subjects without a labelled row; the names of the groups.
    Raises:
        UserError: If a subject is unknown, or there are fewer subjects or pictures of a class than groups.
    Source: FN2EN, section IV-C.
    """
    labelled = manifest.labels >= 0
    subjects = np.full(len(manifest), "", object) if manifest.subjects is None else manifest.subjects
    blank = np.flatnonzero((subjects == "") & labelled)
    if len(blank):
        raise UserError(
            f"manifest '{manifest.name}': {len(blank)} labelled pictures have no subject, the first is "
            f"{manifest.table['image'][blank[0]]}; fill in the column subject, or pass --protocol stratified"
        )
    check_classes(manifest, count or 0)
    names = sorted(set(subjects[labelled]), key=natural_key)
    _check_enough(len(names), "subjects", count or 2)
    groups = np.array_split(np.arange(len(names)), count or len(names))
    group_of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    fold_of = np.append(group_of, -1)[pd.Index(names, dtype=object).get_indexer(subjects)]
    return fold_of, fold_names(count) if count else names


def stratified(manifest: Manifest, count: int, seed: int) -> np.ndarray:
    """Random folds (N,) of scikit-learn with nearly equal class shares; subjects and sequences stay together.

    Raises:
        UserError: If there are fewer subjects and sequences, or pictures of a class, than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    check_classes(manifest, count)
    rows = np.flatnonzero(manifest.labels >= 0)
    labels, groups = manifest.labels[rows], group_ids(manifest)[rows]
    found = len(np.unique(groups))
    _check_enough(found, "subjects or sequences", count)
    folder = (StratifiedKFold if found == len(rows) else StratifiedGroupKFold)(count, shuffle=True, random_state=seed)
    drawn = folder.split(rows, labels, None if found == len(rows) else groups)
    fold_of = np.full(len(manifest), -1)
    for fold, (_, test) in enumerate(drawn):
        fold_of[rows[test]] = fold
    return fold_of


def fold_names(count: int) -> list[str]:
    """fold-01, fold-02, …"""
    return [f"fold-{number:0{len(str(count))}d}" for number in range(1, count + 1)]


def group_ids(manifest: Manifest) -> np.ndarray:
    """Numbers (N,) int64 of what must stay together: the subject, else the sequence, else the row itself."""
    count, subjects, sequences = len(manifest), manifest.subjects, manifest.sequences
    ids = np.arange(2 * count, 3 * count)
    if sequences is not None:
        ids = np.where(sequences != "", count + pd.factorize(sequences)[0], ids)
    if subjects is not None:
        ids = np.where(subjects != "", pd.factorize(subjects)[0], ids)
    return pd.factorize(ids)[0].astype(np.int64)


def order_in_proportion(labels: np.ndarray, seed: int) -> np.ndarray:
    """A random order (N,) of the items whose beginning, of any length, has the classes in proportion."""
    rng = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(place, kind="stable")


def check_classes(manifest: Manifest, count: int) -> None:
    """Raise a UserError unless two or more classes have pictures, and each of these at least `count`."""
    counts = {name: number for name, number in manifest.counts.items() if number}
    if len(counts) < 2:
        found = ", ".join(counts) or "no class"
        raise UserError(f"manifest '{manifest.name}' has labels of {found} only; at least two classes are needed")
    few = [f"{name} {number}" for name, number in counts.items() if number < count]
    if few:
        raise UserError(
            f"manifest '{manifest.name}' has classes with fewer pictures than the {count} folds: {', '.join(few)}; "
            f"add pictures, leave the class out, or pass --folds {max(2, min(counts.values()))}"
        )


def _check_enough(found: int, what: str, count: int) -> None:
    if found < count:
        fewer = f"pass --folds {max(found, 2)} or fewer, or another --protocol"
        raise UserError(f"{found} {what} can't be divided into {count} folds; {fewer}")
