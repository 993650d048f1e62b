"""Your own pictures: a folder of class folders, or a CSV or Parquet table."""

from __future__ import annotations

from facenet2expnet.data.manifest import PICTURE_ENDINGS, read_manifest
from facenet2expnet.data.sources.base import Source

SOURCE = Source(
    name="folder",
    title="Your own pictures",
    ask="you have them",
    terms="Your own: the people in the pictures must have agreed.",
    tree=f"""
anger/1.png, happiness/2.jpg, ...          (one folder per class; deeper folders are read too)
  or train/anger/..., test/anger/...       (gives the column split)
  or labels.csv                            (image,label and, where known, subject,sequence,frame,split,fold)
Pictures end in {", ".join(PICTURE_ENDINGS)}.
""",
    classes="Any names.",
    protocol="A fold or split column if there is one, else subject groups if all subjects are known, else stratified.",
    reader=lambda path: read_manifest(path),
    warnings=(
        "Without a column subject it can't be checked whether one person is on two sides.",
        "Frames of one film belong together: fill in the column sequence.",
    ),
)
