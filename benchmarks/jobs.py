"""The time of a comparison with one job after the other, and with jobs side by side.

    python benchmarks/jobs.py
    python benchmarks/jobs.py faces/ --recipe best --folds 5 --jobs 1 --jobs 2 --jobs 4 --out speed.json
    python benchmarks/jobs.py faces/ --gpu 0 --folds 5 --jobs 1 --jobs 2 --jobs 4

Every run computes with one thread a job, so that its numbers are the same and the ratio is that of the jobs alone. One
more row gives all threads to one job at a time: what the same cores do without jobs side by side. With `--gpu` all jobs
share one card, whose numbers differ in their last bits from run to run.
"""

from __future__ import annotations

import argparse
import filecmp
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from facenet2expnet import recipes
from facenet2expnet.data.bundled import sample_folder
from facenet2expnet.data.manifest import Manifest, read_manifest
from facenet2expnet.experiment.compare import compare
from facenet2expnet.files import write_json
from facenet2expnet.recipe import Recipe


def measure(
    data: Path | Manifest, recipe: Recipe, jobs: Sequence[int], folder: Path, *, cores: int, gpu: str = "", **given: Any
) -> Iterator[dict[str, Any]]:
    """Time a whole comparison for each number of jobs, and yield a row as soon as it is done.

    Args:
        data, recipe, given: see `compare`.
        jobs: numbers of jobs side by side, with one thread each; the first is what the others are compared with.
        folder: for the runs.
        cores: threads of the last row, which does one job at a time.
        gpu: the card that all jobs share, as in CUDA_VISIBLE_DEVICES; "" for none.
    Yields:
        jobs, threads, seconds, speed_up, efficiency (speed-up a job), same_metrics (as the first, byte for byte).
    """
    first = 0.0
    for count, threads in [*((count, 1) for count in jobs), (1, cores)]:
        out, started = folder / f"jobs-{count}-threads-{threads}", time.monotonic()
        if out.exists():  # one core only
            continue
        side: dict[str, Any] = {"gpus": (gpu,), "jobs_per_gpu": count} if gpu else {"jobs": count}
        compare(data, recipe=recipe, out=out, threads=threads, **side, **given)
        seconds = time.monotonic() - started
        first = first or seconds
        same = filecmp.cmp(folder / f"jobs-{jobs[0]}-threads-1" / "metrics.json", out / "metrics.json", shallow=False)
        yield {
            "jobs": count,
            "threads": threads,
            "seconds": seconds,
            "speed_up": first / seconds,
            "efficiency": first / seconds / (count * threads) * jobs[0],
            "same_metrics": same,
        }


def main() -> None:
    """Print one row for each number of jobs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, help="faces; by default the bundled sample")
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--gpu", default="", help="the card that all jobs share, e.g. 0; by default the CPU computes")
    parser.add_argument("--jobs", type=int, action="append")
    parser.add_argument("--out", type=Path, help="JSON file of the rows")
    given = parser.parse_args()
    data: Any = given.data or replace(read_manifest(sample_folder() / "manifest.csv"), name="the bundled sample")
    recipe, cores = recipes.override(recipes.load(given.recipe), given.settings), torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(
            data, recipe, given.jobs or [1, 2], Path(folder), cores=cores, gpu=given.gpu, folds=given.folds,
            device="cuda" if given.gpu else "cpu",
        )  # fmt: skip
        rows = list(found)
    print("| jobs | threads of each | seconds | speed-up | efficiency | metrics as in the first row |")
    print("|---:|---:|---:|---:|---:|---|")
    for row in rows:
        print(
            f"| {row['jobs']} | {row['threads']} | {row['seconds']:.0f} | {row['speed_up']:.2f} | "
            f"{row['efficiency']:.0%} | {'yes' if row['same_metrics'] else 'no'} |"
        )
    if given.out:
        write_json(given.out, rows)


if __name__ == "__main__":
    main()
