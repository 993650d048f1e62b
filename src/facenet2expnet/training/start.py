"""A start: the convolutions and the bridge of an expression net that already know faces.

It is a folder with start.safetensors and start.json. `fn2en pretrain` makes it once, from faces without labels; a small
labelled set then does not begin from noise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

import facenet2expnet
from facenet2expnet.errors import UserError
from facenet2expnet.files import read_json, write_json
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.nets.storage import read_tensors, write_tensors
from facenet2expnet.recipe import SHIPPED_START, Recipe

FORMAT = "facenet2expnet-start-2"
WEIGHTS, CARD = "start.safetensors", "start.json"
SHIPPED = Path(facenet2expnet.__file__).parent / "models" / "starts"
"""The starts of the package, a folder each: what expnet.start = "faces" chooses from."""
NET_SETTINGS = ("width", "batch_norm", "pool_to_tap", "blocks")
SETTINGS = {
    "face_net": "face_net.name",
    "tap": "face_net.tap",
    "input_px": "crop.crop_px",
    "mean": "crop.mean",
    "scale": "crop.scale",
    **{key: f"expnet.{key}" for key in NET_SETTINGS},
}
"""What a start and the net that begins with it must have in common -> its name in a recipe."""


def start_folder(recipe: Recipe, *, face_net: str, tap: str) -> Path:
    """Return the folder of the start that a recipe names; SHIPPED_START is the fitting one of the package.

    Raises:
        UserError: If there is none, or it was made for another net; the message says which settings would fit.
    """
    wanted = {
        "face_net": face_net,
        "tap": tap,
        "input_px": recipe.crop.crop_px,
        "mean": list(recipe.crop.mean),
        "scale": recipe.crop.scale,
        **{key: getattr(recipe.expnet, key) for key in NET_SETTINGS},
    }
    folders = [Path(recipe.expnet.start)]
    if recipe.expnet.start == SHIPPED_START:
        folders = sorted(card.parent for card in SHIPPED.glob(f"*/{CARD}"))
    misfits = [_misfit(folder, wanted) for folder in folders]
    for folder, misfit in zip(folders, misfits, strict=True):
        if not misfit:
            return folder
    why = "; ".join(misfits) or f"expnet.start is '{SHIPPED_START}', and this package has no start"
    raise UserError(f"{why}; without a start: --set expnet.start=none --set stage1.epochs=40")


def _misfit(folder: Path, wanted: dict[str, Any]) -> str:
    """Say why a start can't be used for a net, "" if it can."""
    if not (folder / CARD).is_file():
        return f"expnet.start is '{folder}', expected a folder with {CARD} that `fn2en pretrain` wrote"
    metadata = read_json(folder / CARD)
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        return f"{folder / CARD}: format is not {FORMAT}; a newer facenet2expnet may read it"
    differing = {key: name for key, name in SETTINGS.items() if metadata.get(key) != wanted[key]}
    asked = ", ".join(f"{name}={_toml(wanted[key])}" for key, name in differing.items())
    fits = " ".join(f"--set {name}={_toml(metadata.get(key))}" for key, name in differing.items())
    return f"expnet.start '{folder}' was not made for {asked}; it fits with {fits}" if differing else ""


def save_start(net: ExpNet, folder: Path, metadata: dict[str, Any]) -> None:
    """Write a start; weights of more than one dimension are kept in half precision.

    Args:
        net: its convolutions and bridge are saved.
        folder: of start.safetensors and start.json.
        metadata: with face_net, tap, data, licence and whatever else should be known.
    Raises:
        UserError: If the folder can't be written.
    """
    own = {key: net.arguments[key] for key in ("input_px", *NET_SETTINGS)}
    weights = {name: v.half() if v.ndim > 1 else v for name, v in _part(net).state_dict().items()}
    write_tensors(folder / WEIGHTS, weights, {"format": FORMAT})
    write_json(folder / CARD, {"format": FORMAT, **own, **metadata})


def load_start(folder: Path, net: ExpNet) -> None:
    """Load a start that `start_folder` found into an expression net's convolutions and bridge.

    Raises:
        UserError: If the file is damaged or holds other weights.
    """
    weights, _ = read_tensors(folder / WEIGHTS)
    try:
        _part(net).load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise UserError(f"{folder / WEIGHTS}: not the weights of this start: {first}") from None


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _part(net: ExpNet) -> nn.ModuleDict:
    return nn.ModuleDict({"convolutions": net.convolutions, "bridge": net.bridge})
