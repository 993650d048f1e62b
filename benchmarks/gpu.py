"""What one GPU can do in a quarter of an hour: starts, tables, the learning curve, models to ship, speed, sharing.

    python benchmarks/gpu.py DATA --out runs/gpu --part start
    python benchmarks/gpu.py DATA --out runs/gpu --part tables curve speed --workers 12 --minutes 5
    python benchmarks/gpu.py DATA --out runs/rehearsal --device cpu --miniature

DATA holds the folders press (see press.py) and fer2013 (`fn2en data how-to fer2013`, with the votes of FER+). No
network is needed. The parts run in this order, each in its share of the time that is left; all, if none is named:

- start: the face net distilled without labels, with the live teacher and fresh views. First "fer", the faces of
  FER2013's Training part without copies of PublicTest and without the pictures kept for choosing, at every width; then
  "all", which goes on from there with the unlabelled press faces. The epochs are chosen from a measured speed.
- tables: press (five folds) and FER+ with 1,000 labels (tested on PublicTest), all methods, FN2EN with and without the
  start "fer", which has seen no picture of press and none of PublicTest. Another start is given with --start.
- curve: the same methods on 100 to 4,000 labels of FER+.
- models: the models to ship, as tools/train_models/make.py makes them, with the live teacher. The starts "fer" must be
  there.
- speed: pictures a second of every stage at 64 and 224 pixels, the places that wait for the device, and the paper's
  table on a set of CK+'s size, of which a few epochs are timed, with the milliseconds of one face at 224 pixels. Those
  at 64 pixels are in the tables.
- sharing: a short comparison on press with one, two and four jobs on the card at once; see jobs.py.

What is worth keeping lies in --out, in small files: results.json, summary.md, predictions, curve, starts, models. They
are written when a part is done or out of time, starts one by one. What is computed on the way lies in OUT.work: the
same command goes on there, and keeps what is finished.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import comparison
import fer2013_small
import jobs
import learning_curve
import press
import training_speed
from facenet2expnet import recipes
from facenet2expnet.crop import CropContract
from facenet2expnet.data import splits
from facenet2expnet.data.manifest import Manifest, read_manifest
from facenet2expnet.device import choose_device, fitting_precision
from facenet2expnet.errors import UserError
from facenet2expnet.experiment import ablation
from facenet2expnet.experiment.job import METHODS
from facenet2expnet.experiment.metrics import scores_of_method, summarise
from facenet2expnet.experiment.pretrain import pretrain
from facenet2expnet.experiment.speed import measure
from facenet2expnet.faces.store import prepare
from facenet2expnet.files import read_json, write_atomic, write_json
from facenet2expnet.predict.model_folder import load_model
from facenet2expnet.recipe import STAGES, Recipe
from facenet2expnet.report import tables
from facenet2expnet.training.start import CARD, WEIGHTS

sys.path.append(str(Path(__file__).resolve().parents[1] / "tools" / "train_models"))
SHARES = {"start": 0.35, "tables": 0.25, "curve": 0.2, "models": 0.1, "speed": 0.1, "sharing": 0.1}
"""Part -> its share of the time, relative to the parts that are still to come."""
WITHOUT = "FN2EN, without a start"
ROWS = {"0 scratch": "scratch", "0 fine-tune": "fine-tune", "0 fn2en": "fn2en", "1 fn2en": WITHOUT}
"""Rows of an ablation, which changes the start alone -> rows of the tables."""
MARGIN_S = 30.0
"""How much longer than its part a start may take that is nearly done."""
RESERVE_S = 15.0
"""Kept at the end of tables and curve for writing them."""
PLANNED = 0.8
"""Share of the time that a start is planned to take: it also reads the faces, and these are not the measured ones."""
MOST_EPOCHS = 400
MODEL_EPOCHS = (60, 40)
"""Of stage 2 of the models to ship, by width."""
LIVE = ["stage1.cached_views=0", "stage1.mixed_views=0.0"]
START = ["stage1.batch_size=256", "stage1.lr=2e-3", "stage1.warmup_epochs=1", "stage1.schedule=cosine"]
"""Pretraining on a GPU: larger steps than the CPU's, the rate times the root of the factor."""
SHORT = ["fine_tune.epochs=2", "stage2.epochs=8", "scratch.epochs=8"]
MINIATURE = ["crop.stored_px=36", "crop.crop_px=32", "expnet.width=0.1", "expnet.hidden=16", "stage1.cached_views=3"]
MINIATURE += [f"{stage}.{number}" for stage in STAGES for number in ("epochs=1", "warmup_epochs=0", "batch_size=8")]


class EndedEarly(Exception):
    """A part could not do all, mostly as its time is over; what was done is kept."""


@dataclass(frozen=True)
class Clock:
    """A moment at which something must be over, on the system's clock."""

    end: float

    @property
    def left(self) -> float:
        return self.end - time.time()

    def check(self, *_: object) -> None:
        """Raise EndedEarly if the moment has passed; also a progress callback."""
        if self.left < 0:
            raise EndedEarly("out of time")

    def share(self, share: float) -> Clock:
        """Return the clock of a part of what is left."""
        return Clock(time.time() + max(0.0, self.left) * share)


@dataclass(frozen=True)
class Size:
    """How much is computed; the miniature is for rehearsals."""

    widths: tuple[float, ...] = (0.25, 0.5)
    folds: int = 5
    labels: tuple[int, ...] = (100, 250, 500, 1000, 2000, 4000)
    table_labels: int = 1000
    speed_px: tuple[int, ...] = (64, 224)
    speed_pictures: int = 1024
    timed_epochs: int = 3
    jobs: tuple[int, ...] = (1, 2, 4)


SMALL = Size((0.1,), 2, (9, 18), 18, (32,), 16, 1, (1,))


class Setup:
    """What all parts share: options, recipes, folders, pictures, and the results."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.data, self.out = given, given.data, given.out
        self.work = given.out.with_name(given.out.name + ".work")
        self.device = choose_device(given.device)
        self.size = SMALL if given.miniature else Size()
        own = ["precision=auto", *(MINIATURE if given.miniature else []), "expnet.start=none"]
        self.recipe = recipes.override(recipes.load(given.recipe), [*own, *given.settings])
        self.precision = fitting_precision(self.device, self.recipe.precision)
        larger = [] if given.miniature else START
        self.pretraining = recipes.override(self.recipe, [*LIVE, *larger, *given.start_settings])
        for folder in (self.out, self.work):
            folder.mkdir(parents=True, exist_ok=True)
        path = self.out / "results.json"
        self.results: dict[str, Any] = read_json(path) if path.is_file() else {}

    def record(self, part: str, value: Any) -> None:
        """Keep a part's results on disk, with the summary of all."""
        self.results[part] = value
        write_json(self.out / "results.json", self.results)
        write_atomic(self.out / "summary.md", markdown("GPU benchmark", self.results).lstrip().encode())

    def start(self, faces: str, width: float) -> Path:
        """Return the folder of a start, whether it is there or not."""
        return self.work / "starts" / f"{faces}-{width:g}"

    def fer2013(self, name: str) -> Manifest:
        """Return "ferplus", FER+ as fer2013_small.py draws it, for the longest curve, or "faces", to pretrain on."""
        data, path = self.data / "fer2013", self.work / f"{name}.csv"
        if not path.is_file():
            if name == "faces":
                manifest = fer2013_small.faces(data, self.work, labels="ferplus")
            else:
                manifest = fer2013_small.subset(
                    data, self.work, choose=False, unlabelled=0, training=max(self.size.labels), labels="ferplus"
                )
            manifest.save(path)
        return read_manifest(path)

    def ferplus(self, labels: int) -> dict[str, Manifest]:
        """Return FER+ with so many labels in the form of `plan`; smaller sets are parts of larger ones."""
        drawn = self.fer2013("ferplus")
        part = drawn.table["split"]
        rows = np.flatnonzero(part == "train")[:labels], np.flatnonzero(part == "test")
        return {"test": drawn.rows(np.concatenate(rows))}

    def faces(self, name: str) -> Path:
        """Prepare the faces "fer" or "all" once, at the recipe's size; return the face store."""
        manifest = self.fer2013("faces")
        if name == "all":
            others = press.read_press(self.data / "press", self.work / "press", labelled=False, unlabelled=True)
            parts = [one.table.assign(image=one.root.name + "/" + one.table["image"]) for one in (manifest, others)]
            table = pd.concat(parts, ignore_index=True).fillna("")
            manifest = Manifest(table, self.work, name=f"{manifest.name}, press without labels")
        contract = CropContract(stored_px=self.recipe.crop.stored_px, crop_px=self.recipe.crop.crop_px)
        prepare(manifest, contract, self.work / "faces" / name)
        return self.work / "faces" / name


def make_starts(setup: Setup, clock: Clock) -> None:
    """Pretrain "fer" at every width, then "all" from there; each is planned to take an equal share of the time."""
    done: list[dict[str, Any]] = []
    plan = [(name, width) for name in ("fer", "all") for width in setup.size.widths]
    for number, (name, width) in enumerate(plan):
        clock.check()
        own, started, folder = clock.share(1 / (len(plan) - number)), time.time(), setup.start(name, width)
        faces, begin = setup.faces(name), setup.start("fer", width)
        settings = [f"expnet.start={begin}"] if name == "all" and (begin / CARD).is_file() else []
        planned = folder.with_name(f"{folder.name}.toml")  # goes on with as many epochs
        if not planned.is_file():
            recipe = recipes.override(setup.pretraining, [f"expnet.width={width}", *settings])
            pictures = 16 if setup.given.miniature else 20 * recipe.stage1.batch_size
            found = training_speed.measure("pretrain", recipe, setup.device, pictures=pictures, epochs=2)
            fitting = PLANNED * own.left * float(found["pictures_per_s"]) / len(pd.read_csv(faces / "manifest.csv"))
            epochs = 1 if setup.given.miniature else min(MOST_EPOCHS, max(1, int(fitting)))
            recipes.save(recipes.override(recipe, [f"stage1.epochs={epochs}"]), planned)
        recipe = recipes.read(planned)
        row = {"faces": name, "width": width, "epochs": recipe.stage1.epochs}
        done.append(row | {"state": f"cut off; its checkpoint is in {folder}"})
        print(f"start {folder.name}: {recipe.stage1.epochs} epochs", flush=True)
        try:
            if not (folder / CARD).is_file():
                pretrain(
                    faces, recipe=recipe, out=folder, device=setup.given.device,
                    licence="research only: FER2013" + (", press" if name == "all" else ""),
                    resume=(folder / "pretrain.json").is_file(), progress=Clock(clock.end + MARGIN_S).check,
                )  # fmt: skip
            (kept := setup.out / "starts" / folder.name).mkdir(parents=True, exist_ok=True)
            for file in (WEIGHTS, CARD, "log.txt"):  # the log has R2 after every epoch
                shutil.copy(folder / file, kept)
            card = read_json(folder / CARD)
            seen = {"faces_seen": card["data"]["trained_on"], "r2_held_out": card["r2_held_out"]}
            done[-1] = row | {"state": "finished"} | seen
        finally:
            done[-1]["seconds"] = time.time() - started
            setup.record("start", done)


@dataclass(frozen=True, eq=False)
class Task:
    """One seed on one fold: an ablation of all methods in which FN2EN is trained with and without a start."""

    group: str
    fold: str
    seed: int
    manifest: Manifest
    recipe: Recipe
    change: str
    folder: Path
    device: str
    clock: Clock

    def run(self) -> str:
        """Train what is not trained yet; return why it stopped, "" if all is done."""
        torch.backends.cudnn.benchmark = True
        try:
            ablation.ablate(
                self.manifest, [self.change], recipe=self.recipe, out=self.folder, methods=METHODS, protocol="split",
                seeds=[self.seed], device=self.device, progress=self.clock.check,
                resume=(self.folder / ablation.RECORD).is_file(),
            )  # fmt: skip
        except EndedEarly as error:
            return str(error)
        except Exception as error:  # the other tasks go on
            traceback.print_exc()
            return f"{type(error).__name__}: {error}"
        return ""

    def predictions(self) -> pd.DataFrame:
        """Return its predictions; none if it is not finished."""
        if not (path := self.folder / "predictions.parquet").is_file():
            return pd.DataFrame()
        table = pd.read_parquet(path)
        return table.assign(method=table["method"].map(ROWS), fold=self.fold, group=self.group).dropna(subset="method")


def plan(setup: Setup, clock: Clock, groups: dict[str, dict[str, Manifest]]) -> list[Task]:
    """List the tasks, seed by seed, so that an early end leaves something of each group.

    Args:
        setup, clock: of the part.
        groups: group -> fold -> its pictures, with the column `split`.
    """
    start = setup.given.start or setup.start("fer", setup.recipe.expnet.width)
    if not (start / CARD).is_file():
        raise UserError(f"{start}: is no finished start; run the part start first, or give --start")
    recipe = recipes.override(setup.recipe, [f"expnet.start={start}", "stage1.epochs=0"])
    change = f"expnet.start=none & stage1.epochs={1 if setup.given.miniature else 40}"
    own, device = Clock(clock.end - min(RESERVE_S, 0.2 * clock.left)), setup.given.device
    return [
        Task(group, fold, seed, manifest, recipe, change, setup.work / "runs" / group / f"{fold}-{seed}", device, own)
        for seed in setup.given.seeds
        for group, folds in groups.items()
        for fold, manifest in folds.items()
    ]


def run_all(tasks: Sequence[Task], workers: int) -> None:
    """Run tasks in so many processes of their own, or in this one for 0, until they are done or time is over.

    Trainings on few small pictures are bound by the processor that starts the kernels: several share a GPU well.

    Raises:
        EndedEarly: If some are not finished, with the reasons.
    """
    reasons: set[str] = set()
    if not workers:
        reasons.update(task.run() for task in tasks)
    else:
        context, count = multiprocessing.get_context("spawn"), min(workers, len(tasks))
        with context.Pool(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:  # ended with the block
            results = pool.imap_unordered(Task.run, tasks)
            try:
                reasons.update(results.next(timeout=max(1.0, tasks[0].clock.left + 5)) for _ in tasks)
            except multiprocessing.TimeoutError:
                reasons.add("out of time")
    reasons.discard("")
    if reasons:
        raise EndedEarly("; ".join(sorted(reasons)))


def gather(tasks: Sequence[Task]) -> pd.DataFrame:
    """Return the predictions of the tasks that are finished, method by method."""
    found = pd.concat([task.predictions() for task in tasks], ignore_index=True)
    order = list(ROWS.values())
    return found.sort_values("method", key=lambda names: names.map(order.index), kind="stable") if len(found) else found


def make_tables(setup: Setup, clock: Clock) -> None:
    """Run press and FER+ with 1,000 labels; write tables and predictions."""
    labelled = press.read_press(setup.data / "press", setup.work / "press")
    folds = {}
    for split in splits.choose(labelled, "subject-groups", setup.size.folds).splits:
        part = np.full(len(labelled), "train", dtype=object)
        part[split.test] = "test"
        folds[split.name] = replace(labelled, table=labelled.table.assign(split=part))
    most = setup.size.table_labels
    tasks = plan(setup, clock, {"press": folds, f"ferplus-{most}": setup.ferplus(most)})
    try:
        run_all(tasks, setup.given.workers)
    finally:
        result: dict[str, Any] = {"start": tasks[0].recipe.expnet.start}
        crop_px = setup.recipe.crop.crop_px
        for group in dict.fromkeys(task.group for task in tasks):
            own = [task for task in tasks if task.group == group]
            done = [task for task in own if len(task.predictions())]
            result[group] = {"trainings": len(done), "planned": len(own)}
            if done:
                metrics = summarise(gather(done), own[0].manifest.classes)
                trained = pd.read_csv(done[0].folder / "table.csv")
                trained.index = trained["number"].astype(str) + " " + trained["method"]
                models = {ROWS[key]: trained["folder"][key] for key in ROWS}
                sizes = [
                    measure(name, load_model(done[0].folder / path / "model").module, crop_px, setup.device)
                    for name, path in models.items()
                ]
                result[group]["comparison"] = tables.comparison_text(metrics, "", sizes).to_dict("records")
                result[group] |= {"paired": tables.paired_text(metrics).to_dict("records"), "sizes": sizes}
        if len(predictions := gather(tasks)):
            predictions.to_parquet(setup.out / "tables-predictions.parquet", index=False)
        setup.record("tables", result)


def make_curve(setup: Setup, clock: Clock) -> None:
    """Run FER+ with rising numbers of labels; write curve.csv and its figure."""
    tasks = plan(setup, clock, {f"ferplus-{count}": setup.ferplus(count) for count in setup.size.labels})
    try:
        run_all(tasks, setup.given.workers)
    finally:
        rows, every = [], gather(tasks)
        for (group, method), part in every.groupby(["group", "method"], sort=False) if len(every) else []:
            scores, own = scores_of_method(part, tasks[0].manifest.classes), "fn2en" if method == WITHOUT else method
            row = {"line": tables.display_name(method), "method": own, "pictures": int(str(group).partition("-")[2])}
            row |= {"accuracy": scores["mean"]["accuracy"], "std": scores["std_over_seeds"]["accuracy"]}
            row |= {key: scores["mean"][key] for key in ("balanced_accuracy", "negative_log_likelihood")}
            rows.append(row | {"seeds": part["seed"].nunique()})
        if rows:
            curve = pd.DataFrame(rows).sort_values("pictures", kind="stable")
            curve.to_csv(setup.out / "curve.csv", index=False)
            learning_curve.save(learning_curve.draw(curve), setup.out / "curve.webp")
        setup.record("curve", {"start": tasks[0].recipe.expnet.start, "planned": len(tasks), "rows": rows})


def make_models(setup: Setup, clock: Clock) -> None:
    """Train the models to ship; keep those that are finished."""
    import make

    run, small, widths = setup.work / "models", setup.given.miniature, setup.size.widths
    manifest = setup.work / "models.csv"
    if not manifest.is_file():
        make.pictures(setup.data / "fer2013", setup.work).save(manifest)
    models = {
        f"width-{width:g}": [f"expnet.width={width}", f"expnet.start={setup.start('fer', width)}", f"stage2.epochs={n}"]
        for width, n in zip(widths, (1,) if small else MODEL_EPOCHS, strict=True)
    }
    if small:  # two of them, as in earnest
        models["again"] = [*models[f"width-{widths[0]:g}"], "stage2.temperature=3.0"]
    own = [
        *LIVE,
        *(MINIATURE if small else []),
        "stage1.epochs=0",
        f"precision={setup.precision}",
        *setup.given.settings,
    ]
    try:
        make.train(manifest, run, models, settings=own, device=setup.given.device, progress=clock.check)
    finally:
        kept = []
        for model in sorted(run.glob("trainings/*/*/*/*/model/model.json")):
            name = model.relative_to(run / "trainings").parts[0]
            shutil.copytree(model.parent, setup.out / "models" / name, dirs_exist_ok=True)
            kept.append(name)
        setup.record("models", {"trained": kept})


def measure_speed(setup: Setup, clock: Clock) -> None:
    """Measure pictures a second, waits for the device, and a share of the paper's table."""
    found: dict[str, Any] = {"stages": []}
    live, small = recipes.override(setup.recipe, LIVE), setup.given.miniature
    of_stage = {stage: setup.pretraining if stage == "pretrain" else live for stage in (*STAGES, "pretrain")}
    try:
        found["matmul_gflop_per_s"] = training_speed.matmul_rate(setup.device, setup.precision)
        if setup.device.type == "cuda":
            found["waits"] = {stage: training_speed.waits(stage, of_stage[stage], setup.device) for stage in of_stage}
        paper = recipes.override(recipes.preset("paper"), ["face_net.weights=generated"])
        paper = recipes.override(setup.recipe if small else paper, [f"precision={setup.precision}"])
        found["paper"] = training_speed.time_paper(
            paper, setup.device, setup.work / "ckplus", timed=setup.size.timed_epochs, most=24 if small else None,
            on_epoch=clock.check,
        )  # fmt: skip
        for side in setup.size.speed_px:
            for stage, recipe in of_stage.items():
                clock.check()
                row = training_speed.measure(
                    stage, recipes.override(recipe, [f"crop.stored_px={side * 9 // 8}", f"crop.crop_px={side}"]),
                    setup.device, pictures=setup.size.speed_pictures, epochs=setup.size.timed_epochs,
                )  # fmt: skip
                found["stages"].append({"side_px": side, "width": recipe.expnet.width} | row)
    finally:
        setup.record("speed", found)


def measure_sharing(setup: Setup, clock: Clock) -> None:
    """Time a short comparison with one job on the card and with several at once."""
    folder, found = setup.work / "sharing", list[dict[str, Any]]()
    shutil.rmtree(folder, ignore_errors=True)  # what is finished would not be timed
    photographs = press.read_press(setup.data / "press", setup.work / "press")
    short = recipes.override(setup.recipe, [*LIVE, *([] if setup.given.miniature else SHORT)])
    card = "0" if setup.device.type == "cuda" else ""
    rows = jobs.measure(
        photographs, short, setup.size.jobs, folder, cores=1, gpu=card, folds=setup.size.folds,
        protocol="subject-groups", device=setup.given.device, progress=clock.check,
    )  # fmt: skip
    try:
        found.extend(rows)
    finally:
        setup.record("sharing", found)


def markdown(title: str, value: Any, level: int = 1) -> str:
    """Return any results as Markdown: dictionaries are sections, lists of dictionaries are tables."""
    if isinstance(value, dict):
        keys = [key for key in sorted(value, key=lambda key: isinstance(value[key], dict | list)) if value[key] != {}]
        parts = [markdown(key.replace("_", " "), value[key], level + 1) for key in keys]
        return "\n".join([f"\n{'#' * level} {title}\n", *parts])
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"\n{title}:\n\n{comparison.markdown(tables.as_text(pd.DataFrame(value)))}\n"
    return f"- {title}: {value:.5g}" if isinstance(value, float) else f"- {title}: {value}"


PARTS: dict[str, Callable[[Setup, Clock], None]] = {
    "start": make_starts,
    "tables": make_tables,
    "curve": make_curve,
    "models": make_models,
    "speed": measure_speed,
    "sharing": measure_sharing,
}


def main(words: Sequence[str] | None = None) -> None:
    """Read the options, run the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), dest="parts")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--recipe", default="best")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="of every recipe")
    parser.add_argument("--set-start", action="append", default=[], dest="start_settings", help="of pretraining alone")
    parser.add_argument("--start", type=Path, help="the start of the tables and the curve; by default the new one")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=0, help="processes that train at once in tables and curve")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--miniature", action="store_true", help="a rehearsal: tiny networks, one epoch")
    given = parser.parse_args(words)
    clock, setup = Clock(time.time() + 60 * given.minutes), Setup(given)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was done is written on the way out
    torch.backends.cudnn.benchmark = True
    card = torch.cuda.get_device_name(setup.device) if setup.device.type == "cuda" else platform.processor() or "CPU"
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda or "none"}
    setup.record("machine", {"card": card, **versions, "precision": setup.precision})
    asked = [part for part in PARTS if part in given.parts]
    for number, part in enumerate(asked):
        own = clock.share(SHARES[part] / sum(SHARES[other] for other in asked[number:]))
        print(f"{part}: {own.left / 60:.1f} minutes", flush=True)
        early = {key: value for key, value in setup.results.get("ended_early", {}).items() if key != part}
        try:
            own.check()
            PARTS[part](setup, own)
        except EndedEarly as error:
            early[part] = str(error)
        except Exception as error:  # the other parts are still worth running
            traceback.print_exc()
            early[part] = f"{type(error).__name__}: {error}"
        setup.record("ended_early", early)
    print((setup.out / "summary.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
