"""Memory of a training on a face store of 10,000 and of 100,000 faces: the difference is what grows with the set.

    python benchmarks/large_sets.py
    python benchmarks/large_sets.py --faces 10000 --faces 100000 --side 72 --out memory.json

The faces are noise, written as a store; a small expression net is trained on them for one epoch, tested, and reported,
each in a process of its own. Memory is the largest anonymous memory (RssAnon): pages of the mapped store are the
system's file cache, which it takes back when others need room. Linux only.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import memory
from facenet2expnet import recipes
from facenet2expnet.crop import CropContract
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.faces import store
from facenet2expnet.files import write_json

CLASSES = ("anger", "happiness", "surprise")
SETTINGS = ("scratch.epochs=1", "scratch.warmup_epochs=0", "expnet.width=0.1", "expnet.hidden=16", "expnet.start=none")
BLOCK = 1000


def write_store(folder: Path, count: int, side: int) -> None:
    """Write a finished face store of noise, in the format of `faces.store`."""
    folder.mkdir(parents=True)
    faces = np.lib.format.open_memmap(folder / store.PIXELS, "w+", np.uint8, (count, side, side, 3))
    rng, shards = np.random.default_rng(0), []
    for first in range(0, count, BLOCK):
        block = rng.integers(0, 256, (min(BLOCK, count - first), side, side, 3), dtype=np.uint8)
        faces[first : first + len(block)] = block
        shards.append((len(block), hashlib.sha256(block).hexdigest()))
    faces.flush()
    table = pd.DataFrame({"image": [f"{number:07}.png" for number in range(count)]})
    table["label"] = [CLASSES[number % len(CLASSES)] for number in range(count)]
    table["subject"] = [f"S{number // 10}" for number in range(count)]
    contract = CropContract(stored_px=side, crop_px=side - side // 9)
    Manifest(table.assign(**{store.FACE_COLUMN: "whole picture"}), folder, contract=contract).save(
        folder / store.MANIFEST
    )
    card = {"format": store.FORMAT, "kept": count, "skipped": [], "without_face": [], "shards": shards}
    write_json(folder / store.CARD, card)


def measure(faces: Path, side: int, out: Path, settings: tuple[str, ...] = ()) -> dict[str, Any]:
    """Train on a store; return pictures, memory at the start and at most, and seconds."""
    import facenet2expnet

    crop = (f"crop.stored_px={side}", f"crop.crop_px={side - side // 9}")
    recipe = recipes.override(recipes.preset("quick"), [*SETTINGS, *crop, *settings])
    with memory.watched() as row:
        run = facenet2expnet.train(faces, recipe=recipe, out=out, method="scratch", device="cpu", threads=1)
    return row | {"pictures": len(pd.read_csv(run / "manifest.csv", usecols=["image"]))}


def main() -> None:
    """Print one row for each number of faces."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, action="append")
    parser.add_argument("--side", type=int, default=36)
    parser.add_argument("--out", type=Path, help="JSON file of the rows")
    given = parser.parse_args()
    rows = []
    for count in given.faces or [10_000, 100_000]:
        with tempfile.TemporaryDirectory() as folder:
            write_store(Path(folder, "faces"), count, given.side)
            rows.append(memory.in_process(measure, Path(folder, "faces"), given.side, Path(folder, "run")))
    print("| pictures | faces on disk, MB | memory at the start, MB | at most, MB | seconds |")
    print("|---:|---:|---:|---:|---:|")
    for row in rows:
        size = row["pictures"] * given.side**2 * 3 / 1e6
        values = [
            f"{row['pictures']:,}",
            *(f"{v:,.0f}" for v in (size, row["start_mb"], row["most_mb"], row["seconds"])),
        ]
        print(f"| {' | '.join(values)} |")
    print(f"\ngrowth from the first to the last: {rows[-1]['most_mb'] - rows[0]['most_mb']:.0f} MB")
    if given.out:
        write_json(given.out, rows)


if __name__ == "__main__":
    main()
