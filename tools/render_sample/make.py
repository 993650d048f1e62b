"""Render the bundled sample: python tools/render_sample/make.py OUT [--seed 3] [--subjects N] [--sheet FILE]

Writes OUT/S001/S001_001_00000001.webp ... and OUT/manifest.csv. The same seed gives the same files on the
same machine and library versions. ``--subjects N`` renders the first N people of the same cast.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from expressions import Performance, face_at, perform
from head import HeadModel
from numpy.typing import NDArray
from people import Person, deal_sequences, draw_person
from PIL import Image
from scene import Stage, View, develop, draw_background

CAST = 100
SIZE, DRAWN = 160, 320
QUALITY = 88
WEAK_SHARE, BLEND_SHARE = 0.1, 0.18
FIELDS = ("image", "label", "subject", "sequence", "frame", "intensity")


@dataclass(frozen=True)
class Setting:
    """What stays the same through a sequence: light, place, camera, and the head's first turn."""

    turn_deg: NDArray[np.float64]
    drift_deg: NDArray[np.float64]
    light: dict[str, object]
    shift_dm: NDArray[np.float64]
    zoom: float
    gaze: NDArray[np.float64]
    exposure: float
    grain: float
    saturation: float
    background: NDArray[np.float32]

    def view(self, fraction: float) -> View:
        """The view when the expression has come ``fraction`` of its way."""
        turn = np.clip(self.turn_deg + fraction * self.drift_deg, [-13, -9, -7], [13, 9, 7])
        return View(
            turn_deg=tuple(turn.tolist()),
            shift_dm=tuple(self.shift_dm.tolist()),
            zoom=self.zoom,
            **self.light,
        )  # type: ignore[arg-type]


def draw_setting(rng: np.random.Generator) -> Setting:
    """Draw the light, the head's turn and the camera of a sequence."""
    light: dict[str, object] = {
        "key_deg": (float(rng.choice([-1.0, 1.0]) * rng.uniform(0, 58)), float(rng.uniform(5, 48))),
        "key": float(rng.uniform(0.48, 0.72)),
        "fill": float(rng.uniform(0.15, 0.35)),
        "ambient": float(rng.uniform(0.35, 0.55)),
        "warmth": float(rng.uniform(-0.4, 0.8)),
    }
    return Setting(
        turn_deg=rng.normal(0, [4.5, 3.0, 2.0]),
        drift_deg=rng.normal(0, [2.0, 2.0, 1.2]),
        light=light,
        shift_dm=rng.normal(0, 0.015, 2),
        zoom=float(np.clip(rng.normal(1.0, 0.025), 0.93, 1.06)),
        gaze=np.clip(rng.normal(0, 0.15, 2), -0.5, 0.5),
        exposure=float(rng.uniform(0.92, 1.18)),
        grain=float(rng.uniform(0.5, 3.5)),
        saturation=float(rng.uniform(0.8, 1.05)),
        background=draw_background(rng, DRAWN),
    )


def render_sequence(
    stage: Stage, rng: np.random.Generator, person: Person, performance: Performance
) -> Iterator[tuple[int, str, float, NDArray[np.uint8]]]:
    """Yield (frame, label, intensity, picture) of a sequence: the neutral first picture and the last three."""
    rest = stage.model.person(person.phenotype, person.local)
    setting = draw_setting(rng)
    length = int(rng.integers(9, 31))
    frames = (1, length - 2, length - 1, length)
    for frame, fraction in zip(frames, (0.0, *performance.ramp), strict=True):
        gaze = setting.gaze + rng.normal(0, 0.05, 2)
        actions = face_at(rng, person.habits, performance.peak, fraction, (float(gaze[0]), float(gaze[1])))
        jitter = Setting(**{**vars(setting), "turn_deg": setting.turn_deg + rng.normal(0, 0.4, 3)})
        drawn = stage.draw(stage.model.move(rest, actions), actions, jitter.view(fraction))
        picture = develop(drawn, setting.background, rng, setting.exposure, SIZE, setting.grain, setting.saturation)
        label = performance.label if fraction else "neutral"
        yield frame, label, performance.intensity * fraction, picture


def render_person(stage: Stage, seed: int, index: int, labels: list[str], out: Path) -> list[dict[str, object]]:
    """Render all sequences of the cast's person ``index`` and return the manifest's rows."""
    person = draw_person(np.random.default_rng([seed, 1, index]), f"S{index + 1:03d}")
    stage.enter(np.random.default_rng([seed, 2, index]), person.looks)
    folder = out / person.name
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for number, label in enumerate(labels, start=1):
        rng = np.random.default_rng([seed, 3, index, number])
        performance = perform(rng, label, person.habits, WEAK_SHARE, BLEND_SHARE)
        for frame, shown, intensity, picture in render_sequence(stage, rng, person, performance):
            path = folder / f"{person.name}_{number:03d}_{frame:08d}.webp"
            Image.fromarray(picture).save(path, quality=QUALITY, method=6)
            rows.append(
                {
                    "image": path.relative_to(out).as_posix(),
                    "label": shown,
                    "subject": person.name,
                    "sequence": f"{number:03d}",
                    "frame": frame,
                    "intensity": f"{intensity:.3f}",
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="empty or new folder")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--subjects", type=int, default=CAST, help=f"render only the first N of {CAST}")
    options = parser.parse_args()
    if not 1 <= options.subjects <= CAST:
        parser.error(f"--subjects: expected 1 to {CAST}, got {options.subjects}")
    if options.out.exists() and any(options.out.iterdir()):
        parser.error(f"{options.out}: expected an empty or new folder; choose another or empty it")
    options.out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    stage = Stage(HeadModel(), DRAWN)
    hands = deal_sequences(np.random.default_rng([options.seed, 0]), CAST)
    rows: list[dict[str, object]] = []
    for index in range(options.subjects):
        rows += render_person(stage, options.seed, index, hands[index], options.out)
        if index % 10 == 9:
            print(f"{index + 1} people, {len(rows)} pictures, {time.monotonic() - start:.0f} s", flush=True)
    with (options.out / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    size = sum(path.stat().st_size for path in options.out.rglob("*.webp"))
    print(f"{len(rows)} pictures, {size / 1e6:.2f} MB, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
