"""Manifests from tables and folders, and the messages for wrong ones."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facenet2expnet.crop import CropContract
from facenet2expnet.data.folders import from_folder
from facenet2expnet.data.manifest import (
    Manifest,
    natural_key,
    read_manifest,
    with_train_only,
)
from facenet2expnet.data.splits import choose
from facenet2expnet.data.table import as_text
from facenet2expnet.errors import UserError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def table(tmp_path: Path, text: str, *pictures: str) -> Path:
    touch(*(tmp_path / name for name in pictures))
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        read_manifest(path, **options)  # type: ignore[arg-type]
    return str(caught.value)


class TestFolder:
    def test_folder_names_are_the_classes_and_pictures_may_be_deeper(self, tmp_path: Path) -> None:
        touch(tmp_path / "surprise/b.JPG", tmp_path / "anger/deep/er/a.png", tmp_path / "zest/c.tiff")
        manifest = from_folder(tmp_path)
        assert list(manifest.table["image"]) == ["anger/deep/er/a.png", "surprise/b.JPG", "zest/c.tiff"]
        assert manifest.classes == ("anger", "surprise", "zest")
        assert list(manifest.labels) == [0, 1, 2]
        assert manifest.paths[0] == tmp_path / "anger/deep/er/a.png"
        assert manifest.subjects is None

    def test_hidden_files_are_ignored(self, tmp_path: Path) -> None:
        left = ["a/.DS_Store", "a/._x.png", "__MACOSX/a/x.png", ".git/y.png", "a/Thumbs.db"]
        touch(tmp_path / "a/x.png", tmp_path / "b/y.png", *(tmp_path / name for name in left))
        assert list(from_folder(tmp_path).table["image"]) == ["a/x.png", "b/y.png"]

    def test_split_folders_give_the_split_column(self, tmp_path: Path) -> None:
        touch(tmp_path / "train/happy/1.png", tmp_path / "Validation/sad/2.png")
        manifest = from_folder(tmp_path)
        assert list(manifest.table["split"]) == ["train", "valid"]
        assert list(manifest.table["label"]) == ["happy", "sad"]

    def test_spaces_and_non_ascii_names(self, tmp_path: Path) -> None:
        folder = tmp_path / "Gesichter & Gefühle 表情"
        touch(folder / "freude é/bild 1.png", folder / "wut/2.png")
        manifest = from_folder(folder)
        assert manifest.classes == ("freude é", "wut")
        assert all(path.is_file() for path in manifest.paths)

    @pytest.mark.parametrize(
        ("make", "said"),
        [
            ([], r"holds no pictures and no class folders.*\.png, \.jpg.*into a folder with its name"),
            (["notes.txt"], r"holds no pictures"),
            (["a.png", "b.png"], r"holds 2 pictures and no class folders.*image,label"),
            (["a/1.png", "b/2.png", "loose.png"], r"loose\.png is outside the class folders"),
            (["a/1.png", "b/readme.txt"], r"b holds no pictures; add some or remove the folder"),
        ],
    )
    def test_wrong_folder_message(self, tmp_path: Path, make: list[str], said: str) -> None:
        touch(*(tmp_path / name for name in make))
        with pytest.raises(UserError, match=said):
            from_folder(tmp_path)

    def test_missing_folder_message_has_the_nearest_parent(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=rf"nowhere was not found; the nearest .* is {tmp_path}$"):
            from_folder(tmp_path / "deep" / "nowhere")

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
    def test_unreadable_folder(self, tmp_path: Path) -> None:
        touch(tmp_path / "a/1.png", tmp_path / "b/1.png")
        (tmp_path / "b").chmod(0)
        try:
            with pytest.raises(UserError, match="can't be read"):
                from_folder(tmp_path)
        finally:
            (tmp_path / "b").chmod(0o755)

    def test_allowed_classes(self, tmp_path: Path) -> None:
        touch(tmp_path / "happiness/1.png", tmp_path / "suprise/2.png")
        assert "did you mean 'surprise'?" in refused(tmp_path, classes=("happiness", "surprise"))
        (tmp_path / "suprise").rename(tmp_path / "surprise")
        order = ("surprise", "happiness", "anger")
        assert read_manifest(tmp_path, classes=order).classes == order


class TestTable:
    def test_values_are_text(self, tmp_path: Path) -> None:
        path = table(tmp_path, "image,label,subject,age,code,p\na.png,happy,007,31,007,\nb.png,sad,8,2,1,.5\n", "a.png")
        manifest = read_manifest(path)
        assert list(manifest.subjects) == ["007", "8"]  # type: ignore[arg-type]
        assert list(manifest.table["age"]) == ["31", "2"]
        assert manifest.classes == ("happy", "sad")
        assert manifest.counts == {"happy": 1, "sad": 1}

    @pytest.mark.parametrize("text", ["image;label\na.png;x\nb.png;y\n", "\ufeffimage,label\r\na.png,x\r\n\r\nb.png,y"])
    def test_spreadsheet_formats(self, tmp_path: Path, text: str) -> None:
        assert list(read_manifest(table(tmp_path, text, "a.png")).table["label"]) == ["x", "y"]

    @pytest.mark.parametrize(
        ("header", "columns"),
        [
            ("Image,Label,Split,Subject,Fold", "image,label,split,subject,fold"),
            ("image_path,Emotion,Usage,subject_id,k-fold", "image,label,split,subject,fold"),
            ("pth,label,train only,person,Fold_1", "image,label,train_only,subject,fold_1"),
            ("\u200bimage,label\u200b,SPLIT ,Sequence ID,P_other", "image,label,split,sequence,p_other"),
            ("image,path,label,emotion,fold_1", "image,path,label,emotion,fold_1"),  # our own names go first
            ("image,label,set,user,x", "image,label,split,subject,x"),  # its values are parts of a set
        ],
    )
    def test_columns_in_other_spellings(self, tmp_path: Path, header: str, columns: str) -> None:
        rows = [["a.png", "x", "Training", "1", "train"], ["b.png", "y", "PublicTest", "2", "Test"]]
        path = table(tmp_path, "\n".join([header, *map(",".join, rows)]), "a.png")
        read = read_manifest(path).table
        assert ",".join(read.columns) == columns
        if "split" in read:
            assert list(read["split"]) == ["train", "valid"]
        if "fold_1" in read:
            assert list(read["fold_1"]) == ["train", "test"]

    @pytest.mark.parametrize("split", ["train_test", "stage", "group", "my own"])
    @pytest.mark.parametrize("subject", ["subj", "participant_no", "Patient ID", "identity", "actor_name", "user-nr"])
    def test_columns_known_by_their_values_or_an_ending(self, tmp_path: Path, split: str, subject: str) -> None:
        rows = ["a.png,x,train,1", "b.png,y,,2", "c.png,y,RAF_test,2"]
        path = table(tmp_path, "\n".join([f"image,label,{split},{subject}", *rows]), "a.png", "b.png", "c.png")
        read = read_manifest(path).table
        assert list(read.columns) == ["image", "label", "split", "subject"]
        assert list(read["split"]) == ["train", "", "test"]

    @pytest.mark.parametrize(
        ("header", "rows", "said"),
        [
            (
                "image,label,is_train",
                "a.png,x,1 b.png,y,0",
                "a column 'is_train' with 0 and 1; expected a column split",
            ),
            (
                "image,label,Test",
                "a.png,x,True b.png,y,False",
                "a column 'Test' with False and True; expected a column",
            ),
            ("image,label,a,b", "a.png,x,train,dev b.png,y,test,train", "the columns a and b both name parts of a set"),
        ],
    )
    def test_parts_that_are_not_clear(self, tmp_path: Path, header: str, rows: str, said: str) -> None:
        assert said in refused(table(tmp_path, "\n".join([header, *rows.split()]), "a.png", "b.png"))

    def test_columns_that_are_not_the_split(self, tmp_path: Path) -> None:
        rows = ["a.png,x,train,1,train", "b.png,y,train,0,station"]
        path = table(tmp_path, "\n".join(["image,label,stage,test_score,place", *rows]), "a.png", "b.png")
        assert "split" not in read_manifest(path).table

    @pytest.mark.parametrize(
        ("header", "said"),
        [
            ("image,label,spilt", "has a column 'spilt'; did you mean 'split'"),
            ("image,label,subjct", "did you mean 'subject'"),
            ("path,label,file", "the columns path and file both mean image; rename or remove one"),
            ("image,label,Label", "the columns label and Label both mean label"),
            ("image,label,fold_1", "line 2: fold_1 'z' is not one of train, valid, test"),
            ("image,label,Usage", "line 2: split 'z' is not one of train, valid, test"),
        ],
    )
    def test_columns_that_may_not_be_ignored(self, tmp_path: Path, header: str, said: str) -> None:
        assert said in refused(table(tmp_path, f"{header}\na.png,x,z\n", "a.png"))

    def test_a_split_in_another_spelling_is_the_protocol(self, tmp_path: Path) -> None:
        rows = [f"{n}.png,{'xy'[n % 2]},{'Training' if n < 6 else 'PrivateTest'}" for n in range(10)]
        chosen = choose(read_manifest(table(tmp_path, "\n".join(["Image,Emotion,Usage", *rows]), "0.png")))
        assert chosen.name == "split"
        assert list(chosen.splits[0].test) == [6, 7, 8, 9]

    def test_labels_are_tidied(self, tmp_path: Path) -> None:
        text = "image,label\na.png,Anger\nb.png,anger \nc.png,anger\u200b\nd.png,fe\u0301\ne.png,f\u00e9\n"
        manifest = read_manifest(table(tmp_path, text, "a.png"))
        assert manifest.counts == {"anger": 3, "f\u00e9": 2}
        assert manifest.notes == ("The labels Anger (1) and anger (2) are one class, anger.",)
        assert read_manifest(table(tmp_path, text, "a.png"), classes=("ANGER", "F\u00c9")).counts == {
            "ANGER": 3,
            "F\u00c9": 2,
        }

    def test_votes_in_other_spellings(self, tmp_path: Path) -> None:
        path = table(tmp_path, "image;label;P_Anger;p_fear\na.png;anger;0,5;1,5\nb.png;fear;;1\n", "a.png")
        votes = read_manifest(path).votes
        assert votes is not None
        assert votes.tolist() == [[0.25, 0.75], [0, 1]]
        path = table(tmp_path, "image,label,p_x,p_y\na.png,x,1,many\nb.png,y,1,1\n", "a.png")
        assert "the column p_y holds votes for a class, expected numbers, got 'many'" in refused(path)

    def test_labels_that_look_like_one_class(self, tmp_path: Path) -> None:
        path = table(tmp_path, "image,label\na.png,happy\nb.png,happiness\nc.png,sad\n", "a.png")
        said = refused(path)
        assert "the labels happiness (1) and happy (1) look like one class" in said
        assert "--merge-labels auto" in said
        assert read_manifest(path, merge_labels="auto").counts == {"happiness": 2, "sad": 1}
        (tmp_path / "names.csv").write_text("from;to\nHAPPINESS;happy\nsad;blue\n")
        assert read_manifest(path, merge_labels=tmp_path / "names.csv").counts == {"blue": 1, "happy": 2}
        assert "the labels to rename are not in the data: joy" in refused(path, merge_labels={"joy": "happy"})
        assert "expected auto, or a CSV file with the columns from,to" in refused(path, merge_labels="atuo")

    def test_a_last_line_of_blanks_and_empty_cells_at_the_end(self, tmp_path: Path) -> None:
        text = "image;label\r\na.png;x;;\r\nb.png;y\r\n ; \r\n\r\n"
        assert list(read_manifest(table(tmp_path, text, "a.png")).table["label"]) == ["x", "y"]

    def test_unlabelled_rows_are_kept(self, tmp_path: Path) -> None:
        manifest = read_manifest(table(tmp_path, "image,label\na.png,x\nb.png,\n", "a.png"))
        assert list(manifest.labels) == [0, -1]

    def test_all_faults_in_one_message_with_their_lines(self, tmp_path: Path) -> None:
        text = "image,label,split\na.png,happy,train\n\nb.png,hapy,trian\n./a.png,sad,test\n,sad,test\n"
        said = refused(table(tmp_path, text, "a.png"), classes=("happy", "sad"))
        assert "labels.csv line 4: class 'hapy' is not one of happy, sad; did you mean 'happy'?" in said
        assert "labels.csv line 4: split 'trian' is not one of train, valid, test; did you mean 'train'?" in said
        assert "labels.csv line 5: 'a.png' is already in labels.csv line 2; remove one" in said
        assert "labels.csv line 6: the column image is empty" in said

    def test_many_faults_are_counted(self, tmp_path: Path) -> None:
        text = "image,label\n" + "".join(f"{n}.png,wrong\n" for n in range(25))
        assert refused(table(tmp_path, text, "0.png"), classes=("right",)).endswith("… and 15 more")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (
                "where,what\na.png,x\n",
                "has no column image and no column label; its header is where, what",
            ),
            ("", "has no column image and no column label; its header is empty"),
            ("image,label\n", "has no rows"),
            ("image,label\na.png\n", r"line 2: expected 2 cells \(image, label\), got 1"),
            ("image,label,label\na.png,x,y\n", "has the column label twice"),
            ("image,label\nmissing.png,x\n", "none of its 1 pictures was found; the first .*missing.png"),
        ],
    )
    def test_wrong_table_message(self, tmp_path: Path, text: str, said: str) -> None:
        path = table(tmp_path, text, "a.png")
        with pytest.raises(UserError, match=said):
            read_manifest(path)

    def test_not_utf8(self, tmp_path: Path) -> None:
        (tmp_path / "labels.csv").write_bytes("image,label\na.png,Gefühl\n".encode("latin-1"))
        assert "line 2 is not UTF-8" in refused(tmp_path / "labels.csv")

    def test_other_endings_and_broken_parquet(self, tmp_path: Path) -> None:
        touch(tmp_path / "labels.xlsx", tmp_path / "labels.parquet")
        assert "ends in .csv or .parquet" in refused(tmp_path / "labels.xlsx")
        assert "can't be read as a parquet table" in refused(tmp_path / "labels.parquet")
        assert "was not found" in refused(tmp_path / "none.csv")

    @pytest.mark.parametrize("column", ["image", "label"])
    def test_parquet_with_text_that_is_not_utf8(self, tmp_path: Path, column: str) -> None:
        path = tmp_path / "labels.parquet"
        pd.DataFrame({"image": ["a.png", "Ünder.png"], "label": ["a", "Übel"]}).to_parquet(path, compression="none")
        text = {"image": b"nder.png", "label": b"bel"}[column]
        path.write_bytes(path.read_bytes().replace("Ü".encode() + text, b"\xff\xff" + text))
        assert "can't be read as a parquet table" in refused(path)


class TestSaved:
    @pytest.mark.parametrize("ending", [".csv", ".parquet"])
    def test_round_trip(self, tmp_path: Path, ending: str) -> None:
        touch(tmp_path / "faces/a, b.png", tmp_path / "faces/c.png")
        manifest = Manifest(
            pd.DataFrame(
                {
                    "image": ["faces/a, b.png", "faces/c.png"],
                    "label": ["x", None],
                    "subject": [3.0, None],
                    "score": np.array([0.1, np.nan]),
                    "md5": ["00a", "1e5"],
                }
            ),
            tmp_path,
            classes=("y", "x"),
            name="mine",
            contract=CropContract(stored_px=96, crop_px=80),
        )
        path = tmp_path / f"table{ending}"
        manifest.save(path)
        again = read_manifest(path)
        assert (again.classes, again.name, again.contract) == (manifest.classes, "mine", manifest.contract)
        assert list(again.subjects) == ["3", ""]  # type: ignore[arg-type]
        assert again.sha256() == manifest.sha256()
        assert json.loads((tmp_path / "table.json").read_text())["root"] == "."
        assert read_manifest(tmp_path / "table.csv" if ending == ".csv" else path).paths[1].is_file()

    def test_a_folder_with_a_saved_manifest_is_read_from_it(self, tmp_path: Path) -> None:
        touch(tmp_path / "faces/a.png")
        Manifest(pd.DataFrame({"image": ["faces/a.png"], "label": ["x"]}), tmp_path).save(tmp_path / "manifest.csv")
        assert list(read_manifest(tmp_path).table["label"]) == ["x"]

    def test_hash_sees_labels_but_not_the_root(self, tmp_path: Path) -> None:
        frame = pd.DataFrame({"image": ["a", "b"], "label": ["x", "y"]})
        first = Manifest(frame, tmp_path)
        assert Manifest(frame, tmp_path / "elsewhere").sha256() == first.sha256()
        assert Manifest(frame.assign(label=["y", "x"]), tmp_path).sha256() != first.sha256()
        assert Manifest(frame, tmp_path, ("y", "x")).sha256() != first.sha256()

    def test_full_disk_leaves_no_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        manifest = Manifest(pd.DataFrame({"image": ["a"], "label": ["x"]}), tmp_path)
        with pytest.raises(UserError, match="could not be written: No space left on device"):
            manifest.save(tmp_path / "m.csv")
        assert list(tmp_path.iterdir()) == []


def test_constructor_checks() -> None:
    with pytest.raises(UserError, match="no column label"):
        Manifest(pd.DataFrame({"image": ["a"]}), Path())
    with pytest.raises(UserError, match="row 1: 'a' is already in manifest 'data' row 0"):
        Manifest(pd.DataFrame({"image": ["a", "a"], "label": ["x", "x"]}), Path())
    with pytest.raises(UserError, match="class 'z' is not one of x, y"):
        Manifest(pd.DataFrame({"image": ["a"], "label": ["z"]}), Path(), ("x", "y"))
    with pytest.raises(UserError, match="name one class twice"):
        Manifest(pd.DataFrame({"image": ["a"], "label": ["x"]}), Path(), ("x", "x"))


def test_rows_takes_numbers_and_masks() -> None:
    manifest = Manifest(pd.DataFrame({"image": ["a", "b", "c"], "label": ["x", "y", "x"]}), Path())
    assert list(manifest.rows([2, 0]).table["image"]) == ["c", "a"]
    part = manifest.rows(np.array([False, True, False]))
    assert list(part.table.index) == [0]
    assert part.classes == ("x", "y")


def test_rows_does_not_check_again(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 100_000
    frame = pd.DataFrame({"image": [f"{n}.png" for n in range(count)], "label": ["x", "y"] * (count // 2)})
    manifest = Manifest(frame, Path())
    monkeypatch.setattr("facenet2expnet.data.manifest.check_rows", lambda *_: pytest.fail("checked again"))
    part = manifest.rows(np.arange(1, count, 2))
    assert len(part) == count // 2
    assert set(part.labels) == {1}


class TestTrainOnly:
    @staticmethod
    def made(root: Path, name: str, labels: str, **columns: list[str]) -> Manifest:
        images = [f"{number}.png" for number in range(len(labels))]
        touch(*(root / image for image in images))
        return Manifest(pd.DataFrame({"image": images, "label": list(labels), **columns}), root, name=name)

    def test_sfew_with_fer2013(self, tmp_path: Path) -> None:
        sfew = self.made(tmp_path / "a" / "sfew", "sfew", "abab", split=["train", "train", "valid", "valid"])
        fer = self.made(tmp_path / "fer", "fer2013", "abcab", split=["train", "valid", "test", "test", "train"])
        both = with_train_only(sfew, fer)
        assert both.name == "sfew+fer2013"
        assert all(path.is_file() for path in both.paths)
        assert "1 of its pictures have no label or another class" in both.notes[-1]
        both.save(tmp_path / "a" / "sfew" / "both.csv")
        again = read_manifest(tmp_path / "a" / "sfew" / "both.csv")
        assert list(again.train_only) == [False] * 4 + [True] * 4
        assert all(path.is_file() for path in again.paths)
        assert list(again.table["split"])[4:] == ["train"] * 4

    def test_subjects_of_two_datasets_differ(self, tmp_path: Path) -> None:
        main = self.made(tmp_path / "m", "m", "ab", subject=["1", "2"])
        both = with_train_only(main, self.made(tmp_path / "e", "e", "ab", subject=["1", ""]))
        assert list(both.table["subject"]) == ["1", "2", "e:1", ""]

    def test_messages(self, tmp_path: Path) -> None:
        main, other = self.made(tmp_path / "m", "m", "ab"), self.made(tmp_path / "o", "o", "cd")
        with pytest.raises(UserError, match=r"'o' has no picture of the classes of 'm' \(a, b\)"):
            with_train_only(main, other)
        cropped = Manifest(other.table, other.root, contract=CropContract(stored_px=64, crop_px=56))
        with pytest.raises(UserError, match="were prepared in different ways"):
            with_train_only(main, cropped)


def test_natural_order() -> None:
    names = ["S10", "S2", "s2", "S02", "S1a", "S1", "", "10", "9", "²"]
    ordered = sorted(names, key=natural_key)
    assert ordered.index("S2") < ordered.index("S10")
    assert ordered.index("9") < ordered.index("10")
    assert ordered[0] == ""


@settings(deadline=None)
@given(st.lists(st.text(max_size=6), unique=True))
def test_natural_order_is_total(names: list[str]) -> None:
    assert sorted(names, key=natural_key) == sorted(reversed(names), key=natural_key)


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=8), min_size=1))
def test_any_label_and_name_survives_csv(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    folder = tmp_path_factory.mktemp("any")
    images = [f"{number}/{name.strip()}.png" for number, name in enumerate(names)]
    manifest = Manifest(pd.DataFrame({"image": images, "label": names, "note": names}), folder)
    manifest.save(folder / "m.csv")
    (folder / "0").mkdir()
    first = folder / images[0]
    if first.parent != folder / "0":
        return
    first.write_bytes(b"x")
    again = read_manifest(folder / "m.csv")
    assert list(again.table["image"]) == images
    assert list(again.labels) == list(manifest.labels)
    assert again.sha256() == manifest.sha256()


def test_manifest_csv_is_named_after_its_folder(tmp_path: Path) -> None:
    for folder, file, name in (("faces", "manifest.csv", "faces"), ("faces", "mine.csv", "mine")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "a.png").touch()
        (tmp_path / folder / file).write_text("image,label\na.png,anger\n")
        assert read_manifest(tmp_path / folder / file).name == name


@pytest.mark.parametrize(
    "change", [{"classes": 3}, {"classes": [1]}, {"root": None}, {"notes": "x"}, {"contract": [1]}]
)
def test_metadata_of_another_kind_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    table = pd.DataFrame({"image": ["a.png"], "label": ["x"]})
    Manifest(table, tmp_path).save(tmp_path / "m.csv")
    metadata = json.loads((tmp_path / "m.json").read_text())
    (tmp_path / "m.json").write_text(json.dumps(metadata | change))
    with pytest.raises(UserError, match=rf"m\.json is damaged: {next(iter(change))} has the wrong type"):
        read_manifest(tmp_path / "m.csv", need_pictures=False)


def test_an_infinite_number_in_a_table_is_text() -> None:
    assert list(as_text(pd.Series([3.0, np.inf, np.nan, 2.5]))) == ["3", "inf", "", "2.5"]
