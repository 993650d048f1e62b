"""Datasets by name: where to get them, and how they are read as distributed."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pandas as pd

from facenet2expnet.data.manifest import Manifest, check_exists
from facenet2expnet.errors import UserError
from facenet2expnet.files import write_atomic
from facenet2expnet.labels import suggestion

GROUP = "facenet2expnet.sources"
"""Entry point group: `name = "package.module:SOURCE"` of another package adds a dataset."""

BUILT_IN = ("ckplus", "oulu-casia", "tfd", "sfew", "fer2013", "rafdb", "affectnet", "jaffe", "folder", "huggingface")


@dataclass(frozen=True)
class Source:
    """One dataset. Other packages add one by an entry point in the group `facenet2expnet.sources`.

    Attributes:
        name: its name on the command line.
        title: its full name.
        reader: `reader(path, **options) -> Manifest`; the pictures stay where they are.
        options: option name -> description; the reader's keyword arguments.
        pictures: for datasets with their pictures inside one file (a CSV, a .mat, a zip):
            `pictures(path, **options)` yields the name of each picture, as in the manifest, and its PNG bytes;
            it returns None if the pictures at this path are files. None if they always are.
        text: where to get the dataset, its terms, the expected folders, classes, protocol and pitfalls; by default
            that of the file how_to/NAME.txt here.
    """

    name: str
    title: str
    reader: Callable[..., Manifest]
    options: Mapping[str, str] = field(default_factory=dict)
    pictures: Callable[..., Iterator[tuple[str, bytes]] | None] | None = None
    text: str = ""

    def read(self, path: Path, **options: Any) -> Manifest:
        """Read the manifest of the dataset at this path.

        Raises:
            UserError: If the path does not exist or is not this dataset, a file can't be read, or an option is unknown.
        """
        known = tuple(self.options)
        for name in options:
            if name not in known:
                has = ", ".join(known) or "none"
                raise UserError(f"{self.name} has no option '{name}'; it has {has}{suggestion(name, known)}")
        path = Path(path)
        check_exists(path)
        try:
            return self.reader(path, **options)
        except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as fault:
            advice = "check its permissions, or download it again"
            raise UserError(f"{path}: a file of {self.name} can't be read: {fault}; {advice}") from fault

    def how_to(self) -> str:
        """One page of text: where to get the dataset, the expected folders, the command, options and pitfalls."""
        defaults = {name: p.default for name, p in inspect.signature(self.reader).parameters.items()}
        text = self.text or (Path(__file__).parent / "how_to" / f"{self.name}.txt").read_text(encoding="utf-8")
        options = [f"    {name} (default {defaults.get(name)}): {what}\n" for name, what in self.options.items()]
        return f"{self.title}  [{self.name}]\n\n{text}" + "".join(["\nOptions:\n", *options] if options else [])


def names() -> list[str]:
    """All datasets that can be read: ours, then those of other packages, sorted."""
    return [*BUILT_IN, *sorted({entry.name for entry in entry_points(group=GROUP)} - set(BUILT_IN))]


def get(name: str) -> Source:
    """The source of this name; case, spaces, hyphens and underscores do not matter.

    Raises:
        UserError: If there is none, or another package's source can't be loaded.
    """

    def plain(text: str) -> str:
        return re.sub(r"[\s_-]", "", text.lower().replace("+", "plus"))

    found = next((known for known in names() if plain(known) == plain(name)), None)
    if found is None:
        raise UserError(f"dataset '{name}' is not one of {', '.join(names())}{suggestion(name, names())}")
    entries = {entry.name: entry for entry in entry_points(group=GROUP)}
    if found in BUILT_IN:
        entries[found] = EntryPoint(found, f"{__name__}.{found.replace('-', '_')}:SOURCE", GROUP)
    try:
        source = entries[found].load()
    except Exception as fault:  # another package may fail in any way
        raise UserError(f"dataset '{found}' ({entries[found].value}) can't be loaded: {fault}") from fault
    if not isinstance(source, Source):
        raise UserError(f"dataset '{found}': expected a {__name__}.Source, got {type(source).__name__}")
    return source


def read(name: str, path: Path, **options: Any) -> Manifest:
    """Read the manifest of a dataset as distributed; `Source.how_to` lists the options."""
    return get(name).read(Path(path), **options)


def read_into(name: str, path: Path, folder: Path, **options: Any) -> Manifest:
    """Like `read`, but pictures inside a CSV, .mat or zip are first written to `folder` as PNG files.

    Existing files of the same content are kept, so that an interrupted call can be repeated.

    Raises:
        UserError: As `read`, or if a picture can't be written or its name leads out of the folder.
    """
    source, path, folder = get(name), Path(path), Path(folder)
    manifest = source.read(path, **options)
    packed = source.pictures(path, **options) if source.pictures is not None else None
    if packed is None:
        return manifest
    missing = set(manifest.table["image"])
    if outside := sorted(image for image in missing if os.path.isabs(image) or ".." in Path(image).parts):
        raise UserError(
            f"{path}: its picture '{outside[0]}' would be written outside of {folder}; do not trust this file"
        )
    for image, content in packed:
        if image in missing:
            target = folder / image
            if not target.is_file() or target.read_bytes() != content:  # a name may have meant another picture once
                write_atomic(target, content, sync=False)
            missing.discard(image)
    if missing:
        raise UserError(f"{path} lacks {len(missing)} of its pictures, the first is {min(missing)}")
    return dataclasses.replace(manifest, root=folder)
