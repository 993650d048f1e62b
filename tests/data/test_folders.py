"""Folders of pictures: what is searched for, links, and every layout that people have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from facenet2expnet.data.folders import find_pictures, from_folder, passed_over, search
from facenet2expnet.data.pictures import picture_endings
from facenet2expnet.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


class TestSearch:
    def test_what_can_be_read_is_found_and_the_rest_is_counted(self, tmp_path: Path) -> None:
        read = ["a.jfif", "b.JPE", "c.jp2", "d.avif", "e.HEIC", "f.png", "g.tga", "h.mpo"]
        touch(tmp_path, *read, "x.cr2", "y.CR2", "z.pdf", "film.mp4", "README", ".hidden.png")
        found = search(tmp_path, picture_endings())
        assert [path.name for path in found.files] == read
        assert found.others == {".cr2": 2, ".pdf": 1, ".mp4": 1, "without an ending": 1}
        assert passed_over(found.others) == "Passed over: 5 files (.cr2 2, .mp4 1, .pdf 1, without an ending 1)."
        assert passed_over({}) == ""

    def test_endings_are_of_pictures_that_pillow_reads(self) -> None:
        from PIL import Image

        endings = picture_endings()
        assert {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"} <= set(endings)
        assert not {".pdf", ".eps", ".ps", ".mpg", ".h5", ".wmf", ".ico", ".svg"} & set(endings)
        known = Image.registered_extensions()
        assert all(
            known[ending] in {*Image.OPEN, "MPO"} for ending in endings if ending not in (".heic", ".heif", ".hif")
        )

    def test_files_and_folders_of_systems_are_left_out(self, tmp_path: Path) -> None:
        made = [
            "@eaDir/a.png",
            "a/@eaDir/a.jpg",
            "#recycle/b.png",
            "__MACOSX/c.png",
            "$RECYCLE.BIN/d.png",
            "a/Thumbs.db",
        ]
        touch(tmp_path, *made, "a/1.png", "b/2.png")
        assert search(tmp_path, picture_endings()).others == {}
        assert from_folder(tmp_path).classes == ("a", "b")

    def test_links_are_followed_and_loops_end(self, tmp_path: Path) -> None:
        touch(tmp_path, "disk/happy/1.png", "set/sad/2.png")
        (tmp_path / "set" / "happy").symlink_to(tmp_path / "disk" / "happy")
        (tmp_path / "set" / "sad" / "up").symlink_to(tmp_path / "set")
        (tmp_path / "disk" / "happy" / "self").symlink_to(tmp_path / "disk" / "happy")
        (tmp_path / "set" / "sad" / "gone").symlink_to(tmp_path / "nowhere")
        manifest = from_folder(tmp_path / "set")
        assert list(manifest.table["image"]) == ["happy/1.png", "sad/2.png"]
        assert list(manifest.table["label"]) == ["happy", "sad"]

    def test_a_folder_keeps_its_own_name_beside_a_link_to_it(self, tmp_path: Path) -> None:
        touch(tmp_path, "z/1.png")
        (tmp_path / "a").symlink_to(tmp_path / "z")
        assert find_pictures(tmp_path) == [tmp_path / "z" / "1.png"]


SPLIT_NAMES = [
    ("train", "test"), ("Training", "Testing"), ("train_set", "test_set"), ("TRAIN", "TEST"), ("trainset", "testset"),
    ("Training", "PrivateTest"), ("FER2013Train", "FER2013Test"), ("train-images", "test-images"),
    ("Train_Aligned_Faces", "Test_Aligned_Faces"), ("train ", "test\u200b"), ("tr", "TE"), ("my_train", "my_test"),
    ("RAF_train", "RAF_test"), ("RAFTrain", "RAFTest"), ("train_aug", "test_aug"), ("trainA", "testA"),
    ("my_train", "my_private_test"), ("train", "held-out"),
]  # fmt: skip


class TestLayouts:
    @pytest.mark.parametrize(("train", "test"), SPLIT_NAMES)
    def test_any_spelling_of_a_part_is_a_part(self, tmp_path: Path, train: str, test: str) -> None:
        touch(tmp_path, f"{train}/anger/1.png", f"{train}/fear/2.png", f"{test}/anger/3.png", f"{test}/fear/4.png")
        manifest = from_folder(tmp_path)
        assert manifest.classes == ("anger", "fear")
        assert sorted(manifest.table["split"]) == ["test", "test", "train", "train"]
        assert list(manifest.table["split"][manifest.table["image"].str.startswith(f"{test}/")]) == ["test"] * 2

    @pytest.mark.parametrize(
        "valid", ["valid", "val", "val_set", "validation", "Dev", "PublicTest", "public_test_2", "FER2013Valid"]
    )
    def test_spellings_of_the_validation_part(self, tmp_path: Path, valid: str) -> None:
        touch(tmp_path, "Training/a/1.png", "Training/b/2.png", f"{valid}/a/3.png")
        assert sorted(from_folder(tmp_path).table["split"]) == ["train", "train", "valid"]

    @pytest.mark.parametrize(
        ("names", "said"),
        [
            (["train/x.png", "train/a/1.png", "train/b/2.png", "test/a/3.png", "test/b/4.png"],
             r"train.x\.png is outside the class folders; move it into one"),
            (["train/a/1.png", "train/b/2.png", "test/3.png", "test/4.png"],
             r"test holds 2 pictures and no class folders; expected class folders in it, as test/anger"),
            (["train/a/1.png", "train/b/2.png", "test/a/3.png", "extra/a/4.png"],
             r"holds test, train, which name parts of a set, and extra, which do not"),
            (["train/a/1.png", "train/b/2.png", "Training/a/3.png"], r"train and Training both mean the part train"),
            (["FER/train/a/1.png", "FER/test/a/2.png"], r"holds one folder, FER, with test, train in it; give .*FER$"),
            (["faces/anger/1.png", "faces/fear/2.png"], r"one folder, faces, with anger, fear in it; give .*faces$"),
            (["ck/train/a/1.png", "ck/test/a/2.png", "fer/train/a/3.png"], r"name parts.*one of the folders ck"),
            (["a/train/1.png", "a/test/2.png", "b/train/3.png"], r"test, train in .*a name parts.*as train/anger"),
            (["train/train/a/1.png", "train/test/a/2.png"], r"train holds the part test.*give .*train$"),
            (["fold_1/anger/1.png", "fold_2/fear/2.png"],
             r"of expressions, anger, fear, are inside fold_1, fold_2.*move them up, as .*/anger, or give a CSV"),
            (["S1/anger/1.png", "S1/fear/2.png", "S2/Happy/x/2.png"], r"anger, fear, Happy, are inside S1, S2"),
            (["a/b/anger/1.png", "a/b/fear/2.png"], r"anger, fear, are inside a, .*give .*a.b, if all are there"),
            (["train/S1/anger/1.png", "train/S1/fear/2.png", "test/S2/fear/3.png"], r"train: .*inside S1,.*as train"),
            (["train/images/anger/1.png", "train/images/fear/2.png", "test/anger/3.png", "test/fear/4.png"],
             r"train: the folders of expressions, anger, fear, are inside images.*move them up, as train/anger"),
            (["train_val/1.png", "other/2.png"], r"train_val names the parts train and valid; rename the folder"),
            (["train angry/1.png", "train sad/2.png"], r"both mean the part train; join.* if they are classes"),
            (["train/anger/1.png", "train/fear/2.png", "test/images/3.png"], r"test has images.*a folder too many"),
        ],
    )  # fmt: skip
    def test_any_other_layout_is_named(self, tmp_path: Path, names: list[str], said: str) -> None:
        touch(tmp_path, *names)
        with pytest.raises(UserError, match=said):
            from_folder(tmp_path)

    def test_a_folder_one_level_too_low_is_named(self, tmp_path: Path) -> None:
        touch(tmp_path, "faces/anger/1.png", "faces/fear/2.png")
        with pytest.raises(UserError, match=r"holds 1 pictures of one class; give the folder of all classes, .*faces$"):
            from_folder(tmp_path / "faces" / "anger")

    def test_a_class_that_only_sounds_like_a_part_is_a_class(self, tmp_path: Path) -> None:
        touch(tmp_path, "contest/1.png", "trained/2.png", "tr 1/3.png")
        assert from_folder(tmp_path).classes == ("contest", "tr 1", "trained")

    def test_what_a_part_has_more_and_what_was_passed_over_is_noted(self, tmp_path: Path) -> None:
        touch(tmp_path, "train/a/1.png", "train/b/2.png", "test/a/3.png", "test/c/4.png", "test/c/4.cr2", "labels.csv")
        notes = " ".join(from_folder(tmp_path).notes)
        assert "The part test has classes that the training part does not have: c." in notes
        assert (
            f"The labels are the folders' names; to use those of labels.csv, give {tmp_path / 'labels.csv'}." in notes
        )
        assert "Passed over: 2 files (.cr2 1, .csv 1)." in notes

    def test_names_of_ck_give_subjects_and_sequences(self, tmp_path: Path) -> None:
        touch(tmp_path, "anger/S010_004_00000017.png", "anger/S010_004_00000018 (1).png", "happy/s011_006_00000011.png")
        manifest = from_folder(tmp_path)
        assert list(manifest.table["subject"]) == ["S010", "S010", "S011"]
        assert list(manifest.table["sequence"]) == ["004", "004", "006"]
        assert list(manifest.table["frame"]) == ["17", "18", "11"]
        touch(tmp_path, "happy/other.png")
        with pytest.raises(
            UserError, match=r"other\.png does not follow the CK\+ names of most pictures here.*give a CSV with"
        ):
            from_folder(tmp_path)
        touch(tmp_path, "happy/more.png", "happy/one.png")
        assert "subject" not in from_folder(tmp_path).table

    def test_labels_are_tidied(self, tmp_path: Path) -> None:
        touch(tmp_path, "Fe\u0301/1.png", "F\u00e9/2.png", "anger/3.png", "Anger\u200b/4.png")
        manifest = from_folder(tmp_path)
        assert manifest.classes == ("anger", "F\u00e9")
        assert manifest.counts == {"anger": 2, "F\u00e9": 2}
        assert "The labels Anger (1) and anger (1) are one class, anger." in manifest.notes
        touch(tmp_path, "angry/5.png")
        with pytest.raises(
            UserError, match=r"the labels anger \(2\) and angry \(1\) look like one class; --merge-labels auto"
        ):
            from_folder(tmp_path)
        assert from_folder(tmp_path, merge_labels="auto").counts == {"anger": 3, "F\u00e9": 2}


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
def test_a_folder_without_rights(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png")
    (tmp_path / "a").chmod(0)
    try:
        with pytest.raises(UserError, match="a can't be read: Permission denied; check its permissions"):
            find_pictures(tmp_path)
    finally:
        (tmp_path / "a").chmod(0o700)
