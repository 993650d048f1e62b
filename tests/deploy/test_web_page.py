"""The page in a real browser: pictures, a video, the webcam, errors, the table, the keyboard; and both designs."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_service import Live, encode, live
from PIL import Image
from playwright import sync_api

import tiny
from facenet2expnet.deploy import serve
from facenet2expnet.deploy.uploads import Limits
from facenet2expnet.predict.recognizer import Recognizer
from facenet2expnet.predict.results import columns

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="the browser tests need Chromium (Debian: chromium)")

PARTY = Path(__file__).parents[2] / "docs" / "images" / "party.jpg"
FLAGS = (
    "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium, whose webcam shows a rendered face."""
    clip = tmp_path_factory.mktemp("webcam") / "clip.mjpeg"
    clip.write_bytes(encode(face(), "JPEG", quality=95) * 10)
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    flags = [*FLAGS, *root, f"--use-file-for-fake-video-capture={clip}"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def service(recognizer: Recognizer) -> Iterator[Live]:
    with live(serve.create_app(recognizer, Limits(rate=0))) as service:
        yield service


@pytest.fixture
def page(browser: Any, service: Live) -> Iterator[Any]:
    """A page that is ready; errors of its scripts, and what its security policy refuses, fail the test."""
    with browser.new_context(viewport={"width": 1200, "height": 900}) as context:
        page = context.new_page()
        page.set_default_timeout(60_000)
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        outside: list[str] = []
        page.on("request", lambda request: outside.append(request.url))
        page.goto(service.url)
        page.locator("#state", has_text="Ready").wait_for()
        yield page
        assert faults == []
        assert [url for url in outside if not url.startswith((service.url, f"blob:{service.url}", "data:"))] == []


def face() -> np.ndarray:
    """A rendered face on grey, (240, 320, 3) uint8."""
    party = Image.open(PARTY).convert("RGB").crop((70, 60, 270, 280))
    picture = Image.new("RGB", (320, 240), "grey")
    picture.paste(party, (60, 10))
    return np.asarray(picture)


def finish(page: Any) -> str:
    page.locator("#state", has_text="Done").wait_for()
    return str(page.locator("#state").inner_text())


def colours(page: Any, canvas: str = "#stage") -> int:
    """The number of different pixels of a canvas."""
    return int(
        page.locator(canvas).evaluate(
            "canvas => new Set(new Uint32Array(canvas.getContext('2d')"
            ".getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size"
        )
    )


def rows(page: Any) -> list[list[str]]:
    return [row.locator("td").all_inner_texts() for row in page.locator("#table tbody tr").all()]


def saved_table(page: Any) -> list[dict[str, str]]:
    with page.expect_download() as download:
        page.get_by_role("button", name="Download as CSV").click()
    assert download.value.suggested_filename == "faces.csv"
    return list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8"))))


def test_a_chosen_picture_is_drawn_with_its_faces_and_fills_the_table(page: Any, recognizer: Recognizer) -> None:
    page.set_input_files("#files", PARTY)
    assert finish(page) == "Done: 5 faces in 1 picture."
    assert colours(page) > 1000
    assert len(rows(page)) == 5
    assert page.locator("#faces > li").count() == 5
    assert page.locator("#faces > li").first.locator(".bars li").count() == 3
    table = saved_table(page)
    assert list(table[0]) == columns(tiny.CLASSES)
    expected = recognizer.predict(np.asarray(Image.open(PARTY).convert("RGB"))).table()
    for row, (_, one) in zip(table, expected.iterrows(), strict=True):
        assert (row["source"], row["label"], row["track"]) == ("party.jpg", one["label"], "")
        assert (row["crop"], row["note"]) == (one["crop"], "")
        for name in ("x", "y", "width", "height"):
            assert float(row[name]) == pytest.approx(one[name], abs=1)
        for name in tiny.CLASSES:
            assert float(row[f"p_{name}"]) == pytest.approx(one[f"p_{name}"], abs=0.002)
    label = page.locator("#stage").get_attribute("aria-label")
    assert label.startswith("party.jpg: 5 faces: ")
    assert page.locator("#announce").inner_text().startswith("Done: 5 faces in 1 picture. 5 faces: ")


def test_a_dropped_picture_is_taken_as_a_chosen_one(page: Any) -> None:
    dropped = page.evaluate_handle(
        "bytes => { const drop = new DataTransfer();"
        "drop.items.add(new File([new Uint8Array(bytes)], 'dropped.jpg', {type: 'image/jpeg'})); return drop; }",
        list(encode(face(), "JPEG")),
    )
    page.dispatch_event("#drop", "dragover", {"dataTransfer": dropped})
    assert "over" in page.locator("#drop").get_attribute("class")
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    assert finish(page) == "Done: 1 face in 1 picture."
    assert [row[0] for row in rows(page)] == ["dropped.jpg"]


def test_a_bad_file_is_named_and_the_others_are_shown(page: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no")
    (tmp_path / "bad.mp4").write_bytes(b"no")
    (tmp_path / "wall.png").write_bytes(encode(np.full((60, 90, 3), 120, np.uint8)))
    page.set_input_files("#files", [tmp_path / name for name in ("bad.jpg", "bad.mp4", "wall.png")])
    assert finish(page) == "Done: 0 faces in 1 picture."
    assert page.get_by_role("alert").locator("p").all_inner_texts() == [
        "bad.jpg is not a picture or video that this browser can read.",
        "bad.mp4 is not a video that this browser can read.",
    ]
    assert [row[0] for row in rows(page)] == ["wall.png"]
    assert rows(page)[0][-1] == "no face found"
    assert page.locator("#faces").inner_text() == "No face was found."


def test_a_video_has_a_timeline_and_can_be_looked_at_again(page: Any, tmp_path: Path) -> None:
    pytest.importorskip("av")
    from clip import write_video

    grey = np.full((240, 320, 3), 128, np.uint8)
    clip = write_video(tmp_path / "clip.mp4", [face()] * 15 + [grey] * 15)
    page.set_input_files("#files", clip)
    assert finish(page) == "Done: 3 faces in 6 frames."
    table = saved_table(page)
    assert [float(row["time_s"]) for row in table] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert [row["note"] for row in table] == [""] * 3 + ["no face found"] * 3
    assert [row["crop"] for row in table] == ["detected"] * 3 + [""] * 3
    assert colours(page, "#timeline") > 3
    assert page.locator("#timeline").get_attribute("aria-label").startswith("On average ")
    assert colours(page) < 200
    page.locator("#position").focus()
    page.keyboard.press("Home")
    page.locator("#faces strong").wait_for()
    assert page.locator("#shown").inner_text() == "0.0 s"
    assert colours(page) > 1000
    page.locator("#timeline").click(position={"x": 1000, "y": 10})
    page.locator("#faces", has_text="No face was found.").wait_for()


def test_the_webcam_is_followed_until_it_is_stopped(page: Any) -> None:
    camera = page.get_by_role("button", name="Use the webcam")
    camera.focus()
    page.keyboard.press("Enter")
    page.locator("#table tbody tr").nth(2).wait_for()
    assert page.evaluate("document.activeElement.id") == "stop"
    page.keyboard.press("Enter")
    finish(page)
    assert page.evaluate("document.activeElement.id") == "camera"
    found = rows(page)
    assert {row[0] for row in found} == {"webcam"}
    assert {row[2] for row in found} <= set(tiny.CLASSES)
    times = [float(row["time_s"]) for row in saved_table(page)]
    assert times == sorted(times)
    assert colours(page) > 500  # the last frame stays
    page.wait_for_timeout(300)
    assert len(rows(page)) == len(found)


def test_the_keyboard_reaches_everything_in_order(page: Any) -> None:
    page.set_input_files("#files", PARTY)
    finish(page)
    page.locator("body").press("Tab")
    order = []
    for _ in range(7):
        order.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
        page.keyboard.press("Tab")
    assert order == ["skip", "files", "camera", "every", "side", "save", "scroll"]


def test_everything_that_is_used_has_a_name(page: Any) -> None:
    page.set_input_files("#files", PARTY)
    finish(page)
    for role, name in (
        ("button", "Use the webcam"), ("button", "Download as CSV"), ("combobox", "In videos, look every"),
        ("region", "Faces"), ("region", "Table"), ("heading", "Faces and their expressions"), ("status", None),
    ):  # fmt: skip
        assert page.get_by_role(role, name=name, exact=False).count() >= 1, (role, name)
    assert (
        page.locator("#files").evaluate("input => input.labels[0].innerText").startswith("Choose pictures or a video")
    )
    assert "An expression is not an emotion" in page.locator("header").inner_text()
    assert "Nothing leaves this machine" in page.locator("header").inner_text()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 390)])
def test_it_fits_and_can_be_read_in_both_designs(page: Any, scheme: str, width: int, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no")
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 844})
    page.set_input_files("#files", [PARTY, tmp_path / "bad.jpg"])
    finish(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for element in ("body", "header p", "#faces span", "caption", "button#camera", "#errors p"):
        assert contrast(page, element) >= 4.5, element
    box = page.locator("#camera").bounding_box()
    assert box["height"] >= 44  # for fingers


def contrast(page: Any, element: str) -> float:
    """The contrast of an element's text to what is behind it, by WCAG 2."""
    colours = page.locator(element).first.evaluate(
        "one => { const text = getComputedStyle(one).color; let back = 'rgba(0, 0, 0, 0)';"
        "for (; one && back === 'rgba(0, 0, 0, 0)'; one = one.parentElement)"
        "  back = getComputedStyle(one).backgroundColor;"
        "return [text, back].map((colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number)); }"
    )
    values = np.array(colours) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    low, high = sorted(linear @ [0.2126, 0.7152, 0.0722])
    return float((high + 0.05) / (low + 0.05))


def test_the_page_asks_for_a_token_and_says_when_it_is_wrong(browser: Any, recognizer: Recognizer) -> None:
    app = serve.create_app(recognizer, token="sesame")
    with live(app) as service, browser.new_context() as context:
        page = context.new_page()
        page.goto(service.url)
        page.get_by_label("This service needs a token.").fill("wrong")
        page.keyboard.press("Enter")
        page.get_by_label("That token is wrong.").fill("sesame")
        page.keyboard.press("Enter")
        page.locator("#state", has_text="Ready").wait_for()
        page.set_input_files("#files", PARTY)
        assert finish(page) == "Done: 5 faces in 1 picture."


def test_escape_in_the_dialog_of_the_token_ends_with_an_error(browser: Any, recognizer: Recognizer) -> None:
    with live(serve.create_app(recognizer, token="sesame")) as service, browser.new_context() as context:
        page = context.new_page()
        page.goto(service.url)
        page.get_by_label("This service needs a token.").wait_for()
        page.keyboard.press("Escape")
        page.get_by_role("alert").locator("p").wait_for()
        expected = "This service needs a token; reload the page to enter it."
        assert page.get_by_role("alert").inner_text() == expected
        assert page.locator("dialog").count() == 0


def test_a_service_that_is_gone_is_said(browser: Any, recognizer: Recognizer) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        with live(serve.create_app(recognizer)) as service:
            page.goto(service.url)
            page.locator("#state", has_text="Ready").wait_for()
        page.set_input_files("#files", PARTY)
        page.get_by_role("alert", name="").locator("p").wait_for()
        assert page.get_by_role("alert").inner_text() == "The service does not answer. Is it still running?"


def test_refusals_of_the_service_are_shown(browser: Any, recognizer: Recognizer) -> None:
    with live(serve.create_app(recognizer, Limits(megapixels=0.1))) as service, browser.new_context() as context:
        page = context.new_page()
        page.goto(service.url)
        page.locator("#state", has_text="Ready").wait_for()
        page.set_input_files("#files", PARTY)
        page.get_by_role("alert").locator("p").wait_for()
        assert "is too large: 1000 x 420 pixels, the limit is 100,000 pixels" in page.get_by_role("alert").inner_text()
