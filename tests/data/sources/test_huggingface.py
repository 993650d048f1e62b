"""Parquet files in Hugging Face's form: parts, names of labels, and faults."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from source_trees import message_of, noted

from facenet2expnet.data import sources
from facenet2expnet.data.pictures import read_picture


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
