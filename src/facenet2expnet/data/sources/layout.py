"""What readers of datasets share: entries by name, wrong folders, options, and notes about what was left out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from facenet2expnet.data.folders import find_pictures, first_of, is_hidden
from facenet2expnet.data.manifest import natural_key
from facenet2expnet.errors import UserError
from facenet2expnet.labels import EXPRESSIONS, canonical


def entries(folder: Path) -> list[Path]:
    """The entries of a folder in natural order, without hidden files."""
    return sorted((p for p in folder.iterdir() if not is_hidden(p.name)), key=lambda path: natural_key(path.name))


def child(folder: Path, *paths: str) -> Path | None:
    """The first of these relative paths that exists in a folder; upper and lower case are the same."""
    for path in paths:
        found: Path | None = folder
        for part in path.split("/"):
            inside = entries(found) if found is not None and found.is_dir() else []
            found = next((entry for entry in inside if entry.name.lower() == part.lower()), None)
        if found is not None:
            return found
    return None


def find_below(folder: Path, name: str, depth: int = 3) -> Iterator[Path]:
    """Entries of this name in a folder or below it, nearest first; upper and lower case are the same.

    It searches `depth` levels, and a level is read only when all entries before it were used.
    """
    inside = [folder]
    for _ in range(depth):
        folders = [entry for entry in inside if entry.is_dir() and os.access(entry, os.R_OK | os.X_OK)]
        inside = [entry for parent in folders for entry in entries(parent)]
        yield from (entry for entry in inside if entry.name.lower() == name.lower())


def matching(root: Path, pattern: str) -> tuple[pd.DataFrame, list[str]]:
    """Match the paths of all pictures below a folder with a regular expression; upper and lower case are the same.

    Returns:
        A table in natural order with the column image (the path from `root`) and one per named group of the pattern,
        empty if nothing matches; and the paths that do not match.
    """
    images = [picture.relative_to(root).as_posix() for picture in find_pictures(root)] if root.is_dir() else []
    matches = {image: re.fullmatch(pattern, image, re.IGNORECASE) for image in images}
    rows = [{"image": image} | match.groupdict() for image, match in matches.items() if match]
    return pd.DataFrame(rows, dtype=object), [image for image, match in matches.items() if not match]


def numbered(table: pd.DataFrame, frames: int) -> pd.DataFrame:
    """Add frame, the number of each picture in its sequence from 1; size, that of the sequence; and last.

    last is True for the last `frames` pictures of each sequence.

    Raises:
        UserError: If `frames` is below 1.
    """
    if not isinstance(frames, int) or frames < 1:
        raise UserError(f"frames is {frames}, expected a whole number, 1 or more")
    groups = table.groupby("sequence", sort=False)["image"]
    frame, size = groups.cumcount() + 1, groups.transform("size")
    return table.assign(frame=frame, size=size, last=frame > size - frames)


def wrong_root(path: Path, title: str, expected: str, parts: Iterable[str] = ()) -> UserError:
    """The error for a folder that is not the dataset's.

    Args:
        parts: names of folders inside the dataset; if the path is in one of them, the message gives its parent.
    """
    inside = {name.lower() for name in parts}
    around = [p for p in (path.resolve(), *list(path.resolve().parents)[:3]) if p.name.lower() in inside]
    if around:
        return UserError(
            f"{path}: this looks like {title}'s folder {around[-1].name} or a part of it; give its parent, "
            f"{around[-1].parent}"
        )
    holds = first_of([entry.name for entry in entries(path)], 6) if path.is_dir() else "a file"
    return UserError(f"{path} is not {title}: expected {expected}; it holds {holds or 'nothing'}")


def check_option(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raise a UserError if an option does not have one of its values."""
    if value not in allowed:
        raise UserError(f"{name} is {value}, expected {' or '.join(map(str, allowed))}")


def choose_classes(option: int | str | Sequence[str], counts: dict[int, tuple[str, ...]]) -> tuple[str, ...]:
    """The classes of an option: the number of a known set of classes, or names.

    Raises:
        UserError: If it is neither.
    """
    text = option if isinstance(option, int | str) else ",".join(option)
    if str(text).strip() in map(str, counts):
        return counts[int(text)]
    chosen = {canonical(name) for name in str(text).split(",")}
    if None in chosen or len(chosen) < 2:
        known = ", ".join(f"{number} ({' '.join(names)})" for number, names in counts.items())
        raise UserError(
            f"classes is {text}, expected {known}, or at least two different names of {', '.join(EXPRESSIONS)}, "
            "separated by commas"
        )
    return tuple(name for name in EXPRESSIONS if name in chosen)


def counted(names: Sequence[str], text: str) -> list[str]:
    """A note like "2 sequences hold no picture: a, b."; no note without names."""
    return [f"{len(names)} {text}: {first_of(names, 3)}."] if names else []


def incomplete(found: int, released: int, what: str) -> list[str]:
    """A note if the number of `what` is not the release's; none if it is."""
    return [f"The release has {released} {what}, {found} are here."] if found != released else []
