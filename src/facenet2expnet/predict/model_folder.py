"""A trained model as a folder: weights as safetensors, and a JSON file with everything else."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facenet2expnet.crop import CropContract
from facenet2expnet.errors import UserError
from facenet2expnet.files import read_json, write_json
from facenet2expnet.predict.onnx_model import is_onnx

if TYPE_CHECKING:
    from torch import nn

FORMAT = "facenet2expnet-model-1"
WEIGHTS, CARD = "model.safetensors", "model.json"

ONNX = "model.onnx"
"""An exported copy beside the weights; it is used where PyTorch is not installed."""

SHIPPED = Path(__file__).parent.parent / "models"
"""The folder of the models of the package, one folder a model."""

SHIPPED_NAMES, DEFAULT_MODEL = ("standard", "small"), "standard"


@dataclass(frozen=True, eq=False)
class Model:
    """A network and everything needed to use it.

    Attributes:
        module: RGB crops (B, 3, H, W) in 0..255 -> class scores (B, K); in evaluation mode.
        classes: class names in the order of the scores.
        contract: how a picture becomes a crop.
        metadata: what else was saved with it, for JSON: recipe, method, origin, metrics.
    """

    module: nn.Module
    classes: tuple[str, ...]
    contract: CropContract
    metadata: dict[str, Any]


def save_model(model: Model, folder: Path, *, int8: bool = False) -> None:
    """Write `model.safetensors` and `model.json`; each file is written atomically.

    An exported `model.onnx` of the folder is deleted, since it would be another model's.

    Args:
        model, folder: what and where.
        int8: write the weights of convolutions and linear layers in 8 bits, with a scale for every output channel; the
            model that is loaded computes in 32 bits.
    Raises:
        UserError: If the folder can't be written.
    """
    from torch import nn

    from facenet2expnet.nets.classifier import ExpressionClassifier, FaceClassifier
    from facenet2expnet.nets.storage import as_int8, write_tensors

    module = model.module
    if isinstance(module, ExpressionClassifier):
        architecture: dict[str, Any] = {"kind": "expression-net", **module.net.arguments}
    else:
        assert isinstance(module, FaceClassifier)
        norm = isinstance(module.head.norm, nn.BatchNorm1d)
        architecture = {"kind": "face-net", "face_net": module.face_net.info.name, "head_norm": norm}
    card = {
        "format": FORMAT,
        "architecture": architecture,
        "classes": list(model.classes),
        "contract": model.contract.to_dict(),
        **model.metadata,
    }
    (folder / ONNX).unlink(missing_ok=True)
    weights = module.state_dict()
    write_tensors(folder / WEIGHTS, as_int8(weights) if int8 else weights, {"format": FORMAT})
    write_json(folder / CARD, card)


def load_model(folder: Path) -> Model:
    """Load a model that `save_model` wrote, from its folder or a run folder with one model in it.

    If `model.json` states the hash of the weights, as in models that were pushed to the hub, they are compared.

    Raises:
        UserError: If there is no model, a file is damaged, or weights and description do not match.
    """
    from facenet2expnet.nets import face
    from facenet2expnet.nets.classifier import ExpressionClassifier, FaceClassifier
    from facenet2expnet.nets.expnet import ExpNet
    from facenet2expnet.nets.storage import from_int8, read_tensors

    folder = find_model(folder)
    card = read_json(folder / CARD)
    if not isinstance(card, dict) or card.pop("format", None) != FORMAT:
        raise UserError(f"{folder / CARD}: expected a model of format {FORMAT}; update facenet2expnet")
    check_hashes(folder, card.pop("sha256", None), (WEIGHTS,))
    try:
        architecture, classes = card.pop("architecture"), tuple(card.pop("classes"))
        contract = CropContract.from_dict(card.pop("contract"))
        if not classes or not all(isinstance(name, str) for name in classes):
            raise ValueError("classes are no names")
        kind, count = architecture.pop("kind"), len(classes)
        if kind == "expression-net":
            architecture["bridge_chw"] = tuple(architecture["bridge_chw"])
            net = ExpNet(count, **architecture)
            if (side := net.arguments["input_px"]) != contract.crop_px:
                raise ValueError(f"input_px is {side}, and the crops have {contract.crop_px} pixels")
            module: nn.Module = ExpressionClassifier(net, contract.mean, contract.scale)
        elif kind == "face-net":
            face_net = face.load(architecture["face_net"], face.GENERATED)
            module = FaceClassifier(face_net, count, head_norm=architecture["head_norm"], head_dropout=0.0)
        else:
            raise ValueError(f"its architecture is '{kind}'")
    except UserError as error:
        raise UserError(f"{folder / CARD}: {error}; expected a file that save_model wrote") from error
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"{folder / CARD}: {reason}; expected a file that save_model wrote") from error
    weights, _ = read_tensors(folder / WEIGHTS)
    try:
        module.load_state_dict(from_int8(weights))
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise UserError(f"{folder / WEIGHTS}: not the weights of this model: {first}") from None
    return Model(module.eval(), classes, contract, card)


def onnx_instead(path: Path) -> Path | None:
    """Return the ONNX file of a model's folder if PyTorch is not installed, and None if it is.

    Raises:
        UserError: If PyTorch is not installed, and there is no model or no such file in its folder.
    """
    if importlib.util.find_spec("torch") is not None:
        return None
    folder = find_model(path)
    if not (folder / ONNX).is_file():
        raise UserError(
            f"{folder}: without PyTorch a model folder needs a file {ONNX}; make one where PyTorch is installed, "
            f"with fn2en export {folder} {folder / ONNX}, or pip install torch"
        )
    return folder / ONNX


def check_hashes(folder: Path, hashes: Any, names: Sequence[str]) -> None:
    """Compare files of a model folder with the hashes in its `model.json`, as far as it states any.

    Args:
        folder: the model folder.
        hashes: file name -> sha256 in hexadecimal digits; None for none.
        names: the files to compare, if they are there.
    Raises:
        UserError: If a file has another hash.
    """
    if not isinstance(hashes, dict | None):
        raise UserError(f"{folder / CARD}: sha256 is {hashes!r}, expected file names with their hashes")
    for name in names:
        path = folder / name
        if hashes and name in hashes and path.is_file():
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != hashes[name]:
                raise UserError(
                    f"{path}: expected a file with sha256 {hashes[name]}, as {CARD} states, got one with {found}; it "
                    f"is damaged or of another model: delete {path.resolve()} and get it again"
                )


def locate_model(model: str | Path | None = None) -> Path:
    """Return the path of a model that a user named, anywhere in the package.

    Args:
        model: a model folder, a run folder with one model, the name of a model of the package, or a model on the
            Hugging Face hub, hf:owner/name or hf:owner/name@revision, which is fetched; None for `DEFAULT_MODEL`.
    Raises:
        UserError: If it is a name of the package or the hub, and can't be had.
    """
    name = str(model or DEFAULT_MODEL)
    if on_hub(name):
        from facenet2expnet.predict.fetch import fetch

        return fetch(name)
    named = shipped_model(name) if model is None or not Path(name).exists() else None
    return named or Path(name)


def on_hub(name: str | Path) -> bool:
    """Whether a name is that of a model on the Hugging Face hub."""
    return str(name).startswith("hf:")


def shipped_model(name: str) -> Path | None:
    """Return the folder of a model of the package, or None if it is not the name of one.

    Raises:
        UserError: If it is, but this copy of the package comes without it.
    """
    if name not in SHIPPED_NAMES:
        return None
    if not (SHIPPED / name / CARD).is_file():
        raise UserError(
            f"this copy of facenet2expnet comes without the model '{name}'; name a model folder or a run, "
            "as in: fn2en predict runs/mine photo.jpg"
        )
    return SHIPPED / name


def is_model(path: Path) -> bool:
    """Whether a path is a model folder, a run folder or an ONNX file."""
    if is_onnx(path):
        return path.is_file()
    return any((path / name).is_file() for name in (CARD, f"model/{CARD}", "run.json")) or path.name == CARD


def find_model(path: Path) -> Path:
    """The model folder at a path: the path itself, its folder `model`, or the only one below it.

    Raises:
        UserError: If there is none, or more than one.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such model folder")
    if path.is_file() and path.name != CARD:
        raise UserError(f"{path}: expected a model folder or a run folder, got a file")
    path = path.parent if path.is_file() else path
    for folder in (path, path / "model"):
        if (folder / CARD).is_file():
            return folder
    found = sorted(card.parent for card in path.rglob(CARD))
    if not found and (path / "run.json").is_file():
        raise UserError(f"{path}: this run has no model yet; continue it with --resume")
    if not found:
        raise UserError(f"{path}: no {CARD} in it, expected a model folder or a run folder")
    if len(found) > 1:
        names = ", ".join(map(str, found[:3]))
        raise UserError(f"{path}: {len(found)} models are below it, expected one; name one of them: {names}")
    return found[0]
