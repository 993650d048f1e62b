"""SFEW: aligned faces and whole frames, and faults of downloads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from source_trees import message_of, touch

from facenet2expnet.data import sources
from facenet2expnet.data.splits import choose


class TestSfew:
    NAMES = ("Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")

    def fill(self, folder: Path, each: int) -> None:
        for name in self.NAMES:
            touch(*(folder / name / f"Airheads_{number:09d}_00000005.png" for number in range(each)))

    def test_aligned_train_and_val(self, tmp_path: Path) -> None:
        self.fill(tmp_path / "Train_Aligned_Faces", 3)
        self.fill(tmp_path / "Val_Aligned_Faces_new", 2)
        touch(tmp_path / "Test_Aligned_Faces/a.png", tmp_path / "Train_Aligned_Faces/.DS_Store")
        manifest = sources.read("sfew", tmp_path)
        assert Counter(manifest.table["split"]) == {"train": 21, "valid": 14}
        assert set(manifest.table["film"]) == {"Airheads"}
        chosen = choose(manifest)
        assert (chosen.name, len(chosen.splits[0].train), len(chosen.splits[0].test)) == ("split", 21, 14)

    def test_whole_frames_beside_aligned_ones(self, tmp_path: Path) -> None:
        for part, each in (("Train", 3), ("Val", 1)):
            self.fill(tmp_path / part, each + 1)
            self.fill(tmp_path / part / f"{part}_Aligned_Faces", each)
        assert len(sources.read("sfew", tmp_path)) == 28
        assert len(sources.read("sfew", tmp_path, faces="original")) == 42
        assert len(sources.read("sfew", tmp_path, faces="aligned")) == 28

    def test_faults(self, tmp_path: Path) -> None:
        self.fill(tmp_path / "Train", 2)
        assert "no picture of Val was found in folders like Angry (faces=auto)" in message_of("sfew", tmp_path)
        assert "this looks like SFEW's folder Train or a part of it; give" in message_of("sfew", tmp_path / "Train")
        touch(tmp_path / "Val/a.png")
        assert "no picture of Val was found" in message_of("sfew", tmp_path)
        (tmp_path / "Val/a.png").unlink()
        self.fill(tmp_path / "Val/Val_Aligned_Faces", 1)
        assert "Train and Val differ (aligned and original)" in message_of("sfew", tmp_path)
        assert "faces is whole" in message_of("sfew", tmp_path, faces="whole")
