"""Datasets by name: where to get them, and how they are read as distributed."""

from __future__ import annotations

import dataclasses
import importlib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.sources.base import Source
from facenet2expnet.errors import UserError
from facenet2expnet.files import write_atomic
from facenet2expnet.labels import suggestion

GROUP = "facenet2expnet.sources"
"""Entry point group: `name = "package.module:SOURCE"` of another package adds a dataset."""

BUILT_IN = ("ckplus", "oulu-casia", "tfd", "sfew", "fer2013", "rafdb", "affectnet", "jaffe", "folder")

__all__ = ["Source", "get", "names", "read", "read_into"]


def names() -> list[str]:
    """All datasets that can be read: ours, then those of other packages, sorted."""
    return [*BUILT_IN, *sorted(set(_others()) - set(BUILT_IN))]


def get(name: str) -> Source:
    """The source of this name; case, spaces, hyphens and underscores do not matter.

    Raises:
        UserError: If there is none, or another package's source can't be loaded.
    """
    tidy = name.strip().lower().replace("_", "-").replace(" ", "-").replace("+", "plus")
    found = {known.replace("-", ""): known for known in names()}.get(tidy.replace("-", ""))
    if found is None:
        raise UserError(f"dataset '{name}' is not one of {', '.join(names())}{suggestion(tidy, names())}")
    if found in BUILT_IN:
        source = importlib.import_module(f"{__name__}.{found.replace('-', '_')}").SOURCE
    else:
        entry = _others()[found]
        try:
            source = entry.load()
        except Exception as fault:  # another package may fail in any way
            raise UserError(f"dataset '{found}' ({entry.value}) can't be loaded: {fault}") from fault
    if not isinstance(source, Source):
        raise UserError(
            f"dataset '{found}': expected a facenet2expnet.data.sources.Source, got {type(source).__name__}"
        )
    return source


def read(name: str, path: Path, **options: Any) -> Manifest:
    """Read the manifest of a dataset as distributed; `Source.how_to` lists the options."""
    return get(name).read(Path(path), **options)


def read_into(name: str, path: Path, folder: Path, **options: Any) -> Manifest:
    """Like `read`, but pictures inside a CSV, .mat or zip are first written to `folder` as PNG files.

    Existing files are kept, so that an interrupted call can be repeated.

    Raises:
        UserError: As `read`, or if a picture can't be written.
    """
    source, path, folder = get(name), Path(path), Path(folder)
    manifest = source.read(path, **options)
    packed = source.pictures(path, **options) if source.pictures is not None else None
    if packed is None:
        return manifest
    missing = set(manifest.table["image"])
    for image, content in packed:
        if image in missing:
            target = folder / image
            if not target.is_file() or not target.stat().st_size:
                write_atomic(target, content, sync=False)
            missing.discard(image)
    if missing:
        raise UserError(f"{path} lacks {len(missing)} of its pictures, the first is {min(missing)}")
    return dataclasses.replace(manifest, root=folder)


def _others() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
