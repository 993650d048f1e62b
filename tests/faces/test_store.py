from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import numpy as np
import pytest
from PIL import Image

from facenet2expnet.crop import CropContract
from facenet2expnet.data.manifest import Manifest, from_folder
from facenet2expnet.errors import UserError
from facenet2expnet.faces import ready, store
from facenet2expnet.faces.prepare import load_crops
from facenet2expnet.faces.store import FaceStore, prepare

SMALL = CropContract(stored_px=16, crop_px=14)
LOOKING = CropContract(detector="viola-jones", stored_px=16, crop_px=14)


@pytest.fixture(autouse=True)
def short_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SHARD_ROWS", 3)


def test_the_store_holds_what_is_loaded_in_memory(pictures: Manifest, tmp_path: Path) -> None:
    told: list[int] = []
    made = prepare(pictures, SMALL, tmp_path / "faces", progress=lambda done, of: told.append(done))
    pixels, rows, skipped = load_crops(pictures, SMALL)
    assert isinstance(made.pixels, np.memmap)
    np.testing.assert_array_equal(made.pixels, pixels)
    assert made.skipped == skipped
    assert made.manifest.contract == SMALL
    assert list(made.manifest.table["image"]) == list(pictures.rows(rows).table["image"])
    assert set(made.manifest.table["face"]) == {"whole picture"}
    assert made.manifest.classes == pictures.classes
    assert told == list(range(1, 12))
    assert not (tmp_path / "faces.part").exists()


def test_an_opened_store_equals_the_prepared_one(pictures: Manifest, tmp_path: Path) -> None:
    made = prepare(pictures, SMALL, tmp_path / "faces")
    again = FaceStore.open(tmp_path / "faces")
    np.testing.assert_array_equal(made.pixels, again.pixels)
    assert made.manifest.sha256() == again.manifest.sha256()
    assert again.skipped == made.skipped
    assert "anger/2b.jpg" in (tmp_path / "faces" / "skipped.csv").read_text()


def test_a_store_needs_no_pictures_any_more(pictures: Manifest, tmp_path: Path) -> None:
    prepare(pictures, SMALL, tmp_path / "faces")
    shutil.rmtree(pictures.root)
    shutil.move(tmp_path / "faces", tmp_path / "elsewhere")
    assert len(FaceStore.open(tmp_path / "elsewhere")) == 10


def test_a_finished_store_is_not_made_again(
    pictures: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(pictures, SMALL, tmp_path / "faces")
    monkeypatch.setattr(store, "crop_file", None)
    assert len(prepare(pictures, SMALL, tmp_path / "faces")) == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contract": CropContract(stored_px=20, crop_px=14)}, "stored_px was 16, now 20"),
        ({"missing": "centre-crop"}, "missing was drop, now centre-crop"),
        ({"manifest": slice(0, 5)}, "another manifest"),
    ],
)
def test_a_store_of_something_else_is_refused(
    pictures: Manifest, tmp_path: Path, change: dict, message: str
) -> None:
    prepare(pictures, SMALL, tmp_path / "faces")
    manifest = pictures.rows(range(5)) if "manifest" in change else pictures
    with pytest.raises(UserError, match=message):
        prepare(
            manifest, change.get("contract", SMALL), tmp_path / "faces", missing=change.get("missing", "drop")
        )


def test_a_folder_with_other_things_is_left_alone(pictures: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a face store; give another folder"):
        prepare(pictures, SMALL, pictures.root)


@pytest.mark.parametrize("missing", ["drop", "centre-crop"])
def test_pictures_without_a_face_are_listed_counted_and_shown(
    pictures: Manifest, tmp_path: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A detector that finds a face in every second picture."""
    faces = [store.detect.Face(np.array([0.0, 0, 20, 20]), 1.0)]
    monkeypatch.setattr(
        ready.detect, "find_faces", lambda pixels, contract: faces if pixels[0, 0, 0] % 2 else []
    )
    bare = [
        image
        for image, path in zip(pictures.table["image"], pictures.paths, strict=True)
        if path.suffix == ".png" and np.asarray(Image.open(path))[0, 0, 0] % 2 == 0
    ]
    assert 0 < len(bare) < 10
    made = prepare(pictures, LOOKING, tmp_path / "faces", missing=missing)
    assert [item.image for item in made.without_face] == bare
    assert len(made) == (10 if missing == "centre-crop" else 10 - len(bare))
    assert len(made.skipped) == 11 - len(made)
    kinds = dict(zip(made.manifest.table["image"], made.manifest.table["face"], strict=True))
    assert [image for image, kind in kinds.items() if kind == "centre-crop"] == (
        bare if missing == "centre-crop" else []
    )
    assert (tmp_path / "faces" / "without-face.csv").read_text().count("\n") == 1 + len(bare)
    with Image.open(tmp_path / "faces" / "without-face.png") as sheet:
        assert sheet.width == 128 * len(bare)


def test_no_usable_picture_leaves_nothing_behind(
    pictures: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.detect, "find_faces", lambda pixels, contract: [])
    with pytest.raises(UserError, match="none of the 11 pictures could be made ready"):
        prepare(pictures, LOOKING, tmp_path / "faces")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my pictures"]


# --- damage ---


def test_a_changed_byte_is_found(pictures: Manifest, tmp_path: Path) -> None:
    prepare(pictures, SMALL, tmp_path / "faces")
    with (tmp_path / "faces" / "faces.npy").open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(UserError, match="checksum of crops 8 to 9 is wrong"):
        FaceStore.open(tmp_path / "faces")
    assert len(FaceStore.open(tmp_path / "faces", verify=False)) == 10


def test_a_file_cut_short_is_found_even_without_checksums(pictures: Manifest, tmp_path: Path) -> None:
    prepare(pictures, SMALL, tmp_path / "faces")
    os.truncate(tmp_path / "faces" / "faces.npy", 1000)
    with pytest.raises(UserError, match=r"found 1000; the face store was cut short"):
        FaceStore.open(tmp_path / "faces", verify=False)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 99}'])
def test_a_damaged_description_is_told(pictures: Manifest, tmp_path: Path, content: str) -> None:
    prepare(pictures, SMALL, tmp_path / "faces")
    (tmp_path / "faces" / "store.json").write_text(content)
    with pytest.raises(UserError, match=r"store\.json"):
        FaceStore.open(tmp_path / "faces")


def test_a_folder_that_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a face store: it has no store\.json"):
        FaceStore.open(tmp_path)


# --- stopping and going on ---


class Stopped(Exception):
    """Stands for Ctrl-C."""


def stop_after(count: int):  # type: ignore[no-untyped-def]
    def progress(done: int, of: int) -> None:
        if done > count:
            raise Stopped

    return progress


def test_a_stopped_preparation_goes_on_after_its_last_shard(
    pictures: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepare(pictures, SMALL, tmp_path / "whole")
    with pytest.raises(Stopped):
        prepare(pictures, SMALL, tmp_path / "faces", progress=stop_after(7))
    with pytest.raises(UserError, match="was not finished; run the same command again"):
        FaceStore.open(tmp_path / "faces")
    seen: list[Path] = []
    plain = store.crop_file

    def watched(path: Path, *args, **kwargs):  # type: ignore[no-untyped-def]
        seen.append(path)
        return plain(path, *args, **kwargs)

    monkeypatch.setattr(store, "crop_file", watched)
    again = prepare(pictures, SMALL, tmp_path / "faces")
    assert sorted(seen) == sorted(pictures.paths[6:])
    np.testing.assert_array_equal(again.pixels, whole.pixels)
    assert again.manifest.sha256() == whole.manifest.sha256()


def test_going_on_with_another_contract_is_refused(pictures: Manifest, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        prepare(pictures, SMALL, tmp_path / "faces", progress=stop_after(7))
    with pytest.raises(UserError, match=r"faces\.part was prepared differently \(crop_px was 14, now 12\)"):
        prepare(pictures, CropContract(stored_px=16, crop_px=12), tmp_path / "faces")


def test_a_damaged_shard_is_made_again(pictures: Manifest, tmp_path: Path) -> None:
    whole = prepare(pictures, SMALL, tmp_path / "whole")
    with pytest.raises(Stopped):
        prepare(pictures, SMALL, tmp_path / "faces", progress=stop_after(7))
    first = tmp_path / "faces.part" / "shards" / "00000000.u8"
    first.write_bytes(bytes(first.stat().st_size))
    np.testing.assert_array_equal(prepare(pictures, SMALL, tmp_path / "faces").pixels, whole.pixels)


@pytest.mark.parametrize("at", range(6))
def test_stopped_while_joining_or_renaming_it_goes_on(
    pictures: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Killed after each of the four shards is joined, before the description is written, and before the rename."""
    whole = prepare(pictures, SMALL, tmp_path / "whole")
    with monkeypatch.context() as patch:
        if at < 4:
            plain, calls = os.fsync, []

            def fsync(number: int) -> None:
                plain(number)
                if (tmp_path / "faces.part" / "faces.npy").exists():
                    calls.append(number)
                    if len(calls) > at:
                        raise Stopped

            patch.setattr(store.os, "fsync", fsync)
        else:
            name = "write_skipped" if at == 4 else "_check_same_job"
            if at == 4:
                patch.setattr(store, name, lambda *args: (_ for _ in ()).throw(Stopped()))
            else:
                patch.setattr(store.shutil, "rmtree", lambda *a, **k: (_ for _ in ()).throw(Stopped()))
        with pytest.raises(Stopped):
            prepare(pictures, SMALL, tmp_path / "faces")
    made = prepare(pictures, SMALL, tmp_path / "faces")
    np.testing.assert_array_equal(made.pixels, whole.pixels)
    assert sorted(p.name for p in (tmp_path / "faces").iterdir()) == sorted(
        p.name for p in (tmp_path / "whole").iterdir()
    )


VICTIM = """
import sys, time
from pathlib import Path
from facenet2expnet.data.manifest import from_folder
from facenet2expnet.faces import store
from facenet2expnet.crop import CropContract
store.SHARD_ROWS = 3
store.prepare(from_folder(Path(sys.argv[1])), CropContract(stored_px=16, crop_px=14), Path(sys.argv[2]),
              progress=lambda done, of: time.sleep(0.2))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_process_is_gone_on_with(pictures: Manifest, tmp_path: Path) -> None:
    whole = prepare(pictures, SMALL, tmp_path / "whole")
    victim = subprocess.Popen([sys.executable, "-c", VICTIM, str(pictures.root), str(tmp_path / "faces")])
    try:
        entry = tmp_path / "faces.part" / "shards" / "00000003.json"
        deadline = time.monotonic() + 60
        while not entry.exists() and victim.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert entry.exists()
    finally:
        victim.kill()
        victim.wait()
    assert not (tmp_path / "faces").exists()
    told: list[int] = []
    made = prepare(pictures, SMALL, tmp_path / "faces", progress=lambda done, of: told.append(done))
    assert told[0] >= 6
    np.testing.assert_array_equal(made.pixels, whole.pixels)


def test_two_at_once_are_refused(pictures: Manifest, tmp_path: Path) -> None:
    (tmp_path / "faces.part").mkdir()
    with (
        filelock.FileLock(tmp_path / "faces.part" / "lock"),
        pytest.raises(UserError, match="another process is preparing"),
    ):
        prepare(pictures, SMALL, tmp_path / "faces")


# --- the disk ---


def test_a_disk_that_is_too_small_is_told_before_the_work(
    pictures: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=5000)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(store, "crop_file", None)
    with pytest.raises(UserError, match=r"0 MB free, but 11 crops of 16 x 16 need 0 MB more"):
        prepare(pictures, SMALL, tmp_path / "faces")


@pytest.mark.parametrize("written", [0, 2, 8])
def test_a_disk_that_fills_up_is_told_and_the_work_kept(
    pictures: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    whole = prepare(pictures, SMALL, tmp_path / "whole")
    plain, calls = os.fsync, []

    def full(number: int) -> None:
        calls.append(number)
        if len(calls) > 1 + written:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(number)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="is full; no store was put in place"):
            prepare(pictures, SMALL, tmp_path / "faces")
    assert not (tmp_path / "faces").exists()
    np.testing.assert_array_equal(prepare(pictures, SMALL, tmp_path / "faces").pixels, whole.pixels)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_told(pictures: Manifest, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    with pytest.raises(UserError, match="can't write"):
        prepare(pictures, SMALL, closed / "faces")


def test_a_place_that_may_not_be_written_is_told(
    pictures: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *args, **kwargs) -> None:  # type: ignore[no-untyped-def]
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"can't write .*faces\.part: Permission denied"):
        prepare(pictures, SMALL, tmp_path / "faces")


def test_the_description_is_plain_json(pictures: Manifest, tmp_path: Path) -> None:
    prepare(pictures, SMALL, tmp_path / "faces")
    about = json.loads((tmp_path / "faces" / "store.json").read_text())
    assert (about["pictures"], about["kept"], len(about["shards"])) == (11, 10, 4)
    assert CropContract.from_dict(about["contract"]) == SMALL
    assert len(from_folder(pictures.root)) == about["pictures"]
