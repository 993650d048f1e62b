"""CK+: its folders of sequences and emotion codes, the form of class folders, and faults of downloads."""

from __future__ import annotations

from pathlib import Path

import pytest
from source_trees import message_of, noted, touch

from facenet2expnet.data import sources
from facenet2expnet.data.splits import choose


class TestCkPlus:
    @staticmethod
    def sequence(root: Path, subject: str, number: str, frames: int, code: str | None, ending: str = "png") -> None:
        stem = f"{subject}_{number}_"
        folder = root / "cohn-kanade-images" / subject / number
        folder.mkdir(parents=True, exist_ok=True)
        touch(*(folder / f"{stem}{frame:08d}.{ending}" for frame in range(1, frames + 1)))
        emotion = root / "Emotion" / subject / number
        emotion.mkdir(parents=True, exist_ok=True)
        if code is not None:
            (emotion / f"{stem}{frames:08d}_emotion.txt").write_text(code)

    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        """Twelve subjects; S001 has all seven expressions, the others one each; faults among them."""
        root = tmp_path / "CK+ Größe é"
        for code in range(1, 8):
            self.sequence(root, "S001", f"{code:03d}", 11, f"   {code}.0000000e+00\n")
        for number in range(2, 13):
            self.sequence(root, f"S{number:03d}", "001", 6, f"   {1 + number % 7}.0000000e+00\n")
        self.sequence(root, "S002", "002", 9, None)
        touch(
            root / ".DS_Store",
            root / "cohn-kanade-images/S001/.DS_Store",
            root / "Emotion/S001/001/.DS_Store",
        )
        touch(root / "cohn-kanade-images/S001/001/._S001_001_00000001.png")
        return root

    def test_last_three_frames_and_the_first_as_neutral(self, tree: Path) -> None:
        manifest = sources.read("ckplus", tree)
        assert manifest.classes == (
            "anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise", "neutral",
        )  # fmt: skip
        assert len(manifest) == 4 * 18
        first = manifest.table[manifest.table["sequence"] == "S001/003"]
        assert list(first["label"]) == ["neutral", "disgust", "disgust", "disgust"]
        assert list(first["frame"]) == ["1", "9", "10", "11"]
        assert first["image"].iloc[1] == "cohn-kanade-images/S001/003/S001_003_00000009.png"
        assert manifest.counts["neutral"] == 18
        assert "18 labelled sequences were read; 1 have no emotion file" in noted(manifest)
        assert "The release has 327 labelled sequences, 18 are here." in noted(manifest)
        assert all(path.is_file() for path in manifest.paths)

    def test_the_papers_protocol_runs_on_it(self, tree: Path) -> None:
        chosen = choose(sources.read("ckplus", tree), folds=6)
        assert chosen.name == "subject-groups"
        assert [len(split.test) > 0 for split in chosen.splits] == [True] * 6

    def test_variants_of_classes(self, tree: Path) -> None:
        seven, six = (sources.read("ckplus", tree, classes=count) for count in (7, "6"))
        assert "neutral" not in seven.classes
        assert set(seven.classes) - set(six.classes) == {"contempt"}
        assert len(seven) == 3 * 18
        contempt = sum(1 for n in range(2, 13) if 1 + n % 7 == 2) + 1
        assert len(six) == 3 * (18 - contempt)
        assert sources.read("ckplus", tree, classes="happy, neutral").classes == ("happiness", "neutral")
        assert "expected 8 (anger" in message_of("ckplus", tree, classes=5)
        assert "at least two different names" in message_of("ckplus", tree, classes="joy,hapy")
        assert sources.read("ckplus", tree, frames=1, classes=6).counts["anger"] < six.counts["anger"]

    def test_other_case_and_the_zip_folder(self, tree: Path) -> None:
        whole = sources.read("ckplus", tree)
        (tree / "Emotion").rename(tree / "moved")
        (tree / "Emotion_labels").mkdir()
        (tree / "moved").rename(tree / "Emotion_labels" / "emotion")
        (tree / "cohn-kanade-images").rename(tree / "Cohn-Kanade-Images")
        assert list(sources.read("ckplus", tree).table["label"]) == list(whole.table["label"])

    def test_faults_are_counted(self, tree: Path) -> None:
        self.sequence(tree, "S013", "001", 0, "3.0")
        self.sequence(tree, "S014", "001", 2, "3.0", "PNG")
        self.sequence(tree, "S015", "001", 5, "nonsense")
        self.sequence(tree, "S015", "002", 5, "9.0")
        touch(tree / "Emotion/S016/001/S016_001_00000010_emotion.txt")
        manifest = sources.read("ckplus", tree)
        assert "2 sequences with an emotion file hold no picture: S013/001, S016/001." in noted(manifest)
        assert "1 sequences have 3 frames or fewer: S014/001." in noted(manifest)
        assert "2 emotion files hold no code from 0 to 7: S015/001 (nonsense), S015/002 (9.0)." in noted(manifest)
        short = manifest.table[manifest.table["sequence"] == "S014/001"]
        assert list(short["label"]) == ["neutral", "disgust"]

    def test_decimal_commas_and_byte_order_marks(self, tree: Path) -> None:
        whole = sources.read("ckplus", tree)
        for file in tree.glob("Emotion/*/*/*.txt"):
            file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b".", b","))
        assert list(sources.read("ckplus", tree).table["label"]) == list(whole.table["label"])

    def test_ck48_as_it_circulates(self, tmp_path: Path) -> None:
        names = ["anger/S010_004_00000017.png", "anger/S010_004_00000018.png", "happy/S011_006_00000011.png"]
        touch(*(tmp_path / "CK+48" / name for name in names), tmp_path / "CK+48/@eaDir/S010_004_00000017.png")
        manifest = sources.read("ckplus", tmp_path)
        assert list(manifest.table["label"]) == ["anger", "anger", "happiness"]
        assert list(manifest.table["subject"]) == ["S010", "S010", "S011"]
        assert list(manifest.table["sequence"]) == ["S010/004", "S010/004", "S011/006"]
        assert (
            noted(manifest)
            == "3 pictures of 2 subjects were read from folders of classes. There is no neutral picture."
        )
        assert sources.read("ckplus", tmp_path, classes="happy,sad").counts == {"happiness": 1}

    def test_wrong_roots(self, tree: Path, tmp_path: Path) -> None:
        message = message_of("ckplus", tree / "cohn-kanade-images")
        assert "this looks like CK+'s folder cohn-kanade-images" in message
        assert f"give its parent, {tree}" in message
        assert f"give its parent, {tree}" in message_of("ckplus", tree / "Emotion" / "S001")
        renamed = tmp_path / "images"
        (tree / "cohn-kanade-images").rename(renamed)
        assert "expected the folders cohn-kanade-images and Emotion; it holds S001" in message_of("ckplus", renamed)
        assert "half of CK+ is missing: no pictures in cohn-kanade-images" in message_of("ckplus", tree)
        renamed.rename(tree / "cohn-kanade-images")
        (tree / "Emotion").rename(tmp_path / "Emotion")
        assert "half of CK+ is missing: no folder Emotion; unpack" in message_of("ckplus", tree)
        (tmp_path / "other").mkdir()
        assert "is not CK+" in message_of("ckplus", tmp_path / "other")
        assert "it holds nothing" in message_of("ckplus", tmp_path / "other")
        assert "was not found" in message_of("ckplus", tmp_path / "missing")

    def test_nothing_labelled(self, tmp_path: Path) -> None:
        self.sequence(tmp_path, "S001", "001", 5, None)
        assert "no labelled sequence was found (1 without an emotion file" in message_of("ckplus", tmp_path)
