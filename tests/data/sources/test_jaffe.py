"""JAFFE: labels and subjects from file names."""

from __future__ import annotations

from pathlib import Path

from source_trees import message_of, noted, touch

from facenet2expnet.data import sources


class TestJaffe:
    def test_names(self, tmp_path: Path) -> None:
        touch(
            *(
                tmp_path / "jaffe" / f"KA.{code}1.{n}.tiff"
                for n, code in enumerate(("AN", "DI", "FE", "HA", "NE", "SA", "SU"))
            )
        )
        touch(
            tmp_path / "jaffe/km.an2.18.tiff",
            tmp_path / "jaffe/README_FIRST.txt",
            tmp_path / "jaffe/other.tiff",
        )
        manifest = sources.read("jaffe", tmp_path)
        assert len(manifest) == 8
        assert set(manifest.table["subject"]) == {"KA", "KM"}
        assert manifest.counts["anger"] == 2
        assert "1 pictures do not have JAFFE's names: jaffe/other.tiff." in noted(manifest)

    def test_wrong_folder(self, tmp_path: Path) -> None:
        touch(tmp_path / "a/b.png")
        assert "is not JAFFE: expected pictures with names like KA.AN1.39.tiff; it holds a" in message_of(
            "jaffe", tmp_path
        )
