"""The timeline of a video: the probability of each class over time, a row a track."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from facenet2expnet.errors import UserError
from facenet2expnet.files import atomic_path, write_atomic
from facenet2expnet.predict.results import FrameResult
from facenet2expnet.report import figures

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc3311", "#7b5cc4", "#56b4e9", "#b8a600", "#5a5a5a", "#d55fa0", "#004d40")
STYLES = ("-", (0, (5, 1.5)), (0, (1.5, 1)))
POINTS = 1500
"""A row is drawn through so many means over time, at most."""

ROWS = 12
"""The tracks that are drawn: those that were seen longest."""

ENDINGS = (".svg", ".png")


class Timeline:
    """Collects the faces of a video, and draws them over time at the end.

    Args:
        path: ends in .svg or .png; the numbers go to NAME.timeline.csv beside it.
    Raises:
        UserError: If the name has another ending.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() not in ENDINGS:
            raise UserError(f"{path}: expected a name that ends in .svg or .png")
        self.path = path
        self._numbers = array("f")  # time, track and the probabilities of every face, flat: 40 bytes a face
        self._classes: tuple[str, ...] = ()
        self._source = ""

    def add(self, result: FrameResult) -> None:
        """Add the faces of a frame; pictures have no time, and are left out.

        Raises:
            UserError: If it is of a second video.
        """
        if not result.moving:
            return
        if self._source and result.source != self._source:
            raise UserError(f"{self.path}: a timeline shows one video, and there are several; draw them one by one")
        self._source, self._classes = result.source, result.classes
        for face in result.faces:
            values = face.probabilities if face.smoothed is None else face.smoothed
            self._numbers.extend([result.time_s, face.track or 1, *values.tolist()])

    @property
    def faces(self) -> int:
        """The number of faces so far."""
        return len(self._numbers) // (2 + len(self._classes))

    def table(self) -> pd.DataFrame:
        """The drawn numbers: `track`, `time_s` and `p_<class>`, means over equal spans of time if there are many."""
        names = ["time_s", "track", *(f"p_{name}" for name in self._classes)]
        table = pd.DataFrame(np.array(self._numbers).reshape(-1, len(names)), columns=names)
        table["track"] = table["track"].astype(int)
        span = max(float(table["time_s"].max()), 1e-9) if len(table) else 1.0
        step = span / POINTS if len(table) > POINTS else 0.0
        table["bin"] = (table["time_s"] / step).astype(int) if step else np.arange(len(table))
        means = table.groupby(["track", "bin"], sort=True).mean().reset_index()
        return means[["track", "time_s", *names[2:]]]

    def write(self) -> None:
        """Write the figure and its table.

        Raises:
            UserError: If no face was in a video, or a file can't be written.
        """
        table = self.table()
        if not len(table):
            raise UserError(f"{self.path}: a timeline needs a video with faces, and there is none")
        with atomic_path(self.path.with_suffix(".timeline.csv")) as temporary:
            table.round(6).to_csv(temporary, index=False)
        figure = draw_timeline(table, Path(self._source).name)
        write_atomic(self.path, figures.draw(figure, self.path.suffix.lower()[1:]))


@figures.style()
def draw_timeline(table: pd.DataFrame, title: str) -> Figure:
    """Draw the columns `track`, `time_s`, `p_<class>`…; a gap of more than a second interrupts a line."""
    longest = table["track"].value_counts(sort=True).index[:ROWS]
    tracks = sorted(int(track) for track in longest)
    left_out = table["track"].nunique() - len(tracks)
    names = [name for name in table.columns if name.startswith("p_")]
    figure = figures.new_figure(8.0, 1.0 + 1.15 * len(tracks))
    axes = figure.subplots(len(tracks), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for track, axis in zip(tracks, axes, strict=True):
        rows = table[table["track"] == track]
        time = rows["time_s"].to_numpy()
        gaps = np.flatnonzero(np.diff(time) > max(1.0, 4 * float(np.median(np.diff(time))) if len(time) > 1 else 0)) + 1
        for number, name in enumerate(names):
            values = np.insert(rows[name].to_numpy(dtype=float), gaps, np.nan)
            axis.plot(
                np.insert(time, gaps, np.nan), values, color=COLOURS[number % len(COLOURS)], linewidth=1.3,
                linestyle=STYLES[number // len(COLOURS) % len(STYLES)], label=figures.short(name.removeprefix("p_")),
                marker="." if len(time) == 1 else None,
            )  # fmt: skip
        axis.set(ylim=(-0.03, 1.03), yticks=(0, 0.5, 1))
        axis.set_ylabel(f"#{track}", rotation=0, ha="right", va="center", weight="bold")
        axis.grid(axis="y", linewidth=0.6)
    axes[-1].set_xlabel("time, s")
    left = f"; without {left_out} that {'was' if left_out == 1 else 'were'} seen for less time" if left_out else ""
    axes[0].set_title(figures.short(title, 60) + left)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(names), 5))
    return figure
