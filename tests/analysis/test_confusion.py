"""Confusion matrices from a predictions table."""

from __future__ import annotations

import pandas as pd
import pytest

from facenet2expnet.analysis.confusion import confusion, read_predictions
from facenet2expnet.errors import UserError

TABLE = pd.DataFrame(
    {
        "method": ["scratch"] * 5 + ["fn2en"] * 5,
        "truth": ["anger", "anger", "anger", "fear", "fear"] * 2,
        "predicted": ["anger", "fear", "fear", "fear", "anger", "anger", "anger", "anger", "fear", "fear"],
        "p_anger": 0.5,
        "p_fear": 0.5,
        "p_joy": 0.0,
    }
)


def test_counts_and_shares_of_every_method():
    result = confusion(TABLE)
    data = result.data.set_index(["method", "truth", "predicted"])
    assert data.loc[("scratch", "anger", "fear"), "count"] == 2
    assert data.loc[("scratch", "anger", "fear"), "share"] == pytest.approx(2 / 3)
    assert data["share"].isna().sum() == 6, "no image is joy, so its rows have no shares"
    assert len(data) == 18
    assert result.table["method"].tolist() == ["scratch", "fn2en"]
    assert result.table["accuracy"].tolist() == [0.4, 1.0]
    assert result.table["commonest_mistake"].tolist() == ["anger taken for fear", ""]
    assert "No image is joy" in result.summary
    assert [axes.get_title(loc="left") for axes in result.figure.axes] == ["From scratch (BN)", "FN2EN"]


def test_a_table_without_a_method_is_one_model():
    assert confusion(TABLE.drop(columns="method")).table["pictures"].tolist() == [10]


def test_bad_tables():
    with pytest.raises(UserError, match="'' is not one of anger, fear, joy; each image needs a label"):
        confusion(TABLE.assign(truth=["", None, *TABLE["truth"][2:]]))
    with pytest.raises(UserError, match="'anger' is not one of fear, joy"):
        confusion(TABLE.drop(columns="p_anger"))
    with pytest.raises(UserError, match="expected rows of truth, predicted and p_CLASS, got 10 rows of method"):
        confusion(TABLE.drop(columns="truth"))
    with pytest.raises(UserError, match="got 0 rows"):
        confusion(TABLE.head(0))


def test_predictions_are_read(tmp_path):
    TABLE.to_parquet(tmp_path / "predictions.parquet")
    pd.testing.assert_frame_equal(read_predictions(tmp_path), TABLE)
    TABLE.to_csv(tmp_path / "mine.csv", index=False)
    pd.testing.assert_frame_equal(read_predictions(tmp_path / "mine.csv"), TABLE)
    (tmp_path / "broken.parquet").write_bytes(b"PAR")
    for name in ("broken.parquet", "absent.csv"):
        with pytest.raises(UserError, match=f"{name} can't be read as a table"):
            read_predictions(tmp_path / name)
