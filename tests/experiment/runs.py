"""What the tests of runs share: a table with subjects, a run's record, and where it computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from facenet2expnet.data.manifest import read_manifest

CPU: dict[str, Any] = {"device": "cpu", "threads": 1}


def with_subjects(faces: Path, folder: Path, name: str = "faces.csv", **columns: Any) -> Path:
    """Write the faces as a CSV with four subjects and more columns."""
    table = read_manifest(faces).table
    table["subject"] = [f"S{number % 4}" for number in range(len(table))]
    table["image"] = [str(faces / image) for image in table["image"]]
    table.assign(**columns).to_csv(folder / name, index=False)
    return folder / name


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())
