"""Models of the hub: what is fetched, what is not, the cache, hashes, and refusals."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants

import tiny
from facenet2expnet.analysis.inputs import load_inputs
from facenet2expnet.cli.main import make_app
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.calibration import calibrate
from facenet2expnet.predict import fetch as module
from facenet2expnet.predict import model_folder
from facenet2expnet.predict.fetch import fetch
from facenet2expnet.predict.model_folder import Model, load_model, locate_model
from facenet2expnet.predict.recognizer import Recognizer
from hub_server import HubServer, Repository

Files = dict[str, bytes]


@pytest.fixture
def files(saved: Path) -> Files:
    """A model as it is pushed, and what somebody put beside it."""
    weights = (saved / "model.safetensors").read_bytes()
    card = json.loads((saved / "model.json").read_text()) | {
        "sha256": {"model.safetensors": hashlib.sha256(weights).hexdigest()}
    }
    return {
        "model.json": json.dumps(card).encode(),
        "model.safetensors": weights,
        "README.md": b"---\nlicense: other\n---\n",
        "pytorch_model.bin": b"a pickle",
    }


@pytest.fixture
def repository(hub: HubServer, files: Files) -> Repository:
    repository = hub.repositories["me/faces"] = Repository()
    repository.commit(files)
    return repository


def test_a_model_of_the_hub_predicts_as_the_one_that_was_pushed(repository: Repository, model: Model) -> None:
    recognizer = Recognizer.load("hf:me/faces", device="cpu")
    assert recognizer.classes == model.classes
    assert recognizer.contract == model.contract
    crops = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (3, 3, 32, 32)).astype(np.float32))
    assert torch.equal(recognizer.model(crops), model.module(crops))
    assert "sha256" not in recognizer.metadata


def test_only_known_files_are_fetched(repository: Repository, hub: HubServer, files: Files) -> None:
    folder = fetch("hf:me/faces")
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
    stated = {
        name: hashlib.sha256(files["model.safetensors"]).hexdigest() for name in ("model.safetensors", "model.onnx")
    }
    card = json.loads(files["model.json"]) | {"sha256": stated}
    repository.commit(files | {"model.json": json.dumps(card).encode(), "model.onnx": files["model.safetensors"]})
    assert sorted(path.name for path in fetch("hf:me/faces").iterdir()) == [
        "model.json", "model.onnx", "model.safetensors",
    ]  # fmt: skip
    assert not any("pytorch_model" in request or "README" in request for request in hub.requests)


def test_the_cache_is_used(repository: Repository, hub: HubServer) -> None:
    folder = fetch("hf:me/faces")
    hub.requests.clear()
    assert fetch("hf:me/faces") == folder
    assert not [request for request in hub.requests if request.startswith("GET") and "/api/" not in request]


def test_revisions(repository: Repository, hub: HubServer, files: Files) -> None:
    first = repository.branches["main"]
    repository.branches["v1"] = first
    card = json.loads(files["model.json"]) | {"classes": ["x", "y", "z"]}
    repository.commit(files | {"model.json": json.dumps(card).encode()})
    assert load_model(fetch("hf:me/faces")).classes == ("x", "y", "z")
    assert (
        load_model(fetch("hf:me/faces@v1")).classes
        == load_model(fetch(f"hf:me/faces@{first}")).classes
        != ("x", "y", "z")
    )
    with pytest.raises(UserError, match=r"hf:me/faces@v9: the repository has no such revision"):
        fetch("hf:me/faces@v9")


def test_a_broken_download_goes_on_where_it_stopped(
    repository: Repository, hub: HubServer, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)  # 10 MB in life: it goes on after the last whole one
    hub.break_after = 1200
    folder = fetch("hf:me/faces")
    assert (folder / "model.safetensors").read_bytes() == files["model.safetensors"]
    assert [request.partition(" /")[0] for request in hub.requests if "/storage/" in request] == ["GET", "GET"]
    assert [request for request in hub.requests if request.endswith("bytes=1000-")]


def test_without_a_connection_the_cache_is_used_and_it_is_said(
    repository: Repository, hub: HubServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"can't be reached \(.*offline.*not in the cache; load it once"):
        fetch("hf:me/faces")
    assert hub.requests == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    folder = fetch("hf:me/faces")
    hub.failing = 503
    with caplog.at_level(logging.WARNING, "facenet2expnet"):
        assert fetch("hf:me/faces") == folder
    assert "the hub can't be reached (Server error '503" in caplog.text
    assert "the copy in the cache is used" in caplog.text
    hub.shutdown()
    hub.server_close()
    assert fetch("hf:me/faces") == folder
    with pytest.raises(UserError, match="not in the cache"):
        fetch("hf:me/others")


def test_half_a_model_in_the_cache_is_no_model(repository: Repository, hub: HubServer) -> None:
    folder = fetch("hf:me/faces")
    (folder / "model.safetensors").unlink()
    hub.failing = 503
    with pytest.raises(UserError, match="not in the cache"):
        fetch("hf:me/faces")


def test_a_damaged_copy_is_found_and_mended_as_the_message_says(repository: Repository, files: Files) -> None:
    blob = (fetch("hf:me/faces") / "model.safetensors").resolve()
    blob.write_bytes(files["model.safetensors"][:-1] + b"?")
    with pytest.raises(
        UserError, match=rf"expected a file with sha256 .*damaged or of another model: delete {blob} and"
    ):
        fetch("hf:me/faces")
    blob.unlink()
    assert load_model(fetch("hf:me/faces")).classes


def test_a_folder_with_other_weights_is_not_loaded(saved: Path, files: Files) -> None:
    (saved / "model.json").write_bytes(files["model.json"])
    load_model(saved)
    (saved / "model.safetensors").write_bytes(files["model.safetensors"][:-4] + b"\0\0\0\0")
    with pytest.raises(UserError, match=r"model\.safetensors: expected a file with sha256"):
        load_model(saved)


def test_a_model_that_was_uploaded_by_hand_has_no_hashes(repository: Repository, files: Files, model: Model) -> None:
    card = json.loads(files["model.json"])
    del card["sha256"]
    repository.commit(files | {"model.json": json.dumps(card).encode()})
    assert load_model(fetch("hf:me/faces")).classes == model.classes


@pytest.mark.parametrize(
    "changed",
    [
        {"model.json": b'{"architectures": ["ViT"]}'},
        {"model.json": b"[]"},
        {"model.json": b'{"format": "facenet2expnet-model-1", "sha256": "12"}'},
        {"model.json": None},
        {"model.safetensors": None},
    ],
)
def test_another_repository_is_refused_before_its_weights(
    repository: Repository, hub: HubServer, files: Files, changed: dict[str, bytes | None]
) -> None:
    repository.commit({name: content for name, content in (files | changed).items() if content is not None})
    with pytest.raises(
        UserError, match=r"hf:me/faces: not a model of facenet2expnet: expected a model\.json of format"
    ):
        fetch("hf:me/faces")
    assert not any("/storage/" in request for request in hub.requests)


def test_a_missing_and_a_private_repository(
    repository: Repository, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = r"hf:me/\w+: there is no such repository, or your token may not .*log in with `hf auth login`"
    with pytest.raises(UserError, match=refused + r".*\(404"):
        fetch("hf:me/nothing")
    repository.private = True
    fetch("hf:me/faces")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match=refused + r".*\(401"):
        fetch("hf:me/faces")  # not from the cache either
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(UserError, match=refused):
        fetch("hf:me/faces")


@pytest.mark.parametrize("name", ["hf:", "hf:faces", "hf:me/faces/model.json", "hf:me/faces@", "hf:me/fa ces"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UserError, match="expected hf:owner/name or hf:owner/name@revision"):
        fetch(name)


def test_a_name_that_the_hub_never_gives(hub: HubServer) -> None:
    with pytest.raises(UserError, match="'hf:me/a--b': "):
        fetch("hf:me/a--b")
    assert hub.requests == []


def test_locate_model(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fetch", lambda reference: Path("fetched") / reference)
    assert locate_model("hf:me/faces@v1") == Path("fetched/hf:me/faces@v1")
    assert locate_model(saved) == locate_model(str(saved)) == saved
    assert locate_model("small") == model_folder.SHIPPED / "small"
    monkeypatch.setattr(model_folder, "SHIPPED", saved)
    with pytest.raises(UserError, match="comes without the model 'small'"):
        locate_model("small")


def test_commands_take_a_model_of_the_hub(
    repository: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faces = tiny.write_faces(tmp_path / "faces", each=4)
    with pytest.raises(SystemExit) as ended:
        make_app()(["evaluate", "hf:me/faces", str(faces), "--quiet"])
    assert ended.value.code == 0
    assert "accuracy" in capsys.readouterr().out
    assert list(load_inputs(faces, ["hf:me/faces"]).nets) == ["expression net"]
    with pytest.raises(
        UserError, match="hf:me/faces: a model of the hub or the package can't be changed in place; give --out"
    ):
        calibrate("hf:me/faces", faces)
    assert calibrate("hf:me/faces", faces, out=tmp_path / "calibrated").folder == tmp_path / "calibrated"
    assert "sha256" not in json.loads((tmp_path / "calibrated" / "model.json").read_text())
