"""A model tested on labelled pictures: the table, the notes, and the refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import facenet2expnet
import tiny
from facenet2expnet.crop import CropContract
from facenet2expnet.data.manifest import read_manifest
from facenet2expnet.errors import UserError
from facenet2expnet.faces.store import prepare
from facenet2expnet.nets.classifier import ExpressionClassifier
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.predict.model_folder import Model, save_model
from facenet2expnet.predict.recognizer import Recognizer

CLASSES = ("surprise", "happiness", "anger")
"""The model's classes, in another order than the data's."""


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    return tiny.write_faces(tmp_path / "faces")


def write_model(folder: Path, **metadata: object) -> Path:
    net = ExpNet(3, input_px=32, bridge_chw=(16, 8, 8), width=0.1, hidden=16)
    model = ExpressionClassifier(net, (127.5, 127.5, 127.5), 64.0).eval()
    save_model(Model(model, CLASSES, CropContract(stored_px=36, crop_px=32), dict(metadata)), folder)
    return folder


def test_the_table_has_the_answers_of_the_recognizer(faces: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", method="fn2en", trained_on={"seed": 3})
    found = facenet2expnet.evaluate(model, faces)
    table = found.predictions
    pictures = [faces / name for name in table["image"]]
    expected = Recognizer.load(model).predict(pictures, faces="whole-image")
    assert list(table["predicted"]) == expected.labels
    assert np.allclose(table[[f"p_{name}" for name in CLASSES]], expected.probabilities, atol=1e-6)
    assert list(table["truth"]) == [picture.parent.name for picture in pictures]
    assert set(table["seed"]) == {3}
    accuracy = (table["truth"] == table["predicted"]).mean()
    assert found.metrics["methods"]["fn2en"]["mean"]["accuracy"] == pytest.approx(accuracy)
    assert (found.notes, found.skipped) == ([], [])


@pytest.mark.parametrize(("stored_px", "differs"), [(36, False), (40, True)])
def test_a_face_store_that_was_cropped_in_another_way_is_named(
    faces: Path, tmp_path: Path, stored_px: int, differs: bool
) -> None:
    prepare(read_manifest(faces), CropContract(stored_px=stored_px, crop_px=32), tmp_path / "store")
    notes = facenet2expnet.evaluate(write_model(tmp_path / "model"), tmp_path / "store").notes
    assert any("cropped in another way" in note for note in notes) == differs


def test_subjects_are_kept_and_pictures_without_a_label_are_left_out(faces: Path, tmp_path: Path) -> None:
    rows = [(f"{faces}/{name}/{n:02}.png", name, f"S{n % 2}") for name in tiny.CLASSES for n in range(4)]
    table = pd.DataFrame(rows, columns=["image", "label", "subject"])
    table.loc[3, "label"] = ""
    table.to_csv(tmp_path / "faces.csv", index=False)
    found = facenet2expnet.evaluate(write_model(tmp_path / "model"), tmp_path / "faces.csv")
    assert len(found.predictions) == 11
    assert set(found.predictions["subject"]) == {"S0", "S1"}
    assert [row["pictures"] for row in found.metrics["methods"]["model"]["per_subject"]] == [6, 5]


def test_one_class_is_enough_and_the_notes_name_what_is_wrong_with_the_data(tmp_path: Path) -> None:
    happy = tiny.write_faces(tmp_path / "happy", classes=("happiness",))
    Image.open(happy / "happiness" / "00.png").save(happy / "happiness" / "copy.png")
    for number in range(7):
        (happy / "happiness" / f"broken{number}.png").write_bytes(b"nothing")
    found = facenet2expnet.evaluate(write_model(tmp_path / "model"), happy)
    assert len(found.predictions) == 9
    assert len(found.skipped) == 7
    assert found.notes[0].startswith("left out: happiness/broken0.png")
    assert found.notes[5] == "... and 2 more were left out"
    assert found.notes[6].startswith("Audit: ")


def test_a_model_of_the_same_pictures_is_noted(faces: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", trained_on={"sha256": read_manifest(faces).sha256()})
    (note,) = facenet2expnet.evaluate(model, faces).notes
    assert "so the accuracy is too high for new people" in note


def test_a_class_that_the_model_does_not_know_is_refused(faces: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    other = tiny.write_faces(tmp_path / "other", classes=("anger", "hapiness"))
    with pytest.raises(UserError, match=r"class 'hapiness' is not one of .*did you mean 'happiness'"):
        facenet2expnet.evaluate(model, other)
    (tmp_path / "some.csv").write_text(f"image,label\n{faces}/anger/00.png,angr\n")
    with pytest.raises(UserError, match=r"some.csv line 2: .*'angr' is not one of .*'anger'"):
        facenet2expnet.evaluate(model, tmp_path / "some.csv")


def test_an_onnx_file_has_the_scores_of_its_model(tiny_onnx: Path, faces: Path, tmp_path: Path) -> None:
    model = tiny.sure_model()
    save_model(model, tmp_path / "model")
    found, expected = (facenet2expnet.evaluate(path, faces) for path in (tiny_onnx, tmp_path / "model"))
    columns = [f"p_{name}" for name in model.classes]
    np.testing.assert_allclose(found.predictions[columns], expected.predictions[columns], atol=1e-5)
    assert list(found.predictions["predicted"]) == list(expected.predictions["predicted"])
    assert found.metrics["methods"]["fn2en"]["mean"] == pytest.approx(expected.metrics["methods"]["fn2en"]["mean"])


def test_the_test_part_is_taken_and_said(tmp_path: Path) -> None:
    for part, count in {"Training": 4, "Test": 3, "val": 2}.items():
        tiny.write_faces(tmp_path / "set" / part, each=count)
    model = write_model(tmp_path / "model")
    found = facenet2expnet.evaluate(model, tmp_path / "set")
    assert len(found.predictions) == 9
    assert set(found.predictions["image"].str.split("/").str[0]) == {"Test"}
    taken = "Used the test part, 9 pictures; left out: train 12, valid 6. Choose other parts with --part."
    assert found.notes[0] == taken
    assert len(facenet2expnet.evaluate(model, tmp_path / "set", part="valid").predictions) == 6
    everything = facenet2expnet.evaluate(model, tmp_path / "set", part="all")
    assert len(everything.predictions) == 27
    assert everything.notes[0] == "Used all parts: train 12, valid 6, test 9."
    with pytest.raises(UserError, match="part is 'tset', expected auto, all, train, valid, test"):
        facenet2expnet.evaluate(model, tmp_path / "set", part="tset")
    with pytest.raises(UserError, match="has no labelled picture of the part test; it has no parts"):
        facenet2expnet.evaluate(model, tmp_path / "set" / "val", part="test")


def test_classes_in_other_case_are_the_models(tmp_path: Path) -> None:
    faces = tiny.write_faces(tmp_path / "faces")
    expected = facenet2expnet.evaluate(write_model(tmp_path / "model"), faces).predictions
    for name in tiny.CLASSES:
        (faces / name).rename(faces / name.upper())
    found = facenet2expnet.evaluate(tmp_path / "model", faces).predictions
    assert list(found["truth"]) == list(expected["truth"])
