"""Oulu-CASIA NIR&VIS: six expressions of eighty subjects, filmed in visible light and near infrared."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from facenet2expnet.data.manifest import Manifest
from facenet2expnet.data.sources.base import Source
from facenet2expnet.data.sources.layout import (
    check_option,
    child,
    counted,
    find_below,
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


def read(path: Path, camera: str = "VL", light: str = "Strong", frames: int = 3) -> Manifest:
    """The last frames of each sequence of one camera under one light.

    Raises:
        UserError: If this is not Oulu-CASIA, or an option is out of range.
    Source: FN2EN, Table II and section IV-D.
    """
    check_option("camera", camera, CAMERAS)
    check_option("light", light, LIGHTS)
    if frames < 1:
        raise UserError(f"frames is {frames}, expected 1 or more")
    folder = _folder(path, camera, light)
    rows, empty, other, sequences = [], [], [], []
    for subject in subfolders(folder):
        if not (subject.name[:1].upper() == "P" and subject.name[1:].isdecimal()):
            other.append(subject.name)
            continue
        for emotion in subfolders(subject):
            label, found = canonical(emotion.name), pictures_in(emotion)
            sequence = f"{subject.name}/{emotion.name}"
            if label is None:
                other.append(sequence)
            elif not found:
                empty.append(sequence)
            else:
                sequences.append(sequence)
                rows += [
                    (relative(picture, path), label, subject.name.upper(), sequence, number + 1)
                    for number, picture in list(enumerate(found))[-frames:]
                ]
    if not rows:
        raise UserError(f"{folder} holds no pictures in folders like P001/Anger; is the download complete?")
    table = pd.DataFrame(rows, columns=["image", "label", "subject", "sequence", "frame"])
    notes = [
        f"{len(sequences)} sequences of {table['subject'].nunique()} subjects were read from {relative(folder, path)}.",
        *counted(empty, "sequences hold no picture"),
        *counted(other, "folders are no subject or no expression"),
    ]
    if len(sequences) < SEQUENCES:
        notes.append(
            f"The release has {SEQUENCES} sequences per camera and light, {len(sequences)} are here."
        )
    return Manifest(table, path, name="oulu-casia", notes=tuple(notes))


def _folder(path: Path, camera: str, light: str) -> Path:
    """The folder of a camera and light; original pictures are preferred to cropped ones."""
    for name in (camera, f"{camera}_Acropped"):
        for outer in find_below(path, name):
            inner = child(outer, light)
            if inner is not None and inner.is_dir():
                return inner
    cameras = [name for name in CAMERAS if find_below(path, name)]
    if cameras:
        raise UserError(
            f"{path} holds Oulu-CASIA's {' and '.join(cameras)}, but no {camera}/{light}; is the download "
            f"complete? Or pass camera and light"
        )
    raise wrong_root(path, "Oulu-CASIA", f"{camera}/{light}/P001 in it or below", (*CAMERAS, *LIGHTS))


SOURCE = Source(
    name="oulu-casia",
    title="Oulu-CASIA NIR&VIS facial expression database",
    ask="Center for Machine Vision and Signal Analysis, University of Oulu: www.oulu.fi/cmvs (research databases)",
    terms="Research only, by signed agreement.",
    tree="""
OriginalImg/VL/Strong/P001/Anger/000.jpeg, ...      (B_OriginalImg and Oulu_CASIA_NIR_VIS/VL are read as well)
""",
    classes="6 (An Di Fe Ha Sa Su).",
    protocol="Ten groups of subjects by ascending ID, each tested once: --protocol subject-groups.",
    reader=read,
    warnings=(
        "The paper uses the visible-light camera (VL) under strong light and the last three frames: 1,440 pictures.",
        "The paper's Table II prints 1,444 in total; six classes of 240 make 1,440.",
        "The near-infrared set and the weak and dark light show the same people: never split people between them.",
    ),
    options={
        "camera": "VL (visible light) or NI (near infrared)",
        "light": "Strong, Weak or Dark",
        "frames": "number of last frames that have the label",
    },
)
