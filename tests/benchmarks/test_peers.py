"""The conductor of the peers, with a peer that reads the class from the brightness of a face."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import peers
from facenet2expnet.crop import CropContract
from facenet2expnet.errors import UserError
from facenet2expnet.files import read_json
from facenet2expnet.labels import EXPRESSIONS
from facenet2expnet.nets.classifier import ExpressionClassifier
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.predict.model_folder import Model, save_model
from facenet2expnet.predict.scores import class_probabilities

sys.path.insert(0, str(peers.RUNNERS))

SCRIPT = f"""
import sys
sys.path.insert(0, {str(peers.RUNNERS)!r})
import numpy as np
import protocol

def load(given):
    with open(given.log, "a") as log:
        log.write("asked\\n")
    def classify(faces):
        answers = np.full((len(faces), 7), 0.05)
        for row, face in enumerate(faces):
            answers[row, (0, 3, 5)[int(face.mean() // 80)]] = 0.7
        return answers
    return classify, 1_500_000

protocol.main(load, "--log")
"""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a line for each time that the peer was asked; beside it is a peer that can't be run."""
    (tmp_path / "bright.py").write_text(SCRIPT)
    (tmp_path / "broken.py").write_text("raise SystemExit('no such weights')")
    log = tmp_path / "asked.txt"
    bright = peers.Peer("bright", (str(tmp_path / "bright.py"), "--log", str(log)), licence="MIT", trained_on="rules")
    missing = peers.Peer("missing", ("run_fer.py",), "missing")
    monkeypatch.setattr(peers, "PEERS", (bright, peers.Peer("broken", (str(tmp_path / "broken.py"),)), missing))
    monkeypatch.setattr(peers, "ENVIRONMENTS", {"missing": ("npm", "@nowhere/nothing")})
    monkeypatch.setenv("PATH", "")  # no npm
    return log


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["peers.py", *map(str, words)])
    peers.main()


def test_a_peer_is_asked_once_and_others_are_named_with_the_reason(
    data: Path, asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    with pytest.raises(UserError, match="give --fer2013 FOLDER once"):
        call(monkeypatch, "--work", work)
    call(monkeypatch, "--work", work, "--fer2013", data / "fer2013", "--press", data / "press")
    header, _, row, *rest = capsys.readouterr().out.splitlines()
    cells = dict(zip(header.split(" | "), row.split(" | "), strict=True))
    assert cells["| model"] == "| bright"
    assert cells["fer2013: accuracy, %"] == cells["press: macro recall, %"] == "100.0"
    assert cells["fer2013: calibration error, %"] == "30.0"  # sure of 70 %, always right
    assert (cells["ms a face"], cells["MB"], cells["licence"], cells["trained on |"]) == ("–", "1.50", "MIT", "rules |")
    assert f"- broken: not run: {Path(sys.executable).name} failed: no such weights" in rest
    assert "- missing: not run: npm: No such file or directory" in rest
    assert "- rmn: not run: it downloads its weights" in rest
    assert asked.read_text() == "asked\nasked\n"  # two sets
    call(monkeypatch, "--work", work, "--timing")
    assert asked.read_text() == "asked\n" * (2 + peers.ROUNDS)
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| bright"))
    median = read_json(work / "timing.json")["ms"]["bright"]
    assert 0 < median < 1000
    assert row.split(" | ")[header.split(" | ").index("ms a face")] == f"{median:.2f}"


def test_the_pictures_are_of_the_seven_classes(data: Path, tmp_path: Path) -> None:
    pictures = peers.load_pictures("fer2013", data / "fer2013", tmp_path)
    assert pictures.faces.shape == (18, 48, 48)
    assert [peers.CLASSES[number] for number in pictures.truth[:3]] == ["anger", "happiness", "surprise"]
    assert (tmp_path / "pictures" / "fer2013.u8").stat().st_size == pictures.faces.size
    assert peers.load_pictures("press", data / "press", tmp_path).faces.shape == (30, 40, 40)


def test_scores_where_classes_are_absent() -> None:
    answers = np.zeros((4, 7))
    answers[[0, 1, 2, 3], [0, 0, 1, 3]] = 0.6
    answers[:, 5] += 0.4
    truth = np.array([0, 0, 0, 5])  # anger three times, surprise once; disgust and happiness are answered too
    peer = peers.Peer("one", (), probabilities=False)
    assert peers.scores(answers, truth, peer) == {
        "accuracy, %": "50.0",
        "macro recall, %": "33.3",
        "calibration error, %": "–",
        "accuracy among its 2 classes, %": "75.0",
    }


def test_names_of_classes_are_put_in_order() -> None:
    import protocol

    assert protocol.CLASSES == peers.CLASSES
    names = ["neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised"]
    assert [names[place] for place in protocol.in_order(names)] == [
        "angry", "disgusted", "fearful", "happy", "sad", "surprised", "neutral",
    ]  # fmt: skip


def test_contempt_is_left_out_of_our_answers(tmp_path: Path) -> None:
    import run_ours

    contract = CropContract(stored_px=36, crop_px=32)
    torch.manual_seed(0)
    module = ExpressionClassifier(ExpNet(8, input_px=32, width=0.1, hidden=8), contract.mean, contract.scale).eval()
    save_model(Model(module, EXPRESSIONS, contract, {}), tmp_path / "model")
    classify, weights = run_ours.load(argparse.Namespace(model=str(tmp_path), runtime="torch"))
    assert weights == (tmp_path / "model" / "model.safetensors").stat().st_size
    faces = np.random.default_rng(0).integers(0, 256, (2, 36, 36), dtype=np.uint8)
    eight = class_probabilities(module, np.repeat(faces[..., None], 3, axis=3), 32)
    expected = eight[:, [EXPRESSIONS.index(name) for name in peers.CLASSES]]
    np.testing.assert_allclose(classify(faces), expected / expected.sum(axis=1, keepdims=True), atol=1e-6)
