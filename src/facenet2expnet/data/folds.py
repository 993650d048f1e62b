"""Fold numbers: subjects in groups, stratified folds, and what must stay together."""

from __future__ import annotations

import numpy as np
import pandas as pd

from facenet2expnet.data.manifest import Manifest, natural_key
from facenet2expnet.errors import UserError


def fold_numbers(manifest: Manifest, protocol: str, count: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Divide the labelled pictures into folds.

    subject-groups: `count` groups of nearly equal numbers of subjects, by ascending ID (S2 before S10).
    leave-one-subject-out: each subject is a fold with its own name. stratified: random folds of scikit-learn with
    nearly equal class shares; subjects and sequences stay together.

    Args:
        protocol: one of these three.
        count: number of folds; leave-one-subject-out does not use it.
        seed: of stratified.
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
        groups, what = group_ids(manifest)[rows], "subjects or sequences"
    else:
        subjects = np.full(len(manifest), "", object) if manifest.subjects is None else manifest.subjects
        groups, what = subjects[rows], "subjects"
        if (groups == "").any():
            raise UserError(
                f"manifest '{manifest.name}': {(groups == '').sum()} labelled pictures have no subject, the first is "
                f"{manifest.table['image'][rows[groups == ''][0]]}; fill in the column subject, or pass "
                "--protocol stratified"
            )
    check_classes(manifest, count)
    found = set(groups)
    if len(found) < (count or 2):
        fewer = f"pass --folds {max(len(found), 2)} or fewer, or another --protocol"
        raise UserError(f"{len(found)} {what} can't be divided into {count or 2} folds; {fewer}")
    names = [f"fold-{number:0{len(str(count))}d}" for number in range(1, count + 1)]
    if protocol == "stratified":
        alone = len(found) == len(rows)
        folder = (StratifiedKFold if alone else StratifiedGroupKFold)(count, shuffle=True, random_state=seed)
        drawn = folder.split(rows, manifest.labels[rows], None if alone else groups)
        for fold, (_, tested) in enumerate(drawn):
            fold_of[rows[tested]] = fold
        return fold_of, names
    ascending = sorted(found, key=natural_key)
    parts = np.array_split(np.array(ascending, object), count or len(ascending))
    fold_of[rows] = pd.Series({name: fold for fold, part in enumerate(parts) for name in part})[groups]
    return fold_of, names or ascending


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
