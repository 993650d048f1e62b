"""TFD, the Toronto Face Database: grey faces in one .mat file, with five official folds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.pictures import png_bytes
from facenet2expnet.data.sources import Source, layout
from facenet2expnet.data.splits import column_splits, group_leaks
from facenet2expnet.errors import UserError
from facenet2expnet.labels import TFD_CODES

PARTS = {1: "train", 2: "valid", 3: "test"}
FOLDS = 5
VARIABLES = ["images", "labs_ex", "labs_id", "folds"]


def read(path: Path, size: int = 48) -> Manifest:
    """The labelled faces, with train, valid or test in the columns fold_1 to fold_5.

    Identities become subjects, unless an official fold has one on two sides: then they are in the column
    `identity`, with a note, because the literature compares on the official folds.

    Raises:
        UserError: If there is no such file, or its variables are not TFD's.
    """
    data, rows = _load(path, size)
    columns = {
        "image": [f"tfd{row:06d}.png" for row in rows],
        "label": [TFD_CODES[int(code)] for code in data["labs_ex"][rows]],
        "subject": ["" if number < 0 else str(int(number)) for number in data["labs_id"][rows]],
    }
    for fold in range(FOLDS):
        columns[f"fold_{fold + 1}"] = [PARTS.get(int(code), "") for code in data["folds"][rows, fold]]
    table = pd.DataFrame(columns)
    manifest = Manifest(table, path if path.is_dir() else path.parent, name="tfd")
    both = {name for _, _, name, *_ in group_leaks(manifest, column_splits(manifest, "official"))}
    notes = [
        f"{len(rows)} faces with an expression out of {len(data['labs_ex'])} were read.",
        *layout.incomplete(len(rows), 4178, "faces with an expression"),
    ]
    if both:
        table = table.rename(columns={"subject": "identity"})
        notes.append(
            f"The official folds have {len(both)} identities on two sides; they are in the column identity, not "
            "subject, so that the official protocol can be run."
        )
    return Manifest(table, manifest.root, name="tfd", notes=tuple(notes))


def pictures(path: Path, size: int = 48) -> Iterator[tuple[str, bytes]]:
    """Name and PNG bytes of every labelled face."""
    data, rows = _load(path, size)
    return ((f"tfd{row:06d}.png", png_bytes(data["images"][row])) for row in rows)


def _load(path: Path, size: int) -> tuple[dict[str, Any], np.ndarray]:
    """The variables of the .mat file of this size, else of another, and the rows with an expression."""
    from scipy.io import loadmat

    layout.check_option("size", size, (48, 96))
    names = (f"TFD_{s}x{s}.mat" for s in (size, 48, 96))
    file = next((p for name in names for p in layout.find_below(path, name, depth=2)), path)
    if file.is_dir():
        raise layout.wrong_root(path, "TFD", f"TFD_{size}x{size}.mat")
    try:
        data: dict[str, Any] = loadmat(str(file), variable_names=VARIABLES)
    except Exception as fault:  # scipy raises many kinds on a damaged file
        raise UserError(f"{file} can't be read as a MATLAB file: {fault}; is the download complete?") from fault
    if missing := [name for name in VARIABLES if name not in data]:
        raise UserError(f"{file} lacks the variable {', '.join(missing)}; expected TFD's own file")
    for name in ("labs_ex", "labs_id"):
        data[name] = data[name].reshape(-1)
    shapes = [data[name].shape for name in VARIABLES]
    count = len(data["images"])
    if data["images"].ndim != 3 or shapes[1:] != [(count,), (count,), (count, FOLDS)]:
        raise UserError(
            f"{file}: expected images (N, size, size), labs_ex (N,), labs_id (N,), folds (N, {FOLDS}); got "
            + ", ".join(map(str, shapes))
        )
    rows = np.flatnonzero(np.isin(data["labs_ex"], list(TFD_CODES)))
    if not len(rows):
        raise UserError(f"{file} holds no face with an expression (labs_ex from 1 to 7); is the file complete?")
    return data, rows


OPTIONS = {"size": "48 or 96, the side of the faces in pixels"}
SOURCE = Source("tfd", "TFD (Toronto Face Database)", read, OPTIONS, pictures)
