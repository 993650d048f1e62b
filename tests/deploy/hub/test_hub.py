"""Push: what a repository holds afterwards, refusals, and a model.onnx that is not of the model."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from facenet2expnet.cli.main import make_app
from facenet2expnet.data.bundled import read_sample, sample_folder
from facenet2expnet.deploy.hub import COMPARED_EVERY, push, pushed_files
from facenet2expnet.deploy.onnx import with_metadata
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.calibration import calibrate
from facenet2expnet.predict import model_folder
from facenet2expnet.predict.fetch import fetch
from facenet2expnet.predict.model_folder import WEIGHTS, Model, load_model, save_model
from hub_server import TOKEN, HubServer


def held(hub: HubServer, name: str = "me/faces") -> dict[str, bytes]:
    """The files of the newest commit."""
    repository = hub.repositories[name]
    return repository.commits[repository.branches["main"]]


def test_push_and_fetch(hub: HubServer, saved: Path, model: Model) -> None:
    address = push(saved, "me/faces")
    assert address == f"{hub.url}/me/faces/commit/{hub.repositories['me/faces'].branches['main']}"
    assert hub.repositories["me/faces"].private
    files = held(hub)
    assert sorted(files) == ["README.md", "model.json", "model.safetensors"]
    assert files[WEIGHTS] == (saved / WEIGHTS).read_bytes()
    card = json.loads(files["model.json"])
    assert card.pop("sha256") == {WEIGHTS: hashlib.sha256(files[WEIGHTS]).hexdigest()}
    assert card == json.loads((saved / "model.json").read_text())
    assert files["README.md"].startswith(b"---\nlicense: other\n")
    loaded = load_model(fetch("hf:me/faces"))
    assert (loaded.classes, loaded.metadata) == (model.classes, model.metadata)


def test_a_public_repository_and_a_licence(hub: HubServer, saved: Path) -> None:
    push(saved, "me/faces", public=True, licence="cc-by-nc-4.0", message="first")
    assert not hub.repositories["me/faces"].private
    text = held(hub)["README.md"].decode()
    assert text.startswith("---\nlicense: cc-by-nc-4.0\n")
    assert "The weights are under cc-by-nc-4.0." in text


def test_a_second_push_replaces_the_model(hub: HubServer, saved: Path, model: Model) -> None:
    push(saved, "me/faces")
    with torch.no_grad():
        model.module.get_submodule("net.head.scores").bias.add_(1.0)
    save_model(model, saved)
    (saved / "README.md").write_text("---\nlicense: other\nlanguage: en\n---\nMy own card.\n")
    hub.repositories["me/faces"].commit(held(hub) | {"model.onnx": b"of the first"})
    push(saved, "me/faces")
    files = held(hub)
    assert files[WEIGHTS] == (saved / WEIGHTS).read_bytes()
    assert b"My own card." in files["README.md"]
    assert "model.onnx" not in files
    load_model(fetch("hf:me/faces"))


def test_a_model_of_the_package_is_pushed_by_its_name_and_not_calibrated_in_place(
    hub: HubServer, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_folder, "SHIPPED", saved.parent)
    saved.rename(saved.parent / "small")
    monkeypatch.chdir(saved.parent.parent)
    push("small", "me/faces")
    assert held(hub)[WEIGHTS] == (saved.parent / "small" / WEIGHTS).read_bytes()
    with pytest.raises(UserError, match="small: a model of the hub or the package can't be changed in place"):
        calibrate("small", "faces")


def test_a_licence_beside_an_own_card_is_refused(hub: HubServer, saved: Path) -> None:
    (saved / "README.md").write_text("My own card.\n")
    with pytest.raises(UserError, match=r"README\.md is uploaded as it is: write the licence in it"):
        push(saved, "me/faces", licence="apache-2.0")
    assert hub.requests == []


def test_refusals(hub: HubServer, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"hf:others/faces: there is no such repository, or your token may not use it"):
        push(saved, "others/faces")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match=r"log in with `hf auth login` or set HF_TOKEN \(.*401"):
        push(saved, "me/faces")
    assert hub.repositories == {}
    push(saved, "me/faces", token=TOKEN)
    hub.failing = 500
    with pytest.raises(UserError, match=r"hf:me/faces: the hub refused the request \(.*500"):
        push(saved, "me/faces", token=TOKEN)


@pytest.mark.parametrize(
    ("repository", "licence", "message"),
    [
        ("faces", "other", "expected hf:owner/name"),
        ("me/faces@v1", "other", "'me/faces@v1': expected owner/name; a push makes a new revision"),
        ("me/faces", "other\ntags: x", "expected a name of the hub, such as apache-2.0"),
    ],
)
def test_names_that_are_none(hub: HubServer, saved: Path, repository: str, licence: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        push(saved, repository, licence=licence)
    assert hub.requests == []


def test_what_is_no_model(hub: HubServer, saved: Path) -> None:
    with pytest.raises(UserError, match=r"hf:me/faces: expected a model on this machine"):
        push("hf:me/faces", "me/other")
    (saved / WEIGHTS).write_bytes((saved / WEIGHTS).read_bytes()[:100])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        push(saved, "me/faces")
    assert hub.requests == []


class Exported(nn.Module):
    """A network with uint8 crops (N, H, W, 3) as input and probabilities as output, times a factor."""

    def __init__(self, module: nn.Module, factor: float = 1.0) -> None:
        super().__init__()
        self.module, self.factor = module, factor

    def forward(self, crops: Tensor) -> Tensor:
        return self.module(crops.permute(0, 3, 1, 2).float()).softmax(1) * self.factor


def export(model: Model, path: Path, factor: float = 1.0, side: int = 32) -> None:
    crops = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    axes = {"crops": {0: "n"}, "probabilities": {0: "n"}}
    torch.onnx.export(
        Exported(model.module, factor), (crops,), str(path), input_names=["crops"], output_names=["probabilities"],
        dynamic_axes=axes, dynamo=False,
    )  # fmt: skip
    path.write_bytes(with_metadata(path.read_bytes(), model, {}))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_onnx_file_beside_the_weights(hub: HubServer, saved: Path, model: Model) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    export(model, saved / "model.onnx")
    push(saved, "me/faces")
    assert held(hub)["model.onnx"] == (saved / "model.onnx").read_bytes()
    assert "`model.onnx`" in held(hub)["README.md"].decode()
    assert (fetch("hf:me/faces") / "model.onnx").read_bytes() == held(hub)["model.onnx"]
    export(model, saved / "model.onnx", factor=0.9)
    with pytest.raises(
        UserError, match=r"model\.onnx: its probabilities differ .* by up to 0\.\d+, expected at most 0\.001"
    ):
        pushed_files(saved)
    export(replace(model, classes=("a", "b", "c")), saved / "model.onnx")
    with pytest.raises(UserError, match=r"model\.onnx: not an export of this model: other classes"):
        pushed_files(saved)
    (saved / "model.onnx").write_bytes(b"no network")
    with pytest.raises(UserError, match=r"model\.onnx: not a whole ONNX file .*make the file again with fn2en export"):
        pushed_files(saved)


def test_the_faces_that_are_compared_are_there() -> None:
    images = read_sample()["image"].iloc[::COMPARED_EVERY]
    assert len(images) >= 10
    assert all((sample_folder() / image).is_file() for image in images)


def test_the_command(hub: HubServer, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        make_app()(["push", str(saved), "me/faces", "--licence", "apache-2.0"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert f"commit: {hub.url}/me/faces/commit/" in printed
    assert "try it: fn2en predict hf:me/faces PICTURE" in printed
    assert held(hub)["README.md"].startswith(b"---\nlicense: apache-2.0\n")


@pytest.mark.slow
def test_the_commands_in_processes_of_their_own(hub: HubServer, saved: Path, tmp_path: Path) -> None:
    """The address of the hub, the token and the cache are read as huggingface_hub has them."""
    environment = os.environ | {
        "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1",
    }  # fmt: skip

    def fn2en(*arguments: object) -> str:
        command = [sys.executable, "-m", "facenet2expnet.cli.main", *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    fn2en("push", saved, "me/faces")
    image = sample_folder() / read_sample()["image"][0]
    table = tmp_path / "table.csv"
    printed = fn2en("predict", "hf:me/faces", image, "--faces", "whole-image", "--out", table)
    assert "1 picture, 1 face" in printed
    first = np.genfromtxt(table, delimiter=",", dtype=str)
    hub.shutdown()
    printed = fn2en("predict", "hf:me/faces", image, "--faces", "whole-image", "--out", table, "--quiet")
    assert (np.genfromtxt(table, delimiter=",", dtype=str) == first).all()
    assert "hf:me/faces: the hub can't be reached" in printed
