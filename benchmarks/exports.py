"""Every exported form of a model on the same labelled faces: accuracy, difference, size, time a face on one thread.

    OMP_NUM_THREADS=1 python benchmarks/exports.py runs/mine --data new-faces/ --calibration faces/
    OMP_NUM_THREADS=1 python benchmarks/exports.py runs/mine --data new-faces/ --faces 500 --repeats 50
    OMP_NUM_THREADS=1 python benchmarks/exports.py runs/mine --data new-faces/ --page page/

Prints a Markdown table. `--calibration` are the faces that `fn2en export` measures and calibrates on, best those of the
training; by default the bundled sample. They should not be those of `--data`. A form that `fn2en export` refuses has a
row with the reason. `--page` is a folder that `fn2en export runs/mine --web page/` wrote: a row for its model in
headless Chromium, whose times are of the clock, and which takes 64 faces as four batches of 16.

Times are processor time, the median of `--repeats` calls, so that other work on the machine counts little. On one
thread and a quiet machine they are the time that passes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from facenet2expnet import Recognizer
from facenet2expnet.crop import centre_window
from facenet2expnet.deploy.agreement import compare
from facenet2expnet.deploy.faces import Faces, load_faces
from facenet2expnet.deploy.onnx import PRECISIONS, export
from facenet2expnet.errors import UserError
from facenet2expnet.predict.model_folder import WEIGHTS, find_model, load_model, locate_model

NAMES = {
    "float32": "ONNX",
    "float16": "ONNX, float16",
    "int8": "ONNX, int8",
    "int8-weights": "ONNX, weights in int8",
}
BATCHES = (1, 64)
IN_BROWSER = """
async ({ side, repeats, batches }) => {
  const { Recognizer } = await import("./recognizer.js");
  const recognizer = await Recognizer.load();
  const bytes = new Uint8Array(await (await fetch("./crops")).arrayBuffer());
  const size = side * side * 3;
  const crop = (n) => ({ width: side, height: side, data: bytes.subarray(n * size, (n + 1) * size) });
  const crops = Array.from({ length: bytes.length / size }, (_, n) => crop(n));
  const probabilities = await recognizer.classify(crops);
  const times = [];
  for (const batch of batches) {
    const own = [];
    for (let n = -2; n < repeats; n++) {
      const began = performance.now();
      await recognizer.classify(crops.slice(0, batch));
      if (n >= 0) own.push((performance.now() - began) / batch);
    }
    times.push(own.sort((one, other) => one - other)[Math.floor(repeats / 2)]);
  }
  return { probabilities, times };
}
"""


def main(words: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="a model folder, or a run folder with one model")
    parser.add_argument("--data", type=Path, help="labelled faces to measure on; the bundled sample by default")
    parser.add_argument("--calibration", type=Path, help="other faces, for fn2en export --data")
    parser.add_argument("--faces", type=int, default=1000, help="number of labelled faces, a random sample")
    parser.add_argument("--repeats", type=int, default=30, help="timed calls of each batch")
    parser.add_argument("--page", type=Path, help="the model's page, for a row in the browser")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser")
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    folder = find_model(locate_model(given.model))
    model = load_model(folder)
    faces = load_faces(given.data, model.classes, model.contract, most=10**9)
    labelled = np.flatnonzero(faces.labels >= 0)
    faces = faces.rows(np.sort(np.random.default_rng(0).permutation(labelled)[: given.faces]))
    if not len(faces):
        parser.error(f"no face of {faces.name} has a label that is one of {', '.join(model.classes)}")
    print(f"{len(faces):,} labelled faces of {faces.name}, {os.environ['OMP_NUM_THREADS']} thread\n")
    print("| form | accuracy, % | largest difference | answers changed | size, MB | ms a face, batch 1 | batch 64 |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    reference = Recognizer(model, "cpu").probabilities(faces.pixels)
    print(form_row("PyTorch", Recognizer(model, "cpu"), faces, reference, folder / WEIGHTS, given.repeats))
    with tempfile.TemporaryDirectory() as made:
        for precision in PRECISIONS:
            path = Path(made) / f"{precision}.onnx"
            try:
                export(folder, path, precision=precision, data=given.calibration)
            except UserError as error:
                print(f"| {NAMES[precision]} | {str(error).partition(';')[0]} | | | | | |")
                continue
            found = Recognizer.load(path, "cpu")
            print(form_row(NAMES[precision], found, faces, reference, path, given.repeats))
        if given.page:
            print(browser_row(given.page, given.chromium, faces, reference, given.repeats, Path(made)))


def form_row(name: str, form: Recognizer, faces: Faces, reference: np.ndarray, file: Path, repeats: int) -> str:
    """Measure one form of the model; `reference` are PyTorch's probabilities."""
    times = [ms_a_face(form.probabilities, faces.pixels, batch, repeats) for batch in BATCHES]
    return row(name, form.probabilities(faces.pixels), faces, reference, file, times)


def browser_row(
    page: Path, chromium: str | None, faces: Faces, reference: np.ndarray, repeats: int, scratch: Path
) -> str:
    """Measure the page's model in a browser."""
    from browser import run_script

    side = json.loads((page / "page.json").read_text())["cut"]["crop_px"]
    crops = scratch / "crops"
    window = centre_window(faces.pixels.shape[1], side)
    crops.write_bytes(faces.pixels[:, window, window].tobytes())
    given = {"side": side, "repeats": repeats, "batches": BATCHES}
    found, version = run_script(page, IN_BROWSER, given, chromium, crops=crops)
    probabilities = np.array(found["probabilities"], np.float32)
    return row(f"Chromium {version}", probabilities, faces, reference, page / "model.onnx", found["times"])


def row(
    name: str, probabilities: np.ndarray, faces: Faces, reference: np.ndarray, file: Path, times: Sequence[float]
) -> str:
    """One row of the table."""
    found = compare(reference, probabilities, faces.labels, faces.name)
    cells = (
        name, f"{found.accuracy_after:.2f}", f"{found.largest_difference:.1e}", str(found.changed),
        f"{file.stat().st_size / 1e6:.2f}", *(f"{ms:.2f}" for ms in times),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def ms_a_face(classify: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray, batch: int, repeats: int) -> float:
    """Median processor time of a call, in milliseconds a face; the first two calls are not timed."""
    given = np.resize(pixels, (batch, *pixels.shape[1:]))
    spent = []
    for _ in range(repeats + 2):
        began = time.process_time()
        classify(given)
        spent.append(time.process_time() - began)
    return 1000 * statistics.median(spent[2:]) / batch


if __name__ == "__main__":
    main()
