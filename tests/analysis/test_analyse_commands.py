"""The commands on a small run: files, defaults, and one-line errors."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

import tiny
from facenet2expnet.analysis.inputs import (
    EXPRESSION,
    FINE_TUNED,
    PRE_TRAINED,
    default_layers,
    load_inputs,
    run_all,
)
from facenet2expnet.cli.analyse import app
from facenet2expnet.data.manifest import read_manifest
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.run import Machine, compare
from facenet2expnet.nets import face
from facenet2expnet.predict.model_folder import WEIGHTS


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
    whole, test, train = (load_inputs(run, part=part) for part in ("all", "test", "train"))
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
    case = load_inputs(data, ["tiny", str(model), str(model)], pictures=9)
    assert list(case.nets) == [PRE_TRAINED, EXPRESSION, f"{EXPRESSION} (2)"]
    assert np.bincount(case.labels).tolist() == [3, 3, 3]
    alone = load_inputs(data, ["tiny"])
    assert alone.crop_px == 32
    result = analyse("neurons", data, "--net", model, "--layer", "fc6", "--top", 4, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert pd.read_csv(tmp_path / "neurons-table.csv")["layer"].tolist() == ["fc6"]


def test_all_of_a_run_comes_in_the_papers_order(run: Path) -> None:
    names = [finding.name for finding in run_all(run)]
    assert [name for name in names if name != "saliency"] == [
        "neurons", "mean-faces", "deepdraw", "confusion", "features", "stage1",
    ]  # fmt: skip


def test_bad_input_is_one_sentence(run: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="no run folder, so there is no network to look at; name one with --net"
    ):
        load_inputs(data)
    with pytest.raises(UserError, match=r"no fold 'fold-7' with a model; its folds are fold-1"):
        load_inputs(run, fold="fold-7")
    with pytest.raises(UserError, match="'nothere': no such folder, and as a face net"):
        load_inputs(data, ["nothere"])
    result = analyse("deepdraw", run, "--layer", "fc6", "--out", tmp_path)
    assert "--layer fc6 needs --target" in str(result.exception)
    result = analyse("deepdraw", run, "--target", "boredom", "--out", tmp_path)
    assert "--target boredom: expected anger, happiness, surprise" in str(result.exception)


@pytest.fixture(scope="module")
def model(run: Path) -> Path:
    return run / "fold-1" / "fn2en" / "model"


def said(command: str, *arguments: object, out: Path) -> str:
    """The one sentence of a command that refuses its input, and writes nothing."""
    if command == "saliency":
        pytest.importorskip("captum")
    result = analyse(command, *arguments, "--out", out)
    assert isinstance(result.exception, UserError), result.output
    assert not list(out.iterdir())
    return str(result.exception)


OF_PICTURES = ("neurons", "mean-faces", "deepdraw", "saliency", "compare-features")


@pytest.mark.parametrize("command", OF_PICTURES)
def test_pictures_without_labels(command: str, data: Path, model: Path, tmp_path: Path) -> None:
    table = data.with_name("unlabelled.csv")
    pd.read_csv(data).assign(label="").to_csv(table, index=False)
    sentence = said(command, table, "--net", model, out=tmp_path)
    assert "unlabelled.csv: no picture has a label, expected one for each" in sentence


def test_a_few_pictures_without_labels_are_left_out_and_counted(data: Path, model: Path) -> None:
    table = pd.read_csv(data)
    table.loc[:4, "label"] = ""
    table.to_csv(data.with_name("some.csv"), index=False)
    case = load_inputs(data.with_name("some.csv"), [str(model)])
    assert len(case.labels) == 31
    assert case.says == "31 pictures: all of the data; 5 left out (no label)."


@pytest.mark.parametrize("command", ["neurons", "mean-faces", "saliency", "compare-features"])
def test_a_class_without_a_picture(command: str, data: Path, model: Path, tmp_path: Path) -> None:
    table = data.with_name("two.csv")
    pd.read_csv(data).query("label != 'surprise'").to_csv(table, index=False)
    sentence = said(command, table, "--net", model, out=tmp_path)
    assert "class 'surprise' has no picture, expected one at least in each of anger, happiness" in sentence


def test_a_class_without_a_picture_can_be_drawn(data: Path, model: Path, tmp_path: Path) -> None:
    table = data.with_name("two.csv")
    pd.read_csv(data).query("label != 'surprise'").to_csv(table, index=False)
    result = analyse("deepdraw", table, "--net", model, "--steps", 1, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert pd.read_csv(tmp_path / "deepdraw-table.csv")["target"].tolist() == list(tiny.CLASSES)


@pytest.mark.parametrize("truth", ["", "surprise"])
def test_confusion_of_a_table_without_a_class(truth: str, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    named = pd.DataFrame({"truth": ["anger", truth], "predicted": "anger", "p_anger": 1.0, "p_fear": 0.0})
    named.to_csv(table, index=False)
    (tmp_path / "out").mkdir()
    sentence = said("confusion", table, out=tmp_path / "out")
    assert ("1 of 2 rows have no truth" if not truth else "truth 'surprise' is not one of") in sentence
    named.assign(truth="anger").to_csv(table, index=False)
    assert "No picture is fear" in analyse("confusion", table, "--out", tmp_path / "out").output


@pytest.mark.parametrize("command", OF_PICTURES)
def test_a_network_that_gives_nan(command: str, data: Path, model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    weights = load_file(model / WEIGHTS)
    weights = {k: value * torch.nan if value.is_floating_point() else value for k, value in weights.items()}
    save_file(weights, broken / WEIGHTS)
    (tmp_path / "out").mkdir()
    sentence = said(command, data, "--net", broken, out=tmp_path / "out")
    assert "gives NaN or infinity" in sentence
    assert "a training that diverged" in sentence


def test_layers_that_give_no_maps(run: Path, model: Path, tmp_path: Path) -> None:
    """Grad-CAM needs maps, and R2 the layer that was tapped; the others take any layer."""
    assert "layer 'pooled' of tiny, fine-tuned (16, 1, 1)" in said(
        "compare-features", run, "--tap", "pooled", out=tmp_path
    )
    sentence = said("saliency", run, "--net", model, "--layer", "fc6", out=tmp_path)
    assert "layer 'fc6' of the expression net is not spatial: it gives 16 numbers" in sentence
    for command, options in {
        "neurons": ["--top", 4], "mean-faces": ["--top", 4], "deepdraw": ["--target", 3, "--steps", 1],
    }.items():  # fmt: skip
        assert "has no layer 'fc7'" in said(
            command, run, "--net", model, "--layer", "fc7", *options, out=tmp_path
        )
    for command, options in {"mean-faces": ["--top", 4], "deepdraw": ["--target", 3, "--steps", 1]}.items():
        result = analyse(
            command, run, "--net", model, "--layer", "fc6", *options, "--out", tmp_path / command
        )
        assert result.exit_code == 0, result.output
