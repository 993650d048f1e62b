"""What a source of data is: how to get it, what its folder looks like, and how it is read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facenet2expnet.data.manifest import Manifest, need_folder
from facenet2expnet.errors import UserError
from facenet2expnet.labels import nearest


@dataclass(frozen=True)
class About:
    """What a person must know about a dataset.

    Attributes:
        title: its full name.
        ask: where to get it.
        terms: what may be done with it, in one sentence; the owner's own text decides.
        tree: the files and folders that are expected, as text.
        classes: the expressions, in one sentence.
        protocol: how it is trained and tested on.
        traps: what has misled others.
    """

    title: str
    ask: str
    terms: str
    tree: str
    classes: str
    protocol: str
    traps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """One dataset. Third parties offer one by an entry point in the group `facenet2expnet.sources`.

    Attributes:
        name: what the command line calls it.
        about: what a person must know.
        reader: `reader(path, **options) -> Manifest`; the pictures stay where they are.
        options: option name -> what it does; the reader's keyword arguments.
        pictures: for sets that keep their pictures inside one file (a CSV, a .mat, a zip):
            `pictures(path, **options)` yields each picture's name, as in the manifest, and its PNG bytes;
            it gives None where this path's pictures are files. None where they always are.
    """

    name: str
    about: About
    reader: Callable[..., Manifest]
    options: Mapping[str, str] = field(default_factory=dict)
    pictures: Callable[..., Iterator[tuple[str, bytes]] | None] | None = None

    def read(self, path: Path, **options: Any) -> Manifest:
        """The manifest of the dataset at this path.

        Raises:
            UserError: If the path is not there or not this dataset, a file can't be read, or an option is unknown.
        """
        for name in options:
            if name not in self.options:
                known = tuple(self.options)
                guess = nearest(name, known)
                raise UserError(
                    f"{self.name} has no option '{name}'; it has {', '.join(known) or 'none'}"
                    + (f"; did you mean '{guess}'?" if guess else "")
                )
        path = Path(path)
        if not path.is_file():
            need_folder(path)
        try:
            return self.reader(path, **options)
        except UnicodeDecodeError as fault:
            raise UserError(
                f"{path}: a text file of {self.name} is not UTF-8: {fault}; download it again"
            ) from fault
        except OSError as fault:
            raise UserError(
                f"{fault.filename or path} can't be read: {fault.strerror or fault}; give yourself read permission, "
                "or download it again"
            ) from fault

    def defaults(self) -> dict[str, Any]:
        """The options' default values, for help texts."""
        parameters = inspect.signature(self.reader).parameters
        return {name: parameters[name].default for name in self.options if name in parameters}

    def how_to(self) -> str:
        """One page of plain text: where to ask, what tree is expected, which command, what to look out for."""
        tree = "\n".join(f"    {line}" for line in self.about.tree.strip("\n").splitlines())
        defaults = self.defaults()
        options = "\n".join(
            f"    {name} (default {defaults.get(name)}): {text}" for name, text in self.options.items()
        )
        blocks = [
            f"{self.about.title}  [{self.name}]",
            f"Where to get it: {self.about.ask}",
            f"Terms: {self.about.terms}",
            f"Expected, below the folder that you give:\n{tree}",
            f"Command: fn2en data prepare {self.name} PATH",
            f"Classes: {self.about.classes}",
            f"Protocol: {self.about.protocol}",
        ]
        if options:
            blocks.append(f"Options:\n{options}")
        if self.about.traps:
            blocks.append("Look out:\n" + "\n".join(f"    - {trap}" for trap in self.about.traps))
        return "\n\n".join(blocks) + "\n"
