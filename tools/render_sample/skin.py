"""Procedural skin, brows, eyes and hair: what a person looks like apart from the shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from mesh import Floats
from numpy.typing import NDArray

# The detail texture is the template seen from the front: x in -1..1 dm, y in 5.6..8.6 dm.
LEFT_DM, BOTTOM_DM = -1.0, 5.6
WIDTH_DM, HEIGHT_DM = 2.0, 3.0
COLUMNS, ROWS = 640, 960
# The texture can only darken (8 bit, at most 1), so plain skin sits below white.
PLAIN = 0.86

SKIN_TONES = np.array(
    [
        [214, 168, 142],
        [206, 156, 128],
        [194, 142, 112],
        [176, 124, 92],
        [152, 102, 74],
        [124, 80, 58],
        [98, 62, 46],
        [76, 48, 37],
    ],
    np.float32,
)
HAIR_TONES = np.array(
    [[34, 29, 27], [50, 38, 31], [72, 48, 32], [104, 70, 42], [146, 112, 72], [116, 60, 36], [112, 108, 104]],
    np.float32,
)
EYE_TONES = np.array([[62, 38, 22], [92, 60, 34], [110, 96, 58], [96, 122, 110], [92, 124, 158]], np.float32)


@dataclass(frozen=True)
class Looks:
    """A person's colours and surface; all colours 0..255 RGB, all amounts 0..1."""

    skin: Floats
    lips: Floats
    iris: Floats
    hair: Floats
    hair_line_dm: float
    hair_low_dm: float
    hair_thick_dm: float
    temple: float
    bald: bool
    long_hair: bool
    brow_dark: float
    brow_thick: float
    brow_arch: float
    brow_height_dm: float
    beard: float
    moustache: float
    freckles: float
    blush: float
    age: float
    blotches: float
    shirt: Floats


def texture_points(template_dm: Floats) -> Floats:
    """Texture coordinates in 0..1 of template points (V, 3) -> (V, 2)."""
    u = (template_dm[:, 0] - LEFT_DM) / WIDTH_DM
    v = (template_dm[:, 1] - BOTTOM_DM) / HEIGHT_DM
    return np.stack([np.clip(u, 0, 1), np.clip(v, 0, 1)], axis=1).astype(np.float32)


def _pixel(x_dm: Floats, y_dm: Floats) -> NDArray[np.int32]:
    """Template positions in the texture's pixels, row 0 at the top, in 1/16 pixel for OpenCV's `shift=4`."""
    column = (np.asarray(x_dm) - LEFT_DM) / WIDTH_DM * COLUMNS
    row = ROWS - (np.asarray(y_dm) - BOTTOM_DM) / HEIGHT_DM * ROWS
    return np.round(np.stack([column, row], axis=-1) * 16).astype(np.int32)


def _grid() -> tuple[Floats, Floats]:
    x = LEFT_DM + (np.arange(COLUMNS, dtype=np.float32) + 0.5) / COLUMNS * WIDTH_DM
    y = BOTTOM_DM + (ROWS - np.arange(ROWS, dtype=np.float32) - 0.5) / ROWS * HEIGHT_DM
    return np.meshgrid(x, y)  # type: ignore[return-value]


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> Floats:
    """Gaussian noise of unit spread, blurred to features of about ``sigma`` pixels."""
    noise = cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0), sigma)
    return noise / max(float(noise.std()), 1e-6)


def _strokes(canvas: Floats, starts: Floats, ends: Floats, amounts: Floats, width: int = 1) -> None:
    for start, end, amount in zip(_pixel(*starts.T), _pixel(*ends.T), amounts, strict=True):
        cv2.line(canvas, start.tolist(), end.tolist(), float(amount), width, cv2.LINE_AA, 4)


def brow_mask(rng: np.random.Generator, looks: Looks) -> Floats:
    """(ROWS, COLUMNS) brow hair in 0..1, drawn hair by hair on both sides."""
    canvas = np.zeros((ROWS, COLUMNS), np.uint8)
    inner, outer = 0.105 + rng.normal(0, 0.012), 0.53 + rng.normal(0, 0.015)
    count = int(420 + 380 * looks.brow_thick)
    for side in (-1.0, 1.0):
        along = rng.beta(1.1, 1.25, count)
        x = inner + (outer - inner) * along
        arch = looks.brow_arch * np.sin(np.pi * np.clip(along * 0.8 + 0.05, 0, 1)) - 0.045 * along**3
        half = (0.018 + 0.034 * looks.brow_thick) * np.clip(1.25 - along, 0.22, 1.0) * np.clip(along * 9, 0.45, 1)
        y = 7.425 + looks.brow_height_dm + arch + half * rng.uniform(-1, 1, count)
        angle = np.deg2rad(68 - 72 * along + rng.normal(0, 9, count))
        length = 0.045 * (1.0 - 0.35 * along) * rng.uniform(0.7, 1.2, count)
        starts = np.stack([side * x, y], axis=1)
        ends = starts + np.stack([side * length * np.cos(angle), length * np.sin(angle)], axis=1)
        _strokes(canvas, starts, ends, rng.uniform(120, 255, count))
    return cv2.GaussianBlur(canvas, (0, 0), 0.8).astype(np.float32) / 255.0


def beard_mask(looks: Looks) -> Floats:
    """(ROWS, COLUMNS) where a beard grows, in 0..1, before stubble."""
    x, y = _grid()
    cheek_line = 6.56 + 0.62 * np.clip(np.abs(x) - 0.28, 0, 1) ** 1.2
    chin = 1.0 / (1.0 + np.exp((y - cheek_line) / 0.035))
    lip = np.exp(-(((x / 0.30) ** 4) + ((y - 6.795) / 0.055) ** 4))
    clear = np.exp(-(((x / 0.27) ** 4) + ((y - 6.63) / 0.10) ** 4))
    return np.clip(looks.beard * chin * (1 - clear) + looks.moustache * lip, 0, 1).astype(np.float32)


def detail_texture(rng: np.random.Generator, looks: Looks) -> Floats:
    """(ROWS, COLUMNS, 3) factor on the skin's colour, in 0..1, `PLAIN` for even skin."""
    shape = (ROWS, COLUMNS)
    tone = 1.0 + 0.018 * smooth_noise(rng, shape, 1.0) + 0.022 * looks.blotches * smooth_noise(rng, shape, 9)
    tone += 0.03 * looks.blotches * smooth_noise(rng, shape, 40)
    factor = np.repeat(tone[..., None], 3, axis=2)
    red = 0.03 * looks.blotches * smooth_noise(rng, shape, 22)
    factor *= 1.0 + red[..., None] * np.array([0.25, -0.8, -0.8], np.float32)
    if looks.freckles > 0:
        factor *= 1.0 - _freckles(rng, looks)[..., None] * np.array([0.28, 0.42, 0.5], np.float32)
    for _ in range(int(rng.poisson(1.5))):
        spot = np.zeros(shape, np.uint8)
        centre = _pixel(rng.uniform(-0.5, 0.5), rng.uniform(6.4, 7.9))
        cv2.circle(spot, centre.tolist(), int(rng.uniform(20, 40)), 255, -1, cv2.LINE_AA, 4)
        factor *= 1.0 - 0.55 * (spot.astype(np.float32) / 255.0)[..., None]
    stubble = beard_mask(looks) * np.clip(0.72 + 0.22 * smooth_noise(rng, shape, 0.9), 0.2, 1.0)
    hair_factor = np.clip(looks.hair / np.maximum(looks.skin, 30), 0.1, 1.0)
    factor *= 1.0 - stubble[..., None] * (1.0 - hair_factor)
    brows = brow_mask(rng, looks) * looks.brow_dark
    factor *= 1.0 - brows[..., None] * (1.0 - np.clip(hair_factor, 0.1, 0.62))
    return np.clip(PLAIN * factor, 0.0, 1.0).astype(np.float32)


def hairline_strokes(rng: np.random.Generator, looks: Looks, roots_dm: Floats) -> Floats:
    """(ROWS, COLUMNS, 3) factor: single hairs that soften the hairline. roots_dm: (N, 2) template x, y."""
    canvas = np.zeros((ROWS, COLUMNS), np.uint8)
    count = len(roots_dm)
    # Hairs lean outwards and point away from the crown.
    lean = 0.05 * np.sign(roots_dm[:, 0]) * rng.uniform(0.0, 1.0, count) + rng.normal(0, 0.012, count)
    down = rng.uniform(-0.01, 0.055, count)
    ends = roots_dm + np.stack([lean, -down], axis=1)
    starts = roots_dm + np.stack([-lean, np.full(count, 0.05)], axis=1)
    _strokes(canvas, starts, ends, rng.uniform(50, 190, count))
    amount = cv2.GaussianBlur(canvas, (0, 0), 0.9).astype(np.float32)[..., None] / 255.0
    return 1.0 - amount * (1.0 - np.clip(looks.hair / np.maximum(looks.skin, 30), 0.1, 1.0))


def _freckles(rng: np.random.Generator, looks: Looks) -> Floats:
    canvas = np.zeros((ROWS, COLUMNS), np.uint8)
    for _ in range(int(260 * looks.freckles)):
        centre = _pixel(rng.normal(0, 0.3), 7.05 + rng.normal(0, 0.16))
        cv2.circle(canvas, centre.tolist(), int(rng.uniform(10, 26)), float(rng.uniform(60, 200)), -1, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(canvas, (0, 0), 0.8).astype(np.float32) / 255.0


def crease_masks(rng: np.random.Generator) -> dict[str, Floats]:
    """Where the skin creases when a muscle pulls: name -> (ROWS, COLUMNS) in 0..1. The place varies by person."""

    def lines(curves: list[tuple[Floats, Floats]], width: int, sigma: float) -> Floats:
        canvas = np.zeros((ROWS, COLUMNS), np.uint8)
        for x, y in curves:
            cv2.polylines(canvas, [_pixel(x, y)], False, 255, width, cv2.LINE_AA, 4)
        return cv2.GaussianBlur(canvas, (0, 0), sigma).astype(np.float32) / 255.0

    masks: dict[str, Floats] = {}
    t = np.linspace(0, 1, 24, dtype=np.float32)
    rows = 7.60 + 0.085 * np.arange(4) + rng.normal(0, 0.012, 4)
    across = np.linspace(-0.42, 0.42, 40, dtype=np.float32)
    masks["forehead"] = lines(
        [
            (across * rng.uniform(0.7, 1.0), y + 0.02 * np.cos(across * 6 + rng.normal()) - 0.05 * across**2)
            for y in rows
        ],
        3,
        2.2,
    )
    masks["glabella"] = lines([(s * (0.055 + 0.02 * t), 7.36 + 0.17 * t) for s in (-1.0, 1.0)], 3, 2.2)
    for side, s in (("Left", 1.0), ("Right", -1.0)):
        fold = s * (0.175 + 0.165 * t**0.8 + rng.normal(0, 0.008))
        masks[f"fold{side}"] = lines([(fold, 6.99 - 0.36 * t)], 4, 3.0)
        masks[f"crow{side}"] = lines(
            [(s * (0.53 + 0.10 * t), 7.27 + k * 0.05 + k * 0.06 * t) for k in (-1.0, 0.0, 1.0)], 2, 1.6
        )
        masks[f"bunny{side}"] = lines(
            [(s * (0.04 + 0.09 * t), 7.20 + k - 0.05 * t) for k in (-0.05, 0.0, 0.05)], 2, 1.6
        )
        masks[f"bag{side}"] = lines([(s * (0.17 + 0.30 * t), 7.17 - 0.05 * np.sin(np.pi * t))], 3, 2.4)
    chin = rng.normal(0, 1, (26, 2)) * [0.09, 0.045] + [0.0, 6.40]
    masks["chin"] = lines([(np.array([p[0], p[0] + 0.012]), np.array([p[1], p[1] + 0.004])) for p in chin], 3, 2.0)
    return masks


def creases(actions: Mapping[str, float], age: float) -> dict[str, float]:
    """How deep each crease of `crease_masks` is for the given facial actions; 0 none, 1 deepest."""

    def get(name: str) -> float:
        return actions.get(name, 0.0)

    depth = 0.5 + 0.7 * age
    rest = 0.3 * max(age - 0.45, 0.0)
    outer = 0.5 * (get("browOuterUpLeft") + get("browOuterUpRight"))
    down = 0.5 * (get("browDownLeft") + get("browDownRight"))
    amounts = {
        "forehead": rest + 0.75 * max(outer, 0.7 * get("browInnerUp")) * (1.0 - 0.5 * min(down, 1.0)),
        "glabella": rest + 0.9 * down,
        "chin": 0.9 * get("mouthShrugLower"),
    }
    for side in ("Left", "Right"):
        pull = max(get(f"mouthSmile{side}"), 0.9 * get(f"mouthUpperUp{side}"), 0.8 * get(f"noseSneer{side}"))
        amounts[f"fold{side}"] = rest + 0.4 * pull
        amounts[f"crow{side}"] = rest + 0.8 * get(f"cheekSquint{side}")
        amounts[f"bunny{side}"] = 0.9 * get(f"noseSneer{side}")
        amounts[f"bag{side}"] = rest + 0.6 * max(get(f"cheekSquint{side}"), 0.7 * get(f"eyeSquint{side}"))
    return {name: float(np.clip(depth * amount, 0.0, 1.0)) for name, amount in amounts.items()}


def eye_texture(rng: np.random.Generator, looks: Looks, size: int = 192) -> NDArray[np.uint8]:
    """(size, size, 3) front of the eyeball: sclera, limbus, iris with fibres, pupil. Edge = one eye radius."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(axis, axis)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    sclera = np.array([232, 226, 220], np.float32) * (1.0 - 0.28 * np.clip(radius - 0.35, 0, 1))[..., None]
    sclera *= 1.0 - np.clip(radius - 0.6, 0, 1)[..., None] * np.array([0.05, 0.3, 0.3], np.float32)
    iris_edge, pupil_edge = 0.46, 0.17 + 0.05 * float(rng.random())
    fibres = sum(np.sin(angle * k + rng.uniform(0, 6.3)) for k in rng.integers(7, 40, 7))
    glow = 0.75 + 0.5 * np.clip((radius - pupil_edge) / (iris_edge - pupil_edge), 0, 1) * (0.6 + 0.4 * (y > -0.05))
    iris = looks.iris * (glow + 0.05 * fibres)[..., None]
    iris *= (1.0 - 0.6 * np.clip((radius - 0.38) / 0.08, 0, 1))[..., None]
    blend = np.clip((iris_edge - radius) / 0.04, 0, 1)[..., None]
    colour = iris * blend + sclera * (1 - blend)
    colour *= 1.0 - 0.93 * np.clip((pupil_edge - radius) / 0.03, 0, 1)[..., None]
    # The upper lid shades the eyeball.
    colour *= (1.0 - 0.45 * np.clip((-y - 0.18) / 0.5, 0, 1))[..., None]
    return np.clip(colour, 0, 255).astype(np.uint8)
