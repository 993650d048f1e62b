"""Face stores: content, damage, stopping and continuing, several processes at once, full disks."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facenet2expnet.crop import CropContract
from facenet2expnet.data.dataset import load_dataset
from facenet2expnet.data.manifest import Manifest, read_manifest
from facenet2expnet.errors import UserError
from facenet2expnet.faces import detect, prepare, store
from facenet2expnet.faces.store import FaceStore

SMALL = CropContract(stored_px=16, crop_px=14)
DETECTED = CropContract(detector="viola-jones", stored_px=16, crop_px=14)


@pytest.fixture(autouse=True)
def short_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SHARD_ROWS", 3)


def test_content_equals_crops_in_memory(pictures: Manifest, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    made = store.prepare(
        pictures, SMALL, tmp_path / "faces", progress=lambda done, total: progress.append((done, total))
    )
    loaded = load_dataset(pictures, SMALL)
    assert isinstance(made.pixels, np.memmap)
    np.testing.assert_array_equal(made.pixels, loaded.pixels)
    assert made.skipped == loaded.skipped
    assert (made.manifest.contract, made.manifest.classes) == (SMALL, pictures.classes)
    assert list(made.manifest.table["image"]) == list(loaded.manifest.table["image"])
    assert set(made.manifest.table["face"]) == {"whole picture"}
    assert progress == [(number, 11) for number in range(1, 12)]
    assert "anger/2b.jpg" in (tmp_path / "faces" / "skipped.csv").read_text()
    assert not (tmp_path / "faces" / store.JOURNAL).exists()


def test_store_can_be_moved_and_opened_without_the_pictures(pictures: Manifest, tmp_path: Path) -> None:
    made = store.prepare(pictures, SMALL, tmp_path / "faces")
    shutil.rmtree(pictures.root)
    shutil.move(tmp_path / "faces", tmp_path / "elsewhere")
    moved = FaceStore.open(tmp_path / "elsewhere")
    np.testing.assert_array_equal(made.pixels, moved.pixels)
    assert made.manifest.sha256() == moved.manifest.sha256()
    assert moved.skipped == made.skipped


def test_what_a_killed_preparation_left_half_written_is_deleted(pictures: Manifest, tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / ".skipped.1a901b3b.csv").write_text("image,rea")
    store.prepare(pictures, SMALL, tmp_path / "faces")
    assert [path.name for path in (tmp_path / "faces").glob(".*")] == [".lock"]


def test_finished_store_is_opened_not_made_again(
    pictures: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.prepare(pictures, SMALL, tmp_path / "faces")
    monkeypatch.setattr(store, "crop_files", None)
    assert len(store.prepare(pictures, SMALL, tmp_path / "faces")) == 10


@pytest.mark.parametrize(
    ("contract", "rows", "centre_crop", "message"),
    [
        (CropContract(stored_px=20, crop_px=14), 11, False, "stored_px was 16, now 20"),
        (SMALL, 11, True, "missing was drop, now centre-crop"),
        (SMALL, 5, False, "the manifest changed"),
    ],
)
def test_store_of_another_job_is_refused(
    pictures: Manifest, tmp_path: Path, contract: CropContract, rows: int, centre_crop: bool, message: str
) -> None:
    store.prepare(pictures, SMALL, tmp_path / "faces")
    with pytest.raises(UserError, match=message):
        store.prepare(pictures.rows(range(rows)), contract, tmp_path / "faces", centre_crop=centre_crop)


def test_folder_with_other_files_is_refused(pictures: Manifest) -> None:
    with pytest.raises(UserError, match="is not a face store; give another folder"):
        store.prepare(pictures, SMALL, pictures.root)


@pytest.mark.parametrize("centre_crop", [False, True])
def test_pictures_without_a_face_are_listed_and_shown(
    pictures: Manifest, tmp_path: Path, centre_crop: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The detector finds a face in every second picture."""
    faces = [detect.Face(np.array([0.0, 0, 20, 20]), 1.0)]
    monkeypatch.setattr(detect, "find_faces", lambda pixels, contract: faces if pixels[0, 0, 0] % 2 else [])
    bare = [
        image
        for image, path in zip(pictures.table["image"], pictures.paths, strict=True)
        if path.suffix == ".png" and np.asarray(Image.open(path))[0, 0, 0] % 2 == 0
    ]
    assert 0 < len(bare) < 10
    made = store.prepare(pictures, DETECTED, tmp_path / "faces", centre_crop=centre_crop)
    assert [item.image for item in made.without_face] == bare
    assert len(made) == (10 if centre_crop else 10 - len(bare))
    assert len(made.skipped) == 11 - len(made)
    kinds = dict(zip(made.manifest.table["image"], made.manifest.table["face"], strict=True))
    assert [image for image, kind in kinds.items() if kind == "centre-crop"] == (bare if centre_crop else [])
    assert (tmp_path / "faces" / "without-face.csv").read_text().count("\n") == 1 + len(bare)
    with Image.open(tmp_path / "faces" / "without-face.png") as sheet:
        assert sheet.width == 128 * len(bare)


def test_no_usable_picture_leaves_no_files(pictures: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "find_faces", lambda pixels, contract: [])
    with pytest.raises(UserError, match=r"none of the 11 pictures could be used; the first: anger/0\.png: no face"):
        store.prepare(pictures, DETECTED, tmp_path / "faces")
    assert [path.name for path in (tmp_path / "faces").iterdir()] == [".lock"]
    monkeypatch.undo()
    assert len(store.prepare(pictures, SMALL, tmp_path / "faces")) == 10


# --- damage ---


def test_damaged_crops_are_found(pictures: Manifest, tmp_path: Path) -> None:
    store.prepare(pictures, SMALL, tmp_path / "faces")
    path = tmp_path / "faces" / "faces.npy"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="wrong checksum of crops 8 to 9"):
        FaceStore.open(tmp_path / "faces")
    assert len(FaceStore.open(tmp_path / "faces", verify=False)) == 10
    os.truncate(path, 1000)
    with pytest.raises(UserError, match=r"faces\.npy can't be read: .*delete .* and prepare the faces again"):
        FaceStore.open(tmp_path / "faces", verify=False)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 99}'])
def test_damaged_card_is_an_error(pictures: Manifest, tmp_path: Path, content: str) -> None:
    store.prepare(pictures, SMALL, tmp_path / "faces")
    (tmp_path / "faces" / "store.json").write_text(content)
    with pytest.raises(UserError, match=r"store\.json"):
        FaceStore.open(tmp_path / "faces")


def test_other_folder_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a face store \(it has no store\.json\)"):
        FaceStore.open(tmp_path)


def test_store_of_an_earlier_version_is_opened(pictures: Manifest, tmp_path: Path) -> None:
    """Its contracts have the key colour and no aligned_px."""
    store.prepare(pictures, SMALL, tmp_path / "faces")
    for name in ("store.json", "manifest.json"):
        text = (tmp_path / "faces" / name).read_text()
        assert '"aligned_px": 0' in text
        (tmp_path / "faces" / name).write_text(text.replace('"aligned_px": 0', '"colour": "rgb"'))
    assert len(store.prepare(pictures, SMALL, tmp_path / "faces")) == 10


# --- stopping and continuing ---


class Stopped(Exception):
    """Simulates Ctrl-C."""


def stop_after(count: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done > count:
            raise Stopped

    return progress


def test_stopped_preparation_continues_after_its_last_shard(
    pictures: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = store.prepare(pictures, SMALL, tmp_path / "whole")
    with pytest.raises(Stopped):
        store.prepare(pictures, SMALL, tmp_path / "faces", progress=stop_after(7))
    with pytest.raises(UserError, match="was not finished; run the same command again"):
        FaceStore.open(tmp_path / "faces")
    with pytest.raises(UserError, match=r"faces was prepared differently \(crop_px was 14, now 12\)"):
        store.prepare(pictures, CropContract(stored_px=16, crop_px=12), tmp_path / "faces")
    with (tmp_path / "faces" / store.JOURNAL).open("a") as journal:
        journal.write('{"reasons": ["", ')  # a kill while the next line was written
    seen: list[Path] = []
    crop_file = prepare.crop_file

    def watched(path: Path, *args, **kwargs):  # type: ignore[no-untyped-def]
        seen.append(path)
        return crop_file(path, *args, **kwargs)

    monkeypatch.setattr(prepare, "crop_file", watched)
    again = store.prepare(pictures, SMALL, tmp_path / "faces")
    assert sorted(seen) == sorted(pictures.paths[6:])
    np.testing.assert_array_equal(again.pixels, whole.pixels)
    assert again.manifest.sha256() == whole.manifest.sha256()
    assert sorted(p.name for p in again.folder.iterdir()) == sorted(p.name for p in whole.folder.iterdir())


@pytest.mark.parametrize("failing", range(1, 13))
def test_disk_that_fills_up_at_any_write_keeps_finished_work(
    pictures: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Every file is synced when it is written; the sync number `failing` reports a full disk."""
    whole = store.prepare(pictures, SMALL, tmp_path / "whole")
    fsync, calls = os.fsync, []

    def full(number: int) -> None:
        calls.append(number)
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(number)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left on device"):
            store.prepare(pictures, SMALL, tmp_path / "faces")
    with pytest.raises(UserError, match=r"not finished|is not a face store"):
        FaceStore.open(tmp_path / "faces")
    np.testing.assert_array_equal(store.prepare(pictures, SMALL, tmp_path / "faces").pixels, whole.pixels)


SCRIPT = """
import sys, time
from pathlib import Path
from facenet2expnet.crop import CropContract
from facenet2expnet.data.folders import from_folder
from facenet2expnet.errors import UserError
from facenet2expnet.faces import store
store.SHARD_ROWS = 3
done = []
def progress(number, total):
    done.append(number)
    time.sleep(0.1)
print("ready", flush=True)
sys.stdin.readline()
try:
    found = store.prepare(from_folder(Path(sys.argv[1])), CropContract(stored_px=16, crop_px=14), Path(sys.argv[2]),
                          progress=progress)
    print(f"{len(found)} crops, made {len(done)}")
except UserError as error:
    print(error)
"""


def start(pictures: Manifest, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(pictures.root), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_killed_process_is_continued(pictures: Manifest, tmp_path: Path) -> None:
    whole = store.prepare(pictures, SMALL, tmp_path / "whole")
    victim = start(pictures, tmp_path / "faces")
    journal = tmp_path / "faces" / store.JOURNAL
    try:
        assert victim.stdin is not None
        victim.stdin.write("\n")
        victim.stdin.flush()
        deadline = time.monotonic() + 60
        while victim.poll() is None and time.monotonic() < deadline:
            if journal.exists() and journal.read_text().count("\n") >= 3:  # the job and two shards
                break
            time.sleep(0.02)
        assert journal.exists()
    finally:
        victim.kill()
        victim.communicate()
    progress: list[int] = []
    made = store.prepare(pictures, SMALL, tmp_path / "faces", progress=lambda done, total: progress.append(done))
    assert progress[0] >= 6
    np.testing.assert_array_equal(made.pixels, whole.pixels)


def test_only_one_of_several_processes_prepares_a_store(pictures: Manifest, tmp_path: Path) -> None:
    processes = [start(pictures, tmp_path / "faces") for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    lines = [process.communicate(timeout=60)[0].strip() for process in processes]
    made = [line for line in lines if line == "10 crops, made 11"]
    others = [line for line in lines if line not in made]
    assert len(made) == 1
    assert all("another process is preparing" in line or line == "10 crops, made 0" for line in others)
    assert read_manifest(tmp_path / "faces" / "manifest.csv").contract == SMALL


# --- places that can't be written ---


def test_too_small_disk_is_reported_before_the_work(
    pictures: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=5000)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(prepare, "crop_file", None)
    with pytest.raises(UserError, match=r"has 0 MB free, but 11 crops of 16 x 16 need 0 MB"):
        store.prepare(pictures, SMALL, tmp_path / "faces")


def test_folder_that_can_t_be_made(pictures: Manifest, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"faces: can't be made: Not a directory"):
        store.prepare(pictures, SMALL, tmp_path / "file" / "faces")


@pytest.mark.parametrize("line", [b"\xff", b"[", b"7", b"{}", b'{"reasons": ["", ""], "kept": 9, "sha256": ""}'])
def test_a_damaged_journal_is_named(pictures: Manifest, tmp_path: Path, line: bytes) -> None:
    store.prepare(pictures, SMALL, tmp_path / "faces")
    job = json.loads((tmp_path / "faces" / store.CARD).read_text())["job"]
    (tmp_path / "faces" / store.CARD).unlink()
    (tmp_path / "faces" / store.JOURNAL).write_bytes(json.dumps(job).encode() + b"\n" + line + b"\n")
    with pytest.raises(UserError, match=r"unfinished\.jsonl is damaged: .*delete .* and prepare the faces again"):
        store.prepare(pictures, SMALL, tmp_path / "faces")
