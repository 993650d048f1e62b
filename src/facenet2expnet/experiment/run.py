"""The run folder: a record of what a run was started with, a lock, a log, and the inputs that its jobs share."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from types import NoneType
from typing import Any

import pandas as pd
import torch

from facenet2expnet import claims, recipes
from facenet2expnet.claims import Claims
from facenet2expnet.data import audit, duplicates, splits
from facenet2expnet.data.dataset import Dataset, load_dataset
from facenet2expnet.data.manifest import Manifest, as_data
from facenet2expnet.data.pictures import write_skipped
from facenet2expnet.data.splits import Protocol, Split
from facenet2expnet.device import device_name
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.job import METHODS, Progress, memory_errors
from facenet2expnet.faces.framing import estimate_framing
from facenet2expnet.faces.store import is_store
from facenet2expnet.files import LOCK, atomic_path, delete_temporary_files, folder_lock, read_json, write_json
from facenet2expnet.recipe import Recipe
from facenet2expnet.training import stages

PACKAGES = ("facenet2expnet", "torch", "kornia", "numpy", "opencv-python-headless", "scikit-learn", "pandas")

BEGINNING, FINISH = "beginning", "results"
"""Claims of the process that begins a shared folder, and of the one that writes its results."""

MAX_THREADS = 10_000
"""More CPU threads than that in a record are damage."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the jobs of a run train and test on.

    Attributes:
        dataset: the pictures.
        protocol: where the splits come from.
        splits: with validation part and unlabelled rows where the recipe uses them, without copies of test pictures.
        copies: the pictures taken out as copies of test or validation pictures: split, part, row, image, kept_row,
            kept_image, kept_part, how.
        checks: plain sentences on what was checked, for log, report and run.json.
    """

    dataset: Dataset
    protocol: Protocol
    splits: list[Split]
    copies: pd.DataFrame
    checks: list[str]


def load_pictures(
    data: str | Path | Manifest | pd.DataFrame,
    recipe: Recipe,
    progress: Progress | None = None,
    *,
    min_classes: int = 2,
) -> Dataset:
    """Read the pictures at the recipe's size.

    Raises:
        UserError: If they can't be read, are of too few classes, or do not fit in memory at this size.
    """
    data = as_data(data)
    folder = None if isinstance(data, Manifest) else data
    if folder and (folder / "manifest.csv").is_file() and not is_store(folder):
        log.warning("%s: its folders are taken as the classes, not its manifest.csv; to use that, name the file", data)
    what = f"crop.stored_px is {recipe.crop.stored_px}, and the pictures do not fit in memory at that size"
    with memory_errors(what, "take a smaller input size, or prepare them first (fn2en data prepare)", UserError):
        report = partial(progress, "reading faces") if progress else None
        dataset = load_dataset(data, recipe.crop, min_classes=min_classes, progress=report)
    for note in dataset.manifest.notes:
        log.info("%s", note)
    if min_classes:
        check_votes(dataset.manifest, recipe)
    return dataset


def check_votes(manifest: Manifest, recipe: Recipe) -> None:
    """Raise a UserError if the recipe learns votes, and the manifest has none."""
    voting = [stage for stage in ("fine_tune", "stage2", "scratch") if getattr(recipe, stage).votes]
    if voting and manifest.votes is None:
        raise UserError(f"{voting[0]}.votes is true, expected a manifest with shares of votes in columns p_<class>")


def prepare_inputs(
    dataset: Dataset, protocol: Protocol, recipe: Recipe, *, drop_near: bool = False, report_near: bool = True
) -> Inputs:
    """Make the splits ready for training: validation part, unlabelled rows, and no copies of test pictures.

    Args:
        dataset, protocol: the pictures, and the splits to use.
        recipe: says whether validation and unlabelled pictures are used.
        drop_near: take near-duplicates of test pictures out of the training part too.
        report_near: look for near-duplicates, which compares all pairs of pictures.
    Raises:
        UserError: If a training part is too small to take a validation part out of it.
    """
    manifest, checks = dataset.manifest, [protocol.note] if protocol.note else []
    prepared = protocol.splits
    _check_names([split.name for split in prepared])
    if recipe.needs_validation:
        prepared = [splits.with_validation(manifest, split, recipe.val_fraction) for split in prepared]
    elif any(len(split.validation) for split in prepared):
        if recipe.train_on_validation:
            prepared = [splits.merge_validation(split) for split in prepared]
        use = "trained on" if recipe.train_on_validation else "not used"
        checks.append(f"The official validation part is {use}, as the recipe says.")
    if recipe.stage1.unlabelled:
        prepared = [splits.with_unlabelled(manifest, split) for split in prepared]
    prepared, copies = duplicates.remove_copies(prepared, dataset.pixels, near=drop_near)
    images = manifest.table["image"].to_numpy(dtype=object)
    for name, rows in {"image": "row", "kept_image": "kept_row"}.items():
        copies[name] = images[copies[rows].to_numpy(dtype=int)]
    if recipe.needs_validation:
        sizes = sorted(len(split.validation) for split in prepared)
        if not sizes[0]:
            raise UserError(
                "all pictures of a validation part are copies of test pictures, and the recipe stops early or "
                "calibrates by it; list them with fn2en data audit, and add other pictures"
            )
        span = f"{sizes[0]}" if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"
        checks.append(f"Pictures in a fold's validation part, which no stage trains on: {span}.")
    if any(len(split.test) for split in prepared):  # otherwise there is nothing to copy
        checks.append(_copies_sentence(copies))
        if report_near:
            checks.append(_near_sentence(prepared, dataset))
    return Inputs(dataset, protocol, prepared, copies, checks)


def with_framing(dataset: Dataset) -> Dataset:
    """Return the dataset with a contract that knows how tightly its cut-out pictures are cut; see `estimate_framing`.

    It is saved with the models of a run, for photographs; no picture, weight or score of the run depends on it. So all
    labelled pictures are sampled, once for all folds.
    """
    if dataset.contract.detector != "already-cropped" or dataset.contract.framing is not None:
        return dataset
    framing = estimate_framing(dataset.pixels, (dataset.manifest.labels >= 0).nonzero()[0])
    return replace(dataset, contract=replace(dataset.contract, framing=framing))


@contextlib.contextmanager
def threads_restored() -> Iterator[None]:
    """Give this process back the CPU threads that it had, after a run that set its own."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def begin(
    record: Path,
    what: str,
    methods: Sequence[str],
    seeds: Sequence[int],
    threads: int | None,
    *,
    resume: bool,
    join: bool = False,
) -> dict[str, Any] | None:
    """Check what can be checked before the pictures are read; set the number of threads.

    Args:
        record: the file that the folder of results begins with.
        what: "a run" or "an ablation", for messages.
        methods, seeds: of the trainings.
        threads: of the CPU, unless the record names them.
        resume: whether an earlier run is to go on.
        join: whether other processes may work in the folder, before this one, with it and after it.
    Returns:
        The record that the folder was started with; None if it is new.
    Raises:
        UserError: If the folder holds a run that is not to go on, or anything else; for unknown methods or equal seeds.
    """
    if not methods or not set(methods) <= set(METHODS):
        named = ", ".join(sorted(set(methods) - set(METHODS))) or "no method"
        raise UserError(f"methods: got {named}, expected some of {', '.join(METHODS)}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds: got {list(seeds)}, expected one or more different numbers")
    folder, earlier = record.parent, None
    if record.is_file():
        if not resume and not join:
            raise UserError(f"{folder}: holds {what} already; add --resume to continue it, or choose another --out")
        earlier = _read_record(record, what)
        threads = earlier["threads"]
    elif folder.exists() and not (folder.is_dir() and all(_is_leftover(path, record) for path in folder.iterdir())):
        raise UserError(f"{folder}: exists and is not empty; choose another --out")
    if threads:
        torch.set_num_threads(threads)
    return earlier


def _is_leftover(path: Path, record: Path) -> bool:
    """Whether a file is of a run that was killed while it wrote its first file."""
    return path.name in (LOCK, claims.FOLDER) or path.name.startswith(f".{record.stem}.")


def _read_record(record: Path, what: str) -> dict[str, Any]:
    kinds: dict[str, type | tuple[type, ...]] = {
        "created": str, "identity": dict, "threads": int, "seconds": (float, int, NoneType),
    }  # fmt: skip
    found = read_json(record)
    right = isinstance(found, dict) and all(isinstance(found.get(name), kind) for name, kind in kinds.items())
    if not right or not 0 < found["threads"] <= MAX_THREADS:
        raise UserError(f"{record}: is not {what} that can be continued; choose another --out")
    return found


@contextlib.contextmanager
def run_folder(
    record: Path,
    earlier: Mapping[str, Any] | None,
    about: dict[str, Any],
    started: float,
    *,
    join: bool = False,
    same: Sequence[str] = (),
) -> Iterator[tuple[Callable[..., None], Claims]]:
    """Work in a folder of results, alone or together with others; all log messages go to its log.txt too.

    Args:
        record: the file that the folder begins with; `about` is written to it.
        earlier: the record that was found before; None for a new folder.
        about: what the run is.
        started: when it began, on the monotonic clock.
        join: let other processes with the same identity work in the folder, each on its own jobs. The threads of a job
            are those of the process that began it. The log is log-HOST-PID.txt.
        same: names in the record whose values must be equal too for processes that join.
    Returns:
        A function that writes the record again, with the seconds so far and the values that it is given; and the
        claims of this process. The function raises a UserError if the record is gone.
    Raises:
        UserError: If another process works in the folder without `join`, or began it with something else.
    """
    folder, earlier_seconds = record.parent, about["seconds"] or 0.0

    def update(**more: Any) -> None:
        if not record.is_file():  # writing would make the folder again, without its results
            raise UserError(f"{folder}: there is no such run any more; is its disk still there?")
        if join:  # another process may have finished since
            more = {"finished": read_json(record)["finished"]} | more
        write_json(record, about | {"seconds": earlier_seconds + time.monotonic() - started} | more)

    busy = "another process works here; wait for it, stop it, or choose another --out"
    with contextlib.ExitStack() as stack:
        if join:
            own = stack.enter_context(Claims(folder / claims.FOLDER))
            own.wait(BEGINNING)
            if record.is_file():
                earlier = _read_record(record, "a run")
                about |= {key: earlier.get(key) for key in ("command", "created", "threads", "finished")}
                torch.set_num_threads(about["threads"])
                theirs, ours = ({name: one.get(name) for name in same} for one in (earlier, _as_json(about)))
                if theirs != ours:
                    raise UserError(_refusal(folder, theirs, ours))
            with folder_lock(folder, busy, needed=False):
                _begin_work(record, earlier, about)
            own.release(BEGINNING)
        else:
            stack.enter_context(folder_lock(folder, busy))
            if earlier is None and record.is_file():
                raise UserError(f"{folder}: another process began here; add --resume, or choose another --out")
            _refuse_others(folder)
            delete_temporary_files(folder)
            _begin_work(record, earlier, about)
            stack.callback(_delete_if_empty, folder / claims.FOLDER)
            own = stack.enter_context(Claims(folder / claims.FOLDER))
        stack.enter_context(
            _log_file(folder / (f"log-{socket.gethostname()}-{os.getpid()}.txt" if join else "log.txt"))
        )
        log.info("results: %s", folder)
        for name in ("device", "versions"):
            if earlier and earlier.get(name) != about[name]:
                log.warning("%s was started with another %s: weights may differ in the last bits.", folder, name)
        yield update, own


def _begin_work(record: Path, earlier: Mapping[str, Any] | None, about: Mapping[str, Any]) -> None:
    """Write the record, if the folder was begun with the same inputs or is new."""
    if earlier and earlier["identity"] != about["identity"]:
        raise UserError(_refusal(record.parent, earlier["identity"], about["identity"]))
    write_json(record, about)


def _refusal(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return f"{folder}: was started with {_difference(before, now)}; use the original settings, or choose another --out"


def _as_json(value: Any) -> Any:
    """Return a value as it is after writing and reading: tuples become lists."""
    return json.loads(json.dumps(value))


def _refuse_others(folder: Path) -> None:
    """Raise UserError if processes that share the folder may be at work in it; delete the claims of dead ones."""
    if found := claims.living(folder / claims.FOLDER):
        owners = ", ".join(dict.fromkeys(claim.owner for claim in found))
        raise UserError(
            f"{folder}: {owners} may be at work here; add --join to work beside it, or stop it. After a crash of its "
            f"machine, wait: a claim ends {claims.EXPIRES_S / 60:.0f} minutes after its last sign of life"
        )
    shutil.rmtree(folder / claims.FOLDER, ignore_errors=True)


def _delete_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


@contextlib.contextmanager
def finishing(record: Path, own: Claims) -> Iterator[bool]:
    """Whether this process should write the results of all jobs: in a shared folder the first that comes does so."""
    own.wait(FINISH)
    yield not read_json(record)["finished"]
    own.release(FINISH)


class _LogFile(logging.FileHandler):
    """A log that goes on without what a full disk has no room for; the results' own errors tell of the disk."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


@contextlib.contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Write the package's messages to a file too, also those that a terminal does not show."""
    package, file = logging.getLogger("facenet2expnet"), _LogFile(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    level = package.level
    package.setLevel(logging.DEBUG)
    package.addHandler(file)
    try:
        yield
    finally:
        package.removeHandler(file)
        package.setLevel(level)
        with contextlib.suppress(OSError):
            file.close()


def write_inputs(folder: Path, inputs: Inputs, recipe: Recipe) -> None:
    """Write what the jobs of a run share, and log what a reader of the results should know."""
    dataset = inputs.dataset
    recipes.save(recipe, folder / "recipe.toml")
    dataset.manifest.save(folder / "manifest.csv")
    write_skipped(dataset.skipped, folder / "skipped.csv")
    if dataset.skipped:
        log.warning("Pictures that were left out: %d, see %s", len(dataset.skipped), folder / "skipped.csv")
    if all(len(split.test) for split in inputs.splits):
        splits.write_splits(inputs.splits, dataset.manifest, folder / "folds.json")
    with atomic_path(folder / "copies.csv") as path:
        inputs.copies.to_csv(path, index=False)
    found = audit.audit(dataset.manifest, dataset.pixels, inputs.splits, cheap=True)
    write_json(folder / "audit.json", found.to_dict())
    for sentence in inputs.checks:
        log.info("%s", sentence)
    if not found.clean or found.counts["conflicting_labels"]:
        for line in found.lines():
            log.warning("Audit: %s", line)


def describe(
    inputs: Inputs, recipe: Recipe, device: torch.device, earlier: Mapping[str, Any] | None, **what: Any
) -> dict[str, Any]:
    """Return the record of a run: what it is, where it runs, and an identity without which it can't be resumed.

    The identity covers pixels, labels, crop contract, recipe and splits, and what is given as `what`.
    """
    dataset, manifest, earlier = inputs.dataset, inputs.dataset.manifest, earlier or {}
    folds = sha256()
    for split in inputs.splits:
        for part in (split.train, split.validation, split.test, split.unlabelled):
            folds.update(f"{split.name} {len(part)} ".encode() + part.tobytes())
    hashes = {"manifest": manifest.sha256(), "pixels": dataset.pixels_sha256(), "folds": folds.hexdigest()}
    contract, subjects = dataset.contract.to_dict(), manifest.subjects
    hashes["weights"] = stages.given_weights_sha256(recipe)
    identity = what | hashes | {"recipe": recipes.to_dict(recipe), "contract": contract}
    return what | {
        "command": earlier.get("command") or command_line(),
        "created": earlier.get("created") or now(),
        "finished": None,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "device": device_name(device),
        "precision": recipe.precision,
        "threads": torch.get_num_threads(),
        "manifest": {
            "name": manifest.name,
            "sha256": hashes["manifest"],
            "pixels": hashes["pixels"],
            "pictures": int((manifest.labels >= 0).sum()),
            "unlabelled": int((manifest.labels < 0).sum()),
            "classes": list(manifest.classes),
            "counts": manifest.counts,
            "subjects": None if subjects is None else len(set(subjects) - {""}),
            "skipped": len(dataset.skipped),
        },
        "contract": contract,
        "protocol": {"name": inputs.protocol.name, "note": inputs.protocol.note, "folds": len(inputs.splits)},
        "unused": inputs.protocol.unused,
        "copies": len(inputs.copies),
        "checks": inputs.checks,
        "seconds": earlier.get("seconds"),
        "identity": _as_json(identity),
    }


def model_metadata(about: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return what is saved with every model of a run."""
    data = about["manifest"]
    pictures = {"manifest": data["name"]} | {key: data[key] for key in ("sha256", "pixels") if key in data}
    same = {key: about[key] for key in ("command", "versions", "device")} | {"protocol": about["protocol"]["name"]}
    return {"recipe": recipes.to_dict(recipe), "trained_on": pictures, "created": now()} | same


def first_splits(protocol: Protocol, count: int | None) -> Protocol:
    """Return the protocol with its first splits only, and a note if some are left out; None keeps all."""
    if count is not None and count < 1:
        raise UserError(f"first_folds is {count}, expected 1 or more")
    if count is None or count >= len(protocol.splits):
        return protocol
    note = f"Only the first {count} of {len(protocol.splits)} folds were run."
    return replace(protocol, splits=protocol.splits[:count], note=f"{protocol.note} {note}".strip())


def command_line() -> str:
    """Return the running command, ready to be typed again."""
    by_name = Path(sys.argv[0]).name == "fn2en"
    return shlex.join(["fn2en", *sys.argv[1:]] if by_name else ["python", *sys.argv])


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _check_names(names: Sequence[str]) -> None:
    """Refuse folds that would share a folder or leave the run's."""
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"fold name '{name}' occurs {names.count(name)} times, expected different names")
        if not Path(name).parts or Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"fold name '{name}' is no folder name, expected e.g. fold-1")


def _copies_sentence(copies: pd.DataFrame) -> str:
    if not len(copies):
        return (
            "No training picture is identical to a test picture of the same fold (compared as stored, pixel by pixel)."
        )
    count = copies["image"].nunique()
    were = "picture was" if count == 1 else "pictures were"
    return f"{count} {were} left out as copies of test or validation pictures of the same fold (copies.csv)."


def _near_sentence(prepared: Sequence[Split], dataset: Dataset) -> str:
    found = duplicates.count_near(prepared, dataset.pixels)
    if found is None:
        return "Near-duplicates were not looked for: there are too many pictures to compare all pairs."
    if not found:
        return "No training picture is a near-duplicate of a test picture of the same fold."
    return (
        f"Training pictures that are near-duplicates of a test or validation picture of the same fold: {found}. They "
        "were trained on; to leave them out, use --drop-near."
    )


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Name what differs between two identities."""
    names = [name for name in now if before.get(name) != now[name]]
    if names != ["recipe"] or not isinstance(before.get("recipe"), dict):
        return "other " + ", ".join(names)
    old, new = (_flat(identity["recipe"]) for identity in (before, now))
    return "another recipe: " + ", ".join(f"{name}={old.get(name)}" for name in new if old.get(name) != new[name])


def _flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The settings of nested tables by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {f"{above}{name}": value}
    return found
