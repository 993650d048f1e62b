"""The model card: what it says of a model alone, and of one in a run."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pandas as pd
import pytest

from facenet2expnet.crop import CropContract, Framing
from facenet2expnet.deploy.model_card import model_card
from facenet2expnet.experiment.metrics import summarise
from facenet2expnet.files import write_json
from facenet2expnet.predict.model_folder import Model, save_model


def test_what_is_known_of_a_model_alone(saved: Path) -> None:
    text = model_card(saved, "me/faces")
    header, _, body = text.removeprefix("---\n").partition("\n---\n")
    assert header.splitlines()[:3] == [
        "license: other", "library_name: facenet2expnet", "pipeline_tag: image-classification",
    ]  # fmt: skip
    assert 'Recognizer.load("hf:me/faces")' in body
    assert "3 classes: anger, happiness, surprise." in " ".join(body.split())
    assert "facenet2expnet 0.1.0 on 2026-11-27" in " ".join(body.split())
    for row in (
        "| data | my faces |",
        "| pictures trained on | 1,184 |",
        "| protocol | subject-groups |",
        "| seed | 0 |",
    ):
        assert row in body
    assert "This model: 83.6% on the held-out part (fold-1, subject-groups)." in body
    assert "trained and tested once, so no spread is known" in body
    assert "a square of 40 px, 8-bit RGB, and the centre 32 px are classified" in body
    assert "Probabilities were not calibrated" in body
    assert "No licence was named for these weights." in body
    assert "(my faces)" in body
    assert "(dlib-resnet29)" in body
    assert "`model.onnx`" not in body


def predictions(folds: int, seeds: int) -> pd.DataFrame:
    """Ten pictures of anger a fold and seed; of each next one, one more is taken for happiness."""
    rows = []
    for number, (fold, seed) in enumerate(itertools.product(range(1, folds + 1), range(seeds))):
        for picture in range(10):
            wrong = picture < number
            rows.append(
                {"image": f"{fold}-{picture}.png", "fold": f"fold-{fold}", "method": "fn2en", "seed": seed,
                 "truth": "anger", "predicted": "happiness" if wrong else "anger",
                 "p_anger": 0.2 if wrong else 0.7, "p_happiness": 0.7 if wrong else 0.2, "p_surprise": 0.1}
            )  # fmt: skip
    return pd.DataFrame(rows)


def test_the_run_gives_data_checks_and_spread(model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "fold-1" / "fn2en" / "model"
    save_model(model, folder)
    about = {"manifest": {"counts": {"anger": 1159, "happiness": 420}, "subjects": 812}, "checks": ["None of 812."]}
    write_json(tmp_path / "run" / "run.json", about)
    assert "no spread is known" in model_card(folder, "me/faces")
    write_json(tmp_path / "run" / "metrics.json", summarise(predictions(2, 2), model.classes))
    text = model_card(folder, "me/faces")  # accuracies: 100 %, 90 % and 80 %, 70 %
    assert "This model: 83.6% of 10 pictures on the held-out part" in text
    expected = (
        "in 4 trainings of this run: 85.0% in the mean, with a standard deviation of 14.1% over folds and 7.1% over"
    )
    assert expected in text
    assert "no spread is known" not in text
    assert "| labelled pictures of the data | anger 1,159, happiness 420 |" in text
    assert "| subjects of the data | 812 |" in text
    assert "| checks | None of 812. |" in text
    write_json(tmp_path / "run" / "metrics.json", summarise(predictions(1, 1), model.classes))
    assert "no spread is known" in model_card(folder, "me/faces")


def test_calibration_licence_and_framing(model: Model, tmp_path: Path) -> None:
    metadata = {"calibration": {"temperature": 1.2345, "pictures": 2000}, "metrics": {"accuracy": None}}
    contract = CropContract(framing=Framing("mtcnn", (0.5, 0.5), 1.1))
    save_model(dataclasses.replace(model, contract=contract, metadata=metadata), tmp_path)
    text = model_card(tmp_path, "me/faces", "apache-2.0")
    assert "a temperature of 1.234, fitted on 2,000 pictures" in text
    assert "Nothing was held out, or no result was saved: the accuracy is not known." in text
    assert "cut like them, by the face box of mtcnn" in text
    assert "The weights are under apache-2.0." in text
    assert "of unknown version" in text


def test_what_a_model_of_the_package_says_of_itself(model: Model, tmp_path: Path) -> None:
    metadata = {
        "licence": "other: for research.", "use": "Not for judging people.", "trained_on": {"words": "9 pictures."},
        "results": {"FER+'s test": {"pictures": 3573, "accuracy": 0.8, "balanced_accuracy": 0.75, "recall": {"a": 1}}},
    }  # fmt: skip
    save_model(dataclasses.replace(model, metadata=metadata), tmp_path)
    text = model_card(tmp_path, "me/faces")
    assert text.startswith("---\nlicense: other\n")
    assert "Licence of the weights: other: for research. The code" in text
    assert "- Not for judging people.\n- An expression is" in text
    assert "| data | 9 pictures. |" in text
    assert "On FER+'s test (3,573 pictures): accuracy 0.8, balanced accuracy 0.75." in text
    save_model(dataclasses.replace(model, metadata={"licence": "cc0-1.0"}), tmp_path)
    assert model_card(tmp_path, "me/faces").startswith("---\nlicense: cc0-1.0\n")


def test_the_crop_of_a_model_with_a_detector(model: Model, tmp_path: Path) -> None:
    contract = CropContract(detector="viola-jones", template="eyes")
    save_model(dataclasses.replace(model, contract=contract), tmp_path)
    assert "The largest face that viola-jones finds is cut out (template: eyes)." in model_card(tmp_path, "me/faces")


@pytest.mark.parametrize("name", ["safetensors", "json", "onnx"])
def test_files_that_are_there_are_described(saved: Path, name: str) -> None:
    (saved / "model.onnx").write_bytes(b"x")
    assert f"| `model.{name}` | " in model_card(saved, "me/faces")
