"""Push a model to the Hugging Face hub; `predict.fetch` gets it from there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from facenet2expnet import __version__
from facenet2expnet.crop import resize_square
from facenet2expnet.data.bundled import read_sample, sample_folder
from facenet2expnet.data.pictures import read_picture
from facenet2expnet.deploy.model_card import hub_licence, model_card
from facenet2expnet.errors import UserError
from facenet2expnet.files import read_json
from facenet2expnet.predict.fetch import ONNX, hub_error, split_reference
from facenet2expnet.predict.model_folder import CARD, WEIGHTS, Model, find_model, load_model, locate_model, on_hub
from facenet2expnet.predict.onnx_model import load_onnx
from facenet2expnet.predict.scores import class_probabilities

README = "README.md"
LARGEST_DIFFERENCE = 1e-3
"""Between the probabilities of model.safetensors and of a model.onnx beside it."""

COMPARED_EVERY = 60
"""They are compared on each so-many-th face of the bundled sample."""


def push(
    model: str | Path,
    repository: str,
    *,
    public: bool = False,
    licence: str | None = None,
    message: str = "",
    token: str | None = None,
) -> str:
    """Upload a model as one commit: model.safetensors, model.json, model.onnx if it is there, and README.md.

        push("runs/mine", "owner/name")
        Recognizer.load("hf:owner/name")

    A new repository is private, since a model shows something of the people in its training data. An old one stays as
    it is. `model.json` is uploaded with its training command, and with the hashes of the other files. README.md is the
    model card of `model_card`, or the folder's own.

    Args:
        model: a model folder, a run folder with one model, or the name of a model of the package.
        repository: owner/name; made if it is not there.
        public: make a new repository public.
        licence: of the weights, as the hub names it: apache-2.0, cc-by-nc-4.0, other, ...; by default the one that
            `model.json` names.
        message: of the commit.
        token: of the hub; by default the one of `hf auth login` or HF_TOKEN.
    Returns:
        The address of the commit.
    Raises:
        UserError: If there is no whole model, a licence is given beside an own README.md, model.onnx gives other
            answers, a name is wrong, or the hub refuses.
    """
    if on_hub(model):
        raise UserError(f"{model}: expected a model on this machine; fetch it and name its folder")
    if split_reference(f"hf:{repository}")[1]:
        raise UserError(f"'{repository}': expected owner/name; a push makes a new revision")
    if licence is not None and not hub_licence(licence):
        raise UserError(
            f"licence is '{licence}', expected a name of the hub, such as apache-2.0, cc-by-nc-4.0 or other"
        )
    folder = find_model(locate_model(model))
    own = folder / README
    if licence is not None and own.is_file():
        raise UserError(f"{own} is uploaded as it is: write the licence in it, without --licence, or move it away")
    files = pushed_files(folder)
    files[README] = own.read_bytes() if own.is_file() else model_card(folder, repository, licence).encode()
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(token=token, library_name="facenet2expnet", library_version=__version__)
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        operations: list[Any] = [CommitOperationAdd(name, content) for name, content in files.items()]
        if ONNX not in files and api.file_exists(repository, ONNX):
            operations.append(CommitOperationDelete(ONNX))  # of an earlier push: it belongs to other weights
        done = api.create_commit(repository, operations, commit_message=message or f"Model of {__version__}")
    except Exception as error:  # the hub's errors, those of its HTTP client
        raise hub_error(f"hf:{repository}", error) from error
    return str(done.commit_url)


def pushed_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a model folder by name, with the hashes of the others in `model.json`.

    Raises:
        UserError: If the model can't be loaded, or model.onnx gives other answers.
    """
    model = load_model(folder)
    files = {name: (folder / name).read_bytes() for name in (WEIGHTS, ONNX) if (folder / name).is_file()}
    if ONNX in files:
        _compare_onnx(folder / ONNX, model)
    card = read_json(folder / CARD)
    card["sha256"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return files | {CARD: json.dumps(card, indent=2, ensure_ascii=False).encode()}


def _compare_onnx(path: Path, model: Model) -> None:
    """Compare a model's ONNX file with its weights, on faces of the bundled sample.

    Raises:
        UserError: If their probabilities differ, the file is no such model, or ONNX Runtime is not installed.
    """
    exported = load_onnx(path, "cpu")
    if (exported.classes, exported.contract) != (model.classes, model.contract):
        raise UserError(f"{path}: not an export of this model: other classes or another crop; export it again")
    side, sample = model.contract.crop_px, sample_folder()
    images = read_sample()["image"].iloc[::COMPARED_EVERY]
    crops = np.stack([resize_square(read_picture(sample / image), side) for image in images])
    expected = class_probabilities(model.module, crops, side)
    difference = float(np.abs(expected - exported.probabilities(crops)).max())
    if not difference <= LARGEST_DIFFERENCE:
        raise UserError(
            f"{path}: its probabilities differ from those of {WEIGHTS} by up to {difference:.2g}, expected at most "
            f"{LARGEST_DIFFERENCE:g}; export the model again, or move the file out of the folder"
        )
