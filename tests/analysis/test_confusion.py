"""Confusion matrices from a predictions table."""

from __future__ import annotations

import pandas as pd
import pytest

from facenet2expnet.analysis.confusion import confusion, read_predictions
from facenet2expnet.errors import UserError

CLASSES = ("anger", "fear", "joy")
TABLE = pd.DataFrame(
    {
        "method": ["scratch"] * 5 + ["fn2en"] * 5,
        "truth": ["anger", "anger", "anger", "fear", "fear"] * 2,
        "predicted": ["anger", "fear", "fear", "fear", "anger", "anger", "anger", "anger", "fear", "fear"],
    }
)


def test_counts_and_shares_of_every_method():
    finding = confusion(TABLE, CLASSES)
    data = finding.data.set_index(["method", "truth", "predicted"])
    assert data.loc[("scratch", "anger", "fear"), "count"] == 2
    assert data.loc[("scratch", "anger", "fear"), "share"] == pytest.approx(2 / 3)
    assert data["share"].isna().sum() == 6, "no picture is joy, so its rows have no shares"
    assert len(data) == 18
    assert finding.table["accuracy"].tolist() == [0.4, 1.0]
    assert finding.table["commonest_mistake"].tolist() == ["anger taken for fear", ""]
    assert "No picture is joy" in finding.says
    assert len(finding.figure.axes) == 2


def test_methods_can_be_chosen_and_named():
    finding = confusion(TABLE, CLASSES, methods=["fn2en"], names={"fn2en": "FN2EN"})
    assert finding.table["method"].tolist() == ["fn2en"]
    assert finding.figure.axes[0].get_title(loc="left") == "FN2EN"
    with pytest.raises(UserError, match="no method 'cnn'; they have scratch, fn2en"):
        confusion(TABLE, CLASSES, methods=["cnn"])


def test_a_table_without_a_method_is_one_model():
    assert confusion(TABLE.drop(columns="method"), CLASSES).table["pictures"].tolist() == [10]


def test_bad_tables():
    with pytest.raises(UserError, match="2 of 10 rows have no truth"):
        confusion(TABLE.assign(truth=["", None, *TABLE["truth"][2:]]), CLASSES)
    with pytest.raises(UserError, match="truth 'anger' is not one of fear, joy"):
        confusion(TABLE, CLASSES[1:])
    with pytest.raises(UserError, match="expected the columns truth and predicted"):
        confusion(TABLE.drop(columns="truth"), CLASSES)
    with pytest.raises(UserError, match="no rows"):
        confusion(TABLE.head(0), CLASSES)


def test_predictions_are_read_with_their_classes_in_order(tmp_path):
    TABLE.assign(p_joy=0.1, p_anger=0.2, p_fear=0.7).to_parquet(tmp_path / "predictions.parquet")
    table, classes = read_predictions(tmp_path)
    assert classes == ("joy", "anger", "fear")
    assert len(table) == 10
    TABLE.to_csv(tmp_path / "mine.csv", index=False)
    assert read_predictions(tmp_path / "mine.csv")[1] == ("anger", "fear")
    (tmp_path / "broken.parquet").write_bytes(b"PAR")
    with pytest.raises(UserError, match="can't be read as a table"):
        read_predictions(tmp_path / "broken.parquet")
    with pytest.raises(UserError, match="no such file"):
        read_predictions(tmp_path / "absent.csv")
