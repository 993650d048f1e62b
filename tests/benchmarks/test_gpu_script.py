"""The script for a machine with a GPU, in miniature on the CPU: every part leaves its files, also out of time."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import fer2013_small
import gpu
import make
import tiny
import training_speed
from facenet2expnet.data import bundled
from facenet2expnet.experiment import speed
from facenet2expnet.nets.classifier import ExpressionClassifier
from facenet2expnet.nets.storage import read_tensors
from facenet2expnet.predict.model_folder import load_model
from facenet2expnet.report import ablation_page

KEPT = ("start.json", "start.safetensors", "log.txt")
SETTINGS = ["--set", "face_net.name=tiny", "--set", "face_net.tap=late", "--device", "cpu", "--miniature"]
SETTINGS += ["--set", "precision=32-true"]


def call(data: Path, out: Path, *words: str) -> dict[str, Any]:
    gpu.main([str(data), "--out", str(out), *SETTINGS, *words])
    return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module", autouse=True)
def without_slow_parts() -> Iterator[None]:
    """Ablations write no pages, nets are timed once, and matrices are small: these took most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation_page, "write_ablation", lambda folder: folder)
        patch.setattr(speed, "REPEATS", 1)
        rate = training_speed.matmul_rate
        patch.setattr(training_speed, "matmul_rate", lambda device, precision: rate(device, precision, size=64))
        yield


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """All parts; the sample has one expression, which saves time."""
    tiny.register_tiny()
    out, sample = tmp_path_factory.mktemp("gpu") / "out", bundled.read_sample()
    with pytest.MonkeyPatch.context() as patch:
        surprised = sample.groupby(["subject", "sequence"])["label"].transform(lambda labels: "surprise" in set(labels))
        few = sample[surprised & (sample["subject"] < "S040")]
        patch.setattr(bundled, "read_sample", lambda: few)
        patch.setattr(fer2013_small, "TRAINING", 40)  # the other seven are kept for choosing
        patch.setattr(make, "CALIBRATION", 6)
        return out, call(data, out, "--seeds", "0")


def test_the_starts_are_kept(done: tuple[Path, dict[str, Any]]) -> None:
    out, results = done
    assert [(row["faces"], row["width"], row["state"]) for row in results["start"]] == [
        ("fer", 0.1, "finished"),
        ("all", 0.1, "finished"),
    ]
    # 48 faces of Training without the copy of a PublicTest picture and seven others; 12 press faces without labels
    assert [row["faces_seen"] for row in results["start"]] == [38, 49]  # two and three are held out
    card = json.loads((out / "starts" / "all-0.1" / "start.json").read_text())
    assert card["face_net"] == "tiny"
    fer = json.loads((out.with_name("out.work") / "starts" / "fer-0.1" / "start.json").read_text())
    assert card["began_with"]["data"] == fer["data"]
    assert "R2" in (out / "starts" / "fer-0.1" / "log.txt").read_text()


def test_the_tables_have_every_method_with_and_without_the_start(done: tuple[Path, dict[str, Any]]) -> None:
    out, results = done
    predictions = pd.read_parquet(out / "tables-predictions.parquet")
    counted = predictions.groupby("group")[["method", "seed", "fold"]].nunique()
    assert counted.loc["press"].tolist() == [4, 1, 2]
    assert counted.loc["ferplus-18"].tolist() == [4, 1, 1]
    assert len(predictions) == 4 * (30 + 18)
    assert results["tables"]["press"]["trainings"] == results["tables"]["press"]["planned"] == 2
    names = [row["method"] for row in results["tables"]["ferplus-18"]["comparison"]]
    assert names == ["From scratch (BN)", "Fine-tuned face net", "FN2EN", gpu.WITHOUT]
    assert [row["method"] for row in results["tables"]["press"]["sizes"]] == ["scratch", "fine-tune", "fn2en", names[3]]
    pairs = [row["comparison"] for row in results["tables"]["press"]["paired"]]
    assert any("FN2EN" in pair and gpu.WITHOUT in pair for pair in pairs)
    test_sets = predictions[predictions["method"] == "fn2en"].groupby(["group", "fold"])["image"].agg(frozenset)
    assert not test_sets["press"].iloc[0] & test_sets["press"].iloc[1]


def test_the_start_of_fer_is_loaded(done: tuple[Path, dict[str, Any]]) -> None:
    out, results = done
    work = out.with_name("out.work")
    start = work / "starts" / "fer-0.1"
    assert results["tables"]["start"] == results["curve"]["start"] == str(start)
    run = next((work / "runs" / "press").iterdir())
    trained = pd.read_csv(run / "table.csv").set_index(["number", "method"])["folder"]
    begun = read_tensors(start / "start.safetensors")[0]
    distances = []
    for number in (0, 1):
        model = load_model(run / trained[number, "fn2en"] / "model").module
        assert isinstance(model, ExpressionClassifier)
        weights = model.net.state_dict()
        kept = [name for name, value in begun.items() if value.ndim > 1]
        distances.append(sum(float((weights[name] - begun[name].float()).norm()) for name in kept))
    assert distances[0] < 0.2 * distances[1]  # one epoch of stage 2 changes little


def test_the_curve_has_its_figure(done: tuple[Path, dict[str, Any]]) -> None:
    out, _ = done
    curve = pd.read_csv(out / "curve.csv")
    assert curve["pictures"].tolist() == [9] * 4 + [18] * 4
    assert (curve["seeds"] == 1).all()
    assert curve["accuracy"].between(0, 1).all()
    assert (out / "curve.webp").read_bytes()[8:12] == b"WEBP"


def test_the_curve_takes_the_tables_trainings(done: tuple[Path, dict[str, Any]]) -> None:
    out, results = done
    of_tables = pd.read_parquet(out / "tables-predictions.parquet").query("group == 'ferplus-18' and method == 'fn2en'")
    row = next(row for row in results["curve"]["rows"] if row["pictures"] == 18 and row["line"] == "FN2EN")
    assert row["accuracy"] == pytest.approx((of_tables["truth"] == of_tables["predicted"]).mean())


def test_the_models_share_a_face_net(done: tuple[Path, dict[str, Any]]) -> None:
    out, results = done
    assert "models" not in results["ended_early"]
    trained = results["models"]["trained"]
    assert [name.partition("-")[0] for name in trained] == ["fine", "fn2en", "fn2en"]
    recipes_of = [json.loads((out / "models" / name / "model.json").read_text())["recipe"] for name in trained[1:]]
    assert {recipe["stage2"]["temperature"] for recipe in recipes_of} == {2.0, 3.0}
    assert all(recipe["stage2"]["votes"] and recipe["expnet"]["start"].endswith("fer-0.1") for recipe in recipes_of)


def test_speed_is_measured_and_the_papers_table_extrapolated(done: tuple[Path, dict[str, Any]]) -> None:
    out, results = done
    found = results["speed"]
    assert [row["stage"] for row in found["stages"]] == ["fine_tune", "stage1", "stage2", "scratch", "pretrain"]
    assert all(row["pictures_per_s"] > 0 for row in found["stages"])
    assert [row["method"] for row in found["paper"]["nets"]] == ["face net tiny", "expression net"]
    seconds = found["paper"]["seconds_per_epoch"]
    fold = 50 * seconds["fine_tune"] + 300 * seconds["stage1"] + 50 * seconds["stage2"]
    assert found["paper"]["ten_folds_hours_extrapolated"] == pytest.approx(10 * fold / 3600)
    text = (out / "summary.md").read_text()
    assert "minutes and hours are extrapolated, not run" in text
    assert "| fine_tune |" in text


def test_jobs_that_share_the_card_are_timed(done: tuple[Path, dict[str, Any]]) -> None:
    out, results = done
    (row,) = results["sharing"]
    assert (row["jobs"], row["threads"], row["speed_up"], row["same_metrics"]) == (1, 1, 1.0, True)
    assert row["seconds"] > 0
    assert "sharing:" in (out / "summary.md").read_text()


def test_only_what_is_worth_keeping_is_there(done: tuple[Path, dict[str, Any]]) -> None:
    out, results = done
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    starts = {f"starts/{name}-0.1/{file}" for name in ("fer", "all") for file in KEPT}
    assert {file for file in files if not file.startswith("models/")} == starts | {
        *("results.json", "summary.md", "tables-predictions.parquet", "curve.csv", "curve.webp")
    }
    assert results["ended_early"] == {}


@pytest.fixture
def start(done: tuple[Path, dict[str, Any]]) -> str:
    return str(done[0].with_name("out.work") / "starts" / "fer-0.1")


def test_what_was_done_stays_when_time_runs_out(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    tiny.register_tiny()
    words = ["--seeds", "0", "--part", "tables", "--start", start]
    begun = []

    def run_out_in_the_second(*given: Any, **named: Any) -> Path:
        begun.append(named["out"])
        return original(*given, **named | ({"progress": gpu.Clock(0.0).check} if len(begun) > 1 else {}))

    original = gpu.ablation.ablate
    monkeypatch.setattr(gpu.ablation, "ablate", run_out_in_the_second)
    results = call(data, tmp_path / "out", *words)
    assert len(begun) == 3
    assert results["ended_early"] == {"tables": "out of time"}
    assert (results["tables"]["press"]["trainings"], results["tables"]["press"]["planned"]) == (1, 2)
    assert results["tables"]["press"]["comparison"]
    assert results["tables"]["ferplus-18"] == {"trainings": 0, "planned": 1}
    partial = pd.read_parquet(tmp_path / "out" / "tables-predictions.parquet")
    assert partial.groupby("method")["image"].nunique().tolist() == [len(partial) / 4] * 4
    trained = list((tmp_path / "out.work" / "runs").rglob("model.safetensors"))
    before = {path: path.stat().st_mtime_ns for path in trained}
    assert before
    monkeypatch.setattr(gpu.ablation, "ablate", original)
    again = call(data, tmp_path / "out", *words)
    assert again["ended_early"] == {}
    assert (again["tables"]["press"]["trainings"], again["tables"]["ferplus-18"]["trainings"]) == (2, 1)
    assert {path: path.stat().st_mtime_ns for path in before} == before  # nothing was trained twice


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are forked, as these know the tiny face net; like new ones, they do not inherit how a signal is met."""
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: fork)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    monkeypatch.setattr(signal, "signal", lambda *_: None)


@pytest.mark.usefixtures("forked")
def test_several_processes_train_at_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    tiny.register_tiny()
    monkeypatch.setattr(gpu, "SMALL", dataclasses.replace(gpu.SMALL, labels=(18,)))
    words = ["--part", "curve", "--seeds", "0", "--workers", "2", "--start", start]
    results = call(data, tmp_path / "out", *words)
    assert results["ended_early"] == {}
    assert [(row["pictures"], row["seeds"]) for row in results["curve"]["rows"]] == [(18, 1)] * 4


@pytest.mark.usefixtures("forked")
def test_an_error_in_another_process_is_passed_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    tiny.register_tiny()

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(gpu.ablation, "ablate", fail)
    results = call(data, tmp_path / "out", "--part", "curve", "--workers", "2", "--start", start)
    assert results["ended_early"] == {"curve": "RuntimeError: no kernel"}
    assert results["curve"]["rows"] == []


def test_a_start_that_is_cut_off_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.register_tiny()
    monkeypatch.setattr(gpu, "MARGIN_S", -1e9)
    results = call(data, tmp_path / "out", "--part", "start")
    assert results["ended_early"] == {"start": "out of time"}
    assert [row["state"].partition(";")[0] for row in results["start"]] == ["cut off"]
    assert "cut off" in (tmp_path / "out" / "summary.md").read_text()
    monkeypatch.setattr(gpu, "MARGIN_S", 30.0)
    again = call(data, tmp_path / "out", "--part", "start")
    assert again["ended_early"] == {}
    assert [row["state"] for row in again["start"]] == ["finished", "finished"]


def test_tables_need_a_start(data: Path, tmp_path: Path) -> None:
    tiny.register_tiny()
    results = call(data, tmp_path / "out", "--part", "tables")
    assert "run the part start first, or give --start" in results["ended_early"]["tables"]


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
    monkeypatch.setitem(gpu.PARTS, "models", lambda setup, clock: setup.record("models", {"trained": []}))
    results = call(data, tmp_path / "out", "--part", "tables", "models")
    assert results["ended_early"] == {"tables": "RuntimeError: no kernel"}
    assert results["models"] == {"trained": []}
