"""Further data that is only ever trained on, as the paper adds FER2013 to SFEW."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pandas as pd

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.errors import UserError


def with_extra_training(
    manifest: Manifest, extra: Manifest, parts: tuple[str, ...] | None = None
) -> Manifest:
    """Both tables as one; the extra rows are marked, and every protocol puts them into training and nowhere else.

    The extra rows' classes must be the manifest's: rows of other classes and rows without a label are left
    out and counted in the notes. Their subjects and sequences get the extra set's name in front, since two
    sets' IDs have nothing to do with each other.

    Args:
        parts: which parts of the extra set's column `split` to take; by default all of it.
    Raises:
        UserError: If nothing is left of the extra set, the faces were made ready in different ways, or the
            two lie on different drives.
    Source: FN2EN, section IV-F and Table VI (SFEW with FER2013).
    """
    if manifest.contract != extra.contract:
        raise UserError(
            f"'{manifest.name}' and '{extra.name}' were made ready in different ways ({manifest.contract} and "
            f"{extra.contract}); prepare both with the same options"
        )
    added = extra.table
    if parts is not None:
        if "split" not in added.columns:
            raise UserError(
                f"'{extra.name}' has no column split, so its parts {', '.join(parts)} can't be taken"
            )
        added = added[added["split"].isin(parts)]
    usable = added["label"].isin(manifest.classes)
    left_out, added = int((~usable).sum()), added[usable].copy()
    if not len(added):
        raise UserError(
            f"'{extra.name}' has no picture of the classes of '{manifest.name}' ({', '.join(manifest.classes)})"
        )
    try:
        root = Path(os.path.commonpath([manifest.root.resolve(), extra.root.resolve()]))
    except ValueError as fault:
        raise UserError(
            f"{manifest.root} and {extra.root} lie on different drives; put them on one"
        ) from fault
    main = manifest.table.copy()
    main["image"] = _moved(main["image"], manifest.root, root)
    added["image"] = _moved(added["image"], extra.root, root)
    for column in ("subject", "sequence"):
        if column in added.columns:
            added[column] = [f"{extra.name}:{name}" if name else "" for name in added[column]]
    if "split" in main.columns:
        added["split"] = "train"
    main["extra"], added["extra"] = 0, 1
    kept = [column for column in added.columns if column in main.columns or column in ("subject", "sequence")]
    notes = [f"{len(added)} pictures of '{extra.name}' are trained on only."]
    if left_out:
        notes.append(f"{left_out} of its pictures have no label or another class and were left out.")
    return dataclasses.replace(
        manifest,
        table=pd.concat([main, added[kept]], ignore_index=True),
        root=root,
        name=f"{manifest.name}+{extra.name}",
        notes=(*manifest.notes, *extra.notes, *notes),
    )


def extra_rows(manifest: Manifest) -> np.ndarray:
    """A mask (N,) of the rows that are only ever trained on: those with 1, true or yes in the column `extra`."""
    if "extra" not in manifest.table.columns:
        return np.zeros(len(manifest), bool)
    return np.array(
        [str(v).strip().lower() in ("1", "1.0", "true", "yes") for v in manifest.table["extra"]], bool
    )


def _moved(images: pd.Series, old: Path, new: Path) -> list[str]:
    before = old.resolve().relative_to(new).as_posix()
    return [image if before == "." or os.path.isabs(image) else f"{before}/{image}" for image in images]
