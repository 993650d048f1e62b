"""Classical methods and the linear probe on a run's folds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import classical
import press
import tiny
from facenet2expnet.experiment.compare import compare

pytestmark = pytest.mark.usefixtures("tiny_face_net")


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two folds on the miniature press pictures, one of them a copy of another fold's."""
    tiny.register_tiny()
    folder = tmp_path_factory.mktemp("classical")
    manifest = press.read_press(data / "press", folder / "pictures")
    (folder / "pictures" / "p00000.jpg").write_bytes((folder / "pictures" / "p00027.jpg").read_bytes())
    recipe = tiny.tiny_recipe("scratch.epochs=1")
    return compare(
        manifest, recipe=recipe, out=folder / "run", methods=["scratch"], protocol="subject-groups", folds=2,
        device="cpu", threads=1,
    )  # fmt: skip


def patterns(classes: np.ndarray, side: int = 64) -> np.ndarray:
    """Noisy stripes along rows, along columns or along a diagonal, (N, side, side) uint8."""
    rows, columns = np.mgrid[:side, :side]
    waves = np.stack([np.sin(rows / 2), np.sin(columns / 2), np.sin((rows + columns) / 2)])[classes]
    return (128 + 60 * waves + np.random.default_rng(0).normal(0, 25, waves.shape)).clip(0, 255).astype(np.uint8)


def test_hog_and_lbp_have_the_stated_shapes() -> None:
    grey = patterns(np.arange(3))
    hog, lbp = classical.hog_features(grey), classical.lbp_features(grey)
    assert hog.shape == (3, 1764)
    assert lbp.shape == (3, 8 * 8 * 59)
    np.testing.assert_allclose(np.square(lbp).reshape(3, 64, 59).sum(axis=2), 1, rtol=1e-5)  # shares of a cell


def test_lbp_counts_uniform_patterns_and_all_others_together() -> None:
    edge = np.zeros((64, 64), np.uint8)
    edge[:, 32:] = 200  # only right of the edge is a pixel brighter than some of its neighbours
    chess = (np.indices((64, 64)).sum(axis=0) % 2 * 200).astype(np.uint8)  # bright ones change four times around
    shares = np.square(classical.lbp_features(np.stack([edge, chess]))).reshape(2, 8, 8, 59)
    filled = [sorted(cell[cell > 0].tolist()) for cell in shares[0, 3]]
    assert filled == [[1.0]] * 4 + [pytest.approx([1 / 8, 7 / 8])] + [[1.0]] * 3
    assert shares[0, :, :, 58].max() == 0
    assert shares[1, 3, 3, 58] == pytest.approx(0.5)


def test_the_probe_has_sixteen_places_a_channel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 36, 36, 3), dtype=np.uint8)
    recipe = tiny.tiny_recipe()
    assert classical.probe_features(pixels, recipe, "late").shape == (5, 16 * 16)
    assert classical.probe_features(pixels, recipe, "early").shape == (5, 8 * 16)


@pytest.mark.parametrize("method", ["hog", "lbp", "probe-late"])
def test_separable_pictures_are_learned(method: str) -> None:
    classes = np.arange(60) % 3
    grey = patterns(classes, side=36 if method == "probe-late" else 64)
    if method == "probe-late":
        features = classical.probe_features(np.repeat(grey[..., None], 3, axis=3), tiny.tiny_recipe(), "late")
    else:
        features = {"hog": classical.hog_features, "lbp": classical.lbp_features}[method](grey)
    found = classical.fit(method, features[:36], classes[:36], np.arange(36))
    assert (found.predict(features[36:]) == classes[36:]).mean() > 0.9
    assert next(iter(found.best_params_.values())) in classical.COSTS


def test_folds_and_pictures_are_those_of_the_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = classical.fit

    def fit(method: str, features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> object:
        seen.append(len(labels))
        return original(method, features, labels, groups)

    monkeypatch.setattr(classical, "fit", fit)
    words = ["classical.py", str(run), "--method", "hog", "--method", "probe-late", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    classical.main()
    predictions = pd.read_csv(tmp_path / "predictions.csv")
    of_run = pd.read_parquet(run / "predictions.parquet")
    for method in ("hog", "probe-late"):
        own = predictions[predictions["method"] == method]
        for column in ("image", "fold", "truth", "subject"):
            assert own[column].tolist() == of_run[column].tolist()
    folds = json.loads((run / "folds.json").read_text())["folds"]
    assert seen == 2 * [len(fold["train"]) for fold in folds]
    assert sum(len(fold["train"]) for fold in folds) < 30  # the copy is in no training part that it is tested with
    scores = pd.read_csv(tmp_path / "scores.csv").set_index(["method", "fold"])
    part = predictions.query("method == 'hog' and fold == 'fold-1'")
    right = part["truth"] == part["predicted"]
    assert scores.loc[("hog", "fold-1"), "accuracy"] == pytest.approx(right.mean())
    assert scores.loc[("hog", "fold-1"), "macro_recall"] == pytest.approx(right.groupby(part["truth"]).mean().mean())
