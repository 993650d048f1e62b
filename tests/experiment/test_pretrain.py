"""Pretraining: a start from faces without labels, and trainings that begin with it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import tiny
from facenet2expnet import recipes
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.compare import train
from facenet2expnet.experiment.pretrain import _hold_out, pretrain
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.training import pretrain as module
from facenet2expnet.training.loop import fit
from facenet2expnet.training.pretrain import LARGEST_TARGET, STD_FLOOR, robust_loss
from facenet2expnet.training.start import load_start, start_folder
from facenet2expnet.training.statistics import FeatureStatistics

pytestmark = pytest.mark.usefixtures("tiny_face_net")
CPU: dict[str, Any] = {"device": "cpu", "threads": 1}
BN = "expnet.batch_norm=true"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty faces at different depths of a folder, without class folders."""
    folder, rng = tmp_path_factory.mktemp("pretrain") / "faces", np.random.default_rng(0)
    (folder / "deep" / "er").mkdir(parents=True)
    for number in range(40):
        place = folder if number % 2 else folder / "deep" / "er"
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(place / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def start(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny.register_tiny()
    out = tmp_path_factory.mktemp("start") / "start"
    return pretrain(pictures, recipe=tiny.tiny_recipe(BN), out=out, licence="CC0", **CPU)


def test_a_start_says_what_it_is_made_of(start: Path) -> None:
    metadata = json.loads((start / "start.json").read_text())
    assert (metadata["face_net"], metadata["tap"], metadata["input_px"], metadata["width"]) == ("tiny", "late", 32, 0.1)
    assert (metadata["data"]["trained_on"], metadata["data"]["held_out"]) == (38, 2)
    assert metadata["licence"] == "CC0"
    assert -10 < metadata["r2_held_out"] <= 1
    names = set(load_file(start / "start.safetensors"))
    assert {name.partition(".")[0] for name in names} == {"convolutions", "bridge"}
    assert "R2 " in (start / "log.txt").read_text()


def test_more_epochs_explain_more_of_held_out_faces(pictures: Path, tmp_path: Path) -> None:
    found = []
    for epochs in (1, 25):
        recipe = tiny.tiny_recipe(BN, "augment.erasing=0", "stage1.lr=0.01")
        out = pretrain(pictures, recipe=recipe, out=tmp_path / str(epochs), epochs=epochs, **CPU)
        found.append(json.loads((out / "start.json").read_text())["r2_held_out"])
    assert found[1] > found[0] + 0.1


def test_views_are_fresh_and_the_teacher_stays_as_it_is(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, ask = [], module.PretrainStage.loss

    def loss(self: module.PretrainStage, examples: torch.Tensor) -> torch.Tensor:
        teaching_ask = type(self.teaching).ask
        monkeypatch.setattr(
            type(self.teaching), "ask", lambda own, crops: (seen.append(crops.clone()), teaching_ask(own, crops))[1]
        )
        value = ask(self, examples)
        monkeypatch.setattr(type(self.teaching), "ask", teaching_ask)
        seen.append(self.teaching.teacher.face_net.early.weight.clone())
        return value

    monkeypatch.setattr(module.PretrainStage, "loss", loss)
    pretrain(pictures, recipe=tiny.tiny_recipe(BN), out=tmp_path / "start", **CPU)
    crops, weights = seen[::2], seen[1::2]
    assert len({crop.numpy().tobytes() for batch in crops for crop in batch}) == 2 * 38  # two epochs, no view twice
    assert all(torch.equal(weight, tiny.TinyFaceNet().early.weight) for weight in weights)


def test_an_interrupted_pretraining_is_resumed_to_the_same_start(
    pictures: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from facenet2expnet.training import loop

    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    arguments = {"recipe": tiny.tiny_recipe(BN), "out": tmp_path / "start", "licence": "CC0", **CPU}

    def stop(what: str, done: int, total: int) -> None:
        if what == "pretraining":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(pictures, **arguments, progress=stop)
    assert not (tmp_path / "start" / "start.json").exists()
    with pytest.raises(UserError, match="another recipe"):
        pretrain(pictures, **(arguments | {"recipe": tiny.tiny_recipe(BN, "stage1.lr=0.5")}), resume=True)
    out = pretrain(pictures, **arguments, resume=True)
    one, two = load_file(start / "start.safetensors"), load_file(out / "start.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_training_begins_with_the_start(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With stage 1 and without it the convolutions begin with the start's weights; the baseline does not."""
    begun: dict[str, dict[str, torch.Tensor]] = {}

    def remember(stage: Any, *rest: Any, **named: Any) -> Any:
        begun.setdefault(stage.name, {name: value.clone() for name, value in stage.module.state_dict().items()})
        return fit(stage, *rest, **named)

    monkeypatch.setattr("facenet2expnet.training.stages.fit", remember)
    faces, weights = tiny.write_faces(tmp_path / "faces"), load_file(start / "start.safetensors")
    weights = {name: value.float() for name, value in weights.items()}  # kept in half precision
    first = weights["convolutions.conv1.weight"]
    train(faces, recipe=tiny.tiny_recipe(BN, f"expnet.start={start}"), out=tmp_path / "one", **CPU)
    assert torch.equal(begun["stage1"]["0.conv1.weight"], first)
    assert torch.equal(begun["stage1"]["1.conv.weight"], weights["bridge.conv.weight"])
    begun.clear()
    recipe = tiny.tiny_recipe(BN, f"expnet.start={start}", "stage1.epochs=0")
    train(faces, recipe=recipe, out=tmp_path / "two", **CPU)
    assert torch.equal(begun["stage2"]["net.convolutions.conv1.weight"], first)
    train(faces, recipe=recipe, out=tmp_path / "three", method="scratch", **CPU)
    assert not torch.equal(begun["scratch"]["net.convolutions.conv1.weight"], first)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("face_net.tap=early", r"face_net\.tap=early; it fits with --set face_net\.tap=late"),
        ("expnet.width=0.2", r"expnet\.width=0\.2; it fits with --set expnet\.width=0\.1"),
        ("expnet.batch_norm=false", r"expnet\.batch_norm=false; it fits with --set expnet\.batch_norm=true"),
        ("expnet.pool_to_tap=true", r"expnet\.pool_to_tap=true; it fits with --set expnet\.pool_to_tap=false"),
    ],
)
def test_a_start_that_does_not_fit_says_what_would(start: Path, tmp_path: Path, setting: str, message: str) -> None:
    faces = tiny.write_faces(tmp_path / "faces")
    recipe = tiny.tiny_recipe(BN, f"expnet.start={start}", setting)
    with pytest.raises(UserError, match=message):
        train(faces, recipe=recipe, out=tmp_path / "run", **CPU)
    assert not (tmp_path / "run").exists()


def test_the_start_of_the_package_is_chosen_by_what_fits(
    pictures: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from facenet2expnet.training import start as starts

    monkeypatch.setattr(starts, "SHIPPED", tmp_path / "starts")
    faces, named = tiny.write_faces(tmp_path / "faces"), [BN, "expnet.start=faces"]
    with pytest.raises(UserError, match="this package has no start"):
        train(faces, recipe=tiny.tiny_recipe(*named), out=tmp_path / "none", **CPU)
    wide = tiny.tiny_recipe(BN, "expnet.width=0.2")
    pretrain(pictures, recipe=wide, out=tmp_path / "starts" / "a-wide", **CPU)
    with pytest.raises(
        UserError, match=r"a-wide' was not made for expnet\.width=0\.1; it fits with --set expnet\.width"
    ):
        train(faces, recipe=tiny.tiny_recipe(*named), out=tmp_path / "none", **CPU)
    shutil.copytree(start, tmp_path / "starts" / "b-narrow")
    run = train(faces, recipe=tiny.tiny_recipe(*named), out=tmp_path / "run", **CPU)
    same = train(faces, recipe=tiny.tiny_recipe(BN, f"expnet.start={start}"), out=tmp_path / "same", **CPU)
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (run, same))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_pretraining_goes_on_from_another_start(pictures: Path, start: Path, tmp_path: Path) -> None:
    """At a rate of almost 0 the weights stay those that it began with."""
    recipe = tiny.tiny_recipe(BN, f"expnet.start={start}", "stage1.lr=1e-30")
    out = pretrain(pictures, recipe=recipe, out=tmp_path / "longer", **CPU)
    one, two = (load_file(folder / "start.safetensors") for folder in (start, out))
    assert torch.equal(one["convolutions.conv1.weight"], two["convolutions.conv1.weight"])
    began_with = json.loads((out / "start.json").read_text())["began_with"]
    assert began_with["licence"] == "CC0"
    assert began_with["data"]["unlabelled"] == 40
    assert began_with["sha256"] == hashlib.sha256((start / "start.safetensors").read_bytes()).hexdigest()


def test_a_folder_without_a_start_is_named(tmp_path: Path) -> None:
    faces = tiny.write_faces(tmp_path / "faces")
    with pytest.raises(UserError, match=r"expnet\.start is '.*', expected a folder with start\.json"):
        train(faces, recipe=tiny.tiny_recipe(BN, f"expnet.start={tmp_path}"), out=tmp_path / "run", **CPU)


def test_held_out_faces_are_of_other_subjects(tmp_path: Path) -> None:
    from facenet2expnet.data.manifest import Manifest

    table = pd.DataFrame({"image": [f"{n}.png" for n in range(100)], "label": ""})
    manifest = Manifest(table.assign(subject=[f"S{n // 4}" for n in range(100)]), tmp_path)
    train_rows, held = _hold_out(manifest, seed=0)
    assert sorted([*train_rows, *held]) == list(range(100))
    assert manifest.subjects is not None
    assert not set(manifest.subjects[train_rows]) & set(manifest.subjects[held])
    assert len(held) == 8  # two subjects: a twentieth or a little more
    with pytest.raises(UserError, match="two faces or more"):
        _hold_out(manifest.rows(np.arange(4)), seed=0)


def test_a_table_without_labels_will_do(pictures: Path, tmp_path: Path) -> None:
    images = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png"))
    table = pd.DataFrame({"image": images, "subject": [f"S{n // 2}" for n in range(40)]})
    table.to_csv(pictures / "faces.csv", index=False)
    out = pretrain(pictures / "faces.csv", recipe=tiny.tiny_recipe(BN), out=tmp_path / "start", **CPU)
    assert json.loads((out / "start.json").read_text())["data"]["subjects"] == 20


def test_units_that_hardly_respond_do_not_rule_the_loss() -> None:
    mean, std = torch.zeros(3, 1, 1), torch.tensor([1.0, 2.0, 0.001]).view(3, 1, 1)
    loss = robust_loss(FeatureStatistics(mean, std))
    target = loss.target(torch.tensor([1.0, 1.0, 1.0]).view(1, 3, 1, 1)).flatten()
    assert target.tolist() == [1.0, 0.5, LARGEST_TARGET]  # 1 / (a tenth of the median) would be 10
    assert loss.statistics.std.min() == pytest.approx(STD_FLOOR)
    assert loss.standardises


@pytest.mark.parametrize("name", ["quick", "best"])
def test_the_presets_begin_with_the_start_of_the_package(name: str) -> None:
    """Its file is small, says what it was made of, and its weights are those of the recipe's net, in half precision."""
    recipe = recipes.load(name)
    folder = start_folder(recipe, face_net="dlib-resnet29", tap=recipe.face_net.tap)
    weights, card = folder / "start.safetensors", json.loads((folder / "start.json").read_text())
    assert weights.stat().st_size < 8_000_000
    assert card["r2_held_out"] > 0.4
    assert card["data"]["trained_on"] > 20_000
    assert "FER2013" in card["licence"]
    own = recipe.expnet
    net = ExpNet(
        2, input_px=recipe.crop.crop_px, bridge_chw=(128, 8, 8), width=own.width, batch_norm=own.batch_norm,
        blocks=own.blocks, pool_to_tap=own.pool_to_tap,
    )  # fmt: skip
    before = net.convolutions.conv1.weight.clone()
    load_start(folder, net)
    assert not torch.equal(net.convolutions.conv1.weight, before)
    assert torch.equal(net.convolutions.conv1.weight, load_file(weights)["convolutions.conv1.weight"].float())
