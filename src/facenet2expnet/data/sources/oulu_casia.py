"""Oulu-CASIA NIR&VIS: six expressions of eighty subjects, filmed in visible light and near infrared."""

from __future__ import annotations

import re
from pathlib import Path

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.sources import Source, layout
from facenet2expnet.errors import UserError
from facenet2expnet.labels import canonical

CAMERAS, LIGHTS = ("VL", "NI"), ("Strong", "Weak", "Dark")


def read(path: Path, camera: str = "VL", light: str = "Strong", frames: int = 3) -> Manifest:
    """The last frames of each sequence of one camera under one light.

    Raises:
        UserError: If this is not Oulu-CASIA, or an option is out of range.
    Source: FN2EN, Table II and section IV-D.
    """
    layout.check_option("camera", camera, CAMERAS)
    layout.check_option("light", light, LIGHTS)
    layout.check_frames(frames)
    folder = _folder(path, camera, light)
    rows, empty, other = [], [], []
    for subject in layout.subfolders(folder):
        if not re.fullmatch(r"[Pp]\d+", subject.name):
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
                last = list(enumerate(found, start=1))[-frames:]
                rows += [(picture, label, subject.name.upper(), sequence, number) for number, picture in last]
    if not rows:
        raise UserError(f"{folder} holds no pictures in folders like P001/Anger; is the download complete?")
    subjects, sequences = (len({row[column] for row in rows}) for column in (2, 3))
    notes = [
        f"{sequences} sequences of {subjects} subjects were read ({camera}, {light}).",
        *layout.counted(empty, "sequences hold no picture"),
        *layout.counted(other, "folders are no subject or no expression"),
        *layout.incomplete(sequences, 480, "sequences per camera and light"),
    ]
    return layout.manifest("oulu-casia", path, rows, "image label subject sequence frame", notes)


def _folder(path: Path, camera: str, light: str) -> Path:
    """The folder of a camera and light; original pictures are preferred to cropped ones."""
    for name in (camera, f"{camera}_Acropped"):
        for outer in layout.find_below(path, name):
            inner = layout.child(outer, light)
            if inner is not None and inner.is_dir():
                return inner
    cameras = [name for name in CAMERAS if any(layout.find_below(path, name))]
    if cameras:
        raise UserError(
            f"{path} holds Oulu-CASIA's {' and '.join(cameras)}, but no {camera}/{light}; is the download "
            f"complete? Or pass camera and light"
        )
    raise layout.wrong_root(path, "Oulu-CASIA", f"{camera}/{light}/P001 in it or below", (*CAMERAS, *LIGHTS))


OPTIONS = {
    "camera": "VL (visible light) or NI (near infrared)",
    "light": "Strong, Weak or Dark",
    "frames": "number of last frames that have the label",
}
SOURCE = Source("oulu-casia", "Oulu-CASIA NIR&VIS facial expression database", read, OPTIONS)
