"""Draw a cast of people: shapes, colours, habits; and deal the labelled sequences out among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from expressions import Habits, draw_habits
from skin import EYE_TONES, HAIR_TONES, SKIN_TONES, Looks

# CK+'s 327 labelled sequences (Lucey et al. 2010): three last pictures of each give 135, 54, 177, ...
SEQUENCES = {
    "anger": 45,
    "contempt": 18,
    "disgust": 59,
    "fear": 25,
    "happiness": 69,
    "sadness": 28,
    "surprise": 83,
}

# Factor on the spreads below: full spreads give caricatures.
SHAPE = 0.6

# Anny's local changes that shape a face, with the spread of each in Anny's -1..1.
LOCAL_SPREAD = {
    "cheek-volume-incr": 0.35, "cheek-bones-incr": 0.4, "cheek-inner-incr": 0.3, "cheek-trans-up": 0.25,
    "eye-scale-incr": 0.3, "eye-height2-incr": 0.3, "eye-corner1-up": 0.3, "eye-corner2-up": 0.35,
    "eye-trans-out": 0.25, "eye-bag-incr": 0.3, "eye-eyefold-up": 0.3, "eye-push1-out": 0.25,
    "ear-scale-incr": 0.25, "ear-wing-incr": 0.3,
}  # fmt: skip
CENTRAL_SPREAD = {
    "chin-height-incr": 0.3, "chin-width-incr": 0.4, "chin-prominent-incr": 0.3, "chin-bones-incr": 0.3,
    "chin-cleft-incr": 0.25, "chin-jaw-drop-incr": 0.25, "eyebrows-angle-up": 0.35, "eyebrows-trans-up": 0.35,
    "eyebrows-trans-forward": 0.35, "forehead-scale-vert-incr": 0.3, "forehead-trans-forward": 0.3,
    "forehead-nubian-incr": 0.3, "head-scale-vert-incr": 0.25, "head-scale-horiz-incr": 0.3, "head-fat-incr": 0.35,
    "head-age-incr": 0.2, "head-angle-out": 0.15, "mouth-scale-horiz-incr": 0.35, "mouth-upperlip-volume-incr": 0.4,
    "mouth-lowerlip-volume-incr": 0.4, "mouth-angles-up": 0.22, "mouth-cupidsbow-incr": 0.35,
    "mouth-trans-up": 0.2, "mouth-laugh-lines-out": 0.3, "mouth-philtrum-volume-incr": 0.3,
    "nose-scale-vert-incr": 0.3, "nose-scale-horiz-incr": 0.35, "nose-width1-incr": 0.3, "nose-width2-incr": 0.3,
    "nose-width3-incr": 0.35, "nose-hump-incr": 0.4, "nose-greek-incr": 0.3, "nose-point-up": 0.35,
    "nose-point-width-incr": 0.35, "nose-volume-incr": 0.3, "nose-flaring-incr": 0.3, "nose-scale-depth-incr": 0.3,
    "neck-scale-horiz-incr": 0.2, "neck-double-incr": 0.2,
}  # fmt: skip


@dataclass(frozen=True)
class Person:
    """One subject of the sample."""

    name: str
    phenotype: Mapping[str, float]
    local: Mapping[str, float]
    looks: Looks
    habits: Habits


def draw_person(rng: np.random.Generator, name: str) -> Person:
    """Draw a person from chance; no person that lives is meant."""
    female = rng.random() < 0.55
    gender = float(np.clip((0.88 if female else 0.12) + rng.normal(0, 0.12), 0.0, 1.0))
    age = float(rng.uniform(0.0, 1.0) ** 1.8)
    ancestry = rng.dirichlet([0.45, 0.45, 0.6])
    phenotype = {
        "gender": gender,
        "age": 0.62 + 0.34 * age,
        "muscle": float(np.clip(rng.normal(0.5, 0.17), 0.1, 0.9)),
        "weight": float(np.clip(rng.normal(0.5, 0.19), 0.05, 0.95)),
        "height": 0.5,
        "proportions": float(rng.uniform(0.2, 0.8)),
        "african": float(ancestry[0]),
        "asian": float(ancestry[1]),
        "caucasian": float(ancestry[2]),
    }
    local: dict[str, float] = {}
    for change, spread in LOCAL_SPREAD.items():
        both = rng.normal(0, spread)
        for side in ("l", "r"):
            local[f"{side}-{change}"] = float(np.clip(SHAPE * both + rng.normal(0, 0.2 * spread), -0.9, 0.9))
    for change, spread in CENTRAL_SPREAD.items():
        local[change] = float(np.clip(SHAPE * rng.normal(0, spread), -0.9, 0.9))
    return Person(name, phenotype, local, _draw_looks(rng, female, age, ancestry), draw_habits(rng))


def _between(table: np.ndarray, position: float) -> np.ndarray:
    position = float(np.clip(position, 0, len(table) - 1))
    low = min(int(position), len(table) - 2)
    return table[low] * (1 - (position - low)) + table[low + 1] * (position - low)


def _draw_looks(rng: np.random.Generator, female: bool, age: float, ancestry: np.ndarray) -> Looks:
    african, asian, caucasian = ancestry
    tone = 5.8 * african + 2.2 * asian + 0.9 * caucasian + rng.normal(0, 0.6)
    skin = _between(SKIN_TONES, tone) * (1 + rng.normal(0, 0.02, 3))
    fair = float(np.clip(caucasian * 1.2 - 0.25, 0, 1))
    grey = rng.random() < np.clip((age - 0.55) * 1.6, 0, 0.8)
    shade = 6.0 if grey else min(float(rng.beta(1.1, 2.0)) * 5.0 * fair + rng.uniform(0, 0.9), 5.0)
    eyes = rng.uniform(0, 0.8) if rng.random() > fair else rng.uniform(0.8, 4.0)
    lips = skin * np.array([0.86, 0.64, 0.64]) + (np.array([14, 0, 4]) if female else 0)
    if female and rng.random() < 0.25:
        lips = 0.6 * lips + 0.4 * np.array([165, 40, 55])
    growth = 0.0 if female else float(rng.choice([0.0, 0.18, 0.35, 0.75], p=[0.45, 0.25, 0.15, 0.15]))
    moustache = growth if female or growth > 0 else float(rng.choice([0.0, 0.7], p=[0.92, 0.08]))
    long_hair = bool(rng.random() < (0.72 if female else 0.06))
    hair_low = 5.2 if long_hair else float(rng.uniform(6.7, 7.2))
    receding = 0.0 if female else float(0.22 * rng.beta(1.2, 3) * (0.6 + age))
    return Looks(
        skin=np.clip(skin, 20, 255).astype(np.float32),
        lips=np.clip(lips, 15, 255).astype(np.float32),
        iris=_between(EYE_TONES, float(eyes)).astype(np.float32),
        hair=(_between(HAIR_TONES[:6], shade) if shade < 5.5 else HAIR_TONES[6] * rng.uniform(0.7, 1.2)).astype(
            np.float32
        ),
        hair_line_dm=float(rng.uniform(7.82, 8.0) + receding),
        hair_low_dm=hair_low,
        hair_thick_dm=float(rng.uniform(0.1, 0.2) if long_hair else rng.uniform(0.04, 0.16)),
        temple=float(rng.uniform(0.05, 0.5)),
        bald=bool(not female and rng.random() < 0.1),
        long_hair=long_hair,
        brow_dark=float(rng.uniform(0.75, 1.0)),
        brow_thick=float(np.clip(rng.normal(0.35 if female else 0.7, 0.2), 0.0, 1.2)),
        brow_arch=float(rng.uniform(0.03, 0.085) if female else rng.uniform(0.01, 0.06)),
        brow_height_dm=float(rng.normal(0.0, 0.012)),
        beard=growth,
        moustache=moustache,
        freckles=float(rng.uniform(0.3, 1.0) if rng.random() < 0.35 * fair else 0.0),
        blush=float(rng.uniform(0.1, 0.7)),
        age=age,
        blotches=float(rng.uniform(0.4, 1.3)),
        shirt=rng.uniform(25, 225, 3).astype(np.float32),
    )


def deal_sequences(rng: np.random.Generator, count: int) -> list[list[str]]:
    """Deal the 327 labelled sequences out to ``count`` people, no label twice to one, as even as can be.

    Raises:
        ValueError: If ``count`` is below 83: a person shows each expression at most once.
    """
    if count < max(SEQUENCES.values()):
        raise ValueError(f"expected at least {max(SEQUENCES.values())} people for CK+'s counts, got {count}")
    hands: list[list[str]] = [[] for _ in range(count)]
    for label, number in sorted(SEQUENCES.items(), key=lambda item: item[1]):
        # The person with the fewest comes first; ties are broken at random.
        order = sorted(range(count), key=lambda person: (len(hands[person]), rng.random()))
        for person in order[:number]:
            hands[person].append(label)
    return [[hand[i] for i in rng.permutation(len(hand))] for hand in hands]
