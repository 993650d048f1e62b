"""Small trees of datasets with their real names, and what reading them says."""

from __future__ import annotations

from pathlib import Path

import pytest

from facenet2expnet.data import sources
from facenet2expnet.data.manifest import Manifest
from facenet2expnet.errors import UserError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def message_of(name: str, path: Path, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        sources.read(name, path, **options)
    return str(caught.value)


def noted(manifest: Manifest) -> str:
    return " ".join(manifest.notes)
