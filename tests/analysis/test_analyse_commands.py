"""The commands on a small run: files, defaults, and one-line errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

import tiny
from facenet2expnet.analysis.case import (
    EXPRESSION,
    FINE_TUNED,
    PRE_TRAINED,
    all_findings,
    default_layers,
    open_case,
)
from facenet2expnet.cli.analyse import app
from facenet2expnet.data.manifest import read_manifest
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.run import Machine, compare
from facenet2expnet.nets import face


@pytest.fixture(scope="module", autouse=True)
def tiny_net() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(face, "entry_points", face.entry_points)
        tiny.register_tiny()
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny.write_faces(tmp_path_factory.mktemp("faces"), each=12)
    table = read_manifest(folder).table
    table["subject"] = [f"S{number % 4}" for number in range(len(table))]
    table.to_csv(folder / "faces.csv", index=False)
    return folder / "faces.csv"


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    methods = ["scratch", "fine-tune", "fn2en"]
    return compare(
        data,
        recipe=tiny.tiny_recipe(),
        out=out,
        folds=2,
        first_folds=1,
        methods=methods,
        machine=Machine("cpu", 1),
    )


def analyse(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


COMMANDS = ("neurons", "mean-faces", "deepdraw", "confusion", "saliency", "compare-features", "all")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_with_an_example(command: str) -> None:
    assert f"Example: fn2en analyse {command}" in analyse(command, "--help").output


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        (["neurons", "--top", 4], ["neurons.png", "neurons-table.csv", "neurons-units.csv"]),
        (["mean-faces", "--top", 3], ["mean-faces.svg", "mean-faces-pictures.csv"]),
        (["deepdraw", "--steps", 2, "--grey"], ["deepdraw.png"]),
        (["confusion"], ["confusion.csv"]),
        (["compare-features"], ["features.png", "stage1.png", "stage1-channels.csv"]),
    ],
)
def test_commands_write_what_they_say(run: Path, tmp_path: Path, arguments: list, files: list[str]) -> None:
    command, *options = arguments
    result = analyse(command, run, *options, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    for name in files:
        assert (tmp_path / name).is_file()
        assert name in result.output.replace("\n", "")


def test_saliency_takes_the_networks_whose_layers_can_be_hooked(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("captum")
    result = analyse("saliency", run, "--per-class", 2, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "saliency-pictures.png").is_file()


def test_a_run_gives_its_networks_and_the_parts_of_its_fold(run: Path) -> None:
    whole, test, train = (open_case(run, part=part) for part in ("all", "test", "train"))
    assert list(whole.nets) == [PRE_TRAINED, FINE_TUNED, EXPRESSION]
    assert (len(whole.labels), len(test.labels) + len(train.labels)) == (36, 36)
    assert test.subjects is not None
    assert train.subjects is not None
    assert not set(test.subjects) & set(train.subjects)
    assert whole.tap == "late"
    assert whole.crop_px == 32
    assert default_layers(whole.nets[FINE_TUNED], 32) == ["early", "late", "pooled"]
    assert default_layers(whole.nets[EXPRESSION], 32) == ["conv5", "pool5", "bridge", "fc6"]


def test_features_are_compared_with_the_network_from_scratch_too(run: Path, tmp_path: Path) -> None:
    result = analyse("compare-features", run, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "features-table.csv")
    assert table["network"].tolist() == [PRE_TRAINED, FINE_TUNED, "expression net from scratch", EXPRESSION]
    assert table["identity_probe"].notna().all()


def test_any_networks_on_any_pictures(run: Path, data: Path, tmp_path: Path) -> None:
    model = run / "fold-1" / "fn2en" / "model"
    case = open_case(data, ["tiny", str(model), str(model)], pictures=9)
    assert list(case.nets) == [PRE_TRAINED, EXPRESSION, f"{EXPRESSION} (2)"]
    assert np.bincount(case.labels).tolist() == [3, 3, 3]
    alone = open_case(data, ["tiny"])
    assert alone.crop_px == 32
    result = analyse("neurons", data, "--net", model, "--layer", "fc6", "--top", 4, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert pd.read_csv(tmp_path / "neurons-table.csv")["layer"].tolist() == ["fc6"]


def test_all_of_a_run_comes_in_the_papers_order(run: Path) -> None:
    names = [finding.name for finding in all_findings(run)]
    assert [name for name in names if name != "saliency"] == [
        "neurons", "mean-faces", "deepdraw", "confusion", "features", "stage1",
    ]  # fmt: skip


def test_bad_input_is_one_sentence(run: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="no run folder, so there is no network to look at; name one with --net"
    ):
        open_case(data)
    with pytest.raises(UserError, match=r"no fold 'fold-7' with a model; its folds are fold-1"):
        open_case(run, fold="fold-7")
    with pytest.raises(UserError, match="'nothere': no such folder, and as a face net"):
        open_case(data, ["nothere"])
    unlabelled = pd.read_csv(data).assign(label="")
    unlabelled.to_csv(data.with_name("unlabelled.csv"), index=False)
    with pytest.raises(UserError, match=r"unlabelled.csv: no picture has a label"):
        open_case(data.with_name("unlabelled.csv"), ["tiny"])
    two = pd.read_csv(data).query("label != 'surprise'")
    two.to_csv(data.with_name("two.csv"), index=False)
    model = run / "fold-1" / "fn2en" / "model"
    result = analyse("neurons", data.with_name("two.csv"), "--net", model, "--out", tmp_path)
    assert "class 'surprise' has no picture" in str(result.exception)
    result = analyse("saliency", run, "--net", model, "--layer", "fc6", "--out", tmp_path)
    assert "layer 'fc6' of the expression net is not spatial" in str(result.exception)
    result = analyse("deepdraw", run, "--layer", "fc6", "--out", tmp_path)
    assert "--layer fc6 needs --target" in str(result.exception)
    result = analyse("deepdraw", run, "--target", "boredom", "--out", tmp_path)
    assert "--target boredom: expected anger, happiness, surprise" in str(result.exception)
