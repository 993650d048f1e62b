"""Where a result comes from: command, versions, device and time, as every run writes them down."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Set
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from facenet2expnet.errors import UserError
from facenet2expnet.files import write_atomic

PACKAGES = ("facenet2expnet", "torch", "kornia", "numpy", "opencv-python-headless", "scikit-learn", "pandas")


def versions() -> dict[str, str]:
    """Of Python and of the packages that a number may depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def device_name(fabric: Fabric) -> str:
    """The GPU's name, or the kind of processor and its cores."""
    if fabric.device.type == "cuda":
        return torch.cuda.get_device_name(fabric.device)
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def command_line() -> str:
    """The command that is running, ready to be typed again."""
    by_name = Path(sys.argv[0]).name == "fn2en"
    return shlex.join(["fn2en", *sys.argv[1:]] if by_name else ["python", *sys.argv])


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_json(path: Path, value: Any) -> None:
    """A JSON file that is either whole or not there."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False).encode())


def read_record(path: Path) -> Any:
    """A JSON file that `write_json` wrote.

    Raises:
        UserError: If it can't be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read ({error}); choose another --out") from None


def earlier_record(record: Path, what: str, keys: Set[str], *, resume: bool) -> dict[str, Any] | None:
    """The record that a run or an ablation began its folder with; None where it is a new one.

    Args:
        record: the file, in the folder of results.
        what: "a run" or "an ablation", as the messages call it.
        keys: without which it is no such record.
        resume: whether an earlier one is to go on.
    Raises:
        UserError: If the folder holds one and it is not to go on, or holds anything else.
    """
    out = record.parent
    if record.is_file():
        if not resume:
            raise UserError(
                f"{out}: holds {what} already; add --resume to go on with it, or choose another --out"
            )
        about: dict[str, Any] = read_record(record)
        if not isinstance(about, dict) or not keys <= set(about):
            raise UserError(f"{record}: not of {what} that can go on; choose another --out")
        return about
    unfinished = f".{record.name}."  # of one that was killed while it wrote its first file
    if out.exists() and (not out.is_dir() or any(not p.name.startswith(unfinished) for p in out.iterdir())):
        raise UserError(f"{out}: is there and not empty; choose another --out")
    return None
