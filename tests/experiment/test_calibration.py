"""The temperature by hand and against another minimiser, and the calibration of a saved model."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import softmax
from torch import nn

import tiny
from facenet2expnet.cli.main import run as run_command
from facenet2expnet.crop import CropContract
from facenet2expnet.data.dataset import load_dataset
from facenet2expnet.data.manifest import read_manifest
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.calibration import COLDEST, HOTTEST, calibrate, fit_temperature
from facenet2expnet.experiment.evaluate import evaluate
from facenet2expnet.nets.classifier import ExpressionClassifier, FaceClassifier, divide_scores
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.predict.model_folder import Model, load_model, save_model

CONTRACT = CropContract(stored_px=36, crop_px=32)


def log_loss(scores: np.ndarray, truth: np.ndarray) -> float:
    return float(-np.log(softmax(scores, axis=1)[np.arange(len(truth)), truth]).mean())


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_scores_too_large_by_a_factor_give_that_temperature(factor: float) -> None:
    """Ten pictures with true probabilities of 60, 30 and 10 %."""
    scores = np.tile(factor * np.log([0.6, 0.3, 0.1]), (10, 1))
    truth = np.array([0] * 6 + [1] * 3 + [2])
    assert fit_temperature(scores, truth) == pytest.approx(factor, rel=1e-4)
    moved = scores + np.arange(10)[:, None]  # softmax stays the same
    assert fit_temperature(moved, truth) == pytest.approx(factor, rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_it_agrees_with_another_minimiser(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, 200)
    scores = rng.normal(size=(200, 4)) * 4
    scores[np.arange(200), truth] += 3
    found = minimize(lambda t: log_loss(scores / t[0], truth), [1.5], bounds=[(COLDEST, HOTTEST)])
    assert fit_temperature(scores, truth) == pytest.approx(found.x[0], rel=1e-3)
    assert log_loss(scores / fit_temperature(scores, truth), truth) <= found.fun + 1e-9


SURE = np.array([[5.0, 0.0], [0.0, 5.0]])


@pytest.mark.parametrize(
    ("scores", "truth", "temperature"),
    [
        (SURE, [0, 1], 1.0),  # all right
        (SURE, [1, 0], HOTTEST),  # all wrong
        (SURE * 1e-3, [0, 0], HOTTEST),  # half of them right
        (np.zeros((3, 2)), [0, 1, 0], 1.0),  # scores without information
        (np.zeros((0, 2)), [], 1.0),
        (np.tile([1e-4, 0.0], (1000, 1)), [0] * 999 + [1], COLDEST),
        (np.array([[1e4, -1e4], [-1e4, 1e4], [1e4, -1e4]]), [0, 1, 1], HOTTEST),
    ],
)
def test_extreme_scores(scores: np.ndarray, truth: list[int], temperature: float) -> None:
    found = fit_temperature(scores, np.array(truth, dtype=np.int64))
    assert found == pytest.approx(temperature, rel=1e-3)


def test_pictures_of_one_class_are_enough() -> None:
    scores = np.tile(2 * np.log([0.8, 0.2]), (5, 1))
    scores[4] = scores[4, ::-1]
    assert fit_temperature(scores, np.zeros(5, np.int64)) == pytest.approx(2.0, rel=1e-4)


@pytest.mark.parametrize(
    ("scores", "truth", "message"),
    [
        (np.zeros((3, 2)), np.zeros(2, np.int64), r"got shapes \(3, 2\) and \(2,\)"),
        (np.array([[np.nan, 0.0]]), np.zeros(1, np.int64), "expected finite scores"),
    ],
)
def test_bad_input(scores: np.ndarray, truth: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_temperature(scores, truth)


@pytest.mark.parametrize("kind", ["expression net", "face net"])
def test_divided_scores_keep_the_answers(kind: str) -> None:
    torch.manual_seed(0)
    net = ExpNet(3, input_px=32, bridge_chw=(16, 8, 8), width=0.1, hidden=16)
    model: nn.Module = ExpressionClassifier(net, (127.5, 127.5, 127.5), 64.0)
    if kind == "face net":
        model = FaceClassifier(tiny.TinyFaceNet(), 3, head_norm=True, head_dropout=0.5)
    model.eval()
    crops = torch.rand(20, 3, 32, 32) * 255
    with torch.no_grad():
        before = model(crops)
        divide_scores(model, 2.5)
        after = model(crops)
    assert torch.allclose(after, before / 2.5, atol=1e-6)
    assert after.argmax(1).equal(before.argmax(1))


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> ExpressionClassifier:
    """An expression net that tells the three classes of `tiny.write_faces` apart."""
    torch.manual_seed(0)
    faces = tiny.write_faces(tmp_path_factory.mktemp("net") / "faces")
    dataset = load_dataset(faces, CONTRACT)
    crops = torch.from_numpy(dataset.pixels[:, 2:34, 2:34].copy()).permute(0, 3, 1, 2).float()
    truth = torch.from_numpy(np.asarray(dataset.manifest.labels, dtype=np.int64))
    model = ExpressionClassifier(
        ExpNet(3, input_px=32, bridge_chw=(16, 8, 8), width=0.1, hidden=16), (127.5, 127.5, 127.5), 64.0
    )
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(crops), truth).backward()
        optimiser.step()
    divide_scores(model, 6.0)
    return model.eval()


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Faces of which a fourth has a wrong label, so that the net is overconfident."""
    folder = tiny.write_faces(tmp_path / "faces")
    for name, other in zip(tiny.CLASSES, tiny.CLASSES[1:] + tiny.CLASSES[:1], strict=True):
        for number in range(2):
            (folder / name / f"{number:02}.png").rename(folder / other / f"{name}{number}.png")
    return folder


def write_model(net: ExpressionClassifier, folder: Path, **metadata: object) -> Path:
    save_model(Model(copy.deepcopy(net), tiny.CLASSES, CONTRACT, dict(metadata)), folder)
    return folder


def test_calibrate_writes_a_model_with_better_confidences_and_the_same_answers(
    net: ExpressionClassifier, faces: Path, tmp_path: Path
) -> None:
    old = write_model(net, tmp_path / "old", method="fn2en", calibration={"temperature": 1.5, "pictures": 7})
    before = evaluate(old, faces)
    found = calibrate(old, faces, out=tmp_path / "new")
    after = evaluate(tmp_path / "new", faces)
    assert (found.folder, found.pictures) == (tmp_path / "new", 24)
    columns = [f"p_{name}" for name in tiny.CLASSES]
    powers = before.predictions[columns].to_numpy(np.float64) ** (1 / found.temperature)
    expected = powers / powers.sum(axis=1, keepdims=True)
    assert np.allclose(after.predictions[columns], expected, atol=1e-4)
    assert list(after.predictions["predicted"]) == list(before.predictions["predicted"])
    for scores, side in ((found.before, before), (found.after, after)):
        pooled = side.metrics["methods"]["fn2en"]["pooled"]
        assert scores == pytest.approx({name: pooled[name] for name in scores}, rel=1e-3)
    for name in found.after:
        assert found.after[name] < found.before[name]
    record = load_model(tmp_path / "new").metadata["calibration"]
    assert record == {
        "temperature": 1.5 * found.temperature,
        "pictures": 24,
        "part": "all",
        "before": found.before,
        "after": found.after,
    }
    assert load_model(old).metadata["calibration"]["temperature"] == 1.5


def test_calibrate_in_place_twice_changes_nothing_the_second_time(
    net: ExpressionClassifier, faces: Path, tmp_path: Path
) -> None:
    model = write_model(net, tmp_path / "run" / "model")
    first, again = calibrate(tmp_path / "run", faces), calibrate(model, faces)
    assert (first.folder, again.folder) == (model, model)
    assert 1.5 < first.temperature < HOTTEST / 1.5
    assert again.temperature == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("names", "part", "taken", "said", "pictures"),
    [
        (("train", "valid", "test"), "auto", "valid", "Used the valid part, 8 pictures; left out: train 8, te", 8),
        (("train", "", "test"), "auto", "all without test", "Used all pictures except the 8 of the test part", 16),
        (("train", "valid", "test"), "test", "test", "Used the test part, 8 pictures", 8),
        (("train", "valid", "test"), "all", "all", "Used all parts: train 8, valid 8, test 8.", 24),
    ],
)  # fmt: skip
def test_calibrate_leaves_the_test_part_to_evaluate(
    net: ExpressionClassifier, faces: Path, tmp_path: Path,
    names: tuple[str, ...], part: str, taken: str, said: str, pictures: int,
) -> None:  # fmt: skip
    model, manifest = write_model(net, tmp_path / "model"), read_manifest(faces)
    parts = dataclasses.replace(manifest, table=manifest.table.assign(split=[*names] * (len(manifest) // 3)))
    found = calibrate(model, parts, part=part)
    record = load_model(model).metadata["calibration"]
    assert (found.pictures, record["pictures"], record["part"]) == (pictures, pictures, taken)
    assert found.notes[0].startswith(said)


def test_calibrate_takes_no_test_pictures_unasked(net: ExpressionClassifier, faces: Path, tmp_path: Path) -> None:
    manifest = read_manifest(faces)
    only = dataclasses.replace(manifest, table=manifest.table.assign(split="test"))
    with pytest.raises(UserError, match="has test pictures only, 24 with a label"):
        calibrate(write_model(net, tmp_path / "model"), only)


def test_calibrate_refuses_training_pictures_and_an_existing_model(
    net: ExpressionClassifier, faces: Path, tmp_path: Path
) -> None:
    trained_on = {"sha256": read_manifest(faces).sha256()}
    model = write_model(net, tmp_path / "model", trained_on=trained_on)
    with pytest.raises(UserError, match="the model's run was made from these pictures"):
        calibrate(model, faces)
    with pytest.raises(UserError, match="there is a model already"):
        calibrate(model, faces, out=model)


def test_calibrate_command(
    net: ExpressionClassifier,
    faces: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (faces / "anger" / "broken.png").write_bytes(b"nothing")
    model = write_model(net, tmp_path / "model")
    monkeypatch.setattr(
        "sys.argv",
        ["fn2en", "calibrate", str(model), str(faces), "--out", str(tmp_path / "new"), "--quiet", "--part", "all"],
    )
    with pytest.raises(SystemExit) as ended:
        run_command()
    assert not ended.value.code
    printed = capsys.readouterr().out
    assert "left out: anger/broken.png" in printed
    assert "fitted on 24 pictures" in printed
    assert "log loss: " in printed
    assert f"model:  {tmp_path / 'new'}" in printed


def test_an_onnx_file_is_not_calibrated(faces: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.onnx: an ONNX file can't be calibrated; calibrate the model folder"):
        calibrate(tmp_path / "a.onnx", faces)
