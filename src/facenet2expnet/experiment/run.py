"""The run folder: a record of what a run was started with, a lock and a log."""

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
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from types import NoneType
from typing import Any

import torch

from facenet2expnet import claims, recipes
from facenet2expnet.claims import Claims
from facenet2expnet.device import device_name, fitting_precision
from facenet2expnet.errors import UserError
from facenet2expnet.experiment.inputs import Inputs
from facenet2expnet.experiment.job import METHODS
from facenet2expnet.files import LOCK, delete_temporary_files, folder_lock, read_json, write_json
from facenet2expnet.recipe import PRECISIONS, Recipe
from facenet2expnet.training import stages

PACKAGES = ("facenet2expnet", "torch", "kornia", "numpy", "opencv-python-headless", "scikit-learn", "pandas")

BEGINNING, FINISH = "beginning", "results"
"""Claims of the process that begins a shared folder, and of the one that writes its results."""

MAX_THREADS = 10_000
"""More CPU threads than that in a record are damage."""

log = logging.getLogger(__name__)


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


def settle_precision(recipe: Recipe, device: torch.device, earlier: Mapping[str, Any] | None) -> Recipe:
    """Decide precision "auto" for a whole run; one that is resumed or joined keeps what it began with.

    On a cluster without a GPU here it stays "auto": each of its machines decides.
    """
    if recipe.precision != "auto":
        return recipe
    begun = (earlier or {}).get("precision")
    decided = begun if begun in PRECISIONS else fitting_precision(device, "auto")
    return recipes.override(recipe, [f"precision={decided}"])


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
    if isinstance(recipe := found["identity"].get("recipe"), dict):
        found["identity"]["recipe"] = recipes.without_retired(recipe)
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


def command_line() -> str:
    """Return the running command, ready to be typed again."""
    by_name = Path(sys.argv[0]).name == "fn2en"
    return shlex.join(["fn2en", *sys.argv[1:]] if by_name else ["python", *sys.argv])


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Name what differs between two identities."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if names != ["recipe"] or not isinstance(before.get("recipe"), dict):
        return "other " + ", ".join(names)
    old, new = (_flat(identity["recipe"]) for identity in (before, now))
    differing = [name for name in new if old.get(name) != new[name]] or [name for name in old if name not in new]
    return "another recipe: " + ", ".join(f"{name}={old.get(name)}" for name in differing)


def _flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The settings of nested tables by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {f"{above}{name}": value}
    return found
