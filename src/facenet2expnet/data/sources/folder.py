"""Your own pictures: a folder of class folders, or a CSV or Parquet table."""

from __future__ import annotations

from facenet2expnet.data.manifest import read_manifest
from facenet2expnet.data.sources.base import Source

SOURCE = Source(name="folder", title="Your own pictures", reader=lambda path: read_manifest(path))
