"""Each dataset with its real names in a small tree, and faults that occur in downloads."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.io import savemat

from facenet2expnet.data import sources
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.pictures import read_picture
from facenet2expnet.data.sources import fer2013
from facenet2expnet.data.splits import choose
from facenet2expnet.errors import UserError
from facenet2expnet.labels import FER2013_CODES, FERPLUS_VOTES

SIX = ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise")


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def message_of(name: str, path: Path, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        sources.read(name, path, **options)
    return str(caught.value)


def noted(manifest: Manifest) -> str:
    return " ".join(manifest.notes)


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


class TestAffectNet:
    def test_form_with_npy_annotations(self, tmp_path: Path) -> None:
        for part, count in (("train_set", 11), ("val_set", 8)):
            for code in range(count):
                touch(tmp_path / part / "images" / f"{code}.jpg")
                (tmp_path / part / "annotations").mkdir(exist_ok=True)
                np.save(tmp_path / part / "annotations" / f"{code}_exp.npy", np.array(str(code)))
        manifest = sources.read("affectnet", tmp_path)
        assert Counter(manifest.table["split"]) == {"train": 8, "valid": 8}
        assert manifest.table.iloc[6]["label"] == "anger"
        assert "3 were left out: no face 1, none 1, uncertain 1." in noted(manifest)
        assert "contempt 2" in noted(sources.read("affectnet", tmp_path, classes=7))
        assert f"give its parent, {tmp_path}" in message_of("affectnet", tmp_path / "train_set")
        (tmp_path / "val_set/annotations/3_exp.npy").write_bytes(b"")
        assert "3_exp.npy is damaged" in message_of("affectnet", tmp_path)
        (tmp_path / "val_set/annotations/3_exp.npy").unlink()
        assert "3.jpg has no annotation" in message_of("affectnet", tmp_path)

    def test_form_with_lists(self, tmp_path: Path) -> None:
        root = tmp_path / "Manually_Annotated"
        header = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence"
        (root / "Manually_Annotated_file_lists").mkdir(parents=True)
        for part in ("training", "validation"):
            lines = [f"{n}/{part}.jpg,5,6,70,80,1;2;3;4,{n},0.1" for n in range(10)]
            (root / f"Manually_Annotated_file_lists/{part}.csv").write_text("\n".join([header, *lines]) + "\n")
            touch(*(root / f"Manually_Annotated_Images/{n}/{part}.jpg" for n in range(8) if n != 2))
        manifest = sources.read("affectnet", tmp_path)
        assert len(manifest) == 14
        assert list(manifest.table.iloc[0][["face_x", "face_width"]]) == [5, 70]
        assert "2 listed pictures are missing: training.jpg, validation.jpg." in noted(manifest)
        (root / "Manually_Annotated_file_lists/validation.csv").write_text(header + "\n1/a.jpg,1,1,1,1,,many,0\n")
        assert "validation.csv line 2 can't be read" in message_of("affectnet", tmp_path)
        with (root / "Manually_Annotated_file_lists/validation.csv").open("a") as file:
            file.write("1/a.jpg,1,1,1,1,,1,0,0,0\n")
        assert "validation.csv line 3: expected 8 cells" in message_of("affectnet", tmp_path)

    def test_lists_of_a_spreadsheet(self, tmp_path: Path) -> None:
        header = "subDirectory_filePath;face_x;face_y;face_width;face_height;facial_landmarks;expression;valence"
        lists = tmp_path / "Manually_Annotated_file_lists"
        lists.mkdir()
        lines = [f"{n}/a.jpg;5,0;6;70;NULL;1,2;{n};0,1\r\n\r\n" for n in (1, 4)]
        (lists / "training.csv").write_bytes(b"\xef\xbb\xbf" + "".join([header, "\r\n", *lines]).encode())
        touch(*(tmp_path / f"Manually_Annotated_Images/{n}/a.jpg" for n in (1, 4)))
        manifest = sources.read("affectnet", tmp_path)
        assert list(manifest.table["label"]) == ["happiness", "fear"]
        assert manifest.table.iloc[0]["face_x"] == 5

    def test_labels_csv_of_kaggle(self, tmp_path: Path) -> None:
        lines = [",pth,label,relFCs", "0,anger/1.jpg,surprise,0.8", "1,happy/2.jpg,happy,0.9", "2,sad/9.jpg,sad,1", ""]
        (tmp_path / "labels.csv").write_text("\n".join(lines))
        touch(tmp_path / "anger/1.jpg", tmp_path / "happy/2.jpg")
        manifest = sources.read("affectnet", tmp_path)
        assert list(manifest.table["label"]) == ["surprise", "happiness"]
        assert list(manifest.table["image"]) == ["anger/1.jpg", "happy/2.jpg"]
        assert "split" not in manifest.table
        assert "1 pictures have another label in labels.csv than their folder's name." in noted(manifest)
        assert "1 listed pictures are missing: 9.jpg." in noted(manifest)
        for part, picture in (("Train", "anger/1.jpg"), ("Test", "happy/2.jpg")):
            (tmp_path / part / picture).parent.mkdir(parents=True)
            (tmp_path / picture).rename(tmp_path / part / picture)
        manifest = sources.read("affectnet", tmp_path)
        assert list(manifest.table["image"]) == ["Train/anger/1.jpg", "Test/happy/2.jpg"]
        assert list(manifest.table["split"]) == ["train", "test"]
        touch(tmp_path / "Test/anger/1.jpg")
        said = f"lists anger/1.jpg, which is in {tmp_path / 'Test'} and {tmp_path / 'Train'}; remove or rename one"
        assert said in message_of("affectnet", tmp_path)


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


class TestHuggingFace:
    @staticmethod
    def write(file: Path, labels: list[int | str], *, names: list[str] | None = None, first: int = 0) -> None:
        cells = []
        for number in range(len(labels)):
            buffer = io.BytesIO()
            Image.new("L", (8, 8), first + number).save(buffer, "PNG")
            cells.append({"bytes": buffer.getvalue(), "path": None})
        table = pa.Table.from_pandas(pd.DataFrame({"img": cells, "labels": labels}), preserve_index=False)
        if names:
            features = {"img": {"_type": "Image"}, "labels": {"names": names, "_type": "ClassLabel"}}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, file)

    def test_folder_of_parts(self, tmp_path: Path) -> None:
        names = ["angry", "happy"]
        self.write(tmp_path / "set/data/train-00000-of-00002.parquet", [0, 1, 1], names=names)
        self.write(tmp_path / "set/data/train-00001-of-00002.parquet", [0], names=names, first=50)
        self.write(tmp_path / "set/data/validation-00000-of-00001.parquet", [1], names=names, first=90)
        manifest = sources.read_into("huggingface", tmp_path / "set", tmp_path / "out")
        assert list(manifest.table["label"]) == ["angry", "happy", "happy", "angry", "happy"]
        assert list(manifest.table["split"]) == ["train"] * 4 + ["valid"]
        assert [int(read_picture(path).max()) for path in manifest.paths] == [0, 1, 2, 50, 90]
        assert noted(manifest).startswith("5 pictures were read from 3 Parquet files.")

    def test_no_label_and_a_number_without_a_name(self, tmp_path: Path) -> None:
        self.write(tmp_path / "faces.parquet", [1, -1, 0], names=["angry", "happy"])
        assert list(sources.read("huggingface", tmp_path / "faces.parquet").table["label"]) == ["happy", "", "angry"]
        self.write(tmp_path / "faces.parquet", [1, 2], names=["angry", "happy"])
        assert "row 1: the label is 2, expected a number from 0 (angry) to 1 (happy), or -1" in message_of(
            "huggingface", tmp_path / "faces.parquet"
        )

    def test_names_are_those_of_the_column_of_labels(self, tmp_path: Path) -> None:
        self.write(tmp_path / "faces.parquet", [1, 0], names=["angry", "happy"])
        table = pq.read_table(tmp_path / "faces.parquet")
        info = json.loads(table.schema.metadata[b"huggingface"])
        info["info"]["features"] = {"sex": {"names": ["f", "m"], "_type": "ClassLabel"}} | info["info"]["features"]
        table = table.append_column("sex", [[0, 1]]).replace_schema_metadata({"huggingface": json.dumps(info)})
        pq.write_table(table, tmp_path / "faces.parquet")
        read = sources.read("huggingface", tmp_path / "faces.parquet").table
        assert list(read["label"]) == ["happy", "angry"]
        assert list(read["sex"]) == [0, 1]

    def test_one_file_without_names(self, tmp_path: Path) -> None:
        self.write(tmp_path / "faces.parquet", ["sad", "joy", "Sad"])
        manifest = sources.read_into("huggingface", tmp_path / "faces.parquet", tmp_path / "out")
        assert manifest.counts == {"joy": 1, "Sad": 2}
        assert "split" not in manifest.table
        assert "fn2en data prepare huggingface" in message_of("folder", tmp_path / "faces.parquet")
        (tmp_path / "faces.parquet").write_bytes(b"PAR1")
        assert "can't be read as Parquet" in message_of("huggingface", tmp_path / "faces.parquet")
        assert "is not a data set in Hugging Face's form" in message_of("huggingface", tmp_path / "out")
        pd.DataFrame({"image": ["a.png"], "label": ["x"]}).to_parquet(tmp_path / "faces.parquet")
        assert "has 0 columns of pictures" in message_of("huggingface", tmp_path / "faces.parquet")
