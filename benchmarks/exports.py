"""Every exported form of a model on the same labelled faces: accuracy, difference, size, time a face on one thread.

    OMP_NUM_THREADS=1 python benchmarks/exports.py runs/mine --data new-faces/ --calibration faces/
    OMP_NUM_THREADS=1 python benchmarks/exports.py runs/mine --data new-faces/ --faces 500 --repeats 50

Prints a Markdown table. `--calibration` are the faces that `fn2en export` measures and calibrates on, best those of the
training; by default the bundled sample. They should not be those of `--data`. A form that `fn2en export` refuses has a
row with the reason.

Times are processor time, the median of `--repeats` calls, so that other work on the machine counts little. On one
thread and a quiet machine they are the time that passes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from facenet2expnet import Recognizer
from facenet2expnet.deploy.agreement import compare
from facenet2expnet.deploy.faces import Faces, load_faces
from facenet2expnet.deploy.onnx import PRECISIONS, export
from facenet2expnet.errors import UserError
from facenet2expnet.predict.model_folder import WEIGHTS, find_model, load_model, locate_model

NAMES = {"float32": "ONNX", "float16": "ONNX, float16", "int8": "ONNX, int8"}
BATCHES = (1, 64)


def main(words: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, help="a model folder, or a run folder with one model")
    parser.add_argument("--data", type=Path, help="labelled faces to measure on; the bundled sample by default")
    parser.add_argument("--calibration", type=Path, help="other faces, for fn2en export --data")
    parser.add_argument("--faces", type=int, default=1000, help="number of labelled faces, a random sample")
    parser.add_argument("--repeats", type=int, default=30, help="timed calls of each batch")
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
    print(row("PyTorch", Recognizer(model, "cpu"), faces, reference, (folder / WEIGHTS).stat().st_size, given.repeats))
    with tempfile.TemporaryDirectory() as made:
        for precision in PRECISIONS:
            path = Path(made) / f"{precision}.onnx"
            try:
                export(folder, path, precision=precision, data=given.calibration)
            except UserError as error:
                print(f"| {NAMES[precision]} | {str(error).partition(';')[0]} | | | | | |")
                continue
            found = Recognizer.load(path, "cpu")
            print(row(NAMES[precision], found, faces, reference, path.stat().st_size, given.repeats))


def row(name: str, form: Recognizer, faces: Faces, reference: np.ndarray, size: int, repeats: int) -> str:
    """One row of the table; `reference` are PyTorch's probabilities."""
    found = compare(reference, form.probabilities(faces.pixels), faces.labels, faces.name)
    times = [ms_a_face(form.probabilities, faces.pixels, batch, repeats) for batch in BATCHES]
    cells = (
        name, f"{found.accuracy_after:.2f}", f"{found.largest_difference:.1e}", str(found.changed),
        f"{size / 1e6:.2f}", *(f"{ms:.2f}" for ms in times),
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
