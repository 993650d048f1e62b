"""Read batches of a face store that does not fit in memory: orders of the rows, with and without requests ahead.

    python benchmarks/reading.py --folder /data
    python benchmarks/reading.py --folder /data --side 72

The store is noise, 4 GB. It is taken out of the system's cache before each way, and again whenever a way has read
512 MB from the disk, as if there were no more memory. "Row by row" copies from the mapped file; "requested" is what a
training does, `data.mapped.read_rows`. "Blocks" shuffles blocks of 64 neighbouring rows, and the rows of 64 of these.
The ways take turns, and medians of the turns are shown. The requests are those of the whole disk, so leave it alone
meanwhile; 0 if Linux does not say on which disk the folder is. Linux only.
"""

from __future__ import annotations

import argparse
import mmap
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from facenet2expnet.data.mapped import read_rows
from facenet2expnet.files import write_json

BATCH, BLOCK, BLOCKS_MIXED = 64, 64, 64
Order = Callable[[int, np.random.Generator], np.ndarray]


def blocks(count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw an order of blocks, and mix the rows of some blocks at a time."""
    starts = rng.permutation(-(-count // BLOCK)) * BLOCK
    rows = (starts[:, None] + np.arange(BLOCK)).reshape(-1)
    parts = [
        rng.permutation(part) for part in np.split(rows, range(BLOCK * BLOCKS_MIXED, len(rows), BLOCK * BLOCKS_MIXED))
    ]
    return np.concatenate([part[part < count] for part in parts])


ORDERS: dict[str, Order] = {
    "at random": lambda count, rng: rng.permutation(count),
    "blocks": blocks,
    "in the order of the file": lambda count, _: np.arange(count),
}
WAYS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "row by row": lambda faces, rows: faces[rows],
    "requested": read_rows,
}


def write_faces(path: Path, side: int, size: int) -> None:
    """Write noise as the pixel file of a face store, of at most `size` bytes."""
    faces = np.lib.format.open_memmap(path, "w+", np.uint8, (size // (side * side * 3), side, side, 3))
    rng = np.random.default_rng(0)
    for first in range(0, len(faces), 512):
        faces[first : first + 512] = rng.integers(0, 256, faces[first : first + 512].shape, dtype=np.uint8)
    faces.flush()


def measure(path: Path, order: str, way: str, count: int, cache_bytes: int) -> dict[str, float]:
    """Read `count` rows in batches; return microseconds a face, bytes read for each that is needed, requests a face."""
    faces = np.load(path, mmap_mode="r")
    rows = ORDERS[order](len(faces), np.random.default_rng(1))[:count]
    with path.open("rb") as file:
        forget(faces, file.fileno())
        before, last, spent = (bytes_read(), requests(path)), bytes_read(), 0.0
        for first in range(0, len(rows), BATCH):
            began = time.perf_counter()
            WAYS[way](faces, rows[first : first + BATCH])
            spent += time.perf_counter() - began
            if bytes_read() - last > cache_bytes:
                forget(faces, file.fileno())
                last = bytes_read()
    needed = len(rows) * faces[0].nbytes
    return {
        "us": spent / len(rows) * 1e6,
        "read": (bytes_read() - before[0]) / needed,
        "requests": (requests(path) - before[1]) / len(rows),
    }


def forget(faces: np.ndarray, file: int) -> None:
    """Take a mapped file out of the system's cache."""
    assert isinstance(faces.base, mmap.mmap)
    faces.base.madvise(mmap.MADV_DONTNEED)  # else its pages are in use
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_read() -> int:
    """Bytes that this process made the disk read."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"])


def requests(path: Path) -> int:
    """Read requests of the disk that a file is on, since the machine started."""
    device = path.stat().st_dev
    for line in Path("/proc/diskstats").read_text().splitlines():
        words = line.split()
        if (int(words[0]), int(words[1])) == (os.major(device), os.minor(device)):
            return int(words[3])
    return 0


def main() -> None:
    """Print one row for each order and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; by default the temporary folder")
    parser.add_argument("--side", type=int, default=256, help="of a face, in pixels")
    parser.add_argument("--store-mb", type=float, default=4000)
    parser.add_argument("--cache-mb", type=float, default=512)
    parser.add_argument("--read-mb", type=float, default=640, help="faces that are read in each turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file of the rows")
    given = parser.parse_args()
    ways, rows = [(order, way) for order in ORDERS for way in WAYS], []
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path = Path(folder, "faces.npy")
        write_faces(path, given.side, int(given.store_mb * 1e6))
        count = int(given.read_mb * 1e6 / (given.side * given.side * 3))
        turns = [[measure(path, *way, count, int(given.cache_mb * 1e6)) for way in ways] for _ in range(given.turns)]
    print("| order | reading | microseconds a face | bytes read for each needed | requests a face |")
    print("|---|---|---:|---:|---:|")
    for (order, way), found in zip(ways, zip(*turns, strict=True), strict=True):
        row = {name: float(np.median([one[name] for one in found])) for name in found[0]}
        rows.append({"order": order, "reading": way, "turns": found, **row})
        print(f"| {order} | {way} | {row['us']:,.0f} | {row['read']:.2f} | {row['requests']:.2f} |", flush=True)
    if given.out:
        write_json(given.out, rows)


if __name__ == "__main__":
    main()
