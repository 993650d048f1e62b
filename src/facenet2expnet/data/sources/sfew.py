"""SFEW 2.0, Static Facial Expressions in the Wild: frames of films."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.sources import Source, layout
from facenet2expnet.errors import UserError
from facenet2expnet.labels import canonical

PARTS = {"train": "train", "val": "valid"}
PATTERN = (
    r"(?P<folder>(?P<split>train|val)[^/]*(?:/(?P<inner>(?:train|val)[^/]*))?)"
    r"/(?P<label>[^/]+)/(?P<film>[^/]+?)(?:_\d+_\d+)?\.\w+"
)


def read(path: Path, faces: str = "auto") -> Manifest:
    """Train and Val; the folder is the expression.

    Args:
        faces: "aligned" for the organisers' face crops, "original" for whole frames, "auto" for aligned if they
            exist.
    Raises:
        UserError: If this is not SFEW, or one of the two parts is missing.
    """
    layout.check_option("faces", faces, ("auto", "aligned", "original"))
    table, _ = layout.matching(path, PATTERN)
    if not len(table):
        raise layout.wrong_root(path, "SFEW", "folders Train… and Val… with folders like Angry in them", PARTS)
    table["split"] = table["split"].str.lower().map(PARTS)
    holder = table["inner"].fillna(table["folder"])
    table["kind"] = np.where(holder.str.contains("aligned", case=False), "aligned", "original")
    unknown = table["label"].map(canonical).isna() & ~table["label"].str.match("train|val", case=False)
    other = list((table["folder"] + "/" + table["label"])[unknown].unique())
    table = table.assign(label=table["label"].map(canonical)).dropna(subset="label").sort_values("kind", kind="stable")
    kinds = ("aligned", "original") if faces == "auto" else (faces,)
    table, parts = table[table["kind"].isin(kinds)], []
    for name, split in PARTS.items():
        part = table[table["split"] == split]
        if not len(part):
            found = f"no picture of {name.capitalize()} was found in folders like Angry (faces={faces})"
            raise UserError(f"{path}: {found}; Train and Val are both needed")
        parts.append(part[part["folder"] == part["folder"].iloc[0]])
    kind = {part["kind"].iloc[0] for part in parts}
    if len(kind) > 1:
        raise UserError(f"{path}: Train and Val differ (aligned and original); pass faces=aligned or faces=original")
    notes = (
        f"{len(parts[0])} pictures of Train and {len(parts[1])} of Val ({kind.pop()}).",
        *layout.counted(other, "folders are no expression"),
    )
    columns = ["image", "label", "split", "film"]
    return Manifest(pd.concat(parts)[columns], path, name="sfew", notes=notes)


OPTIONS = {"faces": "auto, aligned (the organisers' face crops) or original (whole frames)"}
SOURCE = Source("sfew", "SFEW 2.0 (Static Facial Expressions in the Wild)", read, OPTIONS)
