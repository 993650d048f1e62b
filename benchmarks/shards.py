"""Time and memory of `fn2en predict --shard` by the number of pictures: linear, and nearly constant.

    python benchmarks/shards.py runs/mine
    python benchmarks/shards.py runs/mine --pictures 10000 --pictures 100000 --pictures 1000000 --out shards.json

The pictures are cut-out faces of the bundled sample as small JPEG files, of which each is there under many names (hard
links). Each number of pictures is predicted in a process of its own, shard 1/1. Memory is the largest anonymous memory
(RssAnon), as in large_sets.py. Linux only.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

import memory
from facenet2expnet.data.bundled import read_sample, sample_folder
from facenet2expnet.files import write_json

IN_A_FOLDER = 1000


def write_pictures(folder: Path, count: int, different: int = 200) -> None:
    """Write JPEG files of the sample's faces, then links to them, a thousand in each folder."""
    images = read_sample()["image"][:different]
    for number in range(count):
        path = folder / f"{number // IN_A_FOLDER:04}" / f"{number:07}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < len(images):
            with Image.open(sample_folder() / images[number]) as picture:
                picture.convert("RGB").save(path, quality=90)
        else:
            os.link(folder / "0000" / f"{number % len(images):07}.jpg", path)


def measure(model: Path, pictures: Path, out: Path) -> dict[str, Any]:
    """Predict all pictures; return their number, seconds, and memory at the start and at most."""
    from facenet2expnet.predict.options import Options
    from facenet2expnet.predict.recognizer import Recognizer
    from facenet2expnet.predict.shards import Shard, predict_shard

    recognizer = Recognizer.load(model, "cpu")
    with memory.watched() as row:
        done = predict_shard(recognizer, [str(pictures)], out, Shard(1, 1), Options(faces="whole-image"))
    return row | {"pictures": done.files}


def main() -> None:
    """Print one row for each number of pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a model folder or a run")
    parser.add_argument("--pictures", type=int, action="append")
    parser.add_argument("--out", type=Path, help="JSON file of the rows")
    given = parser.parse_args()
    rows = []
    for count in given.pictures or [1000, 10_000, 100_000]:
        with tempfile.TemporaryDirectory() as folder:
            write_pictures(Path(folder, "pictures"), count)
            places = (given.model, Path(folder, "pictures"), Path(folder, "scores"))
            rows.append(memory.in_process(measure, *places))
    print("| pictures | seconds | pictures/s | memory at the start, MB | at most, MB |")
    print("|---:|---:|---:|---:|---:|")
    for row in rows:
        rate = row["pictures"] / row["seconds"]
        values = (row["pictures"], row["seconds"], rate, row["start_mb"], row["most_mb"])
        print(f"| {' | '.join(f'{value:,.0f}' for value in values)} |")
    if given.out:
        write_json(given.out, rows)


if __name__ == "__main__":
    main()
