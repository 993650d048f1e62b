"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from facenet2expnet.errors import UserError


def write_atomic(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Write a file under a temporary name beside it and rename it, so that nobody ever sees half of it.

    Args:
        sync: wait until the disk has it, so that a power cut leaves no empty file; slow for thousands of files.
    Raises:
        UserError: If it can't be written: a full disk, no permission.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as fault:
        with contextlib.suppress(OSError):  # its folder may be a file
            temporary.unlink(missing_ok=True)
        raise UserError(
            f"{path} could not be written: {fault.strerror or fault}; nothing was left behind, "
            "free some space or give another folder"
        ) from fault
