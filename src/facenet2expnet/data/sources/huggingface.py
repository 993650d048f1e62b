"""Data sets in Hugging Face's Parquet form: each row holds its picture, {bytes, path}, and the number of its class."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from facenet2expnet.data.manifest import Manifest, natural_key, tidy_values
from facenet2expnet.data.sources import Source, layout
from facenet2expnet.data.table import SPLITS, as_text, check_columns, split_name, tidy_columns
from facenet2expnet.errors import UserError

BATCH_ROWS = 256


def read(path: Path, merge_labels: str = "none") -> Manifest:
    """All rows of one Parquet file, or of the files in and below a folder, with their parts where file names give them.

    Args:
        merge_labels: "auto" to make one class of labels that look like one; see `labels.tidy`.
    Raises:
        UserError: If there is no such file, it holds no pictures, or it can't be read.
    """
    layout.check_option("merge_labels", merge_labels, ("none", "auto"))
    files = _files(path)
    table = pd.concat([_rows(file, _names(path, file)) for file in files], ignore_index=True)
    table, notes = tidy_values(table, merge="" if merge_labels == "none" else merge_labels)
    if not (table["split"] != "").any():
        table = table.drop(columns="split")
    name = path.stem if path.is_file() else path.resolve().name
    notes.insert(0, f"{len(table)} pictures were read from {len(files)} Parquet files.")
    return Manifest(table, path if path.is_dir() else path.parent, name=name, notes=tuple(notes))


def pictures(path: Path, **_options: object) -> Iterator[tuple[str, bytes]]:
    """Name and content of every picture, as it was packed."""
    import pyarrow.parquet as pq

    for file in _files(path):
        row, prefix = 0, _names(path, file)
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(BATCH_ROWS, columns=[_picture_column(file, opened.schema_arrow)]):
                for cell in batch.column(0).to_pylist():
                    if not isinstance(cell, Mapping) or not isinstance(cell.get("bytes"), bytes):
                        raise UserError(f"{file} row {row}: expected a picture as bytes, got {type(cell).__name__}")
                    yield f"{prefix}{row:07d}.png", cell["bytes"]
                    row += 1


def _packed(schema: Any) -> list[str]:
    import pyarrow as pa

    return [
        field.name
        for field in schema
        if pa.types.is_struct(field.type)
        and "bytes" in {field.type.field(i).name for i in range(field.type.num_fields)}
    ]


def _picture_column(file: Path, schema: Any) -> str:
    found = _packed(schema)
    if len(found) != 1:
        raise UserError(
            f"{file} has {len(found)} columns of pictures ({{bytes, path}}), expected one; it has {schema.names}"
        )
    return found[0]


def _files(path: Path) -> list[Path]:
    found = [path] if path.is_file() else [file for file in path.rglob("*.parquet") if not file.name.startswith(".")]
    if not found or any(file.suffix.lower() != ".parquet" for file in found):
        raise layout.wrong_root(path, "a data set in Hugging Face's form", "files such as train-00000-of-00001.parquet")
    return sorted(found, key=lambda file: natural_key(file.as_posix()))


def _names(path: Path, file: Path) -> str:
    """What the names of a file's pictures begin with: its own path, without its ending."""
    return f"{file.relative_to(path if path.is_dir() else path.parent).with_suffix('').as_posix()}/"


def _rows(file: Path, prefix: str) -> pd.DataFrame:
    """Image, label and split of a file's rows, and its other columns of text and numbers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            schema = opened.schema_arrow
            picture = _picture_column(file, schema)
            simple = [f.name for f in schema if f.name != picture and not pa.types.is_nested(f.type)]
            table, count = opened.read(simple).to_pandas(), opened.metadata.num_rows
    except (OSError, pa.ArrowException) as fault:
        raise UserError(f"{file} can't be read as Parquet: {fault}; is the download complete?") from fault
    header = list(map(str, table.columns))
    table = tidy_columns(table, str(file))
    label = next((old for old, new in zip(header, table.columns, strict=True) if new == "label"), "")
    table = table.drop(columns="image", errors="ignore")
    table.insert(0, "image", [f"{prefix}{row:07d}.png" for row in range(count)])
    check_columns(table, str(file))
    table["label"] = _named(list(as_text(table["label"])), _class_names(schema, label), file)
    if "split" not in table:
        around = prefix.rstrip("/").rpartition("/")[0].rpartition("/")[2]
        parts = (split_name(part) for part in (file.stem.partition("-")[0], around))
        table["split"] = next((part for part in parts if part in SPLITS), "")
    return table


def _class_names(schema: Any, column: str) -> list[str]:
    """The names of a column's classes, by the features that the library datasets writes into the file; or none."""
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = metadata.get("info", {}).get("features", {}).get(column, {})
    return list(feature.get("names") or []) if isinstance(feature, Mapping) else []


def _named(labels: list[str], names: list[str], file: Path) -> list[str]:
    """Labels with the names of their numbers; -1 is no label, as in the library datasets.

    Raises:
        UserError: If the classes have names, and a label is neither a number nor the name of one.
    """
    if not names:
        return labels
    known = {name: name for name in names} | {str(number): name for number, name in enumerate(names)}
    known |= {"": "", "-1": ""}
    if odd := [row for row, label in enumerate(labels) if label not in known]:
        raise UserError(
            f"{file} row {odd[0]}: the label is {labels[odd[0]]}, expected a number from 0 ({names[0]}) to "
            f"{len(names) - 1} ({names[-1]}), or -1 for no label; is the file complete?"
        )
    return [known[label] for label in labels]


OPTIONS = {"merge_labels": "none, or auto: labels that look like one class become one"}
SOURCE = Source("huggingface", "A data set in Hugging Face's Parquet form", read, OPTIONS, pictures)
