"""RAF-DB: the list of codes, class folders, and faults of downloads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from source_trees import message_of, noted, touch

from facenet2expnet.data import sources


class TestRafDb:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        lines = [f"train_{n:05d}.jpg {1 + n % 7}" for n in range(14)] + [f"test_{n:04d}.jpg {1 + n}" for n in range(7)]
        (tmp_path / "EmoLabel").mkdir()
        (tmp_path / "EmoLabel/list_patition_label.txt").write_text("\n".join(lines) + "\n")
        stems = [line.split(".")[0] for line in lines]
        touch(
            *(tmp_path / f"Image/aligned/{stem}_aligned.jpg" for stem in stems),
            tmp_path / "Image/aligned/.DS_Store",
        )
        return tmp_path

    def test_official_parts_and_codes(self, tree: Path) -> None:
        manifest = sources.read("rafdb", tree)
        assert Counter(manifest.table["split"]) == {"train": 14, "test": 7}
        assert manifest.table.iloc[0]["label"] == "surprise"
        assert manifest.table.iloc[5]["label"] == "anger"
        assert manifest.table["image"].iloc[0] == "Image/aligned/train_00000_aligned.jpg"

    def test_faults(self, tree: Path) -> None:
        (tree / "Image/aligned/test_0003_aligned.jpg").unlink()
        assert "1 pictures of the list are missing: test_0003.jpg." in noted(sources.read("rafdb", tree))
        message = message_of("rafdb", tree, faces="original")
        assert "has RAF-DB's labels but not Image/original" in message
        assert "pass faces=aligned" in message
        assert f"give its parent, {tree}" in message_of("rafdb", tree / "Image/aligned")
        labels = tree / "EmoLabel/list_patition_label.txt"
        labels.write_text(labels.read_text() + "train_9 9\n\nfoo\n")
        assert "list_patition_label.txt line 22: expected 'train_00001.jpg 5', got 'train_9 9'" in message_of(
            "rafdb", tree
        )

    def test_png_and_a_list_of_a_spreadsheet(self, tree: Path) -> None:
        whole = sources.read("rafdb", tree)
        for picture in (tree / "Image/aligned").glob("*.jpg"):
            picture.rename(picture.with_suffix(".png"))
        labels = tree / "EmoLabel/list_patition_label.txt"
        labels.write_bytes(b"\xef\xbb\xbf" + labels.read_bytes().replace(b" ", b";").replace(b"\n", b";\r\n") + b"\r\n")
        found = sources.read("rafdb", tree).table
        assert list(found["label"]) == list(whole.table["label"])
        assert set(found["image"].str[-4:]) == {".png"}

    def test_folders_named_by_expression(self, tmp_path: Path) -> None:
        touch(tmp_path / "train/happy/train_1_aligned.png", tmp_path / "test/7/test_1.png", tmp_path / "test/odd/x.png")
        manifest = sources.read("rafdb", tmp_path)
        assert list(manifest.table["label"]) == ["happiness", "neutral"]
        assert "1 folders are no expression, and their pictures were left out: odd 1." in noted(manifest)

    def test_folders_named_by_code(self, tmp_path: Path) -> None:
        touch(tmp_path / "DATASET/train/4/train_1_aligned.jpg", tmp_path / "DATASET/test/7/test_1_aligned.jpg")
        manifest = sources.read("rafdb", tmp_path)
        assert list(manifest.table["label"]) == ["happiness", "neutral"]
        assert list(manifest.table["split"]) == ["train", "test"]
