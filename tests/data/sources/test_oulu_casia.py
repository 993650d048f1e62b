"""Oulu-CASIA: cameras, lights and sequences, and faults of downloads."""

from __future__ import annotations

from pathlib import Path

import pytest
from source_trees import message_of, noted, touch

from facenet2expnet.data import sources

SIX = ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise")


class TestOuluCasia:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        for camera, light in (("VL", "Strong"), ("VL", "Weak"), ("NI", "Strong")):
            for subject in ("P001", "P002", "P010"):
                for emotion in SIX:
                    folder = tmp_path / "OriginalImg" / camera / light / subject / emotion
                    touch(*(folder / f"{frame:03d}.jpeg" for frame in range(12)))
        return tmp_path

    def test_visible_light_strong_last_three(self, tree: Path) -> None:
        manifest = sources.read("oulu-casia", tree)
        assert len(manifest) == 3 * 6 * 3
        assert set(manifest.counts.values()) == {9}
        assert manifest.table["image"].iloc[0] == "OriginalImg/VL/Strong/P001/Anger/009.jpeg"
        assert set(manifest.table["subject"]) == {"P001", "P002", "P010"}
        assert manifest.table["frame"].iloc[0] == "10"
        assert "The release has 480 sequences per camera and light, 18 are here." in noted(manifest)
        assert sources.read("oulu-casia", tree, camera="NI").table["image"].iloc[0].startswith("OriginalImg/NI/")

    def test_originals_come_before_cropped_ones(self, tree: Path) -> None:
        touch(tree / "PreProcess_Img/VL_Acropped/Strong/P001/Anger/000.jpeg")
        assert sources.read("oulu-casia", tree).table["image"].iloc[0].startswith("OriginalImg/")

    def test_faults_are_counted(self, tree: Path) -> None:
        strong = tree / "OriginalImg/VL/Strong"
        for file in (strong / "P002/Fear").iterdir():
            file.unlink()
        touch(strong / "P001/Shame/000.jpeg", strong / "notes/a.txt", strong / "P001/.DS_Store")
        (strong / "P010/Anger").rename(strong / "P010/anger")
        manifest = sources.read("oulu-casia", tree)
        assert "1 folders are no expression: P001/Shame." in noted(manifest)
        assert "The release has 480 sequences per camera and light, 17 are here." in noted(manifest)
        assert manifest.counts["anger"] == 9

    def test_wrong_roots_and_options(self, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        assert f"give its parent, {tree / 'OriginalImg'}" in message_of(
            "oulu-casia", tree / "OriginalImg/VL/Strong/P001"
        )
        assert "expected pictures in NI/Dark/P001/Anger" in message_of("oulu-casia", tree, camera="NI", light="Dark")
        assert "camera is UV" in message_of("oulu-casia", tree, camera="UV")
        assert "is not Oulu-CASIA" in message_of("oulu-casia", tmp_path_factory.mktemp("x"))
