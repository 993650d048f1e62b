"""Files that are whole or absent, and folder locks."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest

from facenet2expnet.errors import UserError
from facenet2expnet.files import LOCK, atomic_path, folder_lock, read_json, well_formed, write_atomic, write_json


def test_a_file_is_written_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_atomic(tmp_path / "new" / "a.txt", b"one")
    write_atomic(tmp_path / "new" / "a.txt", b"two")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]
    assert (tmp_path / "new" / "a.txt").read_bytes() == b"two"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a.csv", b"old")

    def stop_in_the_middle() -> None:
        with atomic_path(tmp_path / "a.csv") as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        stop_in_the_middle()
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
    assert (tmp_path / "a.csv").read_bytes() == b"old"


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="could not be written"):
        write_atomic(tmp_path / "file" / "a.txt", b"one")


def test_json_goes_there_and_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "é", "values": [1, None]})
    assert read_json(tmp_path / "a.json") == {"name": "é", "values": [1, None]}
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json: can't be read"):
        read_json(tmp_path / "a.json")


def _hold_often(folder: Path, rounds: int, held: str, overlaps: str) -> None:
    """Take the lock again and again; write down each moment at which another process held it too."""
    mark = folder / held
    for _ in range(rounds):
        try:
            with folder_lock(folder, "busy"):
                try:
                    mark.touch(exist_ok=False)
                except FileExistsError:
                    (folder / overlaps).touch()
                time.sleep(0.0005)
                mark.unlink(missing_ok=True)
        except UserError:
            time.sleep(0.0002)


def test_two_processes_never_hold_one_lock(tmp_path: Path) -> None:
    processes = [
        multiprocessing.get_context("spawn").Process(target=_hold_often, args=(tmp_path, 300, "held", "overlap"))
        for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert all(process.exitcode == 0 for process in processes)
    assert not (tmp_path / "overlap").exists()
    assert (tmp_path / LOCK).exists()  # deleting it is what let two processes in


def test_a_held_lock_is_refused(tmp_path: Path) -> None:
    with folder_lock(tmp_path, "busy"), pytest.raises(UserError, match="busy"), folder_lock(tmp_path, "busy"):
        pass
    with folder_lock(tmp_path, "busy"):
        pass


def test_json_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a":' * 50_000)
    with pytest.raises(UserError, match=r"a\.json: can't be read"):
        read_json(tmp_path / "a.json")


def test_a_file_of_another_form_is_named(tmp_path: Path) -> None:
    for value, reason in (({}, "'rows' is missing"), (3, "not subscriptable"), ({"rows": "x"}, "invalid literal")):
        with (
            pytest.raises(UserError, match=f"a.json is damaged: .*{reason}.*; make it again"),
            well_formed(tmp_path / "a.json", "make it again"),
        ):
            int(value["rows"])  # type: ignore[index]


def test_an_error_of_ours_names_the_file_too_and_once(tmp_path: Path) -> None:
    for message, expected in (
        ("unknown key extra", f"{tmp_path / 'a.json'}: unknown key extra; make it again"),
        (f"{tmp_path / 'a.json'} has no rows", f"{tmp_path / 'a.json'} has no rows"),
    ):
        with pytest.raises(UserError) as raised, well_formed(tmp_path / "a.json", "make it again"):
            raise UserError(message)
        assert str(raised.value) == expected
