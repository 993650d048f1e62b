"""Your own pictures: a folder of class folders, or a CSV or Parquet table."""

from facenet2expnet.data.manifest import read_manifest
from facenet2expnet.data.sources import Source

SOURCE = Source("folder", "Your own pictures", lambda path: read_manifest(path))
