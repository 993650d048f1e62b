"""A run: one folder with everything about it. `train` makes one model, `compare` all methods over all folds."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from lightning_fabric import Fabric

from facenet2expnet import recipe as recipes
from facenet2expnet.data import audit, splits
from facenet2expnet.data.dataset import Dataset, load_dataset
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.pictures import write_skipped
from facenet2expnet.errors import StageStopped, UserError
from facenet2expnet.experiment.job import (
    METHODS,
    VIEWS,
    Cut,
    Job,
    check_parts,
    collect,
    drop_views,
    plan,
    run_job,
    with_calibration,
)
from facenet2expnet.experiment.metrics import summarise
from facenet2expnet.experiment.provenance import (
    command_line,
    device_name,
    earlier_record,
    now,
    versions,
    write_json,
)
from facenet2expnet.experiment.reporter import LogFile, Reporter
from facenet2expnet.experiment.speed import measure
from facenet2expnet.faces.store import is_store
from facenet2expnet.nets.face import FaceNetInfo
from facenet2expnet.predict.model_folder import load_model, save_model
from facenet2expnet.recipe import Recipe
from facenet2expnet.training import stages

FORMAT = "facenet2expnet-run-1"


@dataclass(frozen=True)
class Machine:
    """Where a run computes.

    Attributes:
        device: "auto", "cpu", "cuda" or "mps".
        threads: of the CPU; None for PyTorch's own choice. A resumed run takes those it began with.
    """

    device: str = "auto"
    threads: int | None = None


def compare(
    data: str | Path | Manifest,
    *,
    recipe: Recipe | str = "quick",
    out: str | Path,
    methods: Sequence[str] = METHODS,
    protocol: str = "auto",
    folds: int = 10,
    first_folds: int | None = None,
    seeds: Sequence[int] = (0,),
    machine: Machine | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Train every method on every fold with the same splits and seeds, and test each once.

        compare("faces/", recipe="normalised", out="runs/faces")

    Args:
        data: a folder of class folders, a CSV or Parquet manifest, a face store, or a manifest.
        recipe: a recipe, a preset's name or a TOML file.
        out: the run folder; new, or with `resume` one that the same call began.
        methods: of METHODS; "fn2en" brings "fine-tune" with it, unless the recipe says face_net.fine_tuned = false.
        protocol: see `data.splits.choose`.
        folds: groups, where the protocol leaves that open.
        first_folds: do only so many of them.
        seeds: of the trainings.
        machine: device and threads.
        resume: go on with a run that was interrupted.
        reporter: told of progress.
    Returns:
        The run folder, with metrics.json, predictions.parquet and report.html.
    Raises:
        UserError: If anything given can't be used; nothing is written then.
    """
    unknown = set(methods) - set(METHODS)
    if unknown or not methods:
        named = ", ".join(sorted(unknown)) or "no method"
        raise UserError(f"methods: got {named}, expected some of {', '.join(METHODS)}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds: got {list(seeds)}, expected one or more different numbers")
    chosen = recipes.load(recipe) if isinstance(recipe, str) else recipe
    begun = _Begun(
        "compare", Path(out), chosen, machine or Machine(), resume, reporter or Reporter(), methods
    )
    dataset = begun.load(data)
    drawn = only_first(splits.choose(dataset.manifest, protocol, folds), first_folds)
    cuts = [Cut(fold.name, fold.train, fold.test) for fold in drawn.folds]
    return begun.finish(dataset, drawn, cuts, methods, seeds)


def train(
    data: str | Path | Manifest,
    *,
    recipe: Recipe | str = "quick",
    out: str | Path,
    method: str = "fn2en",
    holdout: bool = True,
    protocol: str = "auto",
    seed: int = 0,
    machine: Machine | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """One training, one model, in `out/model`.

    Args:
        method: of METHODS.
        holdout: keep the protocol's first fold (a tenth, more of small sets, by subject where subjects are known;
            the manifest's own split where it has one) out of the training and test on it once. False trains on
            everything.
        seed: of the training.
        data, recipe, out, protocol, machine, resume, reporter: see `compare`.
    Returns:
        The run folder.
    Raises:
        UserError: If anything given can't be used; nothing is written then.
    """
    if method not in METHODS:
        raise UserError(f"method is '{method}', expected one of {', '.join(METHODS)}")
    chosen = recipes.load(recipe) if isinstance(recipe, str) else recipe
    begun = _Begun("train", Path(out), chosen, machine or Machine(), resume, reporter or Reporter(), [method])
    dataset = begun.load(data)
    if holdout:
        drawn = splits.choose(dataset.manifest, protocol, _affordable_folds(dataset.manifest))
        drawn = replace(drawn, folds=drawn.folds[:1])
        cuts = [Cut(drawn.folds[0].name, drawn.folds[0].train, drawn.folds[0].test)]
    else:
        note = "Nothing was held out, so there is no honest accuracy of this model."
        drawn = splits.Protocol("none", [], dataset.manifest.subjects is not None, note)
        cuts = [Cut("all", np.arange(len(dataset.manifest)), np.zeros(0, np.int64))]
    return begun.finish(dataset, drawn, cuts, [method], [seed])


def _affordable_folds(manifest: Manifest, most: int = 10) -> int:
    """How many folds the rarest class and the number of subjects allow, `most` at the most."""
    subjects = manifest.subjects
    limits = [most, *(count for count in manifest.counts.values() if count)]
    if subjects is not None:
        limits.append(len(set(subjects)))
    return max(2, min(limits))


class _Begun:
    """A run between its first checks and its report."""

    def __init__(
        self,
        kind: str,
        out: Path,
        recipe: Recipe,
        machine: Machine,
        resume: bool,
        reporter: Reporter,
        methods: Sequence[str],
    ) -> None:
        self.kind, self.out, self.recipe, self.resume = kind, out, recipe, resume
        self.started = time.monotonic()
        earlier = earlier_record(out / "run.json", "a run", {"created", "identity", "threads"}, resume=resume)
        threads = earlier["threads"] if earlier else machine.threads
        if threads:
            torch.set_num_threads(threads)
        self.earlier = earlier
        self.fabric = open_device(machine.device, recipe.precision)
        self.reporter = reporter
        self.face_net = stages.check(recipe, fine_tunes="fine-tune" in methods)

    def load(self, data: str | Path | Manifest) -> Dataset:
        """Read the pictures as the recipe says."""
        return load_pictures(data, self.recipe, self.reporter)

    def finish(
        self,
        dataset: Dataset,
        drawn: splits.Protocol,
        cuts: Sequence[Cut],
        methods: Sequence[str],
        seeds: Sequence[int],
    ) -> Path:
        """Do all trainings, then metrics, sizes and the report."""
        cuts = [with_calibration(cut, dataset.manifest, self.recipe.calibration_share) for cut in cuts]
        check_parts(self.recipe, methods, cuts, dataset.manifest)
        about = self._about(dataset, drawn, cuts, methods, seeds)
        if self.earlier and self.earlier["identity"] != about["identity"]:
            raise UserError(
                f"{self.out}: was begun with {_difference(self.earlier['identity'], about['identity'])}; resume it "
                "with what it began with, or choose another --out"
            )
        self._check_folds(dataset, drawn)
        jobs = plan(cuts, methods, seeds, self.recipe, self.out)
        with alone_in(self.out / "run.json", begins=self.earlier is None):
            reporter = write_beginning(
                self.out / "run.json", about, self.recipe, dataset, drawn, cuts, earlier=self.earlier,
                face_nets=[self.face_net], reporter=self.reporter,
            )  # fmt: skip
            facts = _facts(about)
            for job in jobs:
                train_one(job, dataset, self.recipe, self.fabric, reporter, facts)
                write_json(self.out / "run.json", {**about, "seconds": self._seconds()})
            drop_views(self.out / VIEWS)
            with contextlib.suppress(OSError):  # is not there, or a fold has this name
                (self.out / VIEWS).rmdir()
            self._conclude(about, dataset, jobs, methods)
        return self.out

    def _about(
        self,
        dataset: Dataset,
        drawn: splits.Protocol,
        cuts: Sequence[Cut],
        methods: Sequence[str],
        seeds: Sequence[int],
    ) -> dict[str, Any]:
        manifest = dataset.manifest
        subjects = manifest.subjects
        identity = {
            "kind": self.kind,
            "recipe": recipes.to_dict(self.recipe),
            "manifest": manifest.sha256(),
            "folds": [[cut.name, len(cut.train), len(cut.test)] for cut in cuts],
            "protocol": drawn.name,
            "methods": list(methods),
            "seeds": list(seeds),
            "unlabelled": sha256(dataset.unlabelled_pixels.tobytes()).hexdigest()[:16],
        }
        return {
            "format": FORMAT,
            "kind": self.kind,
            "command": (self.earlier or {}).get("command") or command_line(),
            "created": self.earlier["created"] if self.earlier else now(),
            "finished": None,
            "versions": versions(),
            "device": device_name(self.fabric),
            "precision": self.recipe.precision,
            "threads": torch.get_num_threads(),
            "manifest": {
                "name": manifest.name,
                "sha256": manifest.sha256(),
                "pictures": len(manifest),
                "classes": list(manifest.classes),
                "counts": manifest.counts,
                "subjects": None if subjects is None else len(set(subjects) - {""}),
                "skipped": len(dataset.skipped),
                "unlabelled": len(dataset.unlabelled_pixels),
            },
            "contract": dataset.contract.to_dict(),
            "protocol": {"name": drawn.name, "note": drawn.note, "folds": len(cuts)},
            "methods": list(methods),
            "seeds": list(seeds),
            "seconds": (self.earlier or {}).get("seconds"),
            "identity": json.loads(json.dumps(identity)),
        }

    def _check_folds(self, dataset: Dataset, drawn: splits.Protocol) -> None:
        """Refuse folds that would share a folder or leave the run's, and other folds than the run began with."""
        check_fold_names([fold.name for fold in drawn.folds])
        saved = self.out / "folds.json"
        if not self.earlier or not drawn.folds or not saved.is_file():
            return
        before = splits.read_splits(saved, dataset.manifest)
        for old, new in zip(before, drawn.folds, strict=True):
            if not (np.array_equal(old.train, new.train) and np.array_equal(old.test, new.test)):
                raise UserError(
                    f"{self.out}: fold {old.name} was begun with other pictures; resume it with --protocol {saved}, "
                    "or choose another --out"
                )

    def _conclude(
        self, about: dict[str, Any], dataset: Dataset, jobs: Sequence[Job], methods: Sequence[str]
    ) -> None:
        from facenet2expnet.report.page import write_report

        predictions, history = collect(jobs)
        history.to_csv(self.out / "history.csv", index=False)
        if len(predictions):
            predictions.to_parquet(self.out / "predictions.parquet", index=False)
            write_json(self.out / "metrics.json", summarise(predictions, dataset.manifest.classes))
        first = {job.training.method: job.folder for job in reversed(jobs)}
        models = {method: load_model(first[method] / "model") for method in dict.fromkeys(first)}
        sizes = [
            asdict(measure(name, models[name].module, dataset.contract.crop_px, self.fabric.device))
            for name in METHODS
            if name in models
        ]
        write_json(self.out / "sizes.json", sizes)
        if self.kind == "train":
            save_model(models[methods[0]], self.out / "model")
        write_json(self.out / "run.json", {**about, "finished": now(), "seconds": self._seconds()})
        write_report(self.out)

    def _seconds(self) -> float:
        """Of this run so far, with what it took before an interruption."""
        before = (self.earlier or {}).get("seconds") or 0.0
        return float(before + time.monotonic() - self.started)


def load_pictures(data: str | Path | Manifest, recipe: Recipe, reporter: Reporter) -> Dataset:
    """Read the pictures as a recipe says.

    Raises:
        UserError: If they can't be read, are of too few classes, or don't fit in memory at this size.
    """
    folder = None if isinstance(data, Manifest) else Path(data)
    if folder and (folder / "manifest.csv").is_file() and not is_store(folder):
        reporter.note(
            f"{data}: the folders in it are taken as the classes, not its manifest.csv; to follow that, name the file"
        )
    try:
        return load_dataset(data, recipe.crop, unlabelled=recipe.stage1.unlabelled, progress=reporter.faces)
    except Exception as error:
        if not _is_too_large(error):
            raise
        raise UserError(
            f"crop.stored_px is {recipe.crop.stored_px}, and the pictures don't fit in memory at that size ({error}); "
            "take a smaller input size"
        ) from None


def train_one(
    job: Job, dataset: Dataset, recipe: Recipe, fabric: Fabric, reporter: Reporter, facts: dict[str, Any]
) -> None:
    """`crossval.run_job`, where what does not fit in memory has stopped, as what learns nothing has.

    Raises:
        StageStopped: If the training can't go on.
    """
    try:
        run_job(job, dataset, recipe, fabric, reporter, facts)
    except Exception as error:
        if not _is_too_large(error):
            raise
        raise StageStopped(
            f"{job.training.method}: the training does not fit in memory ({str(error).splitlines()[0]}); "
            "take a smaller network, input size or batch_size"
        ) from None


def _is_too_large(error: Exception) -> bool:
    """Whether it says that something does not fit in memory: PyTorch has no class of its own for that on a CPU."""
    words = (
        "allocate memory",
        "out of memory",
        "Storage size calculation overflowed",
        "Overflow when unpacking",
    )
    return isinstance(error, MemoryError) or any(text in str(error) for text in words)


def only_first(drawn: splits.Protocol, count: int | None) -> splits.Protocol:
    """So many of the folds, with a note where some are left out; None keeps all."""
    kept = drawn.folds[:count]
    if len(kept) == len(drawn.folds):
        return drawn
    note = f"Only the first {len(kept)} of {len(drawn.folds)} folds were done."
    return replace(drawn, folds=kept, note=f"{drawn.note} {note}".strip())


@contextlib.contextmanager
def alone_in(record: Path, *, begins: bool) -> Iterator[None]:
    """While it lasts, no other process trains into a folder of results.

    Args:
        record: the file that the folder begins with.
        begins: whether it is not there yet.
    Raises:
        UserError: If another process is at work there, or has been since, or the folder can't be made.
    """
    out = record.parent
    lock = filelock.FileLock(out / f".{record.name}.lock")
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(
            f"{out}: another process is at work here; wait for it, stop it, or choose another --out"
        ) from None
    except OSError as error:
        raise UserError(f"{out}: can't be made: {error.strerror}; choose another --out") from None
    try:
        if begins and record.is_file():
            raise UserError(f"{out}: another process has begun here; add --resume, or choose another --out")
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def write_beginning(
    record: Path,
    about: Mapping[str, Any],
    recipe: Recipe,
    dataset: Dataset,
    drawn: splits.Protocol,
    cuts: Sequence[Cut],
    *,
    earlier: Mapping[str, Any] | None,
    face_nets: Sequence[FaceNetInfo],
    reporter: Reporter,
) -> Reporter:
    """Write what is known before the first training, and tell what the reader of its results should know.

    Args:
        record: the file of what is known `about` it.
        cuts: with what each keeps out to fit the temperature.
        earlier: the record that an earlier call left.
        face_nets: all that take part.
    Returns:
        A reporter that keeps log.txt as well.
    """
    out = record.parent
    write_json(record, about)
    recipes.save(recipe, out / "recipe.toml")
    dataset.manifest.save(out / "manifest.csv")
    write_skipped(dataset.skipped, out / "skipped.csv")
    if drawn.folds:
        splits.write_splits(drawn.folds, dataset.manifest, out / "folds.json")
    reporter = LogFile(out / "log.txt", reporter)
    for name in ("device", "versions"):
        if earlier and earlier.get(name) != about[name]:
            reporter.note(f"{out} was begun with another {name}, so its weights may differ in the last bits.")
    for note in dict.fromkeys(note for face_net in face_nets for note in face_net.notes):
        reporter.note(note)
    if dataset.skipped:
        were = "picture was" if len(dataset.skipped) == 1 else "pictures were"
        reporter.note(f"{len(dataset.skipped)} {were} left out, see {out / 'skipped.csv'}")
    if drawn.note:
        reporter.note(drawn.note)
    if kept_out := [len(cut.calibration) for cut in cuts if len(cut.calibration)]:
        reporter.note(
            f"{_span(kept_out)} pictures of a training part are kept out of the training, to fit the temperature."
        )
    quick_audit(out, dataset, drawn, reporter)
    return reporter


def check_fold_names(names: Sequence[str]) -> None:
    """Refuse folds that would share a folder or leave the run's.

    Raises:
        UserError: Which name it is.
    """
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"fold name '{name}' stands {names.count(name)} times, expected different names")
        if not Path(name).parts or Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"fold name '{name}' names no folder inside the run, expected e.g. fold-1")


def quick_audit(out: Path, dataset: Dataset, drawn: splits.Protocol, reporter: Reporter) -> None:
    """Write audit.json, and tell of what was found: pictures on both sides of a fold, two labels of one picture."""
    found = audit.audit(dataset.manifest, dataset.pixels, drawn.folds, cheap=True)
    write_json(out / "audit.json", found.to_dict())
    for line in [] if found.clean and not found.counts["doubly_labelled"] else found.lines():
        reporter.note(f"Audit: {line}")


def open_device(device: str, precision: str) -> Fabric:
    """Device and precision for a training.

    Raises:
        UserError: If the device is not there.
    """
    known = {"auto": "auto", "cpu": "cpu", "cuda": "cuda", "mps": "mps"}
    if device not in known:
        raise UserError(f"device is '{device}', expected one of {', '.join(known)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device is 'cuda', but PyTorch sees no CUDA device; use cpu or auto")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UserError("device is 'mps', but PyTorch sees no Apple GPU; use cpu or auto")
    # The literal types of Fabric's arguments are narrower than str.
    return Fabric(accelerator=known[device], devices=1, precision=precision)  # type: ignore[arg-type]


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    names = [name for name in now if before.get(name) != now[name]]
    if names != ["recipe"]:
        return "another " + ", ".join(names)
    changed = []
    for section, values in now["recipe"].items():
        other = before["recipe"].get(section)
        if isinstance(values, dict) and isinstance(other, dict):
            changed += [
                f"{section}.{key}={other.get(key)}"
                for key, value in values.items()
                if other.get(key) != value
            ]
        elif values != other:
            changed.append(f"{section}={other}")
    return "another recipe: " + ", ".join(changed)


def _facts(about: dict[str, Any]) -> dict[str, Any]:
    """What is saved with every model of the run."""
    return {
        "recipe": about["identity"]["recipe"],
        "trained_on": {"manifest": about["manifest"]["name"], "sha256": about["manifest"]["sha256"]},
        "protocol": about["protocol"]["name"],
        "command": about["command"],
        "created": now(),
        "versions": about["versions"],
        "device": about["device"],
    }


def _span(numbers: Sequence[int]) -> str:
    """3 to 5, or 4 where all are the same."""
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"
