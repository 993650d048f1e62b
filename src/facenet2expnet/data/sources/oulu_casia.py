"""Oulu-CASIA NIR&VIS: six expressions of eighty subjects, filmed in visible light and near infrared."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.sources.base import About, Source
from facenet2expnet.data.sources.layout import (
    a_few,
    child,
    found_below,
    pictures_in,
    relative,
    subfolders,
    wrong_root,
)
from facenet2expnet.errors import UserError
from facenet2expnet.labels import canonical

CAMERAS = ("VL", "NI")
LIGHTS = ("Strong", "Weak", "Dark")
SEQUENCES = 480

ABOUT = About(
    title="Oulu-CASIA NIR&VIS facial expression database",
    ask="Center for Machine Vision and Signal Analysis, University of Oulu: www.oulu.fi/cmvs (research databases)",
    terms="Research only, by signed agreement.",
    tree="""
OriginalImg/VL/Strong/P001/Anger/000.jpeg, ...      (B_OriginalImg and Oulu_CASIA_NIR_VIS/VL are read as well)
""",
    classes="6 (An Di Fe Ha Sa Su).",
    protocol="Ten groups of subjects by ascending ID, each tested once: --protocol subject-groups.",
    traps=(
        "The paper uses the visible-light camera (VL) under strong light and the last three frames: 1,440 pictures.",
        "The paper's Table II prints 1,444 in all; six classes of 240 make 1,440.",
        "The near-infrared set and the weak and dark light show the same people: never put them on the other side.",
    ),
)


def read(path: Path, camera: str = "VL", light: str = "Strong", frames: int = 3) -> Manifest:
    """The last frames of each sequence of one camera under one light.

    Raises:
        UserError: If this is not Oulu-CASIA, or an option is out of range.
    Source: FN2EN, Table II and section IV-D.
    """
    if camera not in CAMERAS or light not in LIGHTS or frames < 1:
        raise UserError(
            f"camera is {camera}, light is {light}, frames is {frames}; expected camera {' or '.join(CAMERAS)}, "
            f"light {', '.join(LIGHTS)}, frames 1 or more"
        )
    folder = _folder(path, camera, light)
    rows, empty, other, subjects = [], [], [], 0
    for subject in subfolders(folder):
        if not (subject.name[:1].upper() == "P" and subject.name[1:].isdecimal()):
            other.append(subject.name)
            continue
        subjects += 1
        for emotion in subfolders(subject):
            label = canonical(emotion.name)
            found = pictures_in(emotion)
            sequence = f"{subject.name}/{emotion.name}"
            if label is None:
                other.append(sequence)
            elif not found:
                empty.append(sequence)
            else:
                first = max(0, len(found) - frames)
                rows += [
                    {
                        "image": relative(picture, path),
                        "label": label,
                        "subject": subject.name.upper(),
                        "sequence": sequence,
                        "frame": first + number + 1,
                    }
                    for number, picture in enumerate(found[first:])
                ]
    if not rows:
        raise UserError(f"{folder} holds no pictures in P001/Anger and the like; is the download complete?")
    counted = len({row["sequence"] for row in rows})
    notes = [f"{counted} sequences of {subjects} subjects were read from {relative(folder, path)}."]
    if empty:
        notes.append(f"{len(empty)} sequences hold no picture: {a_few(empty)}.")
    if other:
        notes.append(f"{len(other)} folders are no subject or no expression: {a_few(other)}.")
    if counted < SEQUENCES:
        notes.append(f"The release has {SEQUENCES} sequences a camera and light, {counted} are here.")
    return Manifest(pd.DataFrame(rows), path, name="oulu-casia", notes=tuple(notes))


def _folder(path: Path, camera: str, light: str) -> Path:
    found = [
        inner
        for outer in [*found_below(path, camera), *found_below(path, f"{camera}_Acropped")]
        if outer.is_dir() and (inner := child(outer, light)) is not None and inner.is_dir()
    ]
    if not found:
        cameras = [name for name in CAMERAS if found_below(path, name)]
        if cameras:
            raise UserError(
                f"{path} holds Oulu-CASIA's {' and '.join(cameras)}, but no {camera}/{light}; is the download "
                f"complete? Or pass camera and light"
            )
        parts = (*CAMERAS, *LIGHTS)
        raise wrong_root(path, "Oulu-CASIA", f"{camera}/{light}/P001 in it or below", parts)
    originals = [folder for folder in found if "acropped" not in folder.parent.name.lower()]
    return (originals or found)[0]


SOURCE = Source(
    "oulu-casia",
    ABOUT,
    read,
    {
        "camera": "VL (visible light) or NI (near infrared)",
        "light": "Strong, Weak or Dark",
        "frames": "how many of the last frames show the expression",
    },
)
