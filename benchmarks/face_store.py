"""Pictures a second: prepare a face store, read it, and, for comparison, decode the JPEGs in every epoch.

    python benchmarks/face_store.py
    python benchmarks/face_store.py --pictures 1308 --repeats 5 --detectors already-cropped mtcnn

The pictures are those of the bundled sample, enlarged and placed in a frame of CK+'s size (640 x 490), as JPEG
of quality 95. Preparing is detection, alignment to 256 x 256 and writing with checksums. Reading is one epoch
in shuffled batches of 64, copied out of the memory map; the file is in the system's cache, as it is from the
second epoch on. Decoding reads the same batches from the JPEGs with the same threads, resized to 256 x 256
without detection. Each number is the median over the repeats, with minimum and maximum; the ratio is computed
in each repeat.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from rich.console import Console
from rich.table import Table

from facenet2expnet.crop import DETECTORS, CropContract
from facenet2expnet.data.bundled import read_sample, sample_folder
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.faces.prepare import crop_files
from facenet2expnet.faces.store import FaceStore, prepare

FRAME_WH, FACE_PX, BATCH = (640, 490), 400, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=None, help="threads; by default one a core")
    parser.add_argument("--detectors", nargs="+", default=list(DETECTORS), choices=DETECTORS)
    arguments = parser.parse_args()
    table = Table("step", "pictures/s", "minimum to maximum", title=f"{arguments.pictures} pictures")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = make_pictures(folder / "pictures", arguments.pictures)
        for detector in arguments.detectors:
            rates = [
                preparing(manifest, folder / "faces", detector, arguments.workers) for _ in range(arguments.repeats)
            ]
            table.add_row(f"prepare, {detector}", *median_and_range(rates))
        store = prepare(manifest, CropContract(), folder / "faces", workers=arguments.workers)
        reading, decoding = [], []
        for repeat in range(arguments.repeats):
            order = np.random.default_rng(repeat).permutation(len(store))
            reading.append(rate(order, lambda rows: read_batch(store, rows)))
            decoding.append(rate(order, lambda rows: decode_batch(manifest, rows, arguments.workers)))
        table.add_row("read an epoch from the store", *median_and_range(reading))
        table.add_row("decode an epoch from the JPEGs", *median_and_range(decoding))
        ratios = [a / b for a, b in zip(reading, decoding, strict=True)]
        table.add_row("reading / decoding", *median_and_range(ratios))
    Console().print(table)


def make_pictures(folder: Path, count: int) -> Manifest:
    """Write JPEGs of CK+'s size with one face of `FACE_PX` each; return their manifest."""
    folder.mkdir()
    sample = read_sample()
    rows = []
    for number in range(count):
        row = sample.iloc[number % len(sample)]
        with Image.open(sample_folder() / row["image"]) as picture:
            face = picture.convert("RGB").resize((FACE_PX, FACE_PX), Image.Resampling.BICUBIC)
        frame = Image.new("RGB", FRAME_WH, face.getpixel((2, 2)))
        frame.paste(face, (40 + number % 160, 30 + number % 50))
        frame.save(folder / f"{number:05d}.jpg", quality=95)
        rows.append((f"{number:05d}.jpg", row["label"]))
    return Manifest(pd.DataFrame(rows, columns=["image", "label"]), folder)


def preparing(manifest: Manifest, folder: Path, detector: str, workers: int | None) -> float:
    """Measure the pictures a second of a new preparation."""
    template = "none" if detector == "already-cropped" else "eyes-mouth"
    started = time.perf_counter()
    prepare(manifest, CropContract(detector=detector, template=template), folder, workers=workers)
    seconds = time.perf_counter() - started
    shutil.rmtree(folder)
    return len(manifest) / seconds


def rate(order: np.ndarray, batch: Callable[[np.ndarray], np.ndarray]) -> float:
    """Measure the pictures a second of one epoch in this order."""
    started = time.perf_counter()
    for first in range(0, len(order), BATCH):
        batch(order[first : first + BATCH])
    return len(order) / (time.perf_counter() - started)


def read_batch(store: FaceStore, rows: np.ndarray) -> np.ndarray:
    return np.asarray(store.pixels[rows])


def decode_batch(manifest: Manifest, rows: np.ndarray, workers: int | None) -> np.ndarray:
    paths = manifest.paths
    return np.stack(
        [result.crop for result in crop_files([paths[row] for row in rows], CropContract(), workers=workers)]
    )


def median_and_range(values: list[float]) -> tuple[str, str]:
    return f"{statistics.median(values):,.1f}", f"{min(values):,.1f} to {max(values):,.1f}"


if __name__ == "__main__":
    main()
