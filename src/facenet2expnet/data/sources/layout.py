"""Finding one's way in a dataset's folders as they were unpacked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from facenet2expnet.data.manifest import is_picture_name, natural_key
from facenet2expnet.errors import UserError
from facenet2expnet.labels import EXPRESSIONS, canonical


def listed(folder: Path) -> list[Path]:
    """What lies in a folder, in natural order, without hidden files.

    Raises:
        UserError: If the folder can't be read.
    """
    try:
        found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as fault:
        raise UserError(f"{folder} can't be read: {fault.strerror}; give yourself read permission") from fault
    return sorted(
        (path for path in found if path.name != "__MACOSX"), key=lambda path: natural_key(path.name)
    )


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, in natural order."""
    return [path for path in listed(folder) if path.is_dir()]


def pictures_in(folder: Path) -> list[Path]:
    """The pictures that lie directly in a folder, in natural order."""
    return [path for path in listed(folder) if is_picture_name(path.name) and path.is_file()]


def child(folder: Path, *names: str) -> Path | None:
    """The entry of a folder with one of these names, whatever its case; the earlier name is preferred."""
    by_name = {path.name.lower(): path for path in listed(folder)} if folder.is_dir() else {}
    return next((by_name[name.lower()] for name in names if name.lower() in by_name), None)


def deep_child(folder: Path, *parts: str) -> Path | None:
    """`child` along a path of names, each whatever its case."""
    found: Path | None = folder
    for part in parts:
        found = child(found, part) if found is not None else None
    return found


def found_below(folder: Path, name: str, depth: int = 3) -> list[Path]:
    """Entries of this name (whatever the case) in a folder or at most `depth` levels below it."""
    level, found = [folder], []
    for _ in range(depth):
        entries = [entry for parent in level for entry in listed(parent)]
        found += [entry for entry in entries if entry.name.lower() == name.lower()]
        level = [entry for entry in entries if entry.is_dir() and os.access(entry, os.R_OK | os.X_OK)]
    return found


def relative(path: Path, root: Path) -> str:
    """The path from the root, with forward slashes."""
    return path.relative_to(root).as_posix()


def wrong_root(path: Path, title: str, expected: str, parts: Iterable[str] = ()) -> UserError:
    """The error for a folder that is not the dataset's: what was looked for, what is there, what to give instead.

    Args:
        parts: names of folders inside the dataset; if the path is such a folder or lies in one, its parent
            is named.
    """
    inside = {name.lower() for name in parts}
    whole = path.resolve()
    around = [folder for folder in (whole, *list(whole.parents)[:3]) if folder.name.lower() in inside]
    if around:
        return UserError(
            f"{path}: this looks like {title}'s folder {around[-1].name} or a part of it; give its parent, "
            f"{around[-1].parent}"
        )
    if path.is_dir():
        names = [entry.name for entry in listed(path)]
        there = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    else:
        there = "a file"
    return UserError(
        f"{path} is not {title} as distributed: expected {expected}; it holds {there or 'nothing'}"
    )


def choose_classes(option: int | str | Sequence[str], counts: dict[int, tuple[str, ...]]) -> tuple[str, ...]:
    """The classes that an option asks for: a number that stands for a set of classes, or names.

    Raises:
        UserError: If it is neither.
    """
    if isinstance(option, int) or (isinstance(option, str) and option.strip().isdecimal()):
        if int(option) in counts:
            return counts[int(option)]
        known = ", ".join(f"{number} ({' '.join(names)})" for number, names in counts.items())
        raise UserError(f"classes is {option}, expected {known}, or names separated by commas")
    names = option.split(",") if isinstance(option, str) else list(option)
    chosen = [canonical(name) for name in names]
    wrong = [name for name, known in zip(names, chosen, strict=True) if known is None]
    if wrong or len(set(chosen)) < 2:
        raise UserError(
            f"classes is {', '.join(names)}, expected a number ({', '.join(map(str, counts))}) or at least two "
            f"different names out of {', '.join(EXPRESSIONS)}"
        )
    return tuple(name for name in EXPRESSIONS if name in chosen)


def a_few(names: Sequence[str], most: int = 3) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
