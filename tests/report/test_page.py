"""The report as a page: whole, self-contained, and about the right numbers."""

from __future__ import annotations

import html.parser
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from facenet2expnet.errors import UserError
from facenet2expnet.report.fonts import FAMILY
from facenet2expnet.report.page import write_report
from facenet2expnet.report.run_folder import read_run

VOID = {"meta", "br", "img", "hr", "link", "input"}
LONG_NAMES = [
    "Überraschung mit weit geöffnetem Mund und hochgezogenen Augenbrauen",
    "喜び",
    "غضب",
    '$x_1^2$ <script>alert("x")</script> &amp; "quoted"',
    *(f"class number {i:02d} of a long list" for i in range(26)),
]


class Page(html.parser.HTMLParser):
    """Collects a page's text, ids, links and headings, and refuses tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.figures: list[dict[str, str | None]] = []
        self.headings: list[int] = []
        self.scopeless = 0
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        values = dict(attrs)
        if values.get("id"):
            self.ids.append(str(values["id"]))
        for name in ("href", "src", "xlink:href"):
            if name in values:
                self.targets.append(str(values[name]))
        if tag == "img":
            self.images.append(values)
        if tag == "svg":
            self.figures.append(values)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.scopeless += tag == "th" and "scope" not in values

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


def p_text(p_value: float, equals: str) -> str:
    return "< 0.001" if p_value < 0.001 else f"{equals}{p_value:.3f}"


def squeezed(text: str) -> str:
    return " ".join(text.split())


def test_page_is_self_contained_and_accessible(make_run: Callable[..., Path]):
    page = page_of(make_run(per_class=12, subjects=12, folds=4, history=True))
    assert all(target.startswith(("#", "data:")) for target in page.targets)
    assert {target[1:] for target in page.targets if target.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert page.images
    assert all(image["alt"] and str(image["src"]).startswith("data:image/jpeg") for image in page.images)
    assert len(page.figures) == 7
    assert all(figure["role"] == "img" and figure["aria-label"] for figure in page.figures)
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in zip(page.headings, page.headings[1:], strict=False))
    assert page.scopeless == 0


def test_the_page_brings_the_font_that_its_figures_ask_for(make_run: Callable[..., Path]):
    text = write_report(make_run(per_class=6, subjects=3, folds=2)).read_text(encoding="utf-8")
    assert (
        f'@font-face {{ font-family: "{FAMILY}"; font-weight: 700; src: url("data:font/woff;base64,' in text
    )
    assert "font-src data:" in text
    asked = re.findall(r"<text [^>]*font(?:-family)?: [^;]*?'([^']+)'", text)
    assert len(asked) > 50
    assert set(asked) == {FAMILY}


def test_page_says_what_was_measured(make_run: Callable[..., Path]):
    run = make_run(per_class=12, subjects=12, folds=4)
    metrics = json.loads((run / "metrics.json").read_text())
    text = squeezed(page_of(run).text)
    accuracy = metrics["methods"]["fn2en"]["mean"]["accuracy"] * 100
    assert f"FN2EN named {accuracy:.1f} % of the test pictures rightly" in text
    p_value = metrics["paired_tests"][1]["p_holm"]
    assert f"than training from scratch (paired test, corrected p {p_text(p_value, '= ')})" in text
    assert "sign-flip permutation test" in text
    assert "fn2en compare 'sample data' --recipe quick --seed 0" in text
    assert "anger/0007.png" in text
    assert "is empty (zero bytes)" in text
    assert "2 pictures are copies of one another, all on one side." in text
    assert 'loss = "normalised"' in text
    assert "2.13.0" in text
    assert "10,600,000" in text
    assert "2025-03-04 10:20 UTC" in text


def test_the_sample_is_not_set_against_the_paper(make_run: Callable[..., Path]):
    text = squeezed(
        page_of(make_run(methods=("fn2en",), per_class=6, subjects=0, folds=2, pictures=False)).text
    )
    assert "no comparison is to be drawn" in text
    assert "Other datasets than this one. Not comparable with this run." in text


def test_a_dataset_of_the_paper_stands_beside_its_table(make_run: Callable[..., Path]):
    run = make_run(name="CK+", methods=("fn2en",), per_class=6, subjects=0, folds=2, pictures=False)
    text = squeezed(page_of(run).text)
    assert "The paper's table III: average accuracy on CK+, 8 classes" in text
    assert "no comparison is to be drawn" not in text
    assert "AUDN [18]92.10yes" in text


def test_unknown_subjects_are_said(make_run: Callable[..., Path]):
    text = squeezed(
        page_of(make_run(methods=("scratch", "fn2en"), per_class=6, subjects=0, folds=2, pictures=False)).text
    )
    assert "Subjects are unknown: the folds are stratified by class." in text
    assert "exact McNemar test" in text
    assert "there are no results by subject" in text


def test_long_foreign_and_hostile_names(make_run: Callable[..., Path]):
    run = make_run(
        classes=LONG_NAMES,
        methods=("fn2en",),
        per_class=4,
        subjects=0,
        folds=2,
        name="<script>x</script>",
        pictures=False,
    )
    page = page_of(run)
    for name in LONG_NAMES:
        assert name in page.text
    assert "<script" not in (run / "report.html").read_text(encoding="utf-8")


def test_one_training_with_two_classes_and_nothing_optional(make_run: Callable[..., Path]):
    run = make_run(classes=("yes", "no"), methods=("fn2en",), folds=1, subjects=0)
    optional = "sizes.json skipped.csv audit.json recipe.toml metrics.json manifest.json manifest.csv"
    for name in optional.split():
        (run / name).unlink()
    page = page_of(run)
    assert "Training on sample" in page.text
    assert "folder of the pictures unknown" in page.text
    assert page.images == []
    assert "Learning curves" not in page.text


def test_a_training_is_about_the_method_that_was_asked_for(make_run: Callable[..., Path]):
    run = make_run(methods=("fine-tune", "fn2en"), folds=1, per_class=6, subjects=0, pictures=False)
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**about, "kind": "train", "methods": ["fine-tune"]}))
    assert "Fine-tuned face net named" in squeezed(page_of(run).text)


def test_pictures_gone_from_disk_are_named(make_run: Callable[..., Path]):
    page = page_of(make_run(methods=("fn2en",), per_class=6, subjects=0, folds=2, pictures=False))
    assert "no picture: was not found" in page.text


def test_a_training_on_everything_has_no_scores(make_run: Callable[..., Path]):
    run = make_run(methods=("fn2en",), folds=1, per_class=6, subjects=0, pictures=False, history=True)
    (run / "predictions.parquet").unlink()
    (run / "metrics.json").unlink()
    page = page_of(run)
    assert "No pictures were held out" in page.text
    assert len(page.figures) == 1


def test_a_damaged_file_is_named_and_the_rest_is_shown(make_run: Callable[..., Path]):
    run = make_run(methods=("fn2en",), per_class=6, subjects=0, folds=2, pictures=False)
    (run / "sizes.json").write_text("{half")
    (run / "predictions.parquet").write_bytes(b"PAR1")
    text = squeezed(page_of(run).text)
    assert "sizes.json could not be read" in text
    assert "predictions.parquet could not be read" in text
    assert "FN2EN named" in text


def test_the_audit_is_told_in_sentences_and_tables(make_run: Callable[..., Path]):
    run = make_run(methods=("fn2en",), folds=1, per_class=4, subjects=0, pictures=False)
    text = squeezed(page_of(run).text)
    assert "2 pictures are copies of one another, all on one side." in text
    assert "pictures: labels, identical pictures." in text
    assert "Identical pictures grouprowimagelabelparts 70pictures/0001.pngangertrain" in text
    assert "Nearly identical" not in text
    (run / "audit.json").write_text("null")
    assert "This run has no audit" in squeezed(page_of(run).text)


def test_no_run_is_an_error_that_says_what_to_give(tmp_path: Path):
    with pytest.raises(UserError, match=r"holds no run\.json; give the folder"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        read_run(tmp_path / "none")
    (tmp_path / "run.json").write_text("[")
    with pytest.raises(UserError, match="can't be read as JSON"):
        write_report(tmp_path)


def test_metrics_are_made_from_predictions_where_missing(make_run: Callable[..., Path]):
    run = make_run(methods=("fn2en",), per_class=6, subjects=0, folds=2, pictures=False)
    before = read_run(run).metrics
    (run / "metrics.json").unlink()
    assert read_run(run).metrics == before
