"""Pictures a second in stage 1: with the teacher's views cached, with the teacher live, and the student alone.

    OMP_NUM_THREADS=1 python benchmarks/teacher_cache.py --threads 1
    OMP_NUM_THREADS=1 python benchmarks/teacher_cache.py --threads 1 --net vgg-face --pictures 8 --views 1 --repeats 3

Each repeat trains one epoch of stage 1 in each of the three ways, one after the other, so that a machine that is busy
slows all three alike; the ratios are taken within each repeat. Figures are medians over the repeats, with the least
and the greatest. The student alone does the same step on random crops and targets that are drawn once and stay in
memory.

`dlib-resnet29` reads faces of the bundled sample, the recipe is `normalised` (64 pixels, half the width). `vgg-face`
has generated weights, which is as fast as its own; the recipe is `paper` (224 pixels, full width), in batches of
four. Memory is the largest resident size of a fresh process that does one way alone (on Linux); "before" is with
pictures and teacher loaded, and a file that is mapped counts as far as it was read. Making the cache is timed as
well: a view costs one pass of the teacher, an epoch of the live teacher costs one pass a picture.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from facenet2expnet import recipe as recipes
from facenet2expnet.data.bundled import sample_folder
from facenet2expnet.data.dataset import load_dataset
from facenet2expnet.data.manifest import read_manifest
from facenet2expnet.nets.classifier import ExpressionClassifier
from facenet2expnet.nets.expnet import ExpNet
from facenet2expnet.training import stages
from facenet2expnet.training.augment import Augment
from facenet2expnet.training.loop import EpochRecord
from facenet2expnet.training.stages import Setting
from facenet2expnet.training.teacher import TrainingPart, Views, compute_views

WAYS = ("cached", "live", "student alone")
NETS = {
    "dlib-resnet29": ("normalised", []),
    "vgg-face": ("paper", ["face_net.weights=generated", "stage1.batch_size=4"]),
}


class AnalysisInput:
    """Pictures, teacher and recipe of one face net."""

    def __init__(self, given: argparse.Namespace) -> None:
        torch.set_num_threads(given.threads)
        name, settings = NETS[given.net]
        small = ["crop.detector=already-cropped", "crop.template=none", "stage1.milestones=[]"]
        epoch = [f"face_net.name={given.net}", "stage1.epochs=1", "stage1.warmup_epochs=0"]
        self.recipe = recipes.override(
            recipes.preset(name), [*settings, *small, *epoch, f"stage1.views={given.views}"]
        )
        manifest = read_manifest(sample_folder() / "manifest.csv")
        rows = np.linspace(0, len(manifest) - 1, given.pictures).round().astype(int)
        dataset = load_dataset(manifest.rows(rows), self.recipe.crop)
        classes = len(dataset.manifest.classes)
        self.fabric = Fabric(accelerator="cpu", devices=1)
        self.part = TrainingPart(dataset.pixels, dataset.manifest.labels, classes, self.fabric.device)
        self.teacher = stages.as_it_came(self.recipe, classes, self.fabric.device)
        self.tap = self.recipe.face_net.tap
        self.augment = Augment(self.recipe.augment, self.recipe.crop.crop_px)

    def views(self, way: str, folder: Path) -> Views | None:
        """What a way reads: the cache, nothing, or crops and targets of chance that stay in memory."""
        if way == "live":
            return None
        views = compute_views(
            self.teacher, self.part, [self.tap], self.augment, self.recipe.stage1.views, folder, seed=0,
            fabric=self.fabric,
        )  # fmt: skip
        if way == "cached":
            return views
        rng = np.random.default_rng(0)
        crops = rng.integers(0, 256, views.crops.shape, dtype=np.uint8)
        targets = rng.random(views.features[self.tap].shape).astype(np.float16)
        return replace(views, crops=crops, features={self.tap: targets})

    def seconds(self, views: Views | None) -> float:
        """Of one epoch of stage 1 with these views; None runs the teacher in every step."""
        channels, height, width = self.teacher.face_net.info.taps[self.tap]
        crop, expnet = self.recipe.crop, self.recipe.expnet
        torch.manual_seed(0)
        net = ExpNet(
            self.part.classes, input_px=crop.crop_px, bridge_chw=(channels, height, width), width=expnet.width,
            hidden=expnet.hidden, dropout=expnet.dropout, batch_norm=expnet.batch_norm,
        )  # fmt: skip
        records: list[EpochRecord] = []
        setting = Setting(self.recipe, 0, self.fabric, records.append)
        model = ExpressionClassifier(net, crop.mean, crop.scale)
        comparison = stages.compared_with(
            model, [], self.part, self.teacher, [self.tap], self.augment, views, self.recipe
        )
        with tempfile.TemporaryDirectory() as folder:
            stages.regress(model, self.part, self.augment, comparison, views, setting, Path(folder))
        return records[0].seconds


def memory_mb(way: str, given: argparse.Namespace, folder: Path, told: Any) -> None:
    """In a process of its own: one epoch in one way, then the largest resident size."""
    case = AnalysisInput(given)
    before = _largest_mb()
    case.seconds(case.views(way, folder))
    told.put((before, _largest_mb()))


def _largest_mb() -> float:
    """Of this process by /proc, since getrusage also counts the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def spread(values: list[float], digits: int) -> str:
    """Median, with the least and the greatest."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main() -> None:
    """Read the options, measure, print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", choices=NETS, default="dlib-resnet29")
    parser.add_argument("--pictures", type=int, default=128, help="of the bundled sample")
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    case = AnalysisInput(given)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begun = time.perf_counter()
        case.views("cached", folder)
        made_s = time.perf_counter() - begun
        views = {way: case.views(way, folder) for way in WAYS}
        size = sum(path.stat().st_size for path in folder.iterdir())
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(given.repeats):
            for way in WAYS:
                seconds[way].append(case.seconds(views[way]))
        print(
            f"{given.net}, layer {case.tap}, {given.pictures} pictures, {given.views} views, {given.repeats} repeats"
        )
        print(
            "\n| stage 1 | pictures a second | student alone = 1 | largest memory, MB |\n|---|---:|---:|---:|"
        )
        context = multiprocessing.get_context("spawn")
        for way in WAYS:
            told = context.Queue()
            process = context.Process(target=memory_mb, args=(way, given, folder, told))
            process.start()
            before, peak = told.get()
            process.join()
            rates = [given.pictures / each for each in seconds[way]]
            shares = [
                alone / each for alone, each in zip(seconds["student alone"], seconds[way], strict=True)
            ]
            print(f"| {way} | {spread(rates, 1)} | {spread(shares, 2)} | {peak:.0f} ({before:.0f} before) |")
        gain = [live / cached for live, cached in zip(seconds["live"], seconds["cached"], strict=True)]
        made = given.pictures * given.views
        print(
            f"\nCached against live: {spread(gain, 2)} times as fast. The cache: {size / 1e6:.1f} MB, "
            f"{size / made / 1e3:.1f} kB a view, made in {made_s:.1f} s, {made / made_s:.1f} views a second."
        )


if __name__ == "__main__":
    main()
