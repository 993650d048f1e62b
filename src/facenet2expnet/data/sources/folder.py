"""Your own pictures: a folder of class folders, or a CSV or Parquet table."""

from __future__ import annotations

from pathlib import Path

from facenet2expnet.data.manifest import PICTURE_ENDINGS, Manifest, read_manifest
from facenet2expnet.data.sources.base import About, Source

ABOUT = About(
    title="Your own pictures",
    ask="you have them",
    terms="Yours to know: the people in the pictures must have agreed.",
    tree=f"""
anger/1.png, happiness/2.jpg, ...          (one folder a class; deeper folders are read too)
  or train/anger/..., test/anger/...       (gives the column split)
  or labels.csv                            (image,label and, where known, subject,sequence,frame,split,fold)
Pictures end in {", ".join(PICTURE_ENDINGS)}.
""",
    classes="Any names of your own.",
    protocol="Subject groups where every subject is known, else stratified folds; a split or fold column goes first.",
    traps=(
        "Without a column subject nobody can tell whether one person is on two sides.",
        "Frames of one film belong together: fill in sequence.",
    ),
)


def read(path: Path) -> Manifest:
    """The manifest of a folder or a table, as `read_manifest` reads it."""
    return read_manifest(path)


SOURCE = Source("folder", ABOUT, read)
