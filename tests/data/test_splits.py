"""Folds: the paper's groups, and nobody on two sides for any manifest whatever."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facenet2expnet.data import splits
from facenet2expnet.data.extra import extra_rows
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.splits import Split, check, choose, read_splits, split_validation, write_splits
from facenet2expnet.errors import UserError


def manifest_of(labels: list[str], **columns: list[str]) -> Manifest:
    images = [f"{number}.png" for number in range(len(labels))]
    return Manifest(pd.DataFrame({"image": images, "label": labels, **columns}), Path())


def people(count: int, each: int = 4) -> Manifest:
    names = [f"S{number}" for number in range(1, count + 1) for _ in range(each)]
    return manifest_of(["x", "y"] * (count * each // 2), subject=names)


def names_of(manifest: Manifest, rows: np.ndarray) -> list[str]:
    assert manifest.subjects is not None
    return sorted(set(manifest.subjects[rows]), key=splits.natural_key)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Any manifest: subjects, sequences, splits, folds known, unknown or in part; labels with gaps; extra rows."""
    size = draw(st.integers(1, 60))

    def column(values: list[str]) -> list[str]:
        return draw(st.lists(st.sampled_from(values), min_size=size, max_size=size))

    columns = {}
    many = [f"S{number}" for number in range(12)]
    if draw(st.integers(0, 3)):
        columns["subject"] = column(draw(st.sampled_from([["a", "b", "c10", "c9"], many, many, [*many, ""]])))
    if draw(st.booleans()):
        columns["sequence"] = column(["1", "2", "3", "4", ""])
    if not draw(st.integers(0, 3)):
        columns["extra"] = column(["0", "0", "yes"])
    if draw(st.booleans()):
        columns["split"] = column(["train", "valid", "test", ""])
    if draw(st.booleans()):
        columns["fold"] = column(["1", "2", "3"])
    if draw(st.booleans()):
        columns["fold_1"] = column(["train", "valid", "test", ""])
    return manifest_of(column(["x", "y", "z", ""] if draw(st.booleans()) else ["x", "y"]), **columns)


def assert_nothing_leaks(manifest: Manifest, parts: list[np.ndarray]) -> None:
    for one, other in itertools.combinations(parts, 2):
        assert not set(one) & set(other)
        for row, second in itertools.product(one, other):
            first_row, second_row = manifest.table.iloc[row], manifest.table.iloc[second]
            subject = first_row.get("subject", "")
            same_subject = bool(subject) and subject == second_row.get("subject", "")
            assert not same_subject
            sequence = first_row.get("sequence", "")
            unknown = not subject and not second_row.get("subject", "")
            assert not (unknown and sequence and sequence == second_row.get("sequence", ""))


PROTOCOLS = ["subject-groups", "leave-one-subject-out", "stratified", "auto", "official", "fold", "split"]
SEEN: set[str] = set()


@settings(max_examples=300, deadline=None)
@given(manifests(), st.sampled_from(PROTOCOLS), st.integers(2, 4), st.integers(0, 3))
def test_no_manifest_whatever_yields_a_subject_on_two_sides(
    manifest: Manifest, protocol: str, count: int, seed: int
) -> None:
    try:
        chosen = choose(manifest, protocol, count, seed)
    except UserError:
        return
    SEEN.add(chosen.name)
    tested = np.concatenate([fold.test for fold in chosen.folds])
    assert (manifest.labels[tested] >= 0).all()
    for fold in chosen.folds:
        assert_nothing_leaks(manifest, list(fold.parts().values()))
        assert len(fold.train)
        assert len(fold.test)
    if chosen.name in ("stratified", "subject-groups", "leave-one-subject-out", "fold"):
        assert sorted(tested) == list(np.flatnonzero((manifest.labels >= 0) & ~extra_rows(manifest)))


def test_the_property_above_was_seen_on_every_protocol() -> None:
    if SEEN:
        assert {"subject-groups", "leave-one-subject-out", "stratified"} <= SEEN


@settings(max_examples=150, deadline=None)
@given(manifests(), st.floats(0.05, 0.95), st.integers(0, 3))
def test_inner_split_is_disjoint_by_subject(manifest: Manifest, fraction: float, seed: int) -> None:
    rows = np.flatnonzero(manifest.labels >= 0)
    try:
        learn, select = split_validation(manifest, rows, fraction, seed)
    except UserError as fault:
        assert "at least two" in str(fault)  # noqa: PT017
        return
    assert sorted([*learn, *select]) == list(rows)
    assert len(learn)
    assert len(select)
    assert_nothing_leaks(manifest, [learn, select])


class TestSubjectGroups:
    def test_ascending_ids_in_natural_order_nearly_equal(self) -> None:
        manifest = people(23)
        folds = splits.subject_groups(manifest, 10)
        groups = [names_of(manifest, fold.test) for fold in folds]
        assert [len(group) for group in groups] == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
        assert list(itertools.chain(*groups)) == [f"S{number}" for number in range(1, 24)]
        assert [fold.name for fold in folds][::9] == ["fold-01", "fold-10"]
        assert all(len(fold.train) + len(fold.test) == 92 for fold in folds)

    def test_ck_plus_shape(self) -> None:
        folds = splits.subject_groups(people(118, 12), 10)
        assert [len(fold.test) // 12 for fold in folds] == [12] * 8 + [11] * 2

    def test_subject_known_only_by_unlabelled_pictures_makes_no_group(self) -> None:
        manifest = manifest_of(["x", "y", "x", "y", ""], subject=["a", "a", "b", "b", "c"])
        assert len(splits.subject_groups(manifest, 2)) == 2
        with pytest.raises(UserError, match=r"2 subjects can't be cut into 3 groups; pass --folds 2"):
            splits.subject_groups(manifest, 3)

    @pytest.mark.parametrize(
        ("manifest", "said"),
        [
            (manifest_of(["x", "y"]), "has no subjects; add a column subject, or pass --protocol stratified"),
            (
                manifest_of(["x", "y"], subject=["a", ""]),
                "1 labelled pictures have no subject, the first is 1.png",
            ),
            (people(3), "3 subjects can't be cut into 10 groups; pass --folds 3"),
            (manifest_of(["x"] * 12, subject=list("abcdefghijkl")), r"one class only \('x'\); at least two"),
            (
                manifest_of(["x"] * 9 + ["y"] * 3, subject=list("abcdefghijkl")),
                "fewer pictures than the 10 folds: x 9, y 3; add pictures, .* or pass --folds 3",
            ),
        ],
    )
    def test_what_is_said(self, manifest: Manifest, said: str) -> None:
        with pytest.raises(UserError, match=said):
            splits.subject_groups(manifest, 10)


def test_leave_one_subject_out_names_folds_by_subject() -> None:
    manifest = people(11, 2)
    folds = splits.leave_one_subject_out(manifest)
    assert [fold.name for fold in folds] == [f"S{number}" for number in range(1, 12)]
    assert all(names_of(manifest, fold.test) == [fold.name] for fold in folds)
    with pytest.raises(UserError, match="one subject"):
        splits.leave_one_subject_out(manifest_of(["x", "y"], subject=["a", "a"]))


class TestStratified:
    def test_class_shares_are_kept_and_the_seed_decides(self) -> None:
        manifest = manifest_of(["x"] * 60 + ["y"] * 31)
        folds = splits.stratified(manifest, 10, seed=1)
        shares = np.array([np.bincount(manifest.labels[fold.test]) for fold in folds])
        assert (shares[:, 0] == 6).all()
        assert set(shares[:, 1]) == {3, 4}
        assert np.array_equal(folds[3].test, splits.stratified(manifest, 10, seed=1)[3].test)
        assert not np.array_equal(folds[3].test, splits.stratified(manifest, 10, seed=2)[3].test)

    def test_sequences_stay_together_and_spread_evenly(self) -> None:
        sequence = [str(number) for number in range(40) for _ in range(3)]
        manifest = manifest_of(["x", "x", "y"] * 40, sequence=sequence)
        folds = splits.stratified(manifest, 10)
        assert [len(fold.test) for fold in folds] == [12] * 10

    def test_what_is_said(self) -> None:
        with pytest.raises(UserError, match="fewer pictures than the 5 folds: y 4"):
            splits.stratified(manifest_of(["x"] * 9 + ["y"] * 4), 5)
        with pytest.raises(UserError, match=r"2 subjects or sequences can't be spread over 5 folds"):
            splits.stratified(manifest_of(["x", "y"] * 5, subject=["a", "b"] * 5), 5)
        with pytest.raises(UserError, match="at least 2 are needed"):
            splits.stratified(manifest_of(["x", "y"]), 1)


class TestColumns:
    def test_train_valid_test(self) -> None:
        manifest = manifest_of(
            ["x", "y"] * 4, split=["train", "train", "valid", "valid", "test", "test", "", "train"]
        )
        (fold,) = splits.from_split_column(manifest)
        assert fold.valid is not None
        assert [list(rows) for rows in (fold.train, fold.valid, fold.test)] == [[0, 1, 7], [2, 3], [4, 5]]

    def test_without_test_rows_valid_is_the_test_and_the_note_says_so(self) -> None:
        manifest = manifest_of(["x", "y"] * 2, split=["train", "train", "valid", "valid"])
        chosen = choose(manifest)
        assert chosen.name == "split"
        assert list(chosen.folds[0].test) == [2, 3]
        assert chosen.folds[0].valid is None
        assert "valid is the test" in chosen.note

    def test_fold_column(self) -> None:
        manifest = manifest_of(["x", "y"] * 3, fold=["10", "10", "9", "9", "b", "b"])
        folds = splits.from_fold_column(manifest)
        assert [fold.name for fold in folds] == ["9", "10", "b"]
        assert list(folds[0].test) == [2, 3]
        with pytest.raises(UserError, match=r"is empty for 1 labelled pictures, the first is 1\.png"):
            splits.from_fold_column(manifest_of(["x", "y", "x"], fold=["1", "", "2"]))
        with pytest.raises(UserError, match="one value only"):
            splits.from_fold_column(manifest_of(["x", "y"], fold=["1", "1"]))

    def test_official_folds_have_parts_of_their_own(self) -> None:
        manifest = manifest_of(
            ["x", "y", "x"],
            fold_1=["train", "valid", "test"],
            fold_2=["test", "train", "valid"],
            fold_no=["", "", ""],
        )
        chosen = choose(manifest)
        assert chosen.name == "official"
        assert [list(fold.test) for fold in chosen.folds] == [[2], [0]]
        assert "Fold fold-1 has no training picture of y." in chosen.note

    @pytest.mark.parametrize("protocol", ["official", "split", "fold"])
    def test_absent_columns(self, protocol: str) -> None:
        with pytest.raises(UserError, match="has no column"):
            choose(manifest_of(["x", "y"]), protocol)


class TestLeaks:
    def test_subject_on_both_sides_is_an_error(self) -> None:
        manifest = manifest_of(
            ["x", "y"] * 2, subject=["a", "a", "a", "b"], split=["train", "train", "test", "test"]
        )
        with pytest.raises(UserError, match="fold split leaks: subject a is in train and in test"):
            choose(manifest)

    def test_subject_in_train_and_valid_is_an_error(self) -> None:
        manifest = manifest_of(["x", "y", "x"], subject=["a", "b", "a"])
        fold = Split("one", np.array([0]), np.array([1]), np.array([2]))
        with pytest.raises(UserError, match="subject a is in train and in valid"):
            check(manifest, [fold])

    def test_sequence_on_both_sides_is_an_error_but_names_count_within_subjects(self) -> None:
        fold = Split("one", np.array([0]), np.array([1]))
        with pytest.raises(UserError, match="sequence 7 is in train and in test"):
            check(manifest_of(["x", "y"], sequence=["7", "7"]), [fold])
        check(manifest_of(["x", "y"], sequence=["7", "7"], subject=["a", "b"]), [fold])

    def test_row_twice_or_beyond(self) -> None:
        with pytest.raises(UserError, match="row 1 stands in two parts or twice"):
            Split("one", np.array([0, 1]), np.array([1]))
        with pytest.raises(UserError, match="names row 9, the manifest has 2 rows"):
            check(manifest_of(["x", "y"]), [Split("one", np.array([0]), np.array([9]))])
        with pytest.raises(UserError, match="0 pictures to train"):
            Split("one", np.array([]), np.array([1]))


class TestChoose:
    def test_auto_prefers_what_the_data_says(self) -> None:
        base = {"subject": ["a", "a", "b", "b"]}
        assert choose(manifest_of(["x", "y"] * 2, **base), folds=2).name == "subject-groups"
        base["split"] = ["train", "train", "test", "test"]
        assert choose(manifest_of(["x", "y"] * 2, **base), folds=2).name == "split"
        base["fold"] = ["1", "1", "2", "2"]
        chosen = choose(manifest_of(["x", "y"] * 2, **base), folds=2)
        assert chosen.name == "fold"
        assert chosen.subjects_known
        assert "No subject of 2 is on two sides" in chosen.note

    def test_unknown_subjects_are_said(self) -> None:
        chosen = choose(manifest_of(["x", "y"] * 4), folds=2)
        assert (chosen.name, chosen.subjects_known) == ("stratified", False)
        assert "Subjects are unknown" in chosen.note
        partly = choose(manifest_of(["x", "y", "x", "y"], subject=["a", "", "", ""]), folds=2)
        assert partly.name == "stratified"
        assert "known for 1 of 4" in partly.note

    def test_unlabelled_take_no_part(self) -> None:
        chosen = choose(manifest_of(["x", "y", "", "x", "y"]), folds=2)
        assert "1 pictures without a label take no part" in chosen.note
        assert all(2 not in rows for fold in chosen.folds for rows in fold.parts().values())

    def test_unknown_protocol(self) -> None:
        with pytest.raises(UserError, match="protocol 'ten' is not one of auto, official"):
            choose(people(10), "ten")


class TestSplitFile:
    def test_others_can_use_it_in_any_row_order(self, tmp_path: Path) -> None:
        manifest = people(10)
        folds = splits.subject_groups(manifest, 5)
        write_splits(folds, manifest, tmp_path / "folds.json")
        turned = manifest.rows(np.arange(len(manifest))[::-1])
        again = choose(turned, str(tmp_path / "folds.json"))
        assert again.name == "saved-split"
        for one, other in zip(folds, again.folds, strict=True):
            assert one.name == other.name
            assert list(manifest.table["image"].iloc[one.test]) == sorted(
                turned.table["image"].iloc[other.test], key=splits.natural_key
            )
        assert json.loads((tmp_path / "folds.json").read_text())["sha256"] == manifest.sha256()

    def test_valid_part_is_kept(self, tmp_path: Path) -> None:
        manifest = manifest_of(["x", "y", "x"])
        write_splits([Split("a", np.array([0]), np.array([1]), np.array([2]))], manifest, tmp_path / "f.json")
        (fold,) = read_splits(tmp_path / "f.json", manifest)
        assert fold.valid is not None
        assert list(fold.valid) == [2]

    def test_what_is_said(self, tmp_path: Path) -> None:
        path = tmp_path / "f.json"
        with pytest.raises(UserError, match="was not found"):
            read_splits(path, people(2))
        path.write_text("{")
        with pytest.raises(UserError, match="can't be read as JSON"):
            read_splits(path, people(2))
        path.write_text("[]")
        with pytest.raises(UserError, match="is not a split file of ours"):
            read_splits(path, people(2))
        manifest = people(4)
        write_splits(splits.subject_groups(manifest, 2), manifest, path)
        with pytest.raises(
            UserError, match=r"fold-1: 8 pictures are not in manifest 'data', the first is '8\.png'"
        ):
            read_splits(path, people(2))

    def test_a_leaking_file_is_refused(self, tmp_path: Path) -> None:
        manifest = people(2)
        write_splits([Split("a", np.array([0]), np.array([1]))], manifest, tmp_path / "f.json")
        with pytest.raises(UserError, match="leaks: subject S1"):
            read_splits(tmp_path / "f.json", manifest)


class TestInnerSplit:
    def test_by_picture_keeps_class_shares(self) -> None:
        manifest = manifest_of(["x"] * 80 + ["y"] * 20)
        learn, select = split_validation(manifest, np.arange(100), 0.1, 0)
        assert list(np.bincount(manifest.labels[select])) == [8, 2]
        assert len(learn) == 90

    def test_by_subject_comes_near_the_fraction(self) -> None:
        manifest = people(50)
        learn, select = split_validation(manifest, np.arange(100), 0.2, 0)
        assert set(names_of(manifest, learn)).isdisjoint(names_of(manifest, select))
        assert 16 <= len(select) <= 24

    def test_what_is_said(self) -> None:
        with pytest.raises(UserError, match="fraction is 1, expected"):
            split_validation(people(4), np.arange(4), 1, 0)
        with pytest.raises(UserError, match="holds 1 subject"):
            split_validation(people(4), np.arange(4), 0.5, 0)
