"""A video that the tests make: rendered faces of the sample move over backgrounds, with the truth of every frame.

Three people. The first two cross. The third leaves the picture and returns. Then a cut: another background, and the
first and the third elsewhere. The expressions change in steps, and are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image

from facenet2expnet.data import bundled

PEOPLE = ("S025", "S068", "S076")
"""Subjects of the sample who look different to the face net: rendered faces are more alike than real ones."""

WIDTH, HEIGHT, RATE = 640, 360, 25
CUT_S, END_S = 5.0, 7.0


@dataclass(frozen=True)
class Truth:
    """One face of a frame: who it is, where its square is, and the rendered expression."""

    frame: int
    person: str
    square_xyxy_px: tuple[float, float, float, float]
    label: str


def face_pictures(person: str) -> dict[str, np.ndarray]:
    """Label -> (160, 160, 3) uint8, the person's strongest rendering of it."""
    table = bundled.read_sample()
    rows = table[table["subject"] == person].sort_values("intensity").groupby("label").tail(1)
    return {
        label: np.asarray(Image.open(bundled.sample_folder() / image).convert("RGB"))
        for label, image in zip(rows["label"], rows["image"], strict=True)
    }


def place(person: str, time_s: float) -> tuple[float, float, float] | None:
    """Centre x and y, and side, of a person's square at a time; None if the person is not in the picture."""
    if time_s >= CUT_S:
        return {PEOPLE[0]: (480.0, 130.0, 130.0), PEOPLE[2]: (150.0, 220.0, 120.0)}.get(person)
    if person == PEOPLE[0]:
        return (90 + 95 * time_s, 120, 130)
    if person == PEOPLE[1]:
        return (550 - 95 * time_s, 150, 120)
    x = {True: 320 + 200 * time_s, False: 320 + 200 * (3.6 - time_s)}[time_s < 1.8]  # leaves to the right, and returns
    return (x, 285, 115) if time_s < 1.5 or 2.6 < time_s < 3.6 else (320, 285, 115) if time_s >= 3.6 else None


def make_frames() -> tuple[list[np.ndarray], list[Truth]]:
    """All frames, (HEIGHT, WIDTH, 3) uint8 RGB, and what is in them; a later person is in front."""
    rng = np.random.default_rng(0)
    walls = [
        cv2.GaussianBlur(rng.integers(low, high, (HEIGHT, WIDTH, 3), dtype=np.uint8), (0, 0), 6)
        for low, high in ((0, 160), (120, 255))
    ]
    pictures = {person: face_pictures(person) for person in PEOPLE}
    frames, truths = [], []
    for number in range(round(END_S * RATE)):
        time_s = number / RATE
        frame = walls[time_s >= CUT_S].copy()
        seen: list[Truth] = []
        for person in PEOPLE:
            where = place(person, time_s)
            if where is None:
                continue
            labels = sorted(pictures[person])
            label = labels[int(time_s / 1.2) % len(labels)]
            x, y, side = (round(v) for v in where)
            square = (x - side // 2, y - side // 2, x - side // 2 + side, y - side // 2 + side)
            paste(frame, cv2.resize(pictures[person][label], (side, side), interpolation=cv2.INTER_AREA), square[:2])
            # A face more than a third of which is behind the new one counts as not visible.
            seen = [one for one in seen if hidden(one.square_xyxy_px, square) < 0.35]
            seen.append(Truth(number, person, square, label))
        truths += [one for one in seen if 0 < (one.square_xyxy_px[0] + one.square_xyxy_px[2]) / 2 < WIDTH - 20]
        frames.append(frame)
    return frames, truths


def paste(frame: np.ndarray, face: np.ndarray, left_top: tuple[int, int]) -> None:
    """Paste the oval of a face picture into a frame, as far as it is inside."""
    side = len(face)
    centre, axes = (side // 2, side // 2), (round(side * 0.42), side // 2 - 1)
    mask = cv2.ellipse(np.zeros((side, side), np.uint8), centre, axes, 0, 0, 360, 255, -1)
    weight = (cv2.GaussianBlur(mask, (0, 0), 1.5) / 255.0)[..., None]
    left, top = left_top
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, WIDTH), min(top + side, HEIGHT)
    if x1 <= x0 or y1 <= y0:
        return
    part, inner = frame[y0:y1, x0:x1], (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    part[:] = part * (1 - weight[inner]) + face[inner] * weight[inner]


def hidden(square: tuple[float, ...], front: tuple[float, ...]) -> float:
    """The share of a square that another one covers."""
    wide = max(0.0, min(square[2], front[2]) - max(square[0], front[0]))
    high = max(0.0, min(square[3], front[3]) - max(square[1], front[1]))
    return wide * high / ((square[2] - square[0]) * (square[3] - square[1]))


def write_video(
    path: Path,
    frames: list[np.ndarray],
    *,
    times_s: list[float] | None = None,
    rotation: int = 0,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
) -> Path:
    """Write frames as a video, at `RATE` or at times of their own, to be turned by `rotation` degrees when shown."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000 * RATE)
        if codec == "libx264":
            stream.options = {"crf": "18", "preset": "ultrafast"}
        if rotation:
            stream.set_display_rotation(rotation)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            time_s = times_s[number] if times_s else number / RATE
            frame.pts, frame.time_base = round(time_s * 1000 * RATE), Fraction(1, 1000 * RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
