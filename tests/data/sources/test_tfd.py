"""TFD: the MATLAB file, its official folds and identities, and damaged files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.io import savemat
from source_trees import message_of, noted

from facenet2expnet.data import sources
from facenet2expnet.data.pictures import read_picture
from facenet2expnet.data.splits import choose


class TestTfd:
    @staticmethod
    def write(path: Path, identity: list[int], **changes: object) -> Path:
        """Ten faces: two without an expression, one of each of seven, one more anger."""
        labels = np.array([-1, 1, 2, 3, 4, 5, 6, 7, 1, -1])
        folds = np.tile(np.array([0, 1, 1, 1, 2, 2, 3, 3, 1, 0])[:, None], 5)
        folds[1, 1] = 3
        pictures = np.arange(10 * 48 * 48, dtype=np.uint32).reshape(10, 48, 48).astype(np.uint8)
        content = {"images": pictures, "labs_ex": labels[:, None], "labs_id": np.array(identity)[:, None]}
        savemat(path, content | {"folds": folds} | changes)
        return path

    def test_five_official_folds_and_subjects(self, tmp_path: Path) -> None:
        self.write(tmp_path / "TFD_48x48.mat", [0, 1, 2, 3, 4, -1, 6, 7, 8, 9])
        manifest = sources.read("tfd", tmp_path)
        assert len(manifest) == 8
        assert manifest.counts["anger"] == 2
        assert list(manifest.table["subject"]) == ["1", "2", "3", "4", "", "6", "7", "8"]
        chosen = choose(manifest)
        assert chosen.name == "official"
        assert len(chosen.splits) == 5
        split = chosen.splits[1]
        assert [list(split.train), list(split.validation), list(split.test)] == [[1, 2, 7], [3, 4], [0, 5, 6]]

    def test_identity_on_two_sides_is_noted(self, tmp_path: Path) -> None:
        file = self.write(tmp_path / "tfd_48X48.MAT", [0, 1, 2, 3, 4, -1, 1, 7, 8, 9])
        manifest = sources.read("tfd", tmp_path)
        assert "subject" not in manifest.table.columns
        assert manifest.table["identity"].iloc[0] == "1"
        assert "1 identities on two sides" in noted(manifest)
        assert len(sources.read("tfd", file)) == 8

    def test_pictures_are_written_upright(self, tmp_path: Path) -> None:
        self.write(tmp_path / "TFD_48x48.mat", list(range(10)))
        manifest = sources.read_into("tfd", tmp_path, tmp_path / "out")
        row = int(manifest.table["image"].iloc[2][3:9])
        expected = np.arange(10 * 48 * 48).reshape(10, 48, 48).astype(np.uint8)[row]
        assert np.array_equal(read_picture(manifest.paths[2])[..., 0], expected)

    def test_damaged_files(self, tmp_path: Path) -> None:
        file = self.write(tmp_path / "TFD_48x48.mat", list(range(10)))
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 3])
        assert "can't be read as a MATLAB file" in message_of("tfd", tmp_path)
        savemat(file, {"images": np.zeros((2, 48, 48))})
        assert "lacks the variable labs_ex, labs_id, folds" in message_of("tfd", tmp_path)
        self.write(file, list(range(10)), folds=np.ones((3, 5)))
        assert "folds (N, 5); got (10, 48, 48), (10,), (10,), (3, 5)" in message_of("tfd", tmp_path)
        file.unlink()
        assert "is not TFD: expected TFD_48x48.mat" in message_of("tfd", tmp_path)
