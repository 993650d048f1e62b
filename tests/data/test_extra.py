"""An extra set joins every training part and is never tested."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from facenet2expnet.crop import CropContract
from facenet2expnet.data.extra import extra_rows, with_extra_training
from facenet2expnet.data.manifest import Manifest, read_manifest
from facenet2expnet.data.splits import choose
from facenet2expnet.errors import UserError


def made(root: Path, name: str, labels: str, **columns: list[str]) -> Manifest:
    images = [f"{number}.png" for number in range(len(labels))]
    root.mkdir(parents=True, exist_ok=True)
    for image in images:
        (root / image).write_bytes(b"x")
    return Manifest(pd.DataFrame({"image": images, "label": list(labels), **columns}), root, name=name)


def test_sfew_with_fer2013(tmp_path: Path) -> None:
    sfew = made(tmp_path / "a" / "sfew", "sfew", "abab", split=["train", "train", "valid", "valid"])
    fer = made(tmp_path / "fer", "fer2013", "abcab", split=["train", "valid", "test", "test", "train"])
    both = with_extra_training(sfew, fer)
    assert both.name == "sfew+fer2013"
    assert both.classes == ("a", "b")
    assert all(path.is_file() for path in both.paths)
    assert list(extra_rows(both)) == [False] * 4 + [True] * 4
    assert "1 of its pictures have no label or another class" in both.notes[-1]
    both.save(tmp_path / "both.csv")
    chosen = choose(read_manifest(tmp_path / "both.csv"))
    assert chosen.name == "split"
    assert list(chosen.folds[0].train) == [0, 1, 4, 5, 6, 7]
    assert list(chosen.folds[0].test) == [2, 3]
    assert "4 extra pictures are trained on in every fold and never tested." in chosen.note
    assert len(with_extra_training(sfew, fer, parts=("train",))) == 6


def test_subject_groups_keep_the_extra_set_in_training(tmp_path: Path) -> None:
    main = made(tmp_path / "m", "m", "abababab", subject=list("11223344"))
    extra = made(tmp_path / "e", "e", "abb", subject=["1", "1", "2"])
    both = with_extra_training(main, extra)
    chosen = choose(both, folds=4)
    assert chosen.name == "subject-groups"
    assert chosen.subjects_known
    for fold in chosen.folds:
        assert {8, 9, 10} <= set(fold.train)
        assert len(fold.test) == 2
    assert sorted(np.concatenate([fold.test for fold in chosen.folds])) == list(range(8))
    assert list(both.table["subject"])[8:] == ["e:1", "e:1", "e:2"]


def test_what_is_said(tmp_path: Path) -> None:
    main, other = made(tmp_path / "m", "m", "ab"), made(tmp_path / "o", "o", "cd")
    with pytest.raises(UserError, match=r"'o' has no picture of the classes of 'm' \(a, b\)"):
        with_extra_training(main, other)
    with pytest.raises(UserError, match="'o' has no column split"):
        with_extra_training(main, other, parts=("train",))
    cropped = Manifest(other.table, other.root, contract=CropContract(stored_px=64, crop_px=56))
    with pytest.raises(UserError, match="were made ready in different ways"):
        with_extra_training(main, cropped)
