"""The script for a machine with a GPU, in miniature on the CPU: every part leaves its files, also out of time."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import gpu
import tiny
import training_speed
from facenet2expnet.data import bundled

SETTINGS = ["--set", "face_net.name=tiny", "--set", "face_net.tap=late", "--device", "cpu", "--miniature"]


def call(data: Path, out: Path, *words: str) -> dict[str, Any]:
    gpu.main([str(data), "--out", str(out), *SETTINGS, *words])
    return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """All parts; the sample has one expression and the matrices are small, which saves half of the time."""
    tiny.register_tiny()
    out, sample, rate = tmp_path_factory.mktemp("gpu") / "out", bundled.read_sample(), training_speed.matmul_rate
    with pytest.MonkeyPatch.context() as patch:
        surprised = sample.groupby(["subject", "sequence"])["label"].transform(lambda labels: "surprise" in set(labels))
        few = sample[surprised & (sample["subject"] < "S040")]
        patch.setattr(bundled, "read_sample", lambda: few)
        patch.setattr(training_speed, "matmul_rate", lambda device, precision: rate(device, precision, size=64))
        return out, call(data, out, "--seeds", "0")


def test_the_starts_are_packed(done: tuple[Path, dict[str, Any]]) -> None:
    out, results = done
    assert [(row["faces"], row["width"], row["finished"]) for row in results["start"]] == [
        ("fer", 0.1, True),
        ("all", 0.1, True),
    ]
    # 48 faces of Training without the copy of a PublicTest picture; 12 press faces without labels; 3 held out
    assert [row["faces_seen"] for row in results["start"]] == [44, 56]
    assert len(results["start"][0]["r2_by_epoch"]) == 1
    with zipfile.ZipFile(out / "start-all.zip") as packed:
        assert set(packed.namelist()) == {"all-0.1/start.json", "all-0.1/start.safetensors"}
        assert json.loads(packed.read("all-0.1/start.json"))["face_net"] == "tiny"


def test_the_tables_have_every_method_and_the_start(done: tuple[Path, dict[str, Any]]) -> None:
    out, results = done
    predictions = pd.read_parquet(out / "tables-predictions.parquet")
    counted = predictions.groupby("group")[["method", "seed", "fold"]].nunique()
    assert counted.loc["press"].tolist() == [4, 1, 2]
    assert counted.loc["ferplus"].tolist() == [4, 1, 1]
    assert len(predictions) == 4 * (30 + 18)
    assert results["tables"]["press"]["trainings"] == results["tables"]["press"]["planned"] == 2
    for name in ("From scratch (BN)", "Fine-tuned face net", "| FN2EN |", "FN2EN, start"):
        assert name in results["tables"]["ferplus"]["table"]
    assert "FN2EN, start minus FN2EN" in results["tables"]["press"]["paired"]
    with_start, without = (predictions[predictions["method"] == name] for name in ("FN2EN, start", "fn2en"))
    assert not (with_start["p_anger"].to_numpy() == without["p_anger"].to_numpy()).all()


def test_the_curve_has_its_figure(done: tuple[Path, dict[str, Any]]) -> None:
    out, _ = done
    curve = pd.read_csv(out / "curve.csv")
    assert sorted(set(curve["pictures"])) == [9, 18]
    assert len(curve) == 2 * 4
    assert (curve["seeds"] == 1).all()
    assert curve["accuracy"].between(0, 1).all()
    assert (out / "curve.webp").read_bytes()[8:12] == b"WEBP"


def test_models_are_left_out_without_their_script(done: tuple[Path, dict[str, Any]]) -> None:
    script = gpu.ROOT / "tools" / "train_models" / "make.py"
    if not script.is_file():
        assert done[1]["models"] == {"left_out": "tools/train_models/make.py is not there"}


def test_models_come_from_their_script(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "tools" / "train_models" / "make.py"
    script.parent.mkdir(parents=True)
    script.write_text(
        "def make(data, out, *, device, minutes):\n"
        "    assert (data / 'press').is_dir() and device == 'cpu' and 0 < minutes < 1\n"
        "    (out / 'small').mkdir(parents=True)\n"
        "    (out / 'small' / 'model.json').write_text('{}')\n"
    )
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    tiny.register_tiny()
    results = call(data, tmp_path / "out", "--part", "models", "--minutes", "0.9")
    assert results["models"] == {"files": ["models.zip"]}
    assert zipfile.ZipFile(tmp_path / "out" / "models.zip").namelist() == ["small/model.json"]


def test_speed_is_measured_and_the_papers_table_extrapolated(done: tuple[Path, dict[str, Any]]) -> None:
    out, results = done
    speed = results["speed"]
    assert [row["stage"] for row in speed["stages"]] == ["fine_tune", "stage1", "stage2", "scratch", "pretrain"]
    assert all(row["pictures_per_s"] > 0 for row in speed["stages"])
    assert {row["method"] for row in speed["faces"]} == {"expression net, width 0.1", "face net tiny"}
    share = speed["paper_share"]
    seconds = share["seconds_per_epoch"]
    fold = 50 * seconds["fine_tune"] + 300 * seconds["stage1"] + 50 * seconds["stage2"]
    assert share["ten_folds_hours_extrapolated"] == pytest.approx(10 * fold / 3600)
    assert "Everything else is extrapolated, not run" in (out / "summary.md").read_text()


def test_all_files_are_few_and_small(done: tuple[Path, dict[str, Any]]) -> None:
    out, results = done
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {path.name for path in files} <= {
        *("results.json", "summary.md", "start-fer.zip", "start-all.zip"),
        *("tables-predictions.parquet", "curve.csv", "curve.webp", "models.zip"),
    }
    assert all(path.stat().st_size <= gpu.LARGEST_FILE for path in files)
    assert results["ended_early"] == {}


def test_what_was_done_stays_when_time_runs_out(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.register_tiny()
    trained = []

    def run_two(*given: Any, **named: Any) -> None:
        if len(trained) == 2 * 3:  # three methods each
            raise gpu.OutOfTime
        trained.append(given[0].method)
        original(*given, **named)

    original = gpu.run_job
    monkeypatch.setattr(gpu, "run_job", run_two)
    results = call(data, tmp_path / "out", "--seeds", "0", "1", "--part", "tables")
    assert results["ended_early"] == {"tables": "out of time"}
    assert (results["tables"]["press"]["trainings"], results["tables"]["press"]["planned"]) == (2, 4)
    assert results["tables"]["ferplus"]["trainings"] == 0
    assert len(pd.read_parquet(tmp_path / "out" / "tables-predictions.parquet")) == 3 * 30
    monkeypatch.setattr(gpu, "run_job", original)
    again = call(data, tmp_path / "out", "--seeds", "0", "1", "--part", "tables")
    assert again["ended_early"] == {}
    assert again["tables"]["ferplus"]["trainings"] == 2


def test_without_time_nothing_begins_and_other_results_stay(data: Path, tmp_path: Path) -> None:
    tiny.register_tiny()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text('{"curve": {"start": "none", "planned": 1, "rows": []}}')
    results = call(data, tmp_path / "out", "--part", "start", "speed", "--minutes", "0")
    assert results["ended_early"] == {"start": "out of time", "speed": "out of time"}
    assert results["curve"]["planned"] == 1


def test_a_part_that_fails_leaves_the_others_running(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.register_tiny()

    def fail(*_: Any) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setitem(gpu.PARTS, "tables", fail)
    results = call(data, tmp_path / "out", "--part", "tables", "models")
    assert results["ended_early"] == {"tables": "RuntimeError: no kernel"}
    assert "models" in results
