"""The timeline of a video: its numbers, its rows and its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from facenet2expnet.errors import UserError
from facenet2expnet.predict.results import FaceResult, FrameResult
from facenet2expnet.report import timeline as module
from facenet2expnet.report.timeline import Timeline, draw_timeline

CLASSES = ("anger", "joy$")


def frame(time_s: float, *tracks: int | None, source: str = "a.mp4", moving: bool = True) -> FrameResult:
    box = np.array([0.0, 0, 9, 9])
    share = 0.5 + 0.4 * np.sin(time_s)
    values = np.array([share, 1 - share], np.float32)
    faces = tuple(FaceResult(box, 1.0, values, track, values[::-1] if track == 2 else None) for track in tracks)
    return FrameResult(source, round(time_s * 25), time_s, faces, CLASSES, None, "" if faces else "none", moving=moving)


def test_numbers_and_figure_are_written(tmp_path: Path) -> None:
    for ending, begin in ((".svg", b"<?xml"), (".png", b"\x89PNG")):
        timeline = Timeline(tmp_path / f"t{ending}")
        for number in range(20):
            timeline.add(frame(number / 10, 1, 2) if number != 7 else frame(0.7))
        timeline.add(frame(0.0, 1, moving=False))  # a picture has no time
        timeline.write()
        assert (tmp_path / f"t{ending}").read_bytes().startswith(begin)
    table = pd.read_csv(tmp_path / "t.timeline.csv")
    assert list(table.columns) == ["track", "time_s", "p_anger", "p_joy$"]
    assert (len(table), table["track"].tolist()[18:20]) == (38, [1, 2])
    assert table.loc[1, "p_anger"] == pytest.approx(0.5 + 0.4 * np.sin(0.1), abs=1e-5)
    assert table.loc[20, "p_joy$"] == pytest.approx(0.5 + 0.4 * np.sin(0.1), abs=1e-5)  # smoothed, where it is


def test_a_long_video_is_drawn_through_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POINTS", 10)
    timeline = Timeline(tmp_path / "t.svg")
    for number in range(101):
        timeline.add(frame(number / 10, 1))
    table = timeline.table()
    assert len(table) == 11
    expected = np.mean([0.5 + 0.4 * np.sin(n / 10) for n in range(10)])
    assert table.loc[0, "p_anger"] == pytest.approx(expected, abs=1e-5)


def test_a_gap_interrupts_the_line_and_only_the_longest_tracks_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", 2)
    times = [0.0, 0.1, 0.2, 5.0, 5.1]
    rows = [(1, t, 0.2, 0.8) for t in times] + [(2, 0.0, 1, 0)] + [(3, t, 0.5, 0.5) for t in times[:2]]
    figure = draw_timeline(pd.DataFrame(rows, columns=["track", "time_s", "p_a", "p_b"]), "clip.mp4")
    assert [axis.get_ylabel() for axis in figure.axes] == ["#1", "#3"]
    assert "without 1 that was seen for less time" in figure.axes[0].get_title(loc="left")
    line = figure.axes[0].get_lines()[0]
    assert np.isnan(line.get_ydata()).tolist() == [False, False, False, True, False, False]


def test_what_has_no_timeline(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a name that ends in \.svg or \.png"):
        Timeline(tmp_path / "t.pdf")
    timeline = Timeline(tmp_path / "t.svg")
    with pytest.raises(UserError, match="a timeline needs a video with faces, and there is none"):
        timeline.write()
    timeline.add(frame(0.0, 1))
    with pytest.raises(UserError, match="a timeline shows one video, and there are several"):
        timeline.add(frame(0.0, 1, source="b.mp4"))
