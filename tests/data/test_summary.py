"""The paper's Table II and its two slips."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.summary import TABLE_TWO, summarise_counts
from facenet2expnet.errors import UserError


def manifest_of(name: str, counts: dict[str, int]) -> Manifest:
    labels = [label for label, count in counts.items() for _ in range(count)]
    return Manifest(
        pd.DataFrame({"image": [str(n) for n in range(len(labels))], "label": labels}), Path(), name=name
    )


@pytest.mark.parametrize("name", list(TABLE_TWO))
def test_put_right_every_row_sums_to_its_total(name: str) -> None:
    row = TABLE_TWO[name]
    assert sum(row.counts.values()) == row.right_total
    assert (sum(row.printed.values()) == row.total) == (not row.slip)


def test_the_papers_counts_are_recognised() -> None:
    summary = summarise_counts([manifest_of("ckplus", TABLE_TWO["ckplus"].counts)])
    assert [row.whose for row in summary.rows] == ["found", "paper, as printed", "paper, put right"]
    assert summary.columns[-1] == "neutral"
    found, printed, right = summary.rows
    assert found.counts == right.counts
    assert found.total == right.total == printed.total == 1308
    assert printed.counts[4] == 147
    assert "ckplus has the paper's counts in every class." in summary.notes
    assert any("must be 207" in note for note in summary.notes)


def test_six_classes_are_held_against_the_same_six() -> None:
    six = {k: v for k, v in TABLE_TWO["ckplus"].counts.items() if k not in ("neutral", "contempt")}
    summary = summarise_counts([manifest_of("ckplus", six)])
    assert len(summary.columns) == 6
    assert "ckplus has the paper's counts in the classes read (anger" in summary.notes[-1]


def test_differences_and_sets_the_paper_has_not() -> None:
    summary = summarise_counts(
        [manifest_of("sfew", {"anger": 254, "fear": 124}), manifest_of("mine", {"zest": 2})]
    )
    assert summary.columns == ("anger", "fear", "zest")
    assert "sfew differs from the paper: anger 254 (paper 255)." in summary.notes
    assert summary.rows[-1].counts == (None, None, 2)
    assert summary.rows[-1].whose == "found"
    with pytest.raises(UserError, match="at least one manifest"):
        summarise_counts([])
