"""Your own pictures: a folder of class folders, or a CSV or Parquet table."""

from __future__ import annotations

from pathlib import Path

from facenet2expnet.data.manifest import Manifest, read_manifest
from facenet2expnet.data.sources import Source


def read(path: Path, merge_labels: str = "none") -> Manifest:
    """A folder of class folders or a table; see `read_manifest`."""
    return read_manifest(path, merge_labels="" if merge_labels == "none" else merge_labels)


OPTIONS = {"merge_labels": "none, auto, or a CSV file with the columns from,to: labels that become one class"}
SOURCE = Source("folder", "Your own pictures", read, OPTIONS)
