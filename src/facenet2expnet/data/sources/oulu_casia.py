"""Oulu-CASIA NIR&VIS: six expressions of eighty subjects, filmed in visible light and near infrared."""

from __future__ import annotations

from pathlib import Path

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.sources import Source, layout
from facenet2expnet.labels import canonical

CAMERAS, LIGHTS = ("VL", "NI"), ("Strong", "Weak", "Dark")
PATTERN = r"(?P<folder>(?:.*/)?{camera}(?:_Acropped)?/{light})/(?P<sequence>(?P<subject>P\d+)/(?P<label>[^/]+))/[^/]+"


def read(path: Path, camera: str = "VL", light: str = "Strong", frames: int = 3) -> Manifest:
    """The last frames of each sequence of one camera under one light; original pictures are preferred to cropped ones.

    Raises:
        UserError: If this is not Oulu-CASIA, or an option is out of range.
    Source: FN2EN, Table II and section IV-D.
    """
    layout.check_option("camera", camera, CAMERAS)
    layout.check_option("light", light, LIGHTS)
    table, _ = layout.matching(path, PATTERN.format(camera=camera, light=light))
    if not len(table):
        expected = f"pictures in {camera}/{light}/P001/Anger and so on, in it or below (options camera and light)"
        raise layout.wrong_root(path, "Oulu-CASIA", expected, (*CAMERAS, *LIGHTS))
    cropped = table["folder"].str.contains("_acropped", case=False)
    table = table[~cropped] if not cropped.all() else table
    table = table[table["folder"] == table["folder"].iloc[0]]
    table = table.assign(label=table["label"].map(canonical), subject=table["subject"].str.upper())
    other = list(table["sequence"][table["label"].isna()].unique())
    table = layout.numbered(table.dropna(subset="label"), frames).query("last")
    sequences = table["sequence"].nunique()
    notes = (
        f"{sequences} sequences of {table['subject'].nunique()} subjects were read ({camera}, {light}).",
        *layout.counted(other, "folders are no expression"),
        *layout.incomplete(sequences, 480, "sequences per camera and light"),
    )
    return Manifest(table.drop(columns=["folder", "size", "last"]), path, name="oulu-casia", notes=notes)


OPTIONS = {
    "camera": "VL (visible light) or NI (near infrared)",
    "light": "Strong, Weak or Dark",
    "frames": "number of last frames that have the label",
}
SOURCE = Source("oulu-casia", "Oulu-CASIA NIR&VIS facial expression database", read, OPTIONS)
