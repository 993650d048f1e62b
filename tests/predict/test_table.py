"""The table: columns, formats, what is left after a kill or on a full disk, and memory."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from facenet2expnet.errors import UserError
from facenet2expnet.faces.prepare import NO_FACE
from facenet2expnet.predict import table as module
from facenet2expnet.predict.results import FaceResult, FrameResult, column_types, columns, to_table
from facenet2expnet.predict.table import TableWriter, check_table_name

CLASSES = ("joy", "Wut, groß")


def result(frame: int = 0, faces: int = 1, *, note: str = "", smoothed: bool = False) -> FrameResult:
    probabilities = np.array([0.25, 0.75], np.float32)
    found = tuple(
        FaceResult(
            np.array([1.5, 2, 11.5, 32]), 0.987654321, probabilities, number + 1,
            probabilities[::-1] if smoothed else None,
        )
        for number in range(faces)
    )  # fmt: skip
    return FrameResult("día.mp4", frame, frame / 25, found, CLASSES, None, note or ("" if faces else NO_FACE))


def read(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    return pd.read_json(path, lines=True) if path.suffix == ".jsonl" else pd.read_csv(path)


def test_the_columns_are_the_same_for_all_sources() -> None:
    assert columns(CLASSES) == [
        "source", "frame", "time_s", "track", "x", "y", "width", "height", "detection_score",
        "label", "probability", "p_joy", "p_Wut, groß", "crop", "note",
    ]  # fmt: skip
    assert columns(CLASSES, smoothed=True)[13:] == [
        "smoothed_label", "smoothed_probability", "smoothed_p_joy", "smoothed_p_Wut, groß", "crop", "note",
    ]  # fmt: skip


def test_a_result_as_a_table() -> None:
    table = to_table([result(3, 2), result(4, 0)])
    assert table.loc[1].drop(["note"]).tolist() == [
        "día.mp4", 3, 0.12, 2, 1.5, 2.0, 10.0, 30.0, 0.987654321, "Wut, groß", 0.75, 0.25, 0.75, "detected",
    ]  # fmt: skip
    assert table.loc[2, "note"] == NO_FACE
    assert pd.isna(table.loc[2, "crop"])
    assert table.loc[2, ["track", "x", "label", "probability"]].isna().all()
    assert table["track"].dtype == "Int64"
    assert list(result(0, 1).table()["label"]) == ["Wut, groß"]
    assert to_table([result(smoothed=True)])["smoothed_label"].tolist() == ["joy"]


def test_boxes_of_a_reduced_picture_are_in_the_picture() -> None:
    row = replace(result(0, 1), reduced=4).table().loc[0]
    assert row[["x", "y", "width", "height"]].tolist() == [6.0, 8.0, 40.0, 120.0]
    assert row["crop"] == "detected, at 1/4 size"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"box_xyxy_px": np.zeros(3)}, "expected 4 finite numbers"),
        ({"box_xyxy_px": np.array([0, 0, np.nan, 1])}, "expected 4 finite numbers"),
        ({"probabilities": np.array([0.5, 0.1])}, "with sum 1"),
        ({"track": 0}, "track is 0, expected 1 or more"),
    ],
)
def test_a_wrong_face_is_refused(change: dict[str, object], message: str) -> None:
    values = {"box_xyxy_px": np.arange(4.0), "detection_score": 1.0, "probabilities": np.ones(1)} | change
    with pytest.raises(ValueError, match=message):
        FaceResult(**values)  # type: ignore[arg-type]


def test_a_wrong_frame_is_refused() -> None:
    face = result().faces
    with pytest.raises(ValueError, match="expected 3 probabilities a face"):
        FrameResult("a", 0, 0.0, face, ("a", "b", "c"), None)
    with pytest.raises(ValueError, match="expected faces, or a note why not"):
        FrameResult("a", 0, 0.0, (), CLASSES, None)
    with pytest.raises(ValueError, match=r"pixels are \(2, 2\), expected"):
        FrameResult("a", 0, 0.0, face, CLASSES, np.zeros((2, 2)))


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_all_formats_have_the_same_rows(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_ROWS", 2)
    results = [result(0, 2), result(1, 0), result(2, 1), result(3, 0, note="is damaged: \"x\", 'y'\n, z")]
    with TableWriter(tmp_path / "new" / f"a{ending}", CLASSES) as writer:
        for one in results:
            writer.write(one)
    assert writer.rows_written == 5
    assert [path.name for path in (tmp_path / "new").iterdir()] == [f"a{ending}"]
    found, expected = read(tmp_path / "new" / f"a{ending}"), to_table(results)
    assert list(found.columns) == list(expected.columns)
    found["note"] = found["note"].fillna("")
    pd.testing.assert_frame_equal(
        found.astype(column_types(list(found.columns))), expected, check_exact=False, rtol=1e-4
    )


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_a_table_without_rows(ending: str, tmp_path: Path) -> None:
    TableWriter(tmp_path / f"a{ending}", CLASSES, smoothed=True).close()
    if ending != ".jsonl":
        assert list(read(tmp_path / f"a{ending}").columns) == columns(CLASSES, smoothed=True)


def test_smoothed_columns_only_if_asked(tmp_path: Path) -> None:
    for smoothed in (False, True):
        with TableWriter(tmp_path / "a.csv", CLASSES, smoothed=smoothed) as writer:
            writer.write(result(smoothed=True))
        table = pd.read_csv(tmp_path / "a.csv")
        assert table["label"].tolist() == ["Wut, groß"]
        assert ("smoothed_label" in table) == smoothed


def test_other_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.xls: expected a name that ends in \.csv, \.jsonl or \.parquet"):
        TableWriter(tmp_path / "a.xls", CLASSES)


def test_a_full_disk_is_said_and_rows_so_far_are_named(tmp_path: Path) -> None:
    (tmp_path / "full.csv").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"full\.csv could not be written: No space left on device; make room"):
        TableWriter(tmp_path / "full.csv", CLASSES)
    with pytest.raises(UserError, match=r"could not be written: .*full\.csv is a file, not a folder"):
        TableWriter(tmp_path / "full.csv" / "a.csv", CLASSES)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_disk_without_room_for_the_head_is_left_empty(tmp_path: Path, name: str) -> None:
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(UserError, match=rf"{name} could not be written: File too large; make room"):
            TableWriter(tmp_path / name, CLASSES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_becomes_full_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = TableWriter(tmp_path / "a.csv", CLASSES)
    writer.write(result(0))
    writer.write(result(1))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer._file, "flush", full, raising=False)
    with pytest.raises(UserError, match=r"its 3 rows so far are in .*a\.csv; make room"):
        writer.write(result(2))
    assert len(pd.read_csv(tmp_path / "a.csv")) >= 2


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from facenet2expnet.predict.table import TableWriter, check_table_name
from test_table import CLASSES, result
writer = TableWriter(Path({path!r}), CLASSES)
for number in range(500):
    writer.write(result(number))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_the_table_of_a_killed_process_can_be_read(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    script = KILLED.format(tests=str(Path(__file__).parent), path=str(path))
    ended = subprocess.run([sys.executable, "-c", script], env=os.environ)
    assert ended.returncode == -signal.SIGKILL
    left = tmp_path / "a.unfinished.csv" if ending == ".parquet" else path
    table = read(left)
    assert table["frame"].tolist() == list(range(500))
    assert table["p_joy"].tolist() == [0.25] * 500


def test_json_lines_have_null_where_there_is_nothing(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "a.jsonl", CLASSES) as writer:
        writer.write(result(0, 0))
    row = json.loads((tmp_path / "a.jsonl").read_text())
    assert row["x"] is None
    assert row["note"] == NO_FACE


def test_parquet_without_pyarrow_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"a\.parquet: Parquet needs the package pyarrow; pip install pyarrow"):
        check_table_name(Path("a.parquet"))
    check_table_name(Path("a.csv"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_rows_that_a_full_disk_does_not_take_are_deleted(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path / "t.parquet", ("a", "b"), rows_path=tmp_path / ".rows.csv")
    writer._file.close()
    writer._file = Path("/dev/full").open("w")  # noqa: SIM115
    writer._file.write("a row")
    with pytest.raises((UserError, OSError)):
        writer.close()
    writer.discard()
    assert not list(tmp_path.iterdir())
