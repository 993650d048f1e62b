"""The press benchmark and the table of several runs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import comparison
import press
import tiny
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.compare import compare

pytestmark = pytest.mark.usefixtures("tiny_face_net")


def run_press(data: Path, out: Path, *settings: str, methods: tuple[str, ...], seeds: tuple[int, ...]) -> Path:
    """A run on the miniature press pictures, two folds, one epoch a stage."""
    epochs = [f"{stage}.epochs=1" for stage in ("fine_tune", "stage1", "stage2", "scratch")]
    manifest = press.read_press(data / "press", out.parent / "pictures")
    recipe = tiny.tiny_recipe(*epochs, *settings)
    return compare(
        manifest, recipe=recipe, out=out, methods=methods, protocol="subject-groups", folds=2, seeds=seeds,
        device="cpu", threads=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Fine-tuning and FN2EN with two seeds, with a third, and FN2EN of another recipe with the first two."""
    tiny.register_tiny()
    folder = tmp_path_factory.mktemp("runs")
    first = run_press(data, folder / "first", methods=("fine-tune", "fn2en"), seeds=(0, 1))
    third = run_press(data, folder / "third", methods=("fine-tune", "fn2en"), seeds=(2,))
    other = run_press(data, folder / "other", "stage1.epochs=2", methods=("fn2en",), seeds=(0, 1))
    return first, third, other


def test_the_press_pictures_are_unpacked_once(data: Path, tmp_path: Path) -> None:
    manifest = press.read_press(data / "press", tmp_path, unlabelled=True)
    assert (len(manifest), (manifest.labels >= 0).sum()) == (42, 30)
    assert all(path.is_file() for path in manifest.paths)
    assert manifest.subjects is not None
    assert (manifest.subjects != "").all()
    manifest.paths[0].write_bytes(b"kept")
    press.read_press(data / "press", tmp_path)
    assert manifest.paths[0].read_bytes() == b"kept"
    with pytest.raises(UserError, match=r"has no faces\.zip"):
        press.read_press(tmp_path, tmp_path)


def test_the_script_trains_and_prints(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["face_net.name=tiny", "face_net.tap=late", "crop.stored_px=36", "crop.crop_px=32", "expnet.width=0.1"]
    small += ["expnet.hidden=16", "scratch.epochs=1", "scratch.warmup_epochs=0", "expnet.start=none"]
    words = ["press.py", str(data / "press"), "--out", str(tmp_path / "run"), "--recipe", "quick", "--device", "cpu"]
    words += ["--method", "scratch", "--folds", "3", "--seeds", "4", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", words + [word for setting in small for word in ("--set", setting)])
    press.main()
    assert "From scratch (BN)" in capsys.readouterr().out
    predictions = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
    assert (len(predictions), predictions["fold"].nunique(), predictions["seed"].unique().tolist()) == (30, 3, [4])
    assert predictions.groupby("subject")["fold"].nunique().max() == 1


def test_equal_trainings_share_a_row_and_others_have_their_own(runs: tuple[Path, Path, Path]) -> None:
    first, third, other = runs
    rows = comparison.merge([first, f"longer={other}", third])
    counted = rows.predictions.groupby("method", sort=False)["seed"].agg(["nunique", "size"])
    assert counted.index.tolist() == ["fine-tune", "fn2en", "FN2EN, longer"]
    assert counted["nunique"].tolist() == [3, 3, 2]  # other's fine-tuned nets are first's
    assert counted["size"].tolist() == [90, 90, 60]
    assert [size["method"] for size in rows.sizes] == counted.index.tolist()
    own = pd.read_parquet(other / "predictions.parquet").query("method == 'fn2en'")
    longer = rows.predictions[rows.predictions["method"] == "FN2EN, longer"]
    np.testing.assert_array_equal(longer["p_anger"], own["p_anger"])


def test_two_recipes_do_not_share_a_row(runs: tuple[Path, Path, Path]) -> None:
    with pytest.raises(UserError, match="'fn2en' has another recipe than before; give LABEL="):
        comparison.merge([runs[0], runs[2]])


def test_other_folds_are_refused(runs: tuple[Path, Path, Path], data: Path, tmp_path: Path) -> None:
    manifest = press.read_press(data / "press", tmp_path / "pictures")
    recipe = tiny.tiny_recipe("scratch.epochs=1")
    out = compare(
        manifest, recipe=recipe, out=tmp_path / "run", methods=["scratch"], protocol="subject-groups", folds=3,
        device="cpu", threads=1,
    )  # fmt: skip
    with pytest.raises(UserError, match="fold fold-1 is tested on other pictures"):
        comparison.merge([runs[0], out])


def test_the_mean_of_the_seeds_is_the_mean_of_their_probabilities(runs: tuple[Path, Path, Path]) -> None:
    rows = comparison.with_mean(comparison.merge(runs[:2]), "fine-tune")
    methods = rows.predictions["method"].unique().tolist()
    assert methods == ["fine-tune", "Fine-tuned face net, mean of 3", "fn2en"]
    own, mean = (rows.predictions[rows.predictions["method"] == name] for name in methods[:2])
    assert len(mean) == 30
    columns = ["p_anger", "p_happiness", "p_surprise"]
    for _, row in mean.iterrows():
        expected = own.loc[own["image"] == row["image"], columns].to_numpy().mean(axis=0)
        np.testing.assert_allclose(row[columns].to_numpy(float), expected, atol=1e-6)
        assert row["predicted"] == columns[int(expected.argmax())].removeprefix("p_")
    one, three = (next(size for size in rows.sizes if size["method"] == name) for name in methods[:2])
    assert three["parameters"] == 3 * one["parameters"]


def test_a_mean_needs_two_seeds(runs: tuple[Path, Path, Path]) -> None:
    with pytest.raises(UserError, match="needs two seeds or more, got 1"):
        comparison.with_mean(comparison.merge([runs[1]]), "fine-tune")
