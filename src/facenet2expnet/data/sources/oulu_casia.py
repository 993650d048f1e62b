"""Oulu-CASIA NIR&VIS: six expressions of eighty subjects, filmed in visible light and near infrared."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.sources import layout
from facenet2expnet.data.sources.base import Source
from facenet2expnet.errors import UserError
from facenet2expnet.labels import canonical

CAMERAS = ("VL", "NI")
LIGHTS = ("Strong", "Weak", "Dark")
SEQUENCES = 480


def read(path: Path, camera: str = "VL", light: str = "Strong", frames: int = 3) -> Manifest:
    """The last frames of each sequence of one camera under one light.

    Raises:
        UserError: If this is not Oulu-CASIA, or an option is out of range.
    Source: FN2EN, Table II and section IV-D.
    """
    layout.check_option("camera", camera, CAMERAS)
    layout.check_option("light", light, LIGHTS)
    if frames < 1:
        raise UserError(f"frames is {frames}, expected 1 or more")
    folder = _folder(path, camera, light)
    rows, empty, other, sequences = [], [], [], []
    for subject in layout.subfolders(folder):
        if not (subject.name[:1].upper() == "P" and subject.name[1:].isdecimal()):
            other.append(subject.name)
            continue
        for emotion in layout.subfolders(subject):
            label, found = canonical(emotion.name), layout.pictures_in(emotion)
            sequence = f"{subject.name}/{emotion.name}"
            if label is None:
                other.append(sequence)
            elif not found:
                empty.append(sequence)
            else:
                sequences.append(sequence)
                rows += [
                    (layout.relative(picture, path), label, subject.name.upper(), sequence, number + 1)
                    for number, picture in list(enumerate(found))[-frames:]
                ]
    if not rows:
        raise UserError(f"{folder} holds no pictures in folders like P001/Anger; is the download complete?")
    table = pd.DataFrame(rows, columns=["image", "label", "subject", "sequence", "frame"])
    notes = [
        f"{len(sequences)} sequences of {table['subject'].nunique()} subjects were read ({camera}, {light}).",
        *layout.counted(empty, "sequences hold no picture"),
        *layout.counted(other, "folders are no subject or no expression"),
    ]
    if len(sequences) < SEQUENCES:
        notes.append(f"The release has {SEQUENCES} sequences per camera and light, {len(sequences)} are here.")
    return Manifest(table, path, name="oulu-casia", notes=tuple(notes))


def _folder(path: Path, camera: str, light: str) -> Path:
    """The folder of a camera and light; original pictures are preferred to cropped ones."""
    for name in (camera, f"{camera}_Acropped"):
        for outer in layout.find_below(path, name):
            inner = layout.child(outer, light)
            if inner is not None and inner.is_dir():
                return inner
    cameras = [name for name in CAMERAS if layout.find_below(path, name)]
    if cameras:
        raise UserError(
            f"{path} holds Oulu-CASIA's {' and '.join(cameras)}, but no {camera}/{light}; is the download "
            f"complete? Or pass camera and light"
        )
    raise layout.wrong_root(path, "Oulu-CASIA", f"{camera}/{light}/P001 in it or below", (*CAMERAS, *LIGHTS))


SOURCE = Source(
    name="oulu-casia",
    title="Oulu-CASIA NIR&VIS facial expression database",
    reader=read,
    options={
        "camera": "VL (visible light) or NI (near infrared)",
        "light": "Strong, Weak or Dark",
        "frames": "number of last frames that have the label",
    },
)
