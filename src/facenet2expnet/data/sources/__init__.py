"""Datasets by name: where to ask for them, and how they are read as distributed."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.sources.base import About, Source
from facenet2expnet.errors import UserError
from facenet2expnet.files import write_atomic
from facenet2expnet.labels import nearest

GROUP = "facenet2expnet.sources"
"""Entry point group: a third party's `name = "package.module:SOURCE"` adds a dataset."""

BUILT_IN = {
    "ckplus": "ckplus",
    "oulu-casia": "oulu_casia",
    "tfd": "tfd",
    "sfew": "sfew",
    "fer2013": "fer2013",
    "rafdb": "rafdb",
    "affectnet": "affectnet",
    "jaffe": "jaffe",
    "folder": "folder",
}

__all__ = ["About", "Source", "get", "how_to", "names", "read", "read_into"]


def names() -> list[str]:
    """All datasets that can be read: ours, then third parties', sorted."""
    return [*BUILT_IN, *sorted(set(_others()) - set(BUILT_IN))]


def get(name: str) -> Source:
    """The source of this name; case, spaces and underscores do not matter.

    Raises:
        UserError: If there is none, or a third party's can't be loaded.
    """
    tidy = name.strip().lower().replace("_", "-").replace(" ", "-").replace("+", "plus")
    plain = {known.replace("-", ""): known for known in names()}
    found = plain.get(tidy.replace("-", ""))
    if found is None:
        guess = nearest(tidy, names())
        raise UserError(
            f"dataset '{name}' is not one of {', '.join(names())}"
            + (f"; did you mean '{guess}'?" if guess else "")
        )
    if found in BUILT_IN:
        source = importlib.import_module(f"{__name__}.{BUILT_IN[found]}").SOURCE
    else:
        entry = _others()[found]
        try:
            source = entry.load()
        except Exception as fault:  # a third party's module may fail in any way
            raise UserError(f"dataset '{found}' ({entry.value}) can't be loaded: {fault}") from fault
    if not isinstance(source, Source):
        raise UserError(
            f"dataset '{found}': expected a facenet2expnet.data.sources.Source, got {type(source).__name__}"
        )
    return source


def how_to(name: str) -> str:
    """Where to ask for a dataset and what tree is expected, as one page of plain text."""
    return get(name).how_to()


def read(name: str, path: Path, **options: Any) -> Manifest:
    """The manifest of a dataset as it was downloaded; see `how_to` for the options."""
    return get(name).read(Path(path), **options)


def read_into(
    name: str,
    path: Path,
    folder: Path,
    *,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> Manifest:
    """Like `read`; pictures that lie inside a CSV, .mat or zip are first written to `folder` as PNG files.

    Files that are there already are kept, so a run that was killed goes on where it stopped.

    Args:
        progress: called with 1 after each picture.
    Raises:
        UserError: As `read`, or if a picture can't be written.
    """
    source, path, folder = get(name), Path(path), Path(folder)
    manifest = source.read(path, **options)
    packed = source.pictures(path, **options) if source.pictures is not None else None
    if packed is None:
        return manifest
    wanted = set(manifest.table["image"])
    for image, content in packed:
        if image in wanted:
            target = folder / image
            if not target.is_file() or not target.stat().st_size:
                write_atomic(target, content, sync=False)
            wanted.discard(image)
            if progress is not None:
                progress(1)
    if wanted:
        raise UserError(f"{path} lacks {len(wanted)} of its own pictures, the first is {min(wanted)}")
    return dataclasses.replace(manifest, root=folder)


def _others() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
