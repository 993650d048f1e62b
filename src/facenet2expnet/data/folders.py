"""Find pictures in folders, and read a folder of class folders as a manifest."""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from facenet2expnet.data.manifest import Manifest, check_exists, natural_key
from facenet2expnet.data.pictures import endings_text, picture_endings
from facenet2expnet.data.table import SPLITS, parts_named, raise_faults, split_name
from facenet2expnet.errors import UserError
from facenet2expnet.labels import canonical, tidy

if TYPE_CHECKING:
    import pandas as pd

MADE_BY_SYSTEMS = (
    "__macosx", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin", "recycler",
    "lost+found", "system volume information", "thumbs.db", "desktop.ini",
)  # fmt: skip
"""Files and folders that macOS, Windows and network drives put between the user's own, in lower case."""

CK_NAME = re.compile(r"(?P<subject>S[0-9]+)_(?P<sequence>[0-9]+)_(?P<frame>[0-9]{3,})", re.IGNORECASE)
"""Names of CK+, as S010_004_00000017: subject, sequence, frame."""

NAMED = 4
"""Files, folders or endings that a message names."""


class Found(NamedTuple):
    """Files of a folder in natural order, and the other files by ending, with their numbers."""

    files: list[Path]
    others: Counter[str]


def search(folder: Path, endings: Sequence[str]) -> Found:
    """Find all files with these endings in a folder and below it, without hidden files and folders.

    Raises:
        UserError: If a folder can't be read.
    """
    others = Counter[str]()
    found = list(walk(folder, endings, others))
    return Found(sorted(found, key=lambda path: natural_key(path.as_posix())), others)


def walk(folder: Path, endings: Sequence[str], others: Counter[str]) -> Iterator[Path]:
    """Yield the files of `search` folder by folder, sorted by name in each; count the other files in `others`.

    Links are followed. A folder that is reached twice, by a link or by a loop of links, is read once.

    Raises:
        UserError: If a folder can't be read.
    """
    seen = set[tuple[int, int]]()
    folders, links = [Path(folder)], deque[Path]()  # links last, so that a folder keeps its own name
    while folders or links:
        parent = folders.pop() if folders else links.popleft()
        try:
            status = os.stat(parent)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            inside = [entry for entry in os.scandir(str(parent)) if not is_hidden(entry.name)]
        except OSError as fault:
            raise UserError(f"{parent} can't be read: {fault.strerror}; check its permissions") from fault
        inside.sort(key=lambda entry: entry.name)
        below = list[Path]()
        for entry in inside:
            path = parent / entry.name
            if entry.is_dir():
                (links if entry.is_symlink() else below).append(path)
            elif entry.name.lower().endswith(tuple(endings)):
                yield path
            else:
                others[path.suffix.lower() or "without an ending"] += 1
        folders += reversed(below)


def find_pictures(folder: Path) -> list[Path]:
    """All files in a folder and below it that may be pictures, in natural order; see `search`."""
    return search(folder, picture_endings()).files


def passed_over(others: Mapping[str, int]) -> str:
    """A sentence on files that were not read, as "Passed over: 12 files (.cr2 10, .pdf 2)."; "" if there are none."""
    if not others:
        return ""
    by_number = sorted(others.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{ending} {count}" for ending, count in by_number[:NAMED])
    total, more = sum(others.values()), " and other kinds" if len(by_number) > NAMED else ""
    return f"Passed over: {total} file{'' if total == 1 else 's'} ({shown}{more})."


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or made by a system and not by the user."""
    return name.startswith(".") or name.lower() in MADE_BY_SYSTEMS


def from_folder(
    folder: Path, classes: Sequence[str] | None = None, merge_labels: str | Mapping[str, str] = ""
) -> Manifest:
    """Read a folder of class folders; the folder's name is the class, and pictures may be deeper inside it.

    A folder of folders for the parts (train, test and perhaps valid, in any usual spelling) that hold class folders
    gives the column `split`. Names that begin as in CK+ (S010_004_00000017.png) give subject, sequence and frame.

    Args:
        classes: the allowed classes; by default those found.
        merge_labels: see `labels.tidy`.
    Raises:
        UserError: If there is no such folder, its layout is another one, or a class is not allowed.
    """
    folder = Path(folder)
    check_exists(folder)
    pictures, others = search(folder, picture_endings())
    parts = [path.relative_to(folder).parts for path in pictures]
    by_split = _check_layout(folder, parts, others)
    labels, notes = tidy([names[1 if by_split else 0] for names in parts], classes or (), merge_labels)
    import pandas as pd

    table = pd.DataFrame({"image": ["/".join(names) for names in parts], "label": labels}, dtype=object)
    if by_split:
        table["split"] = [split_name(names[0]) for names in parts]
        notes += _compare_parts(folder, table)
    notes += _read_ck_names(pictures, table)
    tables = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in (".csv", ".parquet") and p.is_file())
    if tables:
        notes.append(f"The labels are the folders' names; to use those of {tables[0]}, give {folder / tables[0]}.")
    notes += [sentence] if (sentence := passed_over(others)) else []
    name = folder.resolve().name or "data"
    return Manifest(
        table,
        folder,
        tuple(classes or ()),
        name,
        notes=tuple(notes),
        place=lambda row: os.fsencode(pictures[row]).decode("utf-8", "backslashreplace"),
    )


def _read_ck_names(pictures: Sequence[Path], table: pd.DataFrame) -> list[str]:
    """Fill in subject, sequence and frame if the pictures are named as in CK+; return the sentence on that.

    Raises:
        UserError: If most file names follow CK+ but some do not, as the subjects of those are unknown.
    """
    named = [CK_NAME.match(path.stem) for path in pictures]
    if 2 * sum(map(bool, named)) <= len(named):
        return []
    if not all(named):
        odd = pictures[named.index(None)]
        raise UserError(
            f"{odd} does not follow the CK+ names of most pictures here, such as S010_004_00000017.png, so its subject "
            "is unknown: rename it, move it away, or give a CSV with the columns image,label,subject"
        )
    table["subject"] = [match["subject"].upper() for match in named if match]
    table["sequence"] = [match["sequence"] for match in named if match]
    table["frame"] = [str(int(match["frame"])) for match in named if match]
    return ["Subjects and sequences were read from the file names, which are those of CK+."]


def _check_layout(folder: Path, parts: list[tuple[str, ...]], others: Mapping[str, int]) -> bool:
    """Whether the folders of a folder are parts (train, test) of class folders, and not the classes themselves.

    Args:
        parts: the names of folders and file of each picture, below the folder.
    Raises:
        UserError: If neither; the message says what was found, and which folder to give or move.
    """
    loose, inside = [names for names in parts if len(names) == 1], [names for names in parts if len(names) > 1]
    if not inside:
        _refuse_flat(folder, loose, others)
    tops = list(dict.fromkeys(names[0] for names in inside))
    of_part = [top for top in tops if split_name(top) in SPLITS]
    empty = [p.name for p in sorted(folder.iterdir()) if p.is_dir() and not is_hidden(p.name) and p.name not in tops]
    raise_faults(
        [f"{folder / names[0]} is outside the class folders; move it into one" for names in loose]
        + [f"{folder / name} holds no pictures; add some or remove the folder" for name in empty]
    )
    if of_part:
        _check_parts(folder, tops, of_part, inside)
        for top in of_part:
            _check_depth(folder / top, [names[1:] for names in inside if names[0] == top], part=True)
        return True
    second = list(dict.fromkeys(names[1] for names in inside if len(names) > 2))
    below = [name for name in second if split_name(name) in SPLITS]
    if len(tops) == 1 and (below or (len(second) > 1 and not canonical(tops[0]) and any(map(canonical, second)))):
        raise UserError(f"{folder} holds one folder, {tops[0]}, with {first_of(second)} in it; give {folder / tops[0]}")
    if below:
        example = next(names for names in inside if len(names) > 2 and names[1] == below[0])
        advice = "put the parts above the classes, as train/anger and test/anger, or give a CSV with image,label,split"
        advice = f"give one of the folders {first_of(tops)}" if len(example) > 3 else advice
        raise UserError(
            f"{folder}: {first_of(below)} in {folder / example[0]} name parts of a set, and a class can't have such "
            f"a name; expected class folders, or train and test folders that hold class folders: {advice}"
        )
    if unclear := [top for top in tops if parts_named(top)]:
        raise UserError(
            f"{folder / unclear[0]} names the parts {' and '.join(parts_named(unclear[0]))}; rename the folder: a part "
            "of a set has one of train, valid, test in its name, a class none"
        )
    _check_depth(folder, inside)
    return False


def _check_depth(folder: Path, below: Sequence[tuple[str, ...]], *, part: bool = False) -> None:
    """Raise a UserError if the expressions are not the names of the class folders, but of folders inside these.

    Args:
        below: of each picture, its class folder, the folders inside that, and its name.
        part: whether the folder is a part of a set.
    """
    tops = list(dict.fromkeys(names[0] for names in below))
    if any(map(canonical, tops)):
        return
    for level in range(1, max(map(len, below)) - 1):
        deeper = list(dict.fromkeys(names[level] for names in below if len(names) > level + 1))
        expressions = [name for name in deeper if canonical(name)]
        if len({canonical(name) for name in expressions}) > 1:
            example = next(names[:level] for names in below if len(names) > level + 1 and names[level] in expressions)
            around = "move" if part or len(tops) > 1 else f"give {folder.joinpath(*example)}, if all are there, or move"
            raise UserError(
                f"{folder}: the folders of expressions, {first_of(expressions)}, are inside {first_of(tops)}, where "
                f"classes are expected; {around} them up, as {folder.name}/{expressions[0]}, or give a CSV with the "
                "columns image,label and, where they are known, subject, split or fold"
            )


def _refuse_flat(folder: Path, loose: Sequence[tuple[str, ...]], others: Mapping[str, int]) -> None:
    """Raise the error for a folder without class folders."""
    if canonical(folder.resolve().name) and loose:
        around = folder.resolve().parent
        raise UserError(f"{folder} holds {len(loose)} pictures of one class; give the folder of all classes, {around}")
    sentence = passed_over(others)
    raise UserError(
        f"{folder} holds {len(loose) or 'no'} pictures and no class folders{'; ' + sentence[:-1] if sentence else ''}; "
        f"put the pictures of each class ({endings_text()}) into a folder with its name, "
        "or give a CSV with the columns image,label"
    )


def _check_parts(folder: Path, tops: list[str], of_part: list[str], inside: list[tuple[str, ...]]) -> None:
    """Raise a UserError unless all folders are parts, each part has one, and each holds class folders only."""
    csv = "or give a CSV with the columns image,label,split"
    if others := [top for top in tops if top not in of_part]:
        raise UserError(
            f"{folder} holds {first_of(of_part)}, which name parts of a set, and {first_of(others)}, which do not; "
            "expected either class folders, or train, valid and test folders that hold class folders: move the others, "
            + csv
        )
    meant = [split_name(top) for top in of_part]
    if twice := [top for top in of_part if meant.count(split_name(top)) > 1]:
        raise UserError(
            f"{folder}: {' and '.join(twice)} both mean the part {split_name(twice[0])}; join them, "
            f"rename them if they are classes, {csv}"
        )
    faults = []
    for top in of_part:
        flat = [names for names in inside if names[0] == top and len(names) == 2]
        if flat and len(flat) == sum(names[0] == top for names in inside):
            faults.append(
                f"{folder / top} holds {len(flat)} pictures and no class folders; expected class folders in it, as "
                f"{top}/anger: sort the pictures into them, move the folder away, {csv}"
            )
        else:
            faults += [f"{folder.joinpath(*names)} is outside the class folders; move it into one" for names in flat]
    raise_faults(faults)
    if low := next((names for names in inside if split_name(names[1]) in SPLITS), None):
        raise UserError(
            f"{folder}: {low[0]} holds the part {low[1]}, and a class can't have such a name; give {folder / low[0]}"
        )


def _compare_parts(folder: Path, table: pd.DataFrame) -> list[str]:
    """Sentences on classes of a held-out part that training lacks.

    Raises:
        UserError: If the only folder of a part is no class of the training part.
    """
    found = {part: sorted(set(table["label"][table["split"] == part])) for part in SPLITS}
    notes = []
    for part, names in found.items():
        if not names:
            continue
        own = set(found["train"] or names)
        if own.isdisjoint(names) and len(names) == 1 and not canonical(names[0]):
            raise UserError(
                f"{folder}: the training part has the classes {first_of(sorted(own))}, the part {part} has {names[0]}; "
                "expected the same class folders in both: is there a folder too many in one of them?"
            )
        if more := sorted(set(names) - own):
            notes.append(f"The part {part} has classes that the training part does not have: {first_of(more)}.")
    return notes


def first_of(names: Sequence[str], most: int = NAMED) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
