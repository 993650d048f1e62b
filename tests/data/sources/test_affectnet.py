"""AffectNet: its three forms, and faults of downloads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from source_trees import message_of, noted, touch

from facenet2expnet.data import sources


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
