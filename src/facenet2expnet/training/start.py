"""A start: the convolutions and the bridge of an expression net that already know faces.

It is a folder with start.safetensors and start.json. `fn2en pretrain` makes it once, from faces without labels; a small
labelled set then does not begin from noise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from facenet2expnet.errors import UserError
from facenet2expnet.files import read_json, write_json
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.nets.storage import read_tensors, write_tensors

FORMAT = "facenet2expnet-start-1"
WEIGHTS, CARD = "start.safetensors", "start.json"
SETTINGS = {
    "face_net": "face_net.name",
    "tap": "face_net.tap",
    "input_px": "crop.crop_px",
    "width": "expnet.width",
    "batch_norm": "expnet.batch_norm",
}
"""What a start and the net that begins with it must have in common -> its name in a recipe."""


def save_start(net: ExpNet, folder: Path, metadata: dict[str, Any]) -> None:
    """Write a start.

    Args:
        net: its convolutions and bridge are saved.
        folder: of start.safetensors and start.json.
        metadata: with face_net, tap, data, licence and whatever else should be known.
    Raises:
        UserError: If the folder can't be written.
    """
    own = {key: net.arguments[key] for key in ("input_px", "width", "batch_norm")}
    write_tensors(folder / WEIGHTS, _part(net).state_dict(), {"format": FORMAT})
    write_json(folder / CARD, {"format": FORMAT, **own, **metadata})


def load_start(folder: Path, net: ExpNet, *, face_net: str, tap: str) -> None:
    """Load a start into an expression net's convolutions and bridge.

    Raises:
        UserError: If there is no start, a file is damaged, or it was made for another net; the message says which
            settings would fit.
    """
    if not (folder / CARD).is_file():
        raise UserError(f"expnet.start is '{folder}', expected a folder with {CARD} that `fn2en pretrain` wrote")
    metadata = read_json(folder / CARD)
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise UserError(f"{folder / CARD}: format is not {FORMAT}; a newer facenet2expnet may read it")
    wanted = {"face_net": face_net, "tap": tap, **net.arguments}
    differing = {key: name for key, name in SETTINGS.items() if metadata.get(key) != wanted[key]}
    if differing:
        asked = ", ".join(f"{name}={wanted[key]}" for key, name in differing.items())
        fits = " ".join(f"--set {name}={metadata.get(key)}" for key, name in differing.items())
        raise UserError(f"expnet.start '{folder}' was not made for {asked}; it fits with {fits}")
    weights, _ = read_tensors(folder / WEIGHTS)
    try:
        _part(net).load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise UserError(f"{folder / WEIGHTS}: not the weights of this start: {first}") from None


def _part(net: ExpNet) -> nn.ModuleDict:
    return nn.ModuleDict({"convolutions": net.convolutions, "bridge": net.bridge})
