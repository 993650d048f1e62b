"""Files that are either whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from facenet2expnet.errors import UserError
from facenet2expnet.files import write_atomic


def test_a_file_is_written_with_its_folders_and_nothing_beside_it(tmp_path: Path):
    write_atomic(tmp_path / "a" / "b.txt", b"first")
    write_atomic(tmp_path / "a" / "b.txt", b"second")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"second"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_a_folder_that_is_a_file_is_told(tmp_path: Path):
    (tmp_path / "small.csv").write_bytes(b"a file")
    with pytest.raises(UserError, match=r"small\.csv/x/y\.txt could not be written: Not a directory"):
        write_atomic(tmp_path / "small.csv" / "x" / "y.txt", b"")
