"""Splits: the paper's groups, official parts, and no subject on two sides for any manifest."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from facenet2expnet.data import splits
from facenet2expnet.data.manifest import Manifest, natural_key
from facenet2expnet.data.splits import (
    Split,
    check,
    choose,
    read_splits,
    subsample,
    with_unlabelled,
    with_validation,
    write_splits,
)
from facenet2expnet.errors import UserError


def manifest_of(labels: list[str], **columns: list[str]) -> Manifest:
    images = [f"{number}.png" for number in range(len(labels))]
    return Manifest(pd.DataFrame({"image": images, "label": labels, **columns}), Path())


def people(count: int, each: int = 4) -> Manifest:
    names = [f"S{number}" for number in range(1, count + 1) for _ in range(each)]
    return manifest_of(["x", "y"] * (count * each // 2), subject=names)


def names_of(manifest: Manifest, rows: np.ndarray) -> list[str]:
    assert manifest.subjects is not None
    return sorted(set(manifest.subjects[rows]), key=natural_key)


def parts(split: Split) -> dict[str, list[int]]:
    return {name: list(rows) for name, rows in split.parts().items() if len(rows)}


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Any manifest: columns known, unknown or in part; labels with gaps; train-only rows."""
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
        columns["train_only"] = column(["0", "0", "yes"])
    if draw(st.booleans()):
        columns["split"] = column(["train", "valid", "test", ""])
    if draw(st.booleans()):
        columns["fold"] = column(["1", "2", "3", ""])
    if draw(st.booleans()):
        columns["fold_1"] = column(["train", "valid", "test", ""])
    return manifest_of(column(["x", "y", "z", ""] if draw(st.booleans()) else ["x", "y"]), **columns)


def assert_nothing_shared(manifest: Manifest, one: np.ndarray, other: np.ndarray) -> None:
    """No row, no subject, and no sequence of unknown subjects is in both."""
    blank = np.full(len(manifest), "", object)
    subjects = blank if manifest.subjects is None else manifest.subjects
    sequences = blank if manifest.sequences is None else np.where(subjects == "", manifest.sequences, "")
    assert not set(one) & set(other)
    assert not (set(subjects[one]) & set(subjects[other])) - {""}
    assert not (set(sequences[one]) & set(sequences[other])) - {""}


@settings(max_examples=200, deadline=None)
@given(
    manifests(),
    st.sampled_from([*splits.PROTOCOLS, "subject-groups", "stratified", "auto"]),
    st.integers(2, 4),
    st.integers(0, 3),
    st.floats(0.05, 0.95),
)
@example(people(6), "subject-groups", 3, 0, 0.3)
@example(people(6), "leave-one-subject-out", 2, 0, 0.3)
@example(people(6), "stratified", 3, 0, 0.3)
def test_no_subject_on_two_sides_for_any_manifest(
    manifest: Manifest, protocol: str, count: int, seed: int, fraction: float
) -> None:
    try:
        chosen = choose(manifest, protocol, count, seed)
    except UserError:
        return
    labelled, train_only = manifest.labels >= 0, manifest.train_only
    for split in chosen.splits:
        try:
            split = with_validation(manifest, split, fraction, seed)
        except UserError as fault:
            assert "at least two" in str(fault)  # noqa: PT017
        split = with_unlabelled(manifest, split)
        rows = np.concatenate([split.train, split.validation, split.test])
        assert labelled[rows].all()
        assert not labelled[split.unlabelled].any()
        assert not train_only[np.append(split.validation, split.test)].any()
        for held, others in splits.HELD_OUT.items():
            for other in others:
                assert_nothing_shared(manifest, split.parts()[other], split.parts()[held])
    tested = np.concatenate([split.test for split in chosen.splits])
    if chosen.name in ("stratified", "subject-groups", "leave-one-subject-out"):
        assert sorted(tested) == list(np.flatnonzero(labelled & ~train_only))
        assert chosen.unused == 0


class TestSubjectGroups:
    def test_ascending_ids_in_natural_order_nearly_equal(self) -> None:
        manifest = people(23)
        made = choose(manifest, "subject-groups").splits
        groups = [names_of(manifest, split.test) for split in made]
        assert [len(group) for group in groups] == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
        assert list(itertools.chain(*groups)) == [f"S{number}" for number in range(1, 24)]
        assert [split.name for split in made][::9] == ["fold-01", "fold-10"]
        assert all(len(split.train) + len(split.test) == 92 for split in made)

    def test_a_subject_without_labels_makes_no_group(self) -> None:
        manifest = manifest_of(["x", "y", "x", "y", ""], subject=["a", "a", "b", "b", "c"])
        assert len(choose(manifest, "subject-groups", 2).splits) == 2
        with pytest.raises(UserError, match=r"2 subjects can't be divided into 3 folds"):
            choose(manifest_of(["x", "y"] * 3, subject=list("aabbab")), "subject-groups", 3)

    @pytest.mark.parametrize(
        ("manifest", "message"),
        [
            (
                manifest_of(["x", "y"]),
                "2 labelled pictures have no subject, .* or pass --protocol stratified",
            ),
            (
                manifest_of(["x", "y"], subject=["a", ""]),
                "1 labelled pictures have no subject, the first is 1.png",
            ),
            (people(3, 12), "3 subjects can't be divided into 10 folds; pass --folds 3"),
            (
                manifest_of(["x"] * 12, subject=list("abcdefghijkl")),
                "has labels of x only; at least two",
            ),
            (
                manifest_of(["x"] * 9 + ["y"] * 3, subject=list("abcdefghijkl")),
                "fewer pictures than the 10 folds: x 9, y 3; add pictures, .* or pass --folds 3",
            ),
        ],
    )
    def test_messages(self, manifest: Manifest, message: str) -> None:
        with pytest.raises(UserError, match=message):
            choose(manifest, "subject-groups", 10)


def test_leave_one_subject_out_names_splits_by_subject() -> None:
    manifest = people(11, 2)
    made = choose(manifest, "leave-one-subject-out").splits
    assert [split.name for split in made] == [f"S{number}" for number in range(1, 12)]
    assert all(names_of(manifest, split.test) == [split.name] for split in made)
    with pytest.raises(
        UserError, match="1 subjects can't be divided into 2 folds; a test needs two or more: add subjects"
    ):
        choose(manifest_of(["x", "y"], subject=["a", "a"]), "leave-one-subject-out")


class TestStratified:
    def test_class_shares_are_kept_and_the_seed_decides(self) -> None:
        manifest = manifest_of(["x"] * 60 + ["y"] * 31)
        made = choose(manifest, "stratified", 10, seed=1).splits
        shares = np.array([np.bincount(manifest.labels[split.test]) for split in made])
        assert (shares[:, 0] == 6).all()
        assert set(shares[:, 1]) == {3, 4}
        assert np.array_equal(made[3].test, choose(manifest, "stratified", seed=1).splits[3].test)
        assert not np.array_equal(made[3].test, choose(manifest, "stratified", seed=2).splits[3].test)

    def test_sequences_stay_together(self) -> None:
        sequence = [str(number) for number in range(40) for _ in range(3)]
        made = choose(manifest_of(["x", "x", "y"] * 40, sequence=sequence), "stratified").splits
        assert [len(split.test) for split in made] == [12] * 10

    def test_messages(self) -> None:
        with pytest.raises(UserError, match="fewer pictures than the 5 folds: y 4"):
            choose(manifest_of(["x"] * 9 + ["y"] * 4), "stratified", 5)
        with pytest.raises(UserError, match="2 subjects or sequences can't be divided into 5 folds"):
            choose(manifest_of(["x", "y"] * 5, subject=["a", "b"] * 5), "stratified", 5)
        with pytest.raises(UserError, match="at least 2 are needed"):
            choose(manifest_of(["x", "y"]), "stratified", 1)


class TestColumns:
    def test_valid_is_the_validation_part_and_blank_rows_are_counted(self) -> None:
        column = ["train"] * 10 + ["valid"] * 10 + ["test"] * 10 + [""] * 10
        chosen = choose(manifest_of(["x", "y"] * 20, split=column))
        (split,) = chosen.splits
        assert parts(split) == {
            "train": list(range(10)),
            "validation": list(range(10, 20)),
            "test": list(range(20, 30)),
        }
        assert chosen.unused == 10
        assert "10 labelled pictures are in no part" in chosen.note

    def test_without_test_rows_valid_is_the_test_part(self) -> None:
        chosen = choose(manifest_of(["x", "y"] * 2, split=["train", "train", "valid", "valid"]))
        assert chosen.name == "split"
        assert parts(chosen.splits[0]) == {"train": [0, 1], "test": [2, 3]}
        assert "The column split has no labelled test rows, so the valid rows are the test part" in chosen.note
        assert chosen.unused == 0

    def test_fold_column(self) -> None:
        chosen = choose(manifest_of(["x", "y"] * 3 + ["x"], fold=["10", "10", "9", "9", "b", "b", ""]))
        assert [split.name for split in chosen.splits] == ["9", "10", "b"]
        assert parts(chosen.splits[0]) == {"train": [0, 1, 4, 5], "test": [2, 3]}
        assert chosen.unused == 1
        with pytest.raises(UserError, match="split 1: 0 labelled pictures to train, 2 to test"):
            choose(manifest_of(["x", "y"], fold=["1", "1"]))

    def test_official_folds(self) -> None:
        manifest = manifest_of(
            ["x", "y", "x", "y"],
            fold_1=["train", "valid", "test", ""],
            fold_2=["test", "train", "valid", ""],
            fold_no=["", "", "", ""],
        )
        chosen = choose(manifest)
        assert chosen.name == "official"
        assert [parts(split) for split in chosen.splits] == [
            {"train": [0], "validation": [1], "test": [2]},
            {"train": [1], "validation": [2], "test": [0]},
        ]
        assert "Split fold-1 has no training picture of y." in chosen.note
        assert chosen.unused == 1

    @pytest.mark.parametrize("protocol", ["official", "split", "fold"])
    def test_missing_columns(self, protocol: str) -> None:
        with pytest.raises(UserError, match="has no column"):
            choose(manifest_of(["x", "y"]), protocol)


class TestTrainOnly:
    def test_rows_join_every_training_part_and_are_never_held_out(self) -> None:
        manifest = manifest_of(
            ["x", "y"] * 4 + ["x", "y", "y"],
            subject=[*"11223344", "e:1", "e:1", "e:2"],
            train_only=["0"] * 8 + ["1"] * 3,
        )
        chosen = choose(manifest, folds=4)
        assert chosen.name == "subject-groups"
        assert "subject-independent" in chosen.note
        assert "3 train-only pictures are trained on in every split and never tested." in chosen.note
        for split in chosen.splits:
            split = with_validation(manifest, split, 0.5)
            assert {8, 9, 10} <= set(split.train)
            assert len(split.test) == len(split.validation) == 2

    def test_validation_is_of_the_tested_domain(self) -> None:
        manifest = manifest_of(
            ["x", "y"] * 60,
            split=["train"] * 10 + ["test"] * 10 + ["train"] * 100,
            train_only=["0"] * 20 + ["1"] * 100,
        )
        split = with_validation(manifest, choose(manifest).splits[0], 0.2)
        assert len(split.validation) == 2
        assert split.validation.max() < 10

    def test_a_subject_with_a_train_only_row_is_not_validated_on(self) -> None:
        manifest = manifest_of(["x", "y"] * 3, subject=list("aabbcc"), train_only=["1", *["0"] * 5])
        split = with_validation(manifest, Split("all", np.arange(6), np.arange(0)), 0.9)
        assert {0, 1} <= set(split.train)


class TestLeaks:
    def test_subject_on_two_sides_is_an_error(self) -> None:
        manifest = manifest_of(["x", "y"] * 2, subject=list("aaab"), split=["train", "train", "test", "test"])
        with pytest.raises(UserError, match="split split leaks: subject a is in train and in test"):
            choose(manifest)

    @pytest.mark.parametrize(("part", "label"), [("validation", "x"), ("unlabelled", "")])
    def test_every_part_is_checked(self, part: str, label: str) -> None:
        manifest = manifest_of(["x", "y", "x", label], subject=list("abca"))
        split = Split("one", np.array([2]), np.array([0]), **{part: np.array([3])})
        with pytest.raises(UserError, match=f"subject a is in {part} and in test"):
            check(manifest, [split])

    def test_rows_to_train_on_need_a_label(self) -> None:
        with pytest.raises(UserError, match=r"split one: 0\.png has no label"):
            check(manifest_of(["", "y"]), [Split("one", np.array([0]), np.array([1]))])

    def test_sequence_names_are_unique_within_a_subject_only(self) -> None:
        split = Split("one", np.array([0]), np.array([1]))
        with pytest.raises(UserError, match="sequence 7 is in train and in test"):
            check(manifest_of(["x", "y"], sequence=["7", "7"]), [split])
        check(manifest_of(["x", "y"], sequence=["7", "7"], subject=["a", "b"]), [split])

    def test_faulty_splits(self) -> None:
        with pytest.raises(UserError, match="row 1 is in two parts or in one part twice"):
            Split("one", np.array([0, 1]), np.array([1]))
        with pytest.raises(UserError, match="0 labelled pictures to train"):
            Split("one", np.array([]), np.array([1]))
        with pytest.raises(UserError, match="0 to test"):
            Split("one", np.array([1]), np.array([]))
        Split("all", np.array([1]), np.array([]))
        with pytest.raises(UserError, match=r"1\.png is train-only, but held out"):
            check(manifest_of(["x", "y"], train_only=["0", "1"]), [Split("a", np.array([0]), np.array([1]))])


class TestChoose:
    def test_auto_prefers_the_columns_of_the_data(self) -> None:
        base = {"subject": ["a", "a", "b", "b"]}
        assert choose(manifest_of(["x", "y"] * 2, **base), folds=2).name == "subject-groups"
        base["split"] = ["train", "train", "test", "test"]
        assert choose(manifest_of(["x", "y"] * 2, **base), folds=2).name == "split"
        base["fold"] = ["1", "1", "2", "2"]
        chosen = choose(manifest_of(["x", "y"] * 2, **base), folds=2)
        assert chosen.name == "fold"
        assert "subject-independent: none of 2 subjects is in two parts of a fold" in chosen.note

    def test_unknown_subjects_are_in_the_note(self) -> None:
        chosen = choose(manifest_of(["x", "y"] * 4), folds=2)
        assert chosen.name == "stratified"
        assert "Subjects are unknown" in chosen.note
        partly = choose(manifest_of(["x", "y", "x", "y"], subject=["a", "", "", ""]), folds=2)
        assert partly.name == "stratified"
        assert "known for 1 of 4" in partly.note

    def test_unlabelled_rows_are_not_tested(self) -> None:
        chosen = choose(manifest_of(["x", "y", "", "x", "y"]), folds=2)
        assert "1 pictures have no label" in chosen.note
        assert all(2 not in rows for split in chosen.splits for rows in split.parts().values())

    def test_unknown_protocol(self) -> None:
        with pytest.raises(UserError, match="protocol 'ten' is not one of auto, official"):
            choose(people(10), "ten")


class TestSplitFile:
    def test_row_order_does_not_matter(self, tmp_path: Path) -> None:
        manifest, path = people(10), tmp_path / "folds.json"
        made = [with_validation(manifest, split, 0.3) for split in choose(manifest, folds=5).splits]
        write_splits(made, manifest, path)
        turned = manifest.rows(np.arange(len(manifest))[::-1])
        again = choose(turned, str(path))
        assert again.name == "saved-split"
        for one, other in zip(made, again.splits, strict=True):
            assert one.name == other.name
            for part, rows in one.parts().items():
                images = sorted(manifest.table["image"].iloc[rows])
                assert images == sorted(turned.table["image"].iloc[other.parts()[part]])
        assert json.loads(path.read_text())["sha256"] == manifest.sha256()

    def test_messages(self, tmp_path: Path) -> None:
        path = tmp_path / "f.json"
        for text in (None, "{"):
            if text is not None:
                path.write_text(text)
            with pytest.raises(UserError, match="can't be read"):
                read_splits(path, people(2))
        path.write_text("[]")
        with pytest.raises(UserError, match="is not a split file"):
            read_splits(path, people(2))
        manifest = people(4)
        write_splits(choose(manifest, folds=2).splits, manifest, path)
        with pytest.raises(UserError, match=r"fold-1: 8 pictures are not in manifest 'data', the first is '8\.png'"):
            read_splits(path, people(2))
        write_splits([Split("a", np.array([0]), np.array([1]))], manifest, path)
        with pytest.raises(UserError, match="leaks: subject S1"):
            read_splits(path, manifest)


class TestValidation:
    def test_pictures_keep_class_shares(self) -> None:
        manifest = manifest_of(["x"] * 80 + ["y"] * 20)
        split = with_validation(manifest, Split("all", np.arange(100), np.arange(0)), 0.1)
        assert list(np.bincount(manifest.labels[split.validation])) == [8, 2]
        assert len(split.train) == 90

    def test_subjects_stay_together_near_the_fraction(self) -> None:
        manifest = people(50)
        split = with_validation(manifest, Split("all", np.arange(200), np.arange(0)), 0.2)
        assert set(names_of(manifest, split.train)).isdisjoint(names_of(manifest, split.validation))
        assert 36 <= len(split.validation) <= 44
        assert with_validation(manifest, split, 0.5) is split

    def test_unlabelled_rows_of_validated_subjects_are_dropped(self) -> None:
        manifest = manifest_of(["x", "", "y", ""], subject=list("aabb"))
        split = with_unlabelled(manifest, Split("all", np.array([0, 2]), np.arange(0)))
        assert parts(split)["unlabelled"] == [1, 3]
        split = with_validation(manifest, split, 0.5)
        assert len(split.validation) == len(split.unlabelled) == 1
        assert split.unlabelled[0] == split.train[0] + 1

    def test_messages(self) -> None:
        split = Split("all", np.arange(4), np.arange(0))
        with pytest.raises(UserError, match="validation fraction is 1, expected"):
            with_validation(people(4), split, 1)
        with pytest.raises(UserError, match="holds 1 subject"):
            with_validation(people(4), split, 0.5)


def test_unlabelled_rows_of_held_out_sequences_folds_and_parts_are_not_used() -> None:
    manifest = manifest_of(
        ["x", "y", *[""] * 6],
        subject=["a", "", "", "b", "a", "", "", ""],
        sequence=["", "1", "1", "1", "", "2", "", ""],
        fold=["1", "2", "1", "1", "1", "1", "2", "1"],
        split=["", "", "", "", "", "", "", "valid"],
    )
    split = with_unlabelled(manifest, Split("one", np.array([0]), np.array([1])))
    # 2 and 3 may be of the tested sequence, 6 is of the tested fold, 7 of an official validation part
    assert list(split.unlabelled) == [4, 5]


def test_subsample_is_in_proportion_and_nested() -> None:
    manifest = manifest_of(["x"] * 80 + ["y"] * 20)
    few, more = subsample(manifest, np.arange(100), 10), subsample(manifest, np.arange(100), 50)
    assert list(np.bincount(manifest.labels[few])) == [8, 2]
    assert set(few) <= set(more)
    with pytest.raises(UserError, match="101 training pictures were asked for, expected 1 to 100"):
        subsample(manifest, np.arange(100), 101)


def test_groups() -> None:
    manifest = manifest_of(["x"] * 6, subject=["a", "b", "", "", "", "a"], sequence=["1", "1", "1", "1", "", "2"])
    assert list(manifest.groups) == [0, 1, 2, 2, 3, 0]


def test_a_class_with_one_picture_gets_advice_that_works() -> None:
    table = pd.DataFrame({"image": [f"{n}.png" for n in range(7)], "label": [*"xxxyyyz"]})
    for folds in (2, 10):
        with pytest.raises(
            UserError, match=r"a class with one picture.*: z; add pictures or leave the class out"
        ) as caught:
            choose(Manifest(table, Path()), folds=folds)
        assert "--folds" not in str(caught.value)


@pytest.mark.parametrize("folds", [["x"], [3], {"a": 1}, [{"train": 5}], [{"train": "x"}]])
def test_a_split_file_of_another_form_is_named(tmp_path: Path, folds: object) -> None:
    manifest = manifest_of(["x", "y"] * 4)
    write_splits(choose(manifest, folds=2).splits, manifest, tmp_path / "folds.json")
    content = json.loads((tmp_path / "folds.json").read_text())
    (tmp_path / "folds.json").write_text(json.dumps(content | {"folds": folds}))
    with pytest.raises(UserError, match=r"folds\.json is damaged: .*write it again with fn2en data split"):
        read_splits(tmp_path / "folds.json", manifest)
