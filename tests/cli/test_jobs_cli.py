"""The command line of jobs side by side, status and shards."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console
from rich.progress import Progress, TextColumn
from test_cli import fn2en

import facenet2expnet
import tiny
from facenet2expnet import claims, processor
from facenet2expnet.claims import Claims
from facenet2expnet.cli import console
from facenet2expnet.cli import run as commands
from facenet2expnet.crop import CropContract
from facenet2expnet.files import write_json
from facenet2expnet.nets.classifier import ExpressionClassifier
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.predict.model_folder import Model, save_model


def planned(folder: Path) -> list[Path]:
    """Write the plan of four jobs in a run folder; their folders."""
    names = ("fold-1/scratch", "fold-1/fine-tune", "fold-1/fn2en", "fold-2/scratch")
    chains = ("fold-1/scratch", "fold-1/fine-tune", "fold-1/fine-tune", "fold-2/scratch")
    needs = ("", "", "fold-1/fine-tune", "")
    plan = [
        {"title": f"{n} [red]", "folder": n, "chain": c, "needs": face_net}
        for n, c, face_net in zip(names, chains, needs, strict=True)
    ]
    write_json(folder / "jobs.json", plan)
    for name in names:
        (folder / name).mkdir(parents=True)
    return [folder / name for name in names]


def test_status_shows_every_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "out", Console(width=140, highlight=False))
    jobs = planned(tmp_path / "run")
    (jobs[0] / "result.json").write_text("{}")
    (jobs[3] / "failed.txt").write_text("its process died (SIGKILL)")
    with Claims(tmp_path / "run" / claims.FOLDER) as own:
        assert own.take("fold-1/fine-tune")
        assert fn2en("status", tmp_path / "run", monkeypatch=monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "4 jobs: 1 done, 1 running, 1 waiting, 1 failed"
    assert any("fold-1/fine-tune" in line and "running" in line and "process " in line for line in lines)
    assert any("fold-2/scratch [red]" in line and "its process died (SIGKILL)" in line for line in lines)
    assert not any("fn2en" in line for line in lines)
    (jobs[0] / "result.json").unlink()
    (jobs[0] / "left-out.txt").write_text("others were stopped")
    (jobs[1] / "failed.txt").write_text("its [disk] is\x1b full")
    assert fn2en("status", tmp_path / "run", monkeypatch=monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "4 jobs: 0 done, 0 running, 0 waiting, 3 failed, 1 left out"
    assert any("fold-1/fn2en" in line and "its face net failed" in line for line in lines)
    assert any("its [disk] is\ufffd full" in line for line in lines)
    assert fn2en("status", tmp_path, monkeypatch=monkeypatch) == 2
    assert "holds no jobs.json" in capsys.readouterr().err


def test_options_reach_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def compare(data: object, **named: Any) -> Path:
        given.update(named)
        return tmp_path

    monkeypatch.setattr(facenet2expnet, "compare", compare)
    monkeypatch.setattr(commands, "_print_comparison", lambda run: None)
    assert fn2en("compare", "faces", "--jobs", 3, "--out", tmp_path, "--join", monkeypatch=monkeypatch) == 0
    assert (given["jobs"], given["join"], given["gpus"]) == (3, True, [])
    assert fn2en("compare", "faces", "--gpus", "0, 1", "--jobs-per-gpu", 2, monkeypatch=monkeypatch) == 0
    assert (given["gpus"], given["jobs_per_gpu"], given["join"]) == (["0", "1"], 2, False)
    assert (given["jobs"], given["engine"], given["address"]) == (None, "local", None)
    on_ray = ("--engine", "ray", "--address", "head:6379")
    assert fn2en("compare", "faces", *on_ray, "--jobs-per-gpu", 4, monkeypatch=monkeypatch) == 0
    assert (given["engine"], given["address"], given["jobs_per_gpu"]) == ("ray", "head:6379", 4)
    assert fn2en("compare", "faces", "--join", monkeypatch=monkeypatch) == 2


@pytest.mark.parametrize(
    ("cores", "folds", "threads", "expected"),
    [(2, 2, None, (2, 1)), (16, 2, None, (2, 8)), (1, 2, None, (1, 1)), (8, 4, 4, (2, 4)), (2, 2, 4, (1, 4))],
)
def test_the_quickstart_takes_the_cores_that_there_are(
    cores: int, folds: int, threads: int | None, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "cores", lambda: cores)
    assert commands._share_cores(folds, "cpu", threads) == expected


def test_a_bar_for_everything_that_is_being_done() -> None:
    with Progress(TextColumn("{task.description}"), console=Console(file=io.StringIO())) as bars:
        show = console.Bar(bars)
        for what, done in (("fold 1", 1), ("fold 2", 1), ("jobs", 1), ("fold 1", 2)):
            show(what, done, 4)
        assert [(task.description, task.completed) for task in bars.tasks] == [
            ("fold 1", 2),
            ("fold 2", 1),
            ("jobs", 1),
        ]
        show("fold 1", 4, 4)
        show("fold 2", 1, 1)
        show("never begun", 1, 1)
        assert [task.description for task in bars.tasks] == ["jobs"]


def test_shards_are_predicted_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contract = CropContract(stored_px=40, crop_px=32)
    net = ExpNet(3, input_px=32, bridge_chw=(8, 2, 2), width=0.1, hidden=8)
    module = ExpressionClassifier(net, contract.mean, contract.scale).eval()
    save_model(Model(module, tiny.CLASSES, contract, {}), tmp_path / "model")
    (tmp_path / "faces").mkdir()
    for number in range(3):
        Image.fromarray(np.full((40, 40, 3), 80 * number, np.uint8)).save(tmp_path / "faces" / f"{number}.png")
    (tmp_path / "faces" / "3.png").write_bytes(b"nothing")
    common = ["predict", tmp_path / "model", tmp_path / "faces", "--faces", "whole-image", "--quiet"]
    out = tmp_path / "scores"
    assert fn2en(*common, "--out", out, "--shard", "1/2", monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr().out
    assert "shard 1/2: 2 files, 2 faces, 0 files could not be read" in printed
    assert "1 parts of other shards are missing" in printed
    assert fn2en(*common, "--out", out, "--shard", "2/2", "--resume", monkeypatch=monkeypatch) == 0
    assert "all parts are there" in capsys.readouterr().out
    assert len(pd.read_parquet(out / "parts")) == 4
    for wrong, message in (
        (["--shard", "1/2"], "--shard and --engine ray need a folder as --out"),
        (["--out", tmp_path / "t.csv", "--resume"], "--resume needs --shard (on one machine --shard 1/1)"),
        (["--out", tmp_path / "t.csv", "--jobs", 2], "--shards, --jobs, --jobs-per-gpu and --address go with --engine"),
        (["--engine", "ray"], "--shard and --engine ray need a folder as --out"),
        (["--engine", "slurm", "--out", out], "engine is 'slurm', expected one of local, ray"),
        (["--engine", "ray", "--out", out, "--shard", "1/2"], "--engine ray does all shards: leave --shard out"),
        (["--out", out, "--shard", "3/2"], "expected e.g. 3/64"),
    ):
        assert fn2en(*common, *wrong, monkeypatch=monkeypatch) == 2
        assert message in capsys.readouterr().err
