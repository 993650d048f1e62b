"""What a peer's script shares with the others: read faces, answer with probabilities, or time the answers.

    run_X.py FACES COUNT SIDE ANSWERS [--time FACES_TIMED] [options of its own]

FACES is a file of COUNT * SIDE * SIDE bytes, grey. ANSWERS becomes a file of COUNT * 7 numbers (float32) in the order
of `CLASSES`. With `--time` no answers are written. The last line of the output is a JSON object. protocol.js does the
same. Only NumPy and the standard library are imported here: every peer has an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

CLASSES = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
WARM_UP = 20
BATCH = 64

Classify = Callable[[np.ndarray], np.ndarray]
"""Grey faces (N, SIDE, SIDE) uint8 -> (N, 7) numbers in the order of `CLASSES`."""


def main(load: Callable[[argparse.Namespace], tuple[Classify, int]], *options: str) -> None:
    """Run a peer's script.

    Args:
        load: called with the options; gives the function that classifies faces, and the bytes of its weights.
        options: names of further options, as "--model".
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("faces", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("side", type=int)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--time", type=int)
    for option in options:
        parser.add_argument(option)
    given = parser.parse_args()
    faces = np.fromfile(given.faces, np.uint8).reshape(given.count, given.side, given.side)
    classify, weights_bytes = load(given)
    found: dict[str, float] = {"weights_bytes": weights_bytes}
    if given.time:
        found["ms"] = milliseconds(classify, faces, given.time)
    else:
        answers = np.concatenate([classify(faces[first : first + BATCH]) for first in range(0, len(faces), BATCH)])
        assert answers.shape == (len(faces), len(CLASSES)), answers.shape
        answers.astype(np.float32).tofile(given.answers)
    print(json.dumps(found), flush=True)


def milliseconds(classify: Classify, faces: np.ndarray, count: int) -> float:
    """Median milliseconds of so many faces, one at a time, after some that are not counted."""
    spent = []
    for number in range(WARM_UP + count):
        face = faces[number % len(faces)][None]
        begin = time.perf_counter()
        classify(face)
        spent.append(1000 * (time.perf_counter() - begin))
    return statistics.median(spent[WARM_UP:])


def in_order(names: Sequence[str]) -> list[int]:
    """The places of `CLASSES` in a peer's list of classes, whatever it calls them."""
    stems = {"ang": 0, "disg": 1, "fear": 2, "hap": 3, "sad": 4, "surp": 5, "neut": 6}
    found = {stems[stem]: place for place, name in enumerate(names) for stem in stems if name.lower().startswith(stem)}
    return [found[number] for number in range(len(CLASSES))]
