"""The faces that exports are measured on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tiny
from facenet2expnet.data.manifest import read_manifest
from facenet2expnet.deploy.faces import Faces, load_faces
from facenet2expnet.errors import UserError
from facenet2expnet.faces.store import prepare
from facenet2expnet.predict.model_folder import Model


def test_labels_are_matched_by_name(model: Model, faces: Path) -> None:
    found = load_faces(faces, model.classes, model.contract)
    table = read_manifest(faces).table
    np.testing.assert_array_equal(found.pixels, tiny.faces(60))
    assert [model.classes[n] if n >= 0 else "boredom" for n in found.labels] == list(table["label"])
    assert found.name == "faces"
    other = load_faces(faces, model.classes[::-1], model.contract)
    known = found.labels >= 0
    assert np.array_equal(other.labels[known], 2 - found.labels[known])


def test_a_large_set_gives_always_the_same_sample(model: Model, faces: Path, tmp_path: Path) -> None:
    few = load_faces(faces, model.classes, model.contract, most=20)
    again = load_faces(faces, model.classes, model.contract, most=20)
    assert len(few) == 20
    np.testing.assert_array_equal(few.pixels, again.pixels)
    assert few.pixels.max() != few.pixels[0].max() or len(np.unique(few.pixels.mean(axis=(1, 2, 3)))) == 20
    prepare(read_manifest(faces), model.contract, tmp_path / "store")
    stored = load_faces(tmp_path / "store", model.classes, model.contract, most=20)
    np.testing.assert_array_equal(stored.pixels, few.pixels)
    np.testing.assert_array_equal(stored.labels, few.labels)


def test_nobody_is_calibrated_on_and_measured_on(model: Model, faces: Path) -> None:
    found = load_faces(faces, model.classes, model.contract)
    calibration, held_out = found.split()
    assert len(calibration) == len(held_out) == 30  # three faces a person
    assert not set(calibration.groups) & set(held_out.groups)
    assert found.split()[0].groups.tolist() == calibration.groups.tolist()


def test_one_person_is_not_enough() -> None:
    alone = Faces("mine", tiny.faces(4), np.zeros(4, np.int64), np.zeros(4, np.int64))
    with pytest.raises(UserError, match="mine: 4 faces of one person; expected faces of two or more"):
        alone.split()


def test_one_large_group_is_never_all_of_them() -> None:
    groups = np.array([0] * 9 + [1])
    calibration, held_out = Faces("mine", tiny.faces(10), groups, groups).split()
    assert {len(calibration), len(held_out)} == {1, 9}
