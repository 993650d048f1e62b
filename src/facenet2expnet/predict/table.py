"""Write the table of results row by row, so that memory does not grow and what was found is kept after a kill."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from facenet2expnet.errors import UserError
from facenet2expnet.files import atomic_path, check_writable
from facenet2expnet.predict.results import FrameResult, column_types, columns

ENDINGS = (".csv", ".jsonl", ".parquet")
CHUNK_ROWS = 50_000


def check_table_name(path: Path, endings: Sequence[str] = ENDINGS) -> None:
    """Raise UserError, before any work, if a table can't be written to a file of this name."""
    if path.suffix.lower() not in endings:
        raise UserError(f"{path}: expected a name that ends in {', '.join(endings[:-1])} or {endings[-1]}")
    if path.suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError(f"{path}: Parquet needs the package pyarrow; pip install pyarrow, or give a name with .csv")
    check_writable(path)


class TableWriter:
    """Writes results to a CSV, JSON lines or Parquet file as they come; to be closed.

    Every row is on its way to the disk when `write` returns, so that after a kill the table so far can be read. A
    Parquet file can't be read before its end is written: its rows go to a file `.unfinished.csv` beside it, which
    becomes the Parquet file at the end.

    Args:
        path: ends in .csv, .jsonl or .parquet; an older file is replaced.
        classes: class names.
        smoothed: add the columns of the smoothed probabilities.
        rows_path: of the rows of a Parquet file before its end, in place of that beside it.
    Raises:
        UserError: If the name has another ending, or the file can't be written.
    """

    def __init__(
        self, path: Path, classes: Sequence[str], *, smoothed: bool = False, rows_path: Path | None = None
    ) -> None:
        check_table_name(path)
        self.path, self.smoothed, self.rows_written = path, smoothed, 0
        self.columns = columns(classes, smoothed=smoothed)
        self._lines = path.suffix.lower() == ".jsonl"
        parquet = path.suffix.lower() == ".parquet"
        self.rows_path = (rows_path or path.with_name(f"{path.stem}.unfinished.csv")) if parquet else path
        with self._writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._finished = False
            self._file = self.rows_path.open("w", encoding="utf-8", errors="surrogateescape", newline="")
            self._csv = csv.writer(self._file, lineterminator="\n")
            try:
                if not self._lines:
                    self._csv.writerow(self.columns)
                self._file.flush()
            except OSError:
                if self.rows_path.is_file():  # a device such as /dev/full is not deleted
                    self.discard()
                raise

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, result: FrameResult) -> None:
        """Write the rows of a result."""
        with self._writing():
            for row in result.rows(smoothed=self.smoothed):
                values = [_rounded(name, value) for name, value in zip(self.columns, row, strict=True)]
                if self._lines:
                    line = json.dumps(dict(zip(self.columns, values, strict=True)), ensure_ascii=False)
                    self._file.write(line + "\n")
                else:
                    self._csv.writerow(["" if value is None else value for value in values])
                self.rows_written += 1
            self._file.flush()

    def close(self) -> None:
        """Finish the file; nothing happens the second time."""
        if self._file.closed:
            return
        with self._writing():
            self._file.close()
        if self.rows_path != self.path:
            self._make_parquet()
            self.rows_path.unlink(missing_ok=True)
        self._finished = True

    def discard(self) -> None:
        """Close and delete the rows of an unfinished Parquet file; nothing happens after a `close` that succeeded."""
        if self._finished:
            return
        with contextlib.suppress(OSError):  # a full disk does not take the last rows
            self._file.close()
        self.rows_path.unlink(missing_ok=True)

    def _make_parquet(self) -> None:
        import pandas as pd
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = column_types(self.columns)
        reader = pd.read_csv(
            self.rows_path, dtype=types, chunksize=CHUNK_ROWS, keep_default_na=False,
            na_values={name: [""] for name in types if name != "note"}, encoding_errors="replace",
        )  # fmt: skip
        with atomic_path(self.path) as temporary:
            writer: Any = None
            for chunk in reader:
                part = pa.Table.from_pandas(chunk.astype(types), preserve_index=False, nthreads=1)
                writer = writer or pq.ParquetWriter(temporary, part.schema)
                writer.write_table(part)
            if writer is None:  # no rows
                pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in types.items()}).to_parquet(temporary)
            else:
                writer.close()
        pa.default_memory_pool().release_unused()  # or it grows from part to part of a shard

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with contextlib.suppress(OSError, AttributeError):
                self._file.close()
            kept = f"; its {self.rows_written} rows so far are in {self.rows_path}" if self.rows_written else ""
            raise UserError(
                f"{self.path} could not be written: {error.strerror}{kept}; make room, or give another name"
            ) from None


def _rounded(name: str, value: Any) -> Any:
    """Pixels to a hundredth, times to a ten-thousandth of a second, probabilities to six digits."""
    if not isinstance(value, float):
        return value
    return round(value, 2 if name in ("x", "y", "width", "height") else 4 if name == "time_s" else 6)
