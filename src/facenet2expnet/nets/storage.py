"""Tensors and JSON metadata in one safetensors file, written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from facenet2expnet.errors import UserError
from facenet2expnet.files import atomic_path


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors and JSON metadata to one file, atomically.

    Raises:
        UserError: If the disk is full or the folder can't be written.
    """
    for stale in path.parent.glob(f".{path.stem}.????????{path.suffix}"):  # of a killed process, and large
        stale.unlink(missing_ok=True)
    contiguous = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        temporary.touch()
        permissions = temporary.stat().st_mode  # safetensors gives them to the owner alone
        try:
            save_file(contiguous, temporary, metadata={"metadata": json.dumps(metadata)})
            temporary.chmod(permissions)
        except SafetensorError as error:
            raise OSError(str(error)) from error


SCALE = ".scale"
LARGEST = 126.5 / 127
"""Weights of at least this share of a row's largest are rounded to 127 or -127."""


def as_int8(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Round the `weight`s of convolutions and linear layers to 8 bits, each row with a scale of its own, NAME.scale.

    A row is what gives one output channel. The first weight that becomes 127 or -127 becomes 127, by a negative scale
    if it is negative: so a batch norm that turns a row's sign changes the scale only. Rounding again changes nothing.

    A convolution of pixels (three input channels) stays as it is: it is small, and its rounding costs most.
    """
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if value.ndim < 2 or not name.endswith("weight") or (value.ndim == 4 and value.shape[1] == 3):
            found[name] = value
            continue
        flat = value.detach().flatten(1)
        largest = flat.abs().amax(1, keepdim=True)
        first = (flat.abs() >= largest * LARGEST).int().argmax(1, keepdim=True)
        scale = (torch.where(flat.gather(1, first) < 0, -largest, largest) / 127)[:, 0]
        scale = torch.where(scale == 0, 1.0, scale)
        found[name] = (value.detach() / _of_rows(scale, value)).round().to(torch.int8)
        found[name + SCALE] = scale
    return found


def from_int8(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `as_int8` up to the rounding; other tensors stay as they are."""
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name + SCALE in tensors:
            found[name] = value.float() * _of_rows(tensors[name + SCALE], value)
        elif name.removesuffix(SCALE) not in tensors or not name.endswith(SCALE):
            found[name] = value
    return found


def _of_rows(scale: Tensor, value: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (value.ndim - 1))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Raises:
        UserError: If the file is missing, cut short or not such a file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads((file.metadata() or {}).get("metadata", "{}"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); copy it again") from None
