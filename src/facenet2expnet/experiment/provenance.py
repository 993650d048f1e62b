"""Where a result comes from: command, versions, device and time, as every run writes them down."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from facenet2expnet.data.writing import write_whole
from facenet2expnet.errors import UserError

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
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False).encode())


def read_record(path: Path) -> Any:
    """A JSON file that `write_json` wrote.

    Raises:
        UserError: If it can't be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read ({error}); choose another --out") from None
