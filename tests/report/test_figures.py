"""What the figures draw, and the files that they are saved to."""

from __future__ import annotations

import base64
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from facenet2expnet.report import figures


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)]


def confusion(counts: object, classes: list[str]) -> Figure:
    return figures.confusion_panels({"a title": np.asarray(counts)}, classes)


def test_a_confusion_matrix_shows_shares_and_counts() -> None:
    found = texts(confusion([[3, 1], [0, 0]], ["yes", "no"]))
    assert {"75", "25", "3", "1", "yes", "no", "truth", "predicted", "a title"} <= set(found)
    assert "0" not in found, "a class without pictures has no share"
    with pytest.raises(ValueError, match=r"expected shape \(3, 3\) for 3 classes, got \(2, 2\)"):
        confusion([[1, 0], [0, 1]], ["a", "b", "c"])


@pytest.mark.parametrize("classes", [1, 13, 30])
def test_a_confusion_matrix_of_any_size_keeps_long_names_distinct(classes: int) -> None:
    names = [f"a rather long name of the class with number {i}, too long to show" for i in range(classes)]
    figure = confusion(np.eye(classes, dtype=int), names)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(set(labels)) == classes
    assert max(map(len, labels)) <= 24


def test_names_of_users_are_drawn_literally_and_without_warnings() -> None:
    names = ["$x_1^2$", "喜び", "غضب", "a\x00b", '<b>&"']
    figure = confusion(np.eye(5, dtype=int), names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert figures.draw(figure, "svg").startswith(b"<?xml")
    assert {"$x_1^2$", "喜び", "غضب", "a�b", '<b>&"'} <= set(texts(figure))


def test_curves_have_a_panel_for_each_measured_quantity_of_each_stage() -> None:
    columns = ["method", "fold", "stage", "epoch", "loss", "accuracy", "r2", "val_loss"]
    rows = [("fn2en", fold, "stage2", e, 10.0**-e, 0.7, np.nan, 0.25) for fold in "12" for e in (1, 2, 3)]
    rows += [
        ("fn2en", f, "stage1", e, 10.0**-e, np.nan, r2, 0.25) for f, r2 in (("1", 0.5), ("2", 0.9)) for e in (1, 2, 3)
    ]
    figure = figures.curves_figure(pd.DataFrame(rows, columns=columns))
    assert [axes.get_ylabel() for axes in figure.axes] == [
        *("training loss", "validation loss", "training R²"),
        *("training loss", "validation loss", "training accuracy, %"),
    ]
    assert figure.axes[0].get_title(loc="left") == "Stage 1: distil its features"
    assert figure.axes[0].get_yscale() == "log"
    lines = [axes.lines[0].get_ydata().tolist() for axes in figure.axes]
    assert lines[1] == [0.25] * 3
    assert lines[2] == pytest.approx([0.7] * 3), "the mean over folds"
    assert "FN2EN" in texts(figure)


def accuracies(**columns: object) -> pd.DataFrame:
    return pd.DataFrame(
        {"label": "FN2EN", "method": "fn2en", "accuracy": 0.6, "std": 0.1, "runs": [[0.5, 0.7]], **columns}
    )


def test_accuracy_rows_show_results_mean_chance_and_the_paper() -> None:
    figure = figures.accuracy_rows(accuracies(paper=0.968), chance=0.2)
    points = [x for line in figure.axes[0].lines for x in np.atleast_1d(line.get_xdata())]
    assert {0.2, 0.5, 0.6, 0.7, 0.968} <= {round(float(x), 6) for x in points}
    (bar,) = figure.axes[0].collections
    assert bar.get_segments()[0][:, 0].tolist() == pytest.approx([0.5, 0.7])
    both = pd.concat([accuracies(std=np.nan), accuracies(method="scratch", std=np.nan)])
    figure = figures.accuracy_rows(both)
    assert not figure.axes[0].collections
    assert len(figure.axes[0].get_yticks()) == 1
    assert {"FN2EN", "From scratch (BN)"} <= set(texts(figure)), "the legend"


def test_accuracy_curves_have_a_line_per_method_and_a_log_scale() -> None:
    rows = pd.concat([accuracies(value=value) for value in (250, 500, 1000)])
    axes = figures.accuracy_curves(rows, "training pictures").axes[0]
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["250", "500", "1,000"]
    assert axes.lines[0].get_xdata().tolist() == [250, 500, 1000]


def test_a_reliability_diagram_leaves_empty_bins_out() -> None:
    bins = pd.DataFrame({"method": "fn2en", "pictures": [0, 4], "confidence": [None, 0.7], "accuracy": [None, 0.5]})
    axes = figures.reliability_figure(bins).axes[0]
    assert axes.collections[0].get_offsets().tolist() == [[0.7, 0.5]]


def test_methods_look_the_same_whatever_else_is_drawn() -> None:
    alone, together = figures.looks_of(["fn2en"]), figures.looks_of(["other", "scratch", "fn2en"])
    assert alone["fn2en"] == together["fn2en"]
    for part in ("color", "linestyle", "marker"):
        assert len({str(look[part]) for look in together.values()}) == 3


def test_saving_writes_every_format_and_the_numbers(tmp_path: Path) -> None:
    figure = confusion([[1]], ["only"])
    written = figures.save_figure(figure, tmp_path / "layer.conv5", data=pd.DataFrame({"a": [1, 2]}))
    assert [path.name for path in written] == [f"layer.conv5.{end}" for end in ("svg", "pdf", "png", "csv")]
    assert Image.open(written[2]).format == "PNG"
    assert pd.read_csv(written[3])["a"].tolist() == [1, 2]
    svg, pdf = written[0].read_bytes(), written[1].read_bytes()
    assert b"<text" not in svg, "letters are outlines"
    again = figures.save_figure(confusion([[1]], ["only"]), tmp_path / "again")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in written[:3]]
    assert pdf.count(b"/Type /FontDescriptor") == pdf.count(b"/FontFile2 ") > 0, "fonts are embedded"


def test_a_large_svg_becomes_a_png(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = figures.accuracy_rows(accuracies())
    head, data = figures.data_uri(figure).split(",")
    assert head == "data:image/svg+xml;base64"
    assert b"<svg" in base64.b64decode(data)
    monkeypatch.setattr(figures, "LARGE_SVG", 100)
    assert figures.data_uri(figure).startswith("data:image/png;base64,")


@pytest.mark.parametrize("share", np.linspace(0, 1, 21))
def test_letters_have_contrast_on_every_cell(share: float) -> None:
    def luminance(colour: object) -> float:
        parts = np.array(matplotlib.colors.to_rgb(colour))
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    cell = matplotlib.colormaps[figures.SHADES["cmap"]](share / figures.SHADES["vmax"])[:3]
    dark, light = sorted((luminance(cell), luminance(figures.ink_on(share))))
    assert (light + 0.05) / (dark + 0.05) > 4
