"""The report of a run: one page that needs no other file, escapes every name and claims only what was checked."""

from __future__ import annotations

import base64
import html.parser
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from facenet2expnet import recipes
from facenet2expnet.errors import UserError
from facenet2expnet.report.page import confident_mistakes, fn2en_words, thumbnail, write_report

MakeRun = Callable[..., Path]
VOID = {"meta", "br", "img", "hr", "link", "input"}
LONG_NAMES = [
    "Überraschung mit weit geöffnetem Mund und hochgezogenen Augenbrauen",
    "喜び",
    "غضب",
    '$x_1^2$ <script>alert("x")</script> &amp; "quoted"',
    *(f"class number {i:02d} of a long list" for i in range(26)),
]


class Page(html.parser.HTMLParser):
    """Collects a page's text, ids, links, images and headings; a tag that is not closed in order is an error."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.headings: list[int] = []
        self.scopeless = 0
        self.text = ""
        self.feed(source)
        self.close()
        self.text = " ".join(self.text.split())
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        values = dict(attrs)
        if values.get("id"):
            self.ids.append(str(values["id"]))
        self.targets += [str(values[name]) for name in ("href", "src") if name in values]
        if tag == "img":
            self.images.append(values)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.scopeless += tag == "th" and "scope" not in values

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


def small(make_run: MakeRun, **options: Any) -> Path:
    return make_run(**{"methods": ("fn2en",), "per_class": 6, "subjects": 0, "folds": 2, "pictures": False, **options})


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), **values}), encoding="utf-8")


def test_the_page_is_self_contained_and_accessible_and_shows_what_was_measured(make_run: MakeRun) -> None:
    run = make_run(per_class=12, subjects=12, folds=4, history=True)
    page = page_of(run)
    assert all(target.startswith(("#", "data:")) for target in page.targets)
    assert {target[1:] for target in page.targets if target.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert all(image.get("alt") for image in page.images)
    assert page.headings.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in zip(page.headings, page.headings[1:], strict=False))
    assert page.scopeless == 0
    source = (run / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//|@import|url\(", source)
    for text in ("default-src 'none'", "prefers-color-scheme: dark", "@media print"):
        assert text in source
    csv = [target.split(",")[1] for target in page.targets if target.startswith("data:text/csv")]
    tables = [pd.read_csv(io.BytesIO(base64.b64decode(data))) for data in csv]
    figures = [image for image in page.images if str(image["src"]).startswith("data:image/svg")]
    assert len(tables) == len(figures) == 7
    assert tables[0].columns.tolist() == ["fold", "seed", "pictures", "scratch", "fine-tune", "fn2en"]
    assert tables[1].columns[:5].tolist() == ["method", "stage", "epoch", "loss", "accuracy"]
    metrics = json.loads((run / "metrics.json").read_text())["methods"]["fn2en"]
    mean, std = 100 * metrics["mean"]["accuracy"], 100 * metrics["std"]["accuracy"]
    for text in (
        "Accuracy on test pictures in percent (± over folds): From scratch (BN)", f"FN2EN {mean:.1f} ± {std:.1f}.",
        f"{100 * metrics['per_class'][0]['precision']:.1f}", "fn2en compare 'sample data' --recipe quick --seed 0",
        'loss = "p-norm"', "torch 2.13.0", "10,600,000", "2025-03-04 10:20 UTC", "Minutes6.4",
    ):  # fmt: skip
        assert text in page.text


def test_the_page_claims_only_what_was_checked_and_lists_what_was_left_out(make_run: MakeRun) -> None:
    run = small(make_run)
    text = page_of(run).text
    checks = "No subject is in two parts of a fold. 2 copies were taken out of the training side."
    assert f"What was checked {checks}" in text
    assert "1 left out splitpartimagekept_imagehow 01trainanger/9.pnganger/1.pngidentical" in text
    assert "anger/0007.pngis empty (zero bytes)" in text
    assert "3 labelled pictures are in no part and were not used." in text
    assert "2 pictures are copies of one another, all on one side." in text
    assert "Identical pictures grouprowimagelabelparts 71pictures/0001.pngangertrain" in text
    assert "Near-duplicates" not in text
    edit(run / "run.json", checks=[])
    rows = "".join(f"01,train,a/{i}.png,b.png,identical\n" for i in range(1200))
    (run / "copies.csv").write_text("split,part,image,kept_image,how\n" + rows)
    (run / "audit.json").unlink()
    text = page_of(run).text
    for claim in ("What was checked", "No network saw", "No subject is"):
        assert claim not in text
    assert "1,200 left out" in text
    assert "And 1,180 more, in copies.csv." in text
    assert "a/19.png" in text
    assert "a/20.png" not in text
    assert "The run folder has no audit." in text


def test_paired_tests_print_what_the_interval_covers_and_why_there_is_no_p_value(make_run: MakeRun) -> None:
    run = make_run(per_class=6, subjects=6, folds=2, pictures=False)
    tests = json.loads((run / "metrics.json").read_text())["paired_tests"]
    for test in tests:
        test.update(p_value=None, p_holm=None, trainings=1, covers="It covers <subjects>.", reason="One training.")
    edit(run / "metrics.json", paired_tests=tests)
    text = page_of(run).text
    assert text.count("It covers <subjects>.") == 1
    assert text.count("One training.") == 1
    assert re.search(r"FN2EN minus From scratch \(BN\)[-+0-9. ]+to [-+0-9.]+––6 subjects1", text)


def test_a_dataset_of_the_paper_has_its_table(make_run: MakeRun) -> None:
    run = small(make_run, name="CK+")
    text = page_of(run).text
    assert "The paper's table III: accuracy on CK+, 8 classes" in text
    assert "AUDN [18]92.10yes" in text
    edit(run / "run.json", manifest={"name": "sample"})
    assert "its numbers can't be compared with these" in page_of(run).text


def test_unknown_subjects_are_a_warning(make_run: MakeRun) -> None:
    text = page_of(small(make_run, methods=("scratch", "fn2en"))).text
    assert "Subjects are unknown: the folds are stratified by class." in text
    assert "pictures of one person may be in the training part and in the test part" in text
    assert "Differences in accuracy on the same test pictures (t test" in text
    assert "there are no results by subject" in text


def test_long_foreign_and_hostile_names_are_escaped(make_run: MakeRun) -> None:
    run = small(make_run, classes=LONG_NAMES, per_class=4, name="<script>x</script>")
    hostile = "<img src=x onerror=alert(1)>"
    edit(run / "run.json", checks=[hostile], command=hostile, device=hostile)
    (run / "skipped.csv").write_text(f"image,reason\n{hostile},{hostile}\n")
    page = page_of(run)
    for name in [*LONG_NAMES, hostile, "<script>x</script>"]:
        assert name in page.text
    source = (run / "report.html").read_text(encoding="utf-8")
    assert "<script" not in source
    assert "<img src=x" not in source


def test_a_run_with_scores_alone_is_shown(make_run: MakeRun) -> None:
    run = make_run(classes=("yes", "no"), methods=("fn2en",), folds=1, subjects=0)
    for file in run.iterdir():
        if file.is_file() and file.name not in ("run.json", "metrics.json", "predictions.parquet"):
            file.unlink()
    edit(run / "run.json", kind="train")
    page = page_of(run)
    assert "Training on sample" in page.text
    assert "Training curves" not in page.text
    assert "every picture could be read" not in page.text, "no skipped.csv, no claim"
    assert "The run folder has no audit." in page.text


def test_mistakes_have_thumbnails_if_the_pictures_are_there(make_run: MakeRun) -> None:
    run = make_run(methods=("scratch", "fine-tune"), folds=1, per_class=6, subjects=0)
    page = page_of(run)
    assert "may be wrong. Fine-tuned face net" in page.text, "the last method comes first"
    assert any(str(image["src"]).startswith("data:image/jpeg") for image in page.images)
    for picture in (run / "pictures").iterdir():
        picture.unlink()
    assert "no picture: was not found" in page_of(run).text


def test_a_run_without_predictions_has_no_scores(make_run: MakeRun) -> None:
    run = small(make_run, history=True)
    for name in ("predictions.parquet", "metrics.json"):
        (run / name).unlink()
    page = page_of(run)
    assert "This run has no predictions on test pictures, so there are no scores." in page.text
    assert "Confusion matrices" not in page.text
    assert len(page.images) == 1


def test_a_history_without_a_known_stage_is_named(make_run: MakeRun) -> None:
    run = small(make_run, history=True)
    pd.read_csv(run / "history.csv").assign(stage="x").to_csv(run / "history.csv", index=False)
    with pytest.raises(UserError, match=r"is damaged: no curve of one of the stages fine_tune, .*go on with --resume"):
        write_report(run)


def predictions() -> pd.DataFrame:
    rows = [
        ("right.png", "m", 0, "a", "a", 0.99),
        ("sure.png", "m", 0, "a", "b", 0.1),
        ("sure.png", "m", 1, "a", "b", 0.05),
        ("unsure.png", "m", 0, "b", "a", 0.6),
        ("other.png", "n", 0, "a", "b", 0.0),
        ("unlabelled.png", "m", 0, None, "b", 0.0),
    ]
    out = pd.DataFrame(rows, columns=["image", "method", "seed", "truth", "predicted", "p_a"])
    return out.assign(p_b=1 - out["p_a"])


def test_mistakes_are_sorted_by_probability_and_each_picture_is_there_once() -> None:
    found = confident_mistakes(predictions(), "m", 5)
    assert found["image"].tolist() == ["sure.png", "unsure.png"]
    assert found["probability"].tolist() == [0.95, 0.6]
    assert found["truth_probability"].tolist() == pytest.approx([0.05, 0.4])
    assert len(confident_mistakes(predictions(), "m", 1)) == 1
    assert confident_mistakes(predictions().iloc[:1], "m", 5).empty


def test_a_thumbnail_is_a_small_jpeg_or_the_reason_why_there_is_none(tmp_path: Path) -> None:
    Image.new("L", (640, 320), 200).save(tmp_path / "wide.png")
    uri, reason = thumbnail(tmp_path / "wide.png", 144)
    assert uri is not None
    head, data = uri.split(",")
    assert (head, reason) == ("data:image/jpeg;base64", "")
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (144, 72)
    assert thumbnail(tmp_path / "gone.png") == (None, "was not found")


def test_the_page_says_how_fn2en_was_trained() -> None:
    paper = fn2en_words(recipes.to_dict(recipes.preset("paper")))
    assert "Stage 1 trains" in paper
    assert "start" not in paper
    assert paper.endswith("on the labels.")
    best = fn2en_words(recipes.to_dict(recipes.override(recipes.preset("best"), ["face_net.teachers=3"])))
    assert "3 copies of the face network" in best
    assert "begins with the start 'faces'" in best
    assert "Stage 1" not in best
    assert "soft labels" in best
    assert fn2en_words({}) == paper
