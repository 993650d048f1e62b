"""Pictures a second of every stage, beside the rate of a matrix product in the same run.

    OMP_NUM_THREADS=1 python benchmarks/training_speed.py --set expnet.width=0.5
    python benchmarks/training_speed.py --device cuda --set precision=bf16-mixed --set stage1.cached_views=0 \
        --set stage1.mixed_views=0.0

Random pictures at the recipe's size; every stage trains a few epochs, and the first is not counted. The share is the
operations a second of a stage (multiplications and additions of convolutions and matrix products, forward and
backward, the teacher's included) over those of a product of two large matrices, measured before and after it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from facenet2expnet import recipes
from facenet2expnet.data import bundled, sources, splits
from facenet2expnet.data.dataset import load_dataset
from facenet2expnet.device import autocast, choose_device, fitting_precision
from facenet2expnet.experiment import speed
from facenet2expnet.recipe import STAGES, Recipe
from facenet2expnet.training import stages
from facenet2expnet.training.loop import EpochRecord
from facenet2expnet.training.teacher import TrainingSet

CLASSES = 7
PAPER_EPOCHS = {"fine_tune": 50, "stage1": 300, "stage2": 50}
"""The epochs of the paper's table."""


def measure(
    stage: str, recipe: Recipe, device: torch.device, *, pictures: int = 512, epochs: int = 3
) -> dict[str, float | str]:
    """Train one stage on random pictures.

    Args:
        stage: "fine_tune", "stage1", "stage2", "scratch" or "pretrain".
        recipe: its epochs are replaced.
        device: where to compute.
        pictures, epochs: of the training; one more epoch is not counted.
    Returns:
        stage, pictures_per_s (median over epochs) with lowest and highest, gflop a picture, share_of_matmul.
    """
    batch = getattr(recipe, "stage1" if stage == "pretrain" else stage).batch_size
    with FlopCounterMode(display=False) as counter:
        totals: list[int] = []
        train(stage, recipe, device, batch, 2, lambda record: totals.append(counter.get_total_flops()))
    gflop = (totals[1] - totals[0]) / batch / 1e9
    precision = fitting_precision(device, recipe.precision)
    rates, seconds = [matmul_rate(device, precision)], list[float]()
    train(stage, recipe, device, pictures, epochs + 1, lambda record: seconds.append(record.seconds))
    rates.append(matmul_rate(device, precision))
    speeds = [pictures / second for second in seconds[1:]]
    return {
        "stage": stage,
        "pictures_per_s": statistics.median(speeds),
        "lowest": min(speeds),
        "highest": max(speeds),
        "gflop": gflop,
        "share_of_matmul": statistics.median(speeds) * gflop / statistics.mean(rates),
    }


def matmul_rate(device: torch.device, precision: str = "32-true", size: int = 0) -> float:
    """Return the rate of a matrix product, the median of nine, in 10^9 operations a second."""
    size = size or (1024 if device.type == "cpu" else 8192)
    left, right = torch.rand(2, size, size, device=device)
    times = []
    for _ in range(11):
        started = time.perf_counter()
        with autocast(device, precision):
            left @ right
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(times[2:]) / 1e9


def train(
    stage: str,
    recipe: Recipe,
    device: torch.device,
    pictures: int,
    epochs: int,
    of_stage: Callable[[EpochRecord], None],
) -> None:
    """Train a stage, and before it what it needs, for one epoch; `of_stage` gets the records of the stage alone."""
    settings = [f"{name}.epochs={epochs if name == stage else 1}" for name in STAGES]
    settings += [f"{name}.warmup_epochs=0" for name in STAGES]
    settings += [f"stage1.epochs={epochs}"] if stage == "pretrain" else []
    recipe = recipes.override(recipe, [*settings, "expnet.start=none"])
    rng, side = np.random.default_rng(0), recipe.crop.stored_px
    pixels = rng.integers(0, 256, (pictures, side, side, 3), dtype=np.uint8)
    rows, few = np.arange(pictures), np.arange(4)
    held_out = TrainingSet(pixels, few, few % CLASSES, CLASSES, device)
    data = TrainingSet(pixels, rows, rows % CLASSES, CLASSES, device, held_out)

    def on_epoch(record: EpochRecord) -> None:
        if record.stage == stage:
            of_stage(record)

    context = stages.TrainingContext(recipe, 0, device, on_epoch)
    with tempfile.TemporaryDirectory() as folder:
        if stage == "fine_tune":
            stages.fine_tune(data, context, Path(folder))
        elif stage == "scratch":
            stages.from_scratch(data, context, Path(folder))
        elif stage == "pretrain":
            stages.pretrain(data, context, Path(folder))
        else:
            teacher = stages.pretrained_teacher(recipe, CLASSES, device)
            stages.fn2en(data, teacher, context, Path(folder))


def waits(stage: str, recipe: Recipe, device: torch.device) -> list[str]:
    """List the lines that wait for a CUDA device in 40 steps of a stage and what precedes it, and how often they do."""
    batch = getattr(recipe, "stage1" if stage == "pretrain" else stage).batch_size
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train(stage, recipe, device, 40 * batch, 1, lambda record: None)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = [f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]
    return [f"{place} x {count}" for place, count in Counter(places).most_common(12)]


def time_paper(
    recipe: Recipe,
    device: torch.device,
    folder: Path,
    *,
    timed: int = 3,
    most: int | None = None,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
) -> dict[str, Any]:
    """Time a few epochs of stages 0, 1 and 2 on the sample in CK+'s layout, of CK+'s size, and one face in both nets.

    Args:
        recipe: of the paper; generated weights of VGG-16 take as long as VGG-Face's.
        device: where to compute.
        folder: for the sample's pictures, written once.
        timed: epochs of each stage that are timed, after a first one.
        most: use no more training pictures than these.
        on_epoch: called after every epoch.
    Returns:
        pictures, crop_px, seconds_per_epoch of each stage, what PAPER_EPOCHS and ten folds would take, rows of sizes.
    """
    if not folder.is_dir():
        bundled.export_ckplus(folder)
    settings = ["crop.detector=already-cropped", "crop.template=none", "expnet.start=none"]
    settings += [f"{stage}.{setting}" for stage in PAPER_EPOCHS for setting in (f"epochs={timed + 1}", "milestones=[]")]
    recipe = recipes.override(recipe, settings)
    manifest = sources.read("ckplus", folder)
    manifest = manifest.rows(splits.choose(manifest, "subject-groups", 10).splits[0].train[:most])
    pixels, count, classes = load_dataset(manifest, recipe.crop).pixels, len(manifest), len(manifest.classes)
    data = TrainingSet(pixels, np.arange(count), manifest.labels, classes, device)
    seconds: dict[str, list[float]] = {stage: [] for stage in PAPER_EPOCHS}

    def keep(record: EpochRecord) -> None:
        seconds[record.stage].append(record.seconds)
        on_epoch(record)

    context = stages.TrainingContext(recipe, 0, device, keep)
    with tempfile.TemporaryDirectory() as work:
        teacher = stages.fine_tune(data, context, Path(work))
        student = stages.fn2en(data, teacher, context, Path(work))
    nets = {f"face net {recipe.face_net.name}": teacher, "expression net": student}
    of_epoch = {stage: statistics.median(own[1:]) for stage, own in seconds.items()}
    fold = sum(PAPER_EPOCHS[stage] * of_epoch[stage] for stage in PAPER_EPOCHS)
    return {
        "what": f"{timed} epochs of a stage were timed after a first one; minutes and hours are extrapolated, not run",
        "pictures": count,
        "crop_px": recipe.crop.crop_px,
        "seconds_per_epoch": of_epoch,
        "fold_minutes_extrapolated": fold / 60,
        "ten_folds_hours_extrapolated": 10 * fold / 3600,
        "nets": [speed.measure(name, net, recipe.crop.crop_px, device) for name, net in nets.items()],
    }


def main() -> None:
    """Print one row for each stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="best")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--stage", action="append", dest="stages", choices=[*STAGES, "pretrain"])
    parser.add_argument("--pictures", type=int, default=512)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    recipe, device = recipes.override(recipes.load(given.recipe), given.settings), choose_device(given.device)
    print("| stage | pictures/s (lowest to highest) | GFLOP a picture | share of a matrix product |")
    print("|---|---:|---:|---:|")
    for stage in given.stages or [*STAGES, "pretrain"]:
        row = measure(stage, recipe, device, pictures=given.pictures)
        print(
            f"| {stage} | {row['pictures_per_s']:.0f} ({row['lowest']:.0f} to {row['highest']:.0f}) | "
            f"{row['gflop']:.2f} | {row['share_of_matmul']:.0%} |"
        )
    precision, threads = fitting_precision(device, recipe.precision), torch.get_num_threads()
    print(f"\nmatrix product: {matmul_rate(device, precision):.0f} GFLOP/s, {precision}, {threads} threads")


if __name__ == "__main__":
    main()
