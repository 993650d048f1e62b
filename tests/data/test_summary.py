"""The paper's Table II and its two errors."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.summary import CORRECTED, ERRORS, PRINTED, summarise_counts
from facenet2expnet.errors import UserError


def manifest_of(name: str, counts: dict[str, int]) -> Manifest:
    labels = [label for label, count in counts.items() for _ in range(count)]
    return Manifest(pd.DataFrame({"image": [str(n) for n in range(len(labels))], "label": labels}), Path(), name=name)


@pytest.mark.parametrize("name", list(PRINTED))
def test_corrected_rows_sum_to_their_total(name: str) -> None:
    assert sum(CORRECTED[name][0].values()) == CORRECTED[name][1]
    assert (sum(PRINTED[name][0].values()) == PRINTED[name][1]) == (name not in ERRORS)


def test_the_papers_counts_are_recognised() -> None:
    table, notes = summarise_counts([manifest_of("ckplus", CORRECTED["ckplus"][0])])
    assert list(table["counts"]) == ["found", "paper, as printed", "paper, corrected"]
    assert list(table.columns[-2:]) == ["neutral", "total"]
    assert list(table.iloc[0])[2:] == list(table.iloc[2])[2:]
    assert list(table["happiness"]) == [207, 147, 207]
    assert set(table["total"]) == {1308}
    assert "ckplus has the paper's counts in every class." in notes
    assert any("must be 207" in note for note in notes)


def test_six_classes_are_compared_with_the_same_six() -> None:
    six = {k: v for k, v in CORRECTED["ckplus"][0].items() if k not in ("neutral", "contempt")}
    table, notes = summarise_counts([manifest_of("ckplus", six)])
    assert len(table.columns) == 6 + 3
    assert "ckplus has the paper's counts in the classes read (anger" in notes[-1]


def test_differences_and_other_datasets() -> None:
    table, notes = summarise_counts(
        [manifest_of("sfew", {"anger": 254, "fear": 124}), manifest_of("mine", {"zest": 2})]
    )
    assert list(table.columns) == ["data", "counts", "anger", "fear", "zest", "total"]
    assert "sfew differs from the paper: anger 254 (paper 255)." in notes
    assert list(table.iloc[-1]) == ["mine", "found", "", "", 2, 2]
    with pytest.raises(UserError, match="at least one manifest"):
        summarise_counts([])
