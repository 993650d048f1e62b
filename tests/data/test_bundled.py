"""The bundled sample has CK+'s shape, and its export is CK+'s layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from facenet2expnet.data.bundled import export_ckplus, read_sample, sample_folder
from facenet2expnet.errors import UserError
from facenet2expnet.labels import CKPLUS_CODES

# Lucey et al. 2010: 327 labelled sequences, three last pictures each, and the first one as neutral.
CKPLUS_COUNTS = {
    "anger": 135,
    "contempt": 54,
    "disgust": 177,
    "fear": 75,
    "happiness": 207,
    "sadness": 84,
    "surprise": 249,
    "neutral": 327,
}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return read_sample()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "ckplus"
    export_ckplus(folder)
    return folder


def test_class_counts_are_those_of_ckplus(table: pd.DataFrame) -> None:
    assert list(table.columns) == ["image", "label", "subject", "sequence", "frame", "intensity"]
    assert table["label"].value_counts().to_dict() == CKPLUS_COUNTS


def test_there_are_many_subjects_with_several_expressions_each(table: pd.DataFrame) -> None:
    assert 60 <= table["subject"].nunique() <= 118
    shown = table[table["label"] != "neutral"].groupby("subject")["label"].nunique()
    assert shown.min() >= 2


def test_every_sequence_is_a_neutral_first_picture_and_three_last_ones_of_one_expression(
    table: pd.DataFrame,
) -> None:
    for _, rows in table.sort_values("frame").groupby(["subject", "sequence"]):
        labels, frames = rows["label"].tolist(), rows["frame"].tolist()
        assert labels[0] == "neutral"
        assert frames[0] == 1
        assert len(set(labels[1:])) == 1
        assert len(labels) == 4
        assert labels[1] != "neutral"
        assert frames[2] == frames[1] + 1
        assert frames[3] == frames[2] + 1
        assert frames[1] > 2


def test_intensity_is_zero_for_neutral_and_rises_to_the_peak(table: pd.DataFrame) -> None:
    neutral = table["label"] == "neutral"
    assert (table.loc[neutral, "intensity"] == 0).all()
    peaks = table[~neutral].sort_values("frame").groupby(["subject", "sequence"])["intensity"]
    assert peaks.apply(lambda values: values.is_monotonic_increasing).all()
    assert table.loc[~neutral, "intensity"].between(0, 1, inclusive="right").all()
    # Weak peaks are part of the sample's difficulty.
    assert (peaks.max() < 0.45).mean() > 0.05


def test_every_file_is_listed_once_and_the_sample_stays_small(table: pd.DataFrame) -> None:
    on_disk = {path.relative_to(sample_folder()).as_posix() for path in sample_folder().rglob("*.webp")}
    assert on_disk == set(table["image"])
    assert table["image"].is_unique
    assert sum(path.stat().st_size for path in sample_folder().rglob("*") if path.is_file()) < 8_000_000
    assert (sample_folder() / "LICENSE").read_text(encoding="utf-8").strip()


def test_pictures_open_and_the_last_three_of_a_sequence_differ(table: pd.DataFrame) -> None:
    for _, rows in list(table[table["label"] != "neutral"].groupby(["subject", "sequence"]))[::20]:
        pictures = [np.asarray(Image.open(sample_folder() / image).convert("RGB"), float) for image in rows["image"]]
        assert all(min(picture.shape[:2]) >= 128 and picture.std() > 10 for picture in pictures)
        assert np.abs(pictures[0] - pictures[1]).mean() > 1
        assert np.abs(pictures[1] - pictures[2]).mean() > 1


def test_exported_codes_belong_to_the_last_picture_of_their_sequence(exported: Path, table: pd.DataFrame) -> None:
    labels = {Path(image).stem: label for image, label in zip(table["image"], table["label"], strict=True)}
    assert len(list((exported / "cohn-kanade-images").rglob("*.png"))) == len(table)
    assert len(list((exported / "Emotion").glob("S*/*/*_emotion.txt"))) == 327
    for path in (exported / "Emotion").rglob("*_emotion.txt"):
        text = path.read_text(encoding="ascii")
        assert text.startswith("   ")
        assert text.endswith("e+00\n")
        assert len(text) == 17
        stem = path.name.removesuffix("_emotion.txt")
        assert labels[stem] == CKPLUS_CODES[int(float(text))]
        folder = exported / "cohn-kanade-images" / path.parent.parent.name / path.parent.name
        assert max(picture.stem for picture in folder.iterdir()) == stem


def test_exported_picture_shows_what_the_sample_shows(exported: Path, table: pd.DataFrame) -> None:
    row = table.iloc[7]
    path = exported / "cohn-kanade-images" / row["subject"] / row["sequence"] / f"{Path(row['image']).stem}.png"
    expected = np.asarray(Image.open(sample_folder() / row["image"]).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(Image.open(path)), expected)


def test_export_refuses_a_folder_that_holds_files(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match="new or empty folder"):
        export_ckplus(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "kept"
    with pytest.raises(UserError, match="expected a new or empty folder"):
        export_ckplus(tmp_path / "mine.txt")
