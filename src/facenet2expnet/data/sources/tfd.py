"""TFD, the Toronto Face Database: grey faces in one .mat file, with five official folds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.pictures import png_bytes
from facenet2expnet.data.sources import layout
from facenet2expnet.data.sources.base import Source
from facenet2expnet.errors import UserError
from facenet2expnet.labels import TFD_CODES

SIZES = (48, 96)
PARTS = {1: "train", 2: "valid", 3: "test"}
FOLDS = 5
LABELLED = 4178
VARIABLES = ["images", "labs_ex", "labs_id", "folds"]


def read(path: Path, size: int = 48) -> Manifest:
    """The labelled faces, with train, valid or test in the columns fold_1 to fold_5.

    Identities become subjects, unless an official fold has one on two sides: then they are in the column
    `identity`, with a note, because the literature compares on the official folds.

    Raises:
        UserError: If there is no such file, or its variables are not TFD's.
    """
    data = _load(path, size)
    rows = np.flatnonzero(np.isin(data["labs_ex"], list(TFD_CODES)))
    if not len(rows):
        raise UserError(f"{path} holds no face with an expression (labs_ex from 1 to 7); is the file complete?")
    labels = [TFD_CODES[int(code)] for code in data["labs_ex"][rows]]
    table = pd.DataFrame({"image": [_name(int(row)) for row in rows], "label": labels})
    identity = pd.Series(["" if number < 0 else str(int(number)) for number in data["labs_id"][rows]])
    both: set[str] = set()
    for fold in range(FOLDS):
        part = pd.Series([PARTS.get(int(code), "") for code in data["folds"][rows, fold]])
        table[f"fold_{fold + 1}"] = part
        known = (identity != "") & (part != "")
        both |= set(identity[known][part[known].groupby(identity[known]).transform("nunique") > 1])
    table["identity" if both else "subject"] = identity
    notes = [f"{len(rows)} faces with an expression out of {len(data['labs_ex'])} were read."]
    if len(rows) != LABELLED:
        notes.append(f"The release has {LABELLED} of them.")
    if both:
        notes.append(
            f"The official folds have {len(both)} identities on two sides; they are in the column identity, not "
            "subject, so that the official protocol can be run."
        )
    return Manifest(table, path if path.is_dir() else path.parent, name="tfd", notes=tuple(notes))


def pictures(path: Path, size: int = 48) -> Iterator[tuple[str, bytes]]:
    """Name and PNG bytes of every labelled face."""
    data = _load(path, size)
    for row in np.flatnonzero(np.isin(data["labs_ex"], list(TFD_CODES))):
        yield _name(int(row)), png_bytes(data["images"][row])


def _name(row: int) -> str:
    return f"tfd{row:06d}.png"


def _load(path: Path, size: int) -> dict[str, Any]:
    from scipy.io import loadmat

    layout.check_option("size", size, SIZES)
    file = path
    if path.is_dir():
        found = [p for s in (size, *SIZES) for p in layout.find_below(path, f"TFD_{s}x{s}.mat", depth=2)]
        if not found:
            raise layout.wrong_root(path, "TFD", f"TFD_{size}x{size}.mat")
        file = found[0]
    try:
        data: dict[str, Any] = loadmat(str(file), variable_names=VARIABLES)
    except Exception as fault:  # scipy raises many kinds on a damaged file
        raise UserError(f"{file} can't be read as a MATLAB file: {fault}; is the download complete?") from fault
    if missing := [name for name in VARIABLES if name not in data]:
        raise UserError(f"{file} lacks the variable {', '.join(missing)}; expected TFD's own file")
    for name in ("labs_ex", "labs_id"):
        data[name] = data[name].reshape(-1)
    count = len(data["images"])
    if data["images"].ndim != 3 or data["folds"].shape != (count, FOLDS) or len(data["labs_ex"]) != count:
        raise UserError(
            f"{file}: expected images (N, size, size), labs_ex (N,), folds (N, {FOLDS}); got "
            f"{data['images'].shape}, {data['labs_ex'].shape}, {data['folds'].shape}"
        )
    return data


SOURCE = Source(
    name="tfd",
    title="TFD (Toronto Face Database)",
    reader=read,
    options={
        "size": "48 or 96, the side of the faces in pixels",
    },
    pictures=pictures,
)
