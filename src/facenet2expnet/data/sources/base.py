"""A source: how to get a dataset, what its folder looks like, and how it is read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from facenet2expnet.data.manifest import Manifest, need_folder
from facenet2expnet.errors import UserError
from facenet2expnet.labels import suggestion


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
        for name in options:
            if name not in self.options:
                known = tuple(self.options)
                raise UserError(
                    f"{self.name} has no option '{name}'; it has {', '.join(known) or 'none'}{suggestion(name, known)}"
                )
        path = Path(path)
        if not path.is_file():
            need_folder(path)
        try:
            return self.reader(path, **options)
        except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as fault:
            raise UserError(f"{path}: a text file of {self.name} can't be read: {fault}; download it again") from fault
        except OSError as fault:
            raise UserError(
                f"{fault.filename or path} can't be read: {fault.strerror or fault}; give yourself read permission, "
                "or download it again"
            ) from fault

    def how_to(self) -> str:
        """One page of text: where to get the dataset, the expected folders, the command, options and pitfalls."""
        defaults = {name: p.default for name, p in inspect.signature(self.reader).parameters.items()}
        text = self.text or (Path(__file__).parent / "how_to" / f"{self.name}.txt").read_text(encoding="utf-8")
        options = [f"    {name} (default {defaults.get(name)}): {what}" for name, what in self.options.items()]
        end = "\n".join(["", "Options:", *options, ""]) if options else ""
        return f"{self.title}  [{self.name}]\n\n{text}{end}"
