"""What the figures draw, and what they write."""

from __future__ import annotations

import warnings
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from facenet2expnet.report import figures


def texts(svg: str) -> list[str]:
    return [
        "".join(element.itertext()).strip()
        for element in ET.fromstring(svg).iter()
        if element.tag.endswith("text")
    ]


def test_confusion_writes_shares_and_counts_as_text():
    svg = figures.to_svg(figures.confusion_figure([[3, 1], [0, 0]], ["yes", "no"], "a title"), as_text=True)
    found = texts(svg)
    assert {"75", "25", "3", "1", "yes", "no", "truth", "predicted", "a title"} <= set(found)
    assert "0" not in found, "a class without pictures has no share"


def test_confusion_shades_rise_with_the_share_even_in_grey():
    counts = np.array([[8, 2], [5, 5]])
    figure = figures.confusion_figure(counts, ["a", "b"])
    mesh = figure.axes[0].collections[0]
    figure.canvas.draw()
    grey = mesh.get_facecolors()[:, :3] @ [0.299, 0.587, 0.114]
    assert np.argsort(grey).tolist()[0] == 0
    assert grey[0] < grey[2] < grey[1]
    assert grey[2] == pytest.approx(grey[3])


@pytest.mark.parametrize("classes", [2, 8, 13, 30])
def test_confusion_of_any_size(classes: int):
    names = [f"a rather long name of the class with number {i}" for i in range(classes)]
    drawn = figures.to_svg(figures.confusion_figure(np.eye(classes, dtype=int), names), as_text=True)
    assert len(set(texts(drawn))) >= classes


def test_confusion_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"expected shape \(3, 3\) for 3 classes, got \(2, 2\)"):
        figures.confusion_figure([[1, 0], [0, 1]], ["a", "b", "c"])


def test_names_from_users_are_drawn_as_they_are_and_without_warnings():
    names = ["$x_1^2$", "喜び", "غضب", "a\x00b", '<b>&"']
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = texts(figures.to_svg(figures.confusion_figure(np.eye(5, dtype=int), names), as_text=True))
    assert {"$x_1^2$", "喜び", "غضب", "a�b", '<b>&"'} <= set(found)


def test_short_names_stay_apart():
    assert figures.short("abcdefghij", 7) == "abc…hij"
    assert figures.short("abc", 7) == "abc"
    middle = [f"the class with number {i:02d} of a long list" for i in range(30)]
    ends = [f"the class of a long list with number {i:02d}" for i in range(30)]
    for names in (middle, ends, ["x" * 40 + str(i) + "x" * 40 for i in range(30)]):
        labels = figures.short_names(names)
        assert len(set(labels)) == 30
        assert max(map(len, labels)) <= figures.LABEL_LENGTH


def history() -> pd.DataFrame:
    rows = [
        {"method": m, "fold": f, "stage": s, "epoch": e, "loss": 10.0**-e, "accuracy": a, "r2": r}
        for m, s, a, r in (("fn2en", "stage1", np.nan, 0.5), ("fn2en", "stage2", 0.7, np.nan))
        for f in ("1", "2")
        for e in (1, 2, 3)
    ]
    return pd.DataFrame(rows)


def test_curves_have_a_row_a_stage_and_only_what_was_measured():
    figure = figures.curves_figure(history(), names={"fn2en": "Ours"})
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_ylabel() for axes in shown] == ["loss", "R²", "loss", "training accuracy, %"]
    assert shown[0].get_title(loc="left") == "Stage 1: regress its features"
    assert shown[0].get_yscale() == "log"
    assert "Ours" in texts(figures.to_svg(figure, as_text=True))


def test_curves_draw_the_mean_over_folds():
    table = history()
    table.loc[table["fold"] == "2", "r2"] = 0.9
    line = figures.curves_figure(table).axes[1].lines[0]
    assert line.get_ydata().tolist() == pytest.approx([0.7, 0.7, 0.7])


def test_curves_of_nothing_are_refused():
    with pytest.raises(ValueError, match="at least one epoch"):
        figures.curves_figure(history().iloc[:0])


def test_folds_show_mean_and_the_papers_number():
    figure = figures.folds_figure({"fn2en": [0.5, 0.7]}, {"fn2en": 0.968}, chance=0.2)
    points = [x for line in figure.axes[0].lines for x in np.atleast_1d(line.get_xdata())]
    assert {0.2, 0.5, 0.6, 0.7, 0.968} <= {round(float(x), 6) for x in points}


@pytest.mark.parametrize(("low", "high"), [(0.571, 0.576), (0.56, 0.58), (0.55, 0.60), (0.0, 1.0)])
def test_ticks_of_a_percent_axis_say_where_they_are(low: float, high: float):
    figure = figures.new_figure(4, 3)
    axes = figure.add_subplot()
    axes.plot([low, high], [low, high])
    figures.percent_axis(axes, "y")
    figure.canvas.draw()
    places = [place for place in axes.get_yticks() if low <= place <= high]
    said = [axes.yaxis.get_major_formatter()(place) for place in places]
    assert len(places) >= 3
    assert [float(label) for label in said] == pytest.approx([100 * place for place in places])
    assert max(map(len, said)) <= 5


def test_methods_look_the_same_whatever_else_is_drawn():
    alone, together = figures.marks(["fn2en"]), figures.marks(["other", "scratch", "fn2en"])
    assert alone["fn2en"] == together["fn2en"]
    assert len({mark.colour for mark in together.values()}) == 3
    assert len({mark.marker for mark in together.values()}) == 3


def test_saving_writes_every_format_and_the_numbers(tmp_path: Path):
    figure = figures.confusion_figure([[1]], ["only"])
    written = figures.save_figure(figure, tmp_path / "layer.conv5", data=pd.DataFrame({"a": [1, 2]}))
    assert [path.name for path in written] == [f"layer.conv5.{end}" for end in ("svg", "pdf", "png", "csv")]
    assert Image.open(written[2]).format == "PNG"
    assert pd.read_csv(written[3])["a"].tolist() == [1, 2]
    (only,) = figures.save_figure(figure, tmp_path / "one.svg")
    assert only.name == "one.svg"


def test_saved_figures_need_no_font_of_the_reader(tmp_path: Path):
    figure = figures.confusion_figure([[1]], ["only"])
    svg, pdf, _ = (path.read_bytes() for path in figures.save_figure(figure, tmp_path / "figure"))
    assert b"<text" not in svg
    assert b"font-family" not in svg
    fonts, files = pdf.count(b"/Type /FontDescriptor"), pdf.count(b"/FontFile2 ")
    assert fonts == files > 0


@pytest.mark.parametrize("share", np.linspace(0, 1, 21))
def test_letters_stand_out_from_every_cell(share: float):
    def luminance(colour: object) -> float:
        parts = np.array(matplotlib.colors.to_rgb(colour))
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    cell = matplotlib.colormaps[figures.SHADES["cmap"]](share / figures.SHADES["vmax"])[:3]
    dark, light = sorted((luminance(cell), luminance(figures.ink_on(share))))
    assert (light + 0.05) / (dark + 0.05) > 4


def test_the_same_figure_gives_the_same_bytes():
    first, second = (figures.folds_figure({"a": [0.1, 0.2]}) for _ in range(2))
    assert figures.to_svg(first) == figures.to_svg(second)
    assert figures.to_pdf(first) == figures.to_pdf(second)
