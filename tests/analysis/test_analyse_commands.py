"""The commands on a small run: files, defaults, and errors in one sentence."""

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
from facenet2expnet.analysis.inputs import EXPRESSION, FINE_TUNED, PRE_TRAINED, load_inputs
from facenet2expnet.cli.analyse import app
from facenet2expnet.data.manifest import read_manifest
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.compare import compare
from facenet2expnet.faces.store import prepare
from facenet2expnet.nets import face
from facenet2expnet.predict.model_folder import WEIGHTS, load_model

COMMANDS = ("neurons", "mean-faces", "deepdraw", "confusion", "saliency", "compare-features", "all")
OF_IMAGES = ("neurons", "mean-faces", "deepdraw", "saliency", "compare-features")


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
    recipe = tiny.tiny_recipe()
    return compare(data, recipe=recipe, out=out, folds=2, first_folds=1, device="cpu", threads=1)


@pytest.fixture(scope="module")
def model(run: Path) -> Path:
    return run / "fold-1" / "fn2en" / "model"


def analyse(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def message(command: str, *arguments: object, out: Path) -> str:
    """The error of a command that writes nothing."""
    result = analyse(command, *arguments, "--out", out / "out")
    assert isinstance(result.exception, UserError), result.output
    assert not (out / "out").exists()
    return str(result.exception)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_with_an_example(command: str) -> None:
    assert f"Example: fn2en analyse {command}" in analyse(command, "--help").output


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        (["neurons", "--top", 4], ["neurons.png", "neurons-table.csv", "neurons-units.csv"]),
        (["mean-faces", "--per-class", 1], ["mean-faces.svg", "mean-faces-pictures.csv"]),
        (["deepdraw", "--layer", "scores", "--target", "anger"], ["deepdraw.png"]),
        (["confusion"], ["confusion.csv"]),
        (["saliency"], ["saliency.csv"]),
        (["compare-features"], ["features.png", "stage1.png", "stage1-table.csv"]),
    ],
)
def test_commands_write_and_print_their_files(run: Path, tmp_path: Path, arguments: list, files: list[str]) -> None:
    command, *options = arguments
    result = analyse(command, run, *options, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    for name in files:
        assert (tmp_path / name).is_file()
        assert name in result.output.replace("\n", "")


def test_all_of_a_run_are_in_the_papers_order_and_saved_in_it(run: Path) -> None:
    result = analyse("all", run)
    assert result.exit_code == 0, result.output
    written = [Path(line).stem for line in result.output.splitlines() if line.endswith(".txt")]
    assert written == ["confusion", "neurons", "mean-faces", "deepdraw", "saliency", "features", "stage1"]
    nets = pd.read_csv(run / "analyses" / "features-table.csv")["network"].tolist()
    assert nets == [PRE_TRAINED, FINE_TUNED, "expression net from scratch", EXPRESSION]


def test_a_run_gives_its_networks_and_the_parts_of_its_fold(run: Path) -> None:
    whole, test, train = (load_inputs(run, part=part) for part in ("all", "test", "train"))
    assert list(whole.nets) == [PRE_TRAINED, FINE_TUNED, "expression net from scratch", EXPRESSION]
    assert (len(whole.labels), len(test.labels) + len(train.labels)) == (36, 36)
    assert test.subjects is not None
    assert train.subjects is not None
    assert not set(test.subjects) & set(train.subjects)
    assert (whole.tap, whole.teacher, whole.crop_px) == ("late", FINE_TUNED, 32)
    assert test.summary == f"{len(test.labels)} images: the test part of fold fold-1."


def test_any_networks_on_any_images(data: Path, model: Path, tmp_path: Path) -> None:
    inputs = load_inputs(data, ["tiny", str(model), str(model)], images=9)
    assert list(inputs.nets) == [PRE_TRAINED, EXPRESSION, str(model)]
    assert np.bincount(inputs.labels).tolist() == [3, 3, 3]
    result = analyse("neurons", data, "--net", model, "--layer", "fc6", "--top", 4, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert pd.read_csv(tmp_path / "neurons-table.csv")["layer"].tolist() == ["fc6"]


def test_a_face_store_gives_the_same_images_as_its_pictures(data: Path, model: Path, tmp_path: Path) -> None:
    prepare(read_manifest(data), load_model(model).contract, tmp_path / "store")
    stored, plain = (load_inputs(source, [str(model)], images=9) for source in (tmp_path / "store", data))
    np.testing.assert_array_equal(stored.pixels, plain.pixels)
    np.testing.assert_array_equal(stored.labels, plain.labels)


def test_images_without_a_label_are_left_out_and_counted(data: Path, model: Path) -> None:
    table = pd.read_csv(data)
    table.loc[:4, "label"] = ""
    table.to_csv(data.with_name("some.csv"), index=False)
    inputs = load_inputs(data.with_name("some.csv"), [str(model)])
    assert len(inputs.labels) == 31
    assert inputs.summary == "31 images: all of the data; 5 left out, since they have no label."
    table.assign(label="").to_csv(data.with_name("none.csv"), index=False)
    with pytest.raises(UserError, match=r"none\.csv: no image has a label; fill the manifest's label column"):
        load_inputs(data.with_name("none.csv"), [str(model)])
    table.query("label == 'anger' or label == 'happiness'").to_csv(data.with_name("two.csv"), index=False)
    with pytest.raises(UserError, match="class 'surprise' has no image"):
        load_inputs(data.with_name("two.csv"), [str(model)])


def test_bad_input_is_one_sentence(run: Path, data: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder, so there is no network to look at; name one with --net"):
        load_inputs(data)
    with pytest.raises(UserError, match=r"no fold 'fold-7' with a model; its folds are fold-1"):
        load_inputs(run, fold="fold-7")
    with pytest.raises(UserError, match=r"no fold 'fold-7'; its folds are fold-1"):
        load_inputs(run, [str(model)], fold="fold-7", part="test")
    with pytest.raises(UserError, match="'absent': no such folder, and as a face net"):
        load_inputs(data, ["absent"])
    with pytest.raises(UserError, match="expected one model folder or more"):
        load_inputs(data, ["tiny"])
    assert "target 'boredom'" in message("deepdraw", run, "--target", "boredom", out=tmp_path)
    error = message("mean-faces", run, "--net", model, "--net", model, out=tmp_path)
    assert "expected one network, got 2" in error
    assert "no layer 'fc7'" in message("neurons", run, "--net", model, "--layer", "fc7", out=tmp_path)


@pytest.mark.parametrize("command", OF_IMAGES)
def test_a_network_that_gives_nan(command: str, data: Path, model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    weights = load_file(model / WEIGHTS)
    weights = {k: value * torch.nan if value.is_floating_point() else value for k, value in weights.items()}
    save_file(weights, broken / WEIGHTS)
    error = message(command, data, "--net", broken, out=tmp_path)
    assert "gives NaN or infinity" in error
    assert "a training that diverged" in error
