"""What one GPU can do in a quarter of an hour: starts, tables, the learning curve, models to ship, speed.

    python benchmarks/gpu.py DATA --out runs/gpu --minutes 14
    python benchmarks/gpu.py DATA --out runs/gpu --part start --minutes 8
    python benchmarks/gpu.py DATA --out runs/gpu --part tables curve --workers 12 --minutes 6
    python benchmarks/gpu.py DATA --out runs/rehearsal --device cpu --miniature --minutes 10

DATA holds the folders press (see press.py) and fer2013 (`fn2en data how-to fer2013`, with the votes of FER+). No
network is needed. The parts run in this order, each in its share of the time that is left:

- start: the face net distilled without labels, with the live teacher and fresh views. First "fer", the faces of
  FER2013's Training part without copies of PublicTest and without the pictures kept for choosing, at every width; then
  "all", which goes on from there with the unlabelled press faces. The epochs are chosen from a measured speed.
- tables: press (five folds) and FER+ with 1,000 labels (tested on PublicTest), all methods, FN2EN with and without the
  start "fer", which has seen no picture of press and none of PublicTest.
- curve: the same methods on 100 to 4,000 labels of FER+.
- models: the models to ship, made by `make(data, out, device=..., minutes=...)` of tools/train_models/make.py.
- speed: pictures a second of every stage at 64 and 224 pixels, milliseconds of one face, the places that wait for the
  device, and the paper's table on a set of CK+'s size, of which a few epochs are timed.

What is worth keeping lies in the folder --out, in a few files of at most 16 MB: results.json, summary.md, predictions,
curve and zipped starts and models. They are written when a part is done or out of time, starts one by one; later calls
add to them. What is computed on the way lies in OUT.work: with the same command, finished trainings are kept and
unfinished ones go on.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import platform
import signal
import statistics
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import comparison
import fer2013_small
import learning_curve
import press
import training_speed
from facenet2expnet import recipes
from facenet2expnet.crop import CropContract
from facenet2expnet.data import bundled, sources, splits
from facenet2expnet.data.dataset import Dataset, load_dataset
from facenet2expnet.data.duplicates import picture_hashes
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.splits import Protocol, Split
from facenet2expnet.device import choose_device
from facenet2expnet.errors import UserError
from facenet2expnet.experiment import run
from facenet2expnet.experiment.job import METHODS, RESULT, Job, run_job
from facenet2expnet.experiment.metrics import scores_of_method, summarise
from facenet2expnet.experiment.pretrain import pretrain
from facenet2expnet.experiment.speed import measure
from facenet2expnet.experiment.variants import training_key
from facenet2expnet.faces.store import prepare
from facenet2expnet.files import read_json, write_atomic, write_json
from facenet2expnet.nets.classifier import ExpressionClassifier, FaceClassifier
from facenet2expnet.nets.storage import read_tensors
from facenet2expnet.predict.model_folder import load_model
from facenet2expnet.recipe import NO_START, STAGES, Recipe
from facenet2expnet.report import tables
from facenet2expnet.training import stages
from facenet2expnet.training.loop import EpochRecord
from facenet2expnet.training.start import CARD, WEIGHTS
from facenet2expnet.training.teacher import TrainingSet

ROOT = Path(__file__).resolve().parents[1]
SHARES = {"start": 0.35, "tables": 0.25, "curve": 0.2, "models": 0.1, "speed": 0.1}
"""Part -> its share of the time, relative to the parts that are still to come."""
WITH_START = "FN2EN, start"
LARGEST_FILE = 16_000_000
RESERVE_S = 15.0
"""Kept at the end of a part for writing what was done."""
FROM_NOISE = ["expnet.start=none", "stage1.epochs=40"]
"""FN2EN without a start: the paper's stage 1 on the pictures with labels."""
LIVE = ["stage1.cached_views=0", "stage1.mixed_views=0.0"]
START = ["stage1.batch_size=256", "stage1.lr=2e-3", "stage1.warmup_epochs=1", "stage1.schedule=cosine"]
"""Pretraining on a GPU: larger steps than the CPU's, the rate times the root of the factor."""
PLANNED = 0.8
"""Share of the time that a pretraining is planned to take: its first pass, and other faces than the measured ones."""
MOST_EPOCHS = 400
MINIATURE = ["crop.stored_px=36", "crop.crop_px=32", "expnet.width=0.1", "expnet.hidden=16", "stage1.cached_views=3"]
MINIATURE += [f"{stage}.{number}" for stage in STAGES for number in ("epochs=1", "warmup_epochs=0", "batch_size=8")]
PAPER_EPOCHS = {"fine_tune": 50, "stage1": 300, "stage2": 50}


class OutOfTime(Exception):
    """The time of a part is over; what was done is kept."""


@dataclass(frozen=True)
class Clock:
    """A moment at which something must be over, on the system's clock."""

    end: float

    @property
    def left(self) -> float:
        return self.end - time.time()

    def check(self, *_: object) -> None:
        """Raise OutOfTime if the moment has passed; also a progress callback."""
        if self.left < 0:
            raise OutOfTime

    def share(self, share: float) -> Clock:
        """Return the clock of a part of what is left."""
        return Clock(time.time() + max(0.0, self.left) * share)


@dataclass(frozen=True)
class Size:
    """How much is computed; the miniature is for rehearsals."""

    widths: tuple[float, ...] = (0.5, 0.25)
    folds: int = 5
    labels: tuple[int, ...] = (100, 250, 500, 1000, 2000, 4000)
    table_labels: int = 1000
    speed_px: tuple[int, ...] = (64, 224)
    speed_pictures: int = 1024
    timed_epochs: int = 3
    share_pictures: int = 10_000


SMALL = Size((0.1,), 2, (9, 18), 18, (32,), 16, 1, 24)


class Setup:
    """What all parts share: options, recipes, folders, data read once, and the results."""

    def __init__(self, given: argparse.Namespace, clock: Clock) -> None:
        self.clock = clock
        self.data, self.out, self.seeds, self.workers = given.data, given.out, given.seeds, given.workers
        self.work = given.out.with_name(given.out.name + ".work")
        self.device = choose_device(given.device)
        self.size = SMALL if given.miniature else Size()
        self.miniature = given.miniature
        precision = "bf16-mixed" if self.device.type == "cuda" else "32-true"
        first = [f"precision={precision}", *FROM_NOISE, *(MINIATURE if given.miniature else [])]
        self.recipe = recipes.override(recipes.load(given.recipe), [*first, *given.settings])
        larger = [] if given.miniature else START
        self.pretraining = recipes.override(self.recipe, [*LIVE, *larger, *given.start_settings])
        self.given_start = given.start
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / "results.json"
        self.results: dict[str, Any] = read_json(path) if path.is_file() else {}

    def record(self, part: str, value: Any) -> None:
        """Keep a part's results on disk, with the summary of all."""
        self.results[part] = value
        write_json(self.out / "results.json", self.results)
        write_atomic(self.out / "summary.md", summary(self.results).encode())

    def start(self, faces: str, width: float) -> Path:
        """Return the folder of a start, whether it is there or not."""
        return self.work / "starts" / f"{faces}-{width:g}"

    def start_for_tables(self) -> Path | None:
        """Return the start that tables use: the given one, or "fer" at the recipe's width if it is finished."""
        made = self.given_start or self.start("fer", self.recipe.expnet.width)
        if not self.given_start and not (made / CARD).is_file():
            return None
        stages.check(
            recipes.override(self.recipe, [f"expnet.start={made}", "stage1.epochs=0"])
        )  # raises what does not fit
        return made

    @cached_property
    def press(self) -> Manifest:
        """The labelled press pictures."""
        return press.read_press(self.data / "press", self.work / "press")

    @cached_property
    def fer2013(self) -> tuple[Manifest, Manifest]:
        """FER+ as the benchmark fer2013_small draws it, for the longest curve, and the faces to pretrain on."""
        path, pictures = self.data / "fer2013", self.work / "fer2013"
        every = sources.read_into("fer2013", path, pictures, unlabelled="keep")
        dataset = load_dataset(every, CropContract(stored_px=48, crop_px=48), min_classes=0)
        groups = pd.Series(picture_hashes(dataset.pixels), index=dataset.manifest.table["image"])
        voted = replace(sources.read("fer2013", path, labels="ferplus"), root=pictures)
        voted = voted.rows(voted.table["image"].isin(groups.index).to_numpy())
        of_voted = groups[voted.table["image"]].to_numpy()
        most = max(self.size.labels)
        drawn = fer2013_small.draw(voted, of_voted, choose=False, unlabelled=0, training=most)
        choosing, _ = fer2013_small.training_rows(voted.table, of_voted)
        faces = fer2013_small.untested(dataset.manifest, groups.to_numpy(), set(voted.table["image"].iloc[choosing]))
        return drawn, faces

    def faces(self, name: str) -> Path:
        """Prepare the faces "fer" or "all" once, at the recipe's size; return the face store."""
        manifest = self.fer2013[1]
        if name == "all":
            others = press.read_press(self.data / "press", self.work / "press", labelled=False, unlabelled=True)
            parts = [one.table.assign(image=one.root.name + "/" + one.table["image"]) for one in (manifest, others)]
            table = pd.concat(parts, ignore_index=True).fillna("")
            manifest = Manifest(table, self.work, name=f"{manifest.name}, press without labels")
        contract = CropContract(stored_px=self.recipe.crop.stored_px, crop_px=self.recipe.crop.crop_px)
        prepare(manifest, contract, self.work / "faces" / name)
        return self.work / "faces" / name


# ---- start ----------------------------------------------------------------------------------------------------------


def make_starts(setup: Setup, clock: Clock) -> None:
    """Pretrain "fer" at every width, then "all" from there, in equal shares of the time."""
    done: list[dict[str, Any]] = []
    plan = [(name, width) for name in ("fer", "all") for width in setup.size.widths]
    for number, (name, width) in enumerate(plan):
        clock.check()
        own = clock.share(1 / (len(plan) - number))
        folder, settings = setup.start(name, width), [f"expnet.width={width}"]
        if name == "all" and (setup.start("fer", width) / CARD).is_file():
            settings.append(f"expnet.start={setup.start('fer', width)}")
        recipe = recipes.override(setup.pretraining, settings)
        faces = setup.faces(name)
        planned = folder.with_name(f"{folder.name}.toml")  # goes on with as many epochs
        if planned.is_file():
            recipe = recipes.read(planned)
        else:
            batches = 2 if setup.miniature else 20
            speed = training_speed.measure(
                "pretrain", recipe, setup.device, pictures=batches * recipe.stage1.batch_size, epochs=2
            )["pictures_per_s"]
            count = len(pd.read_csv(faces / "manifest.csv"))
            epochs = int(PLANNED * own.left * float(speed) / count)
            epochs = 1 if setup.miniature else min(MOST_EPOCHS, max(1, epochs))
            warmup = min(recipe.stage1.warmup_epochs, epochs - 1)
            recipe = recipes.override(recipe, [f"stage1.epochs={epochs}", f"stage1.warmup_epochs={warmup}"])
            recipes.save(recipe, planned)
            print(f"start {name}-{width:g}: {speed:.0f} pictures/s, {epochs} epochs of {count} faces", flush=True)
        row: dict[str, Any] = {"faces": name, "width": width, "epochs": recipe.stage1.epochs, "finished": False}
        started = time.time()
        try:
            # One that is cut off leaves no start, so it may take the time of the parts after it.
            pretrain(
                faces, recipe=recipe, out=folder, licence="research only: FER2013, press", device=setup.device.type,
                resume=(folder / "pretrain.json").is_file(), progress=setup.clock.check,
            )  # fmt: skip
            row |= {"finished": True, "r2_held_out": read_json(folder / CARD)["r2_held_out"]}
            row["faces_seen"] = read_json(folder / CARD)["data"]["trained_on"]
            made = sorted(folder.parent.glob(f"{name}-*/{CARD}"))
            row["file"] = pack(
                [one.with_name(file) for one in made for file in (WEIGHTS, CARD)],
                setup.out / f"start-{name}.zip", folder.parent,
            )  # fmt: skip
        finally:
            if (finished := folder / "pretrain.safetensors").is_file():
                row["r2_by_epoch"] = [record["r2"] for record in read_tensors(finished)[1]["records"]]
            done.append(row | {"seconds": time.time() - started})
            setup.record("start", done)


# ---- tables and learning curve ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Row:
    """A row of a table: its name, method and recipe, and the folder of its trainings."""

    name: str
    method: str
    recipe: Recipe
    folder: str


@dataclass(frozen=True, eq=False)
class Task:
    """All rows on one split with one seed."""

    group: str
    manifest: Manifest
    split: Split
    seed: int
    rows: Sequence[Row]
    folder: Path
    device: str
    clock: Clock

    @property
    def finished(self) -> bool:
        """Whether all its trainings are done."""
        return all((self.folder / row.folder / RESULT).is_file() for row in self.rows)


def run_tasks(tasks: Sequence[Task], workers: int, clock: Clock) -> None:
    """Run tasks in their order, several at a time in processes of their own, until they are done or time is over.

    Trainings on few small pictures are bound by the processor that starts the kernels: several share a GPU well.
    """
    if not workers:
        for task in tasks:
            print(run_task(task), flush=True)
        return
    with multiprocessing.get_context("spawn").Pool(min(workers, len(tasks))) as pool:  # ends its processes at the end
        results = pool.imap_unordered(run_task, tasks)
        for _ in tasks:
            try:
                print(results.next(timeout=max(1.0, clock.left)), flush=True)
            except multiprocessing.TimeoutError:
                raise OutOfTime from None


def run_task(task: Task) -> str:
    """Train what is not trained yet."""
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True
    recipe, device = task.rows[0].recipe, choose_device(task.device)
    dataset, protocol = _load(task.manifest, recipe), Protocol("saved-split", [task.split], False, "")
    split = run.prepare_inputs(dataset, protocol, recipe, report_near=False).splits[0]
    metadata: dict[str, Any] = {"trained_on": {"manifest": task.manifest.name}}
    teacher = next(task.folder / row.folder for row in task.rows if row.method == "fine-tune")
    for row in task.rows:
        task.clock.check()
        job = Job(row.method, split, task.seed, task.folder / row.folder, teacher)
        try:
            run_job(job, dataset, row.recipe, device, metadata, task.clock.check)
        except UserError as error:  # the other tasks go on
            return f"{task.group}, {task.split.name}, seed {task.seed}: {row.name} stopped, {error}"
    return f"{task.group}, {task.split.name}, seed {task.seed}: done"


_LOADED: dict[str, Dataset] = {}
"""The pictures that this process read last."""


def _load(manifest: Manifest, recipe: Recipe) -> Dataset:
    key = f"{manifest.sha256()} {recipe.crop}"
    if key not in _LOADED:
        _LOADED.clear()
        _LOADED[key] = run.load_pictures(manifest, recipe)
    return _LOADED[key]


def rows_of(setup: Setup) -> list[Row]:
    """Return the rows of the tables: all methods, and FN2EN with the start if there is one."""
    start, recipe = setup.start_for_tables(), setup.recipe
    rows = [Row(method, method, recipe, f"{method}-{training_key(method, recipe)}") for method in METHODS]
    if start:
        recipe = recipes.override(recipe, [f"expnet.start={start}", "stage1.epochs=0"])
        weights = sha256((start / WEIGHTS).read_bytes()).hexdigest()[:10]
        rows.append(Row(WITH_START, "fn2en", recipe, f"fn2en-{training_key('fn2en', recipe)}-{weights}"))
    return rows


def plan(setup: Setup, group: str, manifest: Manifest, chosen: Sequence[Split], clock: Clock) -> list[Task]:
    """List the tasks, seed by seed, so that an early end leaves whole seeds."""
    rows, own = rows_of(setup), Clock(clock.end - min(RESERVE_S, 0.2 * clock.left))
    folder, device = setup.work / "trainings" / group, setup.device.type
    return [
        Task(group, manifest, split, seed, rows, folder / f"seed-{seed}" / split.name, device, own)
        for seed in setup.seeds
        for split in chosen
    ]


def finished(tasks: Sequence[Task]) -> pd.DataFrame:
    """Return the predictions of the tasks whose trainings are all done, row by row of the table."""
    done = [task for task in tasks if task.finished]
    parts = [
        pd.read_parquet(task.folder / row.folder / "predictions.parquet").assign(method=row.name, group=task.group)
        for row in tasks[0].rows
        for task in done
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def make_tables(setup: Setup, clock: Clock) -> None:
    """Run press and FER+ with 1,000 labels; write tables and predictions."""
    drawn = setup.fer2013[0]
    (whole,) = splits.choose(drawn, "split").splits
    first = replace(whole, train=whole.train[: setup.size.table_labels])
    of_press = splits.choose(setup.press, "subject-groups", setup.size.folds).splits
    groups = {"press": plan(setup, "press", setup.press, of_press, clock)}
    groups["ferplus"] = plan(setup, "ferplus", drawn, [first], clock)
    # The first seed of both, then the second: an early end leaves something of each.
    tasks = sorted((task for one in groups.values() for task in one), key=lambda task: task.seed)
    try:
        run_tasks(tasks, setup.workers, clock)
    finally:
        result: dict[str, Any] = {"start": str(setup.start_for_tables() or NO_START)}
        found = []
        for group, own in groups.items():
            predictions = finished(own)
            trainings = predictions.groupby(["fold", "seed"]).ngroups if len(predictions) else 0
            result[group] = {"trainings": trainings, "planned": len(own)}
            if trainings:
                metrics = summarise(predictions, own[0].manifest.classes)
                crop_px = setup.recipe.crop.crop_px
                done = next(task for task in own if task.finished)
                models = {row.name: load_model(done.folder / row.folder / "model").module for row in done.rows}
                sizes = [measure(name, model, crop_px, setup.device) for name, model in models.items()]
                table = tables.comparison_text(metrics, "", sizes)
                result[group] |= {"table": comparison.markdown(table), "sizes": sizes}
                result[group]["paired"] = comparison.markdown(tables.paired_text(metrics))
                found.append(predictions)
        if found:
            pd.concat(found, ignore_index=True).to_parquet(setup.out / "tables-predictions.parquet", index=False)
        setup.record("tables", result)


def make_curve(setup: Setup, clock: Clock) -> None:
    """Run FER+ with rising numbers of labels; write curve.csv and its figure."""
    drawn = setup.fer2013[0]
    (whole,) = splits.choose(drawn, "split").splits
    tasks = []
    for count in setup.size.labels:
        train = splits.subsample(drawn, whole.train, min(count, len(whole.train)))
        split = Split(f"{len(train)}-pictures", train, whole.test)
        tasks += plan(setup, "curve", drawn, [split], clock)
    tasks.sort(key=lambda task: task.seed)
    try:
        run_tasks(tasks, setup.workers, clock)
    finally:
        every = finished(tasks)
        rows = []
        for (fold, method), part in every.groupby(["fold", "method"], sort=False) if len(every) else []:
            scores = scores_of_method(part, drawn.classes)
            own = "fn2en" if method == WITH_START else str(method)
            row = {"line": tables.display_name(method), "method": own, "pictures": int(str(fold).partition("-")[0])}
            row |= {"accuracy": scores["mean"]["accuracy"], "std": scores["std_over_seeds"]["accuracy"]}
            row |= {key: scores["mean"][key] for key in ("balanced_accuracy", "negative_log_likelihood")}
            rows.append(row | {"seeds": part["seed"].nunique()})
        if rows:
            curve = pd.DataFrame(rows)
            curve.to_csv(setup.out / "curve.csv", index=False)
            learning_curve.save(learning_curve.draw(curve), setup.out / "curve.webp")
        setup.record("curve", {"start": str(setup.start_for_tables() or NO_START), "planned": len(tasks), "rows": rows})


# ---- models to ship --------------------------------------------------------------------------------------------------


def make_models(setup: Setup, clock: Clock) -> None:
    """Call the script that makes the models to ship, if it is there."""
    script, out = ROOT / "tools" / "train_models" / "make.py", setup.work / "models"
    if not script.is_file():
        reason = "tools/train_models/make.py is not there"
        print(f"models: {reason}", flush=True)
        setup.record("models", {"left_out": reason})
        return
    spec = importlib.util.spec_from_file_location("make_models_to_ship", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(script.parent))
    spec.loader.exec_module(module)
    try:
        module.make(setup.data, out, device=setup.device.type, minutes=clock.left / 60)
    finally:
        files = sorted(path for path in out.rglob("*") if path.is_file())
        packed = [pack(files, setup.out / "models.zip", out)]
        if "left out" in packed[0]:  # then one by one
            for folder in sorted(path for path in out.iterdir() if path.is_dir()):
                own = [path for path in files if path.is_relative_to(folder)]
                packed.append(pack(own, setup.out / f"model-{folder.name}.zip", out))
        setup.record("models", {"files": packed})


# ---- speed -----------------------------------------------------------------------------------------------------------


def measure_speed(setup: Setup, clock: Clock) -> None:
    """Measure pictures a second, single faces, waits for the device, and a share of the paper's table."""
    found: dict[str, Any] = {"stages": [], "faces": []}
    try:
        found["matmul_gflop_per_s"] = training_speed.matmul_rate(setup.device, setup.recipe.precision)
        found["waits"] = find_waits(setup) if setup.device.type == "cuda" else "only looked for on a CUDA device"
        for side in setup.size.speed_px:
            for width in setup.size.widths:
                clock.check()
                found["faces"] += time_faces(setup, side, width)
        found["paper_share"] = time_paper(setup, clock)
        for side in setup.size.speed_px:
            for stage in (*STAGES, "pretrain"):
                clock.check()
                recipe = recipes.override(
                    _live(setup, stage), [f"crop.stored_px={side * 9 // 8}", f"crop.crop_px={side}"]
                )
                row = training_speed.measure(
                    stage, recipe, setup.device, pictures=setup.size.speed_pictures, epochs=setup.size.timed_epochs
                )
                batch = getattr(recipe, "stage1" if stage == "pretrain" else stage).batch_size
                found["stages"].append({"side_px": side, "width": recipe.expnet.width, "batch": batch} | row)
    finally:
        setup.record("speed", found)


def _live(setup: Setup, stage: str) -> Recipe:
    """Return the recipe of a stage with the teacher in every step and without a start."""
    recipe = setup.pretraining if stage == "pretrain" else recipes.override(setup.recipe, LIVE)
    return recipes.override(recipe, ["expnet.start=none"])


def time_faces(setup: Setup, side: int, width: float) -> list[dict[str, Any]]:
    """Time one face and a batch of 32 in the expression net of a width, and in the face net."""
    recipe = recipes.override(setup.recipe, [f"crop.crop_px={side}", f"crop.stored_px={side}", f"expnet.width={width}"])
    net = stages.load_face_net(recipe)
    made = stages._expression_net(recipe, net, classes=7, batch_norm=recipe.expnet.batch_norm)
    student: Any = ExpressionClassifier(made, recipe.crop.mean, recipe.crop.scale)
    models = {f"expression net, width {width:g}": student.to(memory_format=torch.channels_last)}
    if width == setup.size.widths[0]:
        models[f"face net {net.info.name}"] = FaceClassifier(net, 7, head_norm=True, head_dropout=0.5)
    return [{"side_px": side} | measure(name, model, side, setup.device) for name, model in models.items()]


def find_waits(setup: Setup) -> dict[str, list[str]]:
    """List the lines that wait for the device while a stage trains for one epoch, with how often they do."""
    waits = {}
    for stage in (*STAGES, "pretrain"):
        recipe = _live(setup, stage)
        batch = getattr(recipe, "stage1" if stage == "pretrain" else stage).batch_size
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                training_speed.train(stage, recipe, setup.device, 40 * batch, 1, lambda record: None)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        places = [f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]
        waits[stage] = [f"{place} x {count}" for place, count in Counter(places).most_common(12)]
    return waits


def time_paper(setup: Setup, clock: Clock) -> dict[str, Any]:
    """Time a few epochs of stages 0, 1 and 2 of the paper's recipe on the sample in CK+'s layout.

    VGG-16 has generated weights, which take as long as VGG-Face's. In miniature the recipe's own face net and size
    stand in.
    """
    folder = setup.work / "ckplus"
    if not folder.is_dir():
        bundled.export_ckplus(folder)
    manifest, timed = sources.read("ckplus", folder), setup.size.timed_epochs
    settings = ["crop.detector=already-cropped", "crop.template=none", f"precision={setup.recipe.precision}"]
    settings += [f"{stage}.epochs={timed + 1}" for stage in PAPER_EPOCHS] + [f"{s}.milestones=[]" for s in PAPER_EPOCHS]
    recipe = setup.recipe
    if not setup.miniature:
        recipe = recipes.override(recipes.preset("paper"), ["face_net.weights=generated"])
    else:
        settings += ["expnet.start=none"]
    recipe = recipes.override(recipe, settings)
    folds = splits.choose(manifest, "subject-groups", 10).splits
    rows = folds[0].train[: setup.size.share_pictures]
    dataset = load_dataset(manifest.rows(rows), recipe.crop)
    numbers, classes = np.arange(len(rows)), len(manifest.classes)
    data = TrainingSet(dataset.pixels, numbers, manifest.labels[rows], classes, setup.device)
    records: list[EpochRecord] = []

    def on_epoch(record: EpochRecord) -> None:
        records.append(record)
        clock.check()

    context = stages.TrainingContext(recipe, 0, setup.device, on_epoch)
    with tempfile.TemporaryDirectory() as work:
        teacher = stages.fine_tune(data, context, Path(work))
        stages.fn2en(data, teacher, context, Path(work))
    seconds = {stage: statistics.median([r.seconds for r in records if r.stage == stage][1:]) for stage in PAPER_EPOCHS}
    fold = sum(PAPER_EPOCHS[stage] * seconds[stage] for stage in PAPER_EPOCHS)
    return {
        "pictures": len(rows),
        "crop_px": recipe.crop.crop_px,
        "face_net": recipe.face_net.name,
        "precision": recipe.precision,
        "timed_epochs": timed,
        "seconds_per_epoch": seconds,
        "pictures_per_s": {stage: len(rows) / value for stage, value in seconds.items()},
        "fold_minutes_extrapolated": fold / 60,
        "ten_folds_hours_extrapolated": 10 * fold / 3600,
    }


# ---- results ---------------------------------------------------------------------------------------------------------


def pack(files: Sequence[Path], target: Path, root: Path | None = None) -> str:
    """Zip files; return the name of the zip, or why it was left out."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in files:
            packed.write(file, file.relative_to(root) if root else file.name)
    if (size := target.stat().st_size) <= LARGEST_FILE:
        return target.name
    target.unlink()
    return f"{target.name} left out: {size / 1e6:.1f} MB"


def summary(results: dict[str, Any]) -> str:
    """Return all results as Markdown."""
    lines = ["# GPU benchmark", ""]
    if machine := results.get("machine"):
        lines += ["; ".join(f"{key}: {value}" for key, value in machine.items()), ""]
    for part, reason in results.get("ended_early", {}).items():
        lines += [f"**{part}** ended early: {reason}.", ""]
    if starts := results.get("start"):
        columns = ["faces", "width", "epochs", "finished", "faces_seen", "r2_held_out", "seconds"]
        table = pd.DataFrame(starts).reindex(columns=columns)
        lines += ["## Starts", "", comparison.markdown(tables.as_text(table)), ""]
    if found := results.get("tables"):
        lines += ["## Tables", "", f"Start: {found['start']}.", ""]
        for group in ("press", "ferplus"):
            own = found[group]
            lines += [f"### {group}: {own['trainings']} of {own['planned']} trainings of each method", ""]
            lines += [own.get("table", "nothing was finished"), "", own.get("paired", ""), ""]
    if (curve := results.get("curve")) and curve["rows"]:
        table = pd.DataFrame(curve["rows"]).drop(columns="method")
        lines += ["## Learning curve", "", comparison.markdown(tables.as_text(table)), ""]
    if models := results.get("models"):
        lines += ["## Models", "", str(models.get("left_out") or ", ".join(models["files"])), ""]
    if speed := results.get("speed"):
        lines += ["## Speed", "", *_speed_lines(speed)]
    return "\n".join(lines)


def _speed_lines(speed: dict[str, Any]) -> list[str]:
    lines = [f"Matrix product: {speed.get('matmul_gflop_per_s', 0):,.0f} GFLOP/s.", ""]
    for key in ("stages", "faces"):
        if speed[key]:
            lines += [comparison.markdown(tables.as_text(pd.DataFrame(speed[key]))), ""]
    if share := speed.get("paper_share"):
        each = ", ".join(f"{stage} {value:.2f} s" for stage, value in share["seconds_per_epoch"].items())
        lines += [
            f"The paper's table on a set of CK+'s size: {share['face_net']} at {share['crop_px']} px, "
            f"{share['pictures']} training pictures of one fold. Timed were {share['timed_epochs']} epochs of each "
            f"stage after a first one: {each} an epoch. Everything else is extrapolated, not run: one fold with 50, "
            f"300 and 50 epochs would take {share['fold_minutes_extrapolated']:.1f} minutes, ten folds "
            f"{share['ten_folds_hours_extrapolated']:.1f} hours.",
            "",
        ]
    if waits := speed.get("waits"):
        lines += [f"Waits for the device: {waits}", ""]
    return lines


PARTS: dict[str, Callable[[Setup, Clock], None]] = {
    "start": make_starts,
    "tables": make_tables,
    "curve": make_curve,
    "models": make_models,
    "speed": measure_speed,
}


def main(words: Sequence[str] | None = None) -> None:
    """Read the options, run the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), dest="parts")
    parser.add_argument("--minutes", type=float, default=14.0)
    parser.add_argument("--recipe", default="best")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="of every recipe")
    parser.add_argument("--set-start", action="append", default=[], dest="start_settings", help="of pretraining alone")
    parser.add_argument("--start", type=Path, help="the start of the tables and the curve; by default the new one")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=0, help="processes that train at once in tables and curve")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--miniature", action="store_true", help="a rehearsal: tiny networks, one epoch")
    given = parser.parse_args(words)
    clock = Clock(time.time() + 60 * given.minutes)
    setup = Setup(given, clock)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was done is written on the way out
    torch.backends.cudnn.benchmark = True
    card = torch.cuda.get_device_name(setup.device) if setup.device.type == "cuda" else platform.processor() or "CPU"
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda or "none"}
    setup.record("machine", {"card": card, **versions, "precision": setup.recipe.precision})
    asked = [part for part in PARTS if part in given.parts]
    for number, part in enumerate(asked):
        own = clock.share(SHARES[part] / sum(SHARES[other] for other in asked[number:]))
        print(f"{part}: {own.left / 60:.1f} minutes", flush=True)
        early = {key: value for key, value in setup.results.get("ended_early", {}).items() if key != part}
        try:
            own.check()
            PARTS[part](setup, own)
        except OutOfTime:
            early[part] = "out of time"
        except Exception as error:  # the other parts are still worth running
            traceback.print_exc()
            early[part] = f"{type(error).__name__}: {error}"
        setup.record("ended_early", early)
    print((setup.out / "summary.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
