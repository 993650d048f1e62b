"""FER2013 in its forms, joined with FER+, and faults of downloads."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from source_trees import message_of, noted, touch

from facenet2expnet.data import sources
from facenet2expnet.data.pictures import read_picture
from facenet2expnet.data.sources import fer2013
from facenet2expnet.errors import UserError
from facenet2expnet.labels import FER2013_CODES, FERPLUS_VOTES


class TestFer2013:
    PARTS = ("Training",) * 14 + ("PublicTest",) * 7 + ("PrivateTest",) * 7

    def write(self, folder: Path, name: str = "fer2013.csv") -> Path:
        header = "emotion, Usage, pixels" if name.startswith("icml") else "emotion,pixels,Usage"
        lines = [header]
        for number, part in enumerate(self.PARTS):
            pixels = " ".join([str(number)] * 48 * 48)
            cells = (number % 7, part, pixels) if name.startswith("icml") else (number % 7, pixels, part)
            lines.append(",".join(map(str, cells)))
        folder.mkdir(exist_ok=True)
        (folder / name).write_text("\n".join(lines) + "\n")
        return folder / name

    @staticmethod
    def ferplus_name(number: int) -> str:
        """As in the genuine file: a row without a name uses up a number (row 9) or not (row 19)."""
        return "" if number in (9, 19) else f"fer{number - (number > 19):07d}.png"

    def write_votes(self, folder: Path, drop: int = 0) -> None:
        lines = ["Usage,Image name," + ",".join((*FERPLUS_VOTES, "unknown", "NF"))]
        for number, part in enumerate(self.PARTS):
            votes = [0] * 10
            votes[number % 10] = 9
            votes[(number + 1) % 10] = 1
            lines.append(",".join([part, self.ferplus_name(number), *map(str, votes)]))
        (folder / "fer2013new.csv").write_text("\n".join(lines[: len(lines) - drop]) + "\n")

    @pytest.mark.parametrize("name", ["fer2013.csv", "icml_face_data.csv"])
    def test_both_csv_forms(self, tmp_path: Path, name: str) -> None:
        file = self.write(tmp_path / "fer2013", name)
        for path in (tmp_path, file.parent, file):
            manifest = sources.read("fer2013", path)
            assert Counter(manifest.table["split"]) == {"train": 14, "valid": 7, "test": 7}
            assert list(manifest.table["label"][:7]) == [FER2013_CODES[code] for code in range(7)]
            assert manifest.table["image"].iloc[27] == "row0000027.png"  # FER+'s names are in its own file only
        self.write_votes(file.parent)
        images = list(sources.read("fer2013", tmp_path).table["image"])
        assert images[8:11] == ["fer0000008.png", "row0000009.png", "fer0000010.png"]
        assert images[18:21] == ["fer0000018.png", "row0000019.png", "fer0000019.png"]
        assert images[27] == "fer0000026.png"

    def test_only_missing_pictures_are_written(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        manifest = sources.read_into("fer2013", tmp_path, tmp_path / "out")
        assert (read_picture(manifest.paths[9]) == 9).all()
        manifest.paths[3].unlink()
        kept = manifest.paths[4].stat().st_mtime_ns
        sources.read_into("fer2013", tmp_path, tmp_path / "out")
        assert manifest.paths[3].is_file()
        assert manifest.paths[4].stat().st_mtime_ns == kept

    def test_names_mean_the_same_pictures_in_both_forms(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        self.write_votes(tmp_path)
        manifest = sources.read_into("fer2013", tmp_path, tmp_path / "out", labels="ferplus")
        for image, path in zip(manifest.table["image"], manifest.paths, strict=True):
            row = next(n for n in range(28) if self.ferplus_name(n) == image)
            assert (read_picture(path) == row).all()
        manifest.paths[3].write_bytes(manifest.paths[4].read_bytes())  # of an earlier version's names
        sources.read_into("fer2013", tmp_path, tmp_path / "out", labels="ferplus")
        assert (read_picture(manifest.paths[3]) == 3).all()

    def test_the_first_names_of_the_genuine_file(self) -> None:
        """Rows 17 and 23 have no name and use up a number, row 59 does not: row 60 is fer0000059.png."""
        genuine = ["" if row in (17, 23, 59) else f"fer{row - (row > 59):07d}.png" for row in range(61)]
        votes = pd.DataFrame({"Image name": genuine, "line": range(2, 63)})
        names = fer2013._names(Path("fer2013new.csv"), votes)
        assert (names[60], names[59], names[18]) == ("fer0000059.png", "row0000059.png", "fer0000018.png")

    @pytest.mark.parametrize("boxes", [False, True])
    def test_folder_form_of_ferplus(self, tmp_path: Path, boxes: bool) -> None:
        for number, part in enumerate(("Train", "Valid", "Test")):
            touch(tmp_path / f"FER2013{part}" / f"fer{number:07d}.png")
            box = '"(0, 0, 48, 48)",' if boxes else ""
            lines = [f"fer{number:07d}.png,{box}0,10,0,0,0,0,0,0,0,0", f"fer9999999.png,{box}0,10,0,0,0,0,0,0,0,0", ""]
            (tmp_path / f"FER2013{part}" / "label.csv").write_text("\n".join(lines))
        manifest = sources.read("fer2013", tmp_path, labels="ferplus")
        assert list(manifest.table["split"]) == ["train", "valid", "test"]
        assert list(manifest.table["image"])[2] == "FER2013Test/fer0000002.png"
        assert set(manifest.table["label"]) == {"happiness"}
        assert "1 pictures of FER2013Test/label.csv are missing: fer9999999.png." in noted(manifest)
        assert "hold its votes only, not the competition's labels; pass labels=ferplus" in message_of(
            "fer2013", tmp_path
        )
        assert f"give its parent, {tmp_path}" in message_of("fer2013", tmp_path / "FER2013Train")
        with (tmp_path / "FER2013Test" / "label.csv").open("a") as file:
            file.write("fer0000002.png,1,2\n")
        assert "label.csv line 3: expected a name and ten numbers" in message_of("fer2013", tmp_path, labels="ferplus")
        (tmp_path / "FER2013Test" / "label.csv").write_text(f"fer0000002.png,{'9' * 5000}{',0' * 9}\n")
        assert "label.csv line 1: expected a name and ten numbers" in message_of("fer2013", tmp_path, labels="ferplus")

    def test_train_csv_without_usage(self, tmp_path: Path) -> None:
        file = self.write(tmp_path)
        rows = [line.rsplit(",", 1)[0] for line in file.read_text().splitlines()[:15]]
        file.unlink()
        (tmp_path / "train.csv").write_text("\ufeff" + "\r\n".join([*rows, ""]))
        manifest = sources.read_into("fer2013", tmp_path, tmp_path / "out")
        assert list(manifest.table["split"]) == ["train"] * 14
        self.write_votes(tmp_path)
        assert sources.read("fer2013", tmp_path, labels="ferplus").table["image"].iloc[8] == "fer0000010.png"
        (tmp_path / "test.csv").write_text("pixels\n1 2 3\n")
        assert "lacks the column emotion; it has" in message_of("fer2013", tmp_path / "test.csv")

    def test_spreadsheet_habits(self, tmp_path: Path) -> None:
        file = self.write(tmp_path)
        text = file.read_text().replace(",", ";").replace("\n", "\r\n\r\n")
        file.write_bytes(b"\xef\xbb\xbf" + text.encode() + b";;\r\n")
        manifest = sources.read_into("fer2013", tmp_path, tmp_path / "out")
        assert len(manifest) == 28
        assert (read_picture(manifest.paths[27]) == 27).all()

    def test_ferplus_is_joined_by_row(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        self.write_votes(tmp_path)
        manifest = sources.read("fer2013", tmp_path, labels="ferplus")
        assert len(manifest) == 24
        assert manifest.table["label"].iloc[0] == "neutral"
        assert manifest.table["image"].iloc[8] == "fer0000010.png"
        shares = manifest.table[[f"p_{name}" for name in FERPLUS_VOTES]].to_numpy()
        assert np.allclose(shares.sum(axis=1), 1)
        assert "4 pictures without a FER+ majority" in noted(manifest)
        assert "contempt" in manifest.classes

    def test_ferplus_of_other_pictures(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        assert "needs FER+'s file fer2013new.csv beside" in message_of("fer2013", tmp_path, labels="ferplus")
        self.write_votes(tmp_path, drop=2)
        assert "has 26 lines, fer2013.csv 28 pictures" in message_of("fer2013", tmp_path, labels="ferplus")
        self.write_votes(tmp_path)
        lines = (tmp_path / "fer2013new.csv").read_text().splitlines()
        (tmp_path / "fer2013new.csv").write_text("\n".join([lines[0], lines[2], lines[1], *lines[3:]]))
        assert (
            "line 2: expected a name from fer0000000.png to fer0000000.png, or none, got 'fer0000001.png'"
            in message_of("fer2013", tmp_path, labels="ferplus")
        )
        (tmp_path / "fer2013new.csv").write_text("\n".join([lines[0], f"{lines[1][:-1]}{'9' * 5000}", *lines[2:]]))
        assert "line 2: expected ten numbers of votes" in message_of("fer2013", tmp_path, labels="ferplus")
        (tmp_path / "fer2013new.csv").write_text("\n".join([*lines[:3], lines[2], *lines[4:]]))
        assert "line 4: expected a name from fer0000002.png to fer0000002.png" in message_of("fer2013", tmp_path)
        (tmp_path / "fer2013new.csv").write_text("\n".join([lines[0], *lines[-7:], *lines[1:-7]]))
        assert "line 2: expected the same parts as in fer2013.csv, got 'PrivateTest" in message_of("fer2013", tmp_path)

    def test_half_a_download(self, tmp_path: Path) -> None:
        file = self.write(tmp_path)
        text = file.read_text()
        file.write_text(text[: len(text) // 2])
        assert "line 17: expected 3 cells (emotion, pixels, Usage), got 2" in message_of("fer2013", tmp_path)
        file.write_text("emotion,pixels,Usage\n")
        assert "holds no labelled picture" in message_of("fer2013", tmp_path)
        file.write_text("emotion,pixels,Usage\n9,1 2,Training\n")
        assert "line 2: expected an emotion from 0 to 6" in message_of("fer2013", tmp_path)
        file.write_text("emotion,pixels,Usage\n1,1 2,Training\n")
        with pytest.raises(UserError, match="expected 2304 pixels from 0 to 255, got 2"):
            sources.read_into("fer2013", tmp_path, tmp_path / "out")

    def zips(self, folder: Path) -> None:
        votes = [f"fp_{name}" for name in (*FERPLUS_VOTES, "unknown", "NF")]
        for part, usage, start in (("training", "Training", 0), ("public_test", "PublicTest", 20)):
            lines = ["image,usage,fer2013_label,pixel_md5," + ",".join(votes)]
            with zipfile.ZipFile(folder / f"{part}.zip", "w") as packed:
                for number in range(start, start + 8):
                    name = f"fer{number:07d}.png"
                    buffer = io.BytesIO()
                    Image.new("L", (48, 48), number).save(buffer, "PNG")
                    packed.writestr(name, buffer.getvalue())
                    label = "" if number == start + 7 else ("angry", "happy", "sad")[number % 3]
                    lines.append(f"{name},{usage},{label},abc,0,10,0,0,0,0,0,0,0,0")
                lines.append(f"fer99{start:05d}.png,{usage},sad,abc,0,10,0,0,0,0,0,0,0,0")
            (folder / f"{part}.csv").write_text("\n".join(lines) + "\n")

    def test_zip_form(self, tmp_path: Path) -> None:
        self.zips(tmp_path)
        manifest = sources.read_into("fer2013", tmp_path, tmp_path / "out")
        assert Counter(manifest.table["split"]) == {"train": 7, "valid": 7}
        assert manifest.classes == ("anger", "happiness", "sadness")
        assert "2 pictures without a label were left out." in noted(manifest)
        assert "1 pictures of training.csv are not in training.zip." in noted(manifest)
        assert (read_picture(manifest.paths[-1]) == 26).all()
        kept = sources.read("fer2013", tmp_path, unlabelled="keep")
        assert (kept.labels < 0).sum() == 2
        assert "2 pictures without a label were kept" in noted(kept)
        assert "unlabelled is maybe" in message_of("fer2013", tmp_path, unlabelled="maybe")
        plus = sources.read("fer2013", tmp_path, labels="ferplus")
        assert len(plus) == 16
        assert plus.classes == ("happiness",)
        whole = (tmp_path / "training.zip").read_bytes()
        (tmp_path / "training.zip").write_bytes(whole[: len(whole) // 2])
        assert "can't be read as a zip" in message_of("fer2013", tmp_path)

    def test_picture_form(self, tmp_path: Path) -> None:
        touch(tmp_path / "train/angry/1.jpg", tmp_path / "test/happy/2.jpg")
        manifest = sources.read_into("fer2013", tmp_path, tmp_path / "out")
        assert sorted(manifest.table["label"]) == ["anger", "happiness"]
        assert set(manifest.table["split"]) == {"train", "test"}
        joined = "Pictures were read from folders, in which PublicTest and PrivateTest are one part."
        assert joined in noted(manifest)
        assert "can't be joined with FER+" in message_of("fer2013", tmp_path, labels="ferplus")
        touch(tmp_path / "validation/happy/3.jpg", tmp_path / "test/happy/film.mp4")
        notes = noted(sources.read("fer2013", tmp_path))
        assert "Pictures were read from folders." in notes
        assert "The part valid has classes that the training part does not have: happy." in notes
        assert "Passed over: 1 file (.mp4 1)." in notes

    def test_majority_and_shares_by_hand(self) -> None:
        votes = np.zeros((6, 10), np.int64)
        votes[0, [0, 1]] = [6, 4]
        votes[1, [0, 1]] = [5, 5]
        votes[2, [2, 0, 1, 3]] = [3, 1, 1, 1]
        votes[3, [8, 0]] = [6, 4]
        votes[4, [9]] = 10
        assert list(fer2013.majority(votes)) == [0, -1, 2, -1, -1, -1]
        share = fer2013.shares(votes)
        assert list(share[0, :3]) == [0.6, 0.4, 0]
        assert share[2, 2] == 1
        assert share[4].sum() == 0
