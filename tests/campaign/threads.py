"""Predict from many threads, and for long: the same numbers each time, and memory that does not grow."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import tiny
from campaign.trials import Outcomes
from facenet2expnet.predict.recognizer import Recognizer

THREADS = 8
GROWTH_BYTES = 1000.0
"""Memory that a prediction may leave behind, on average over the second half."""


def run_threads(count: int, threads: int = THREADS) -> Outcomes:
    """Predict `count` pictures from several threads with one recognizer; compare with predictions one by one."""
    outcomes, recognizer = Outcomes("threads"), Recognizer(tiny.sure_model(), "cpu")
    faces = list(tiny.faces(16))
    expected = [recognizer.predict([face], faces="whole-image", workers=1).probabilities for face in faces]

    def predict(number: int) -> bool:
        found = recognizer.predict([faces[number % len(faces)]], faces="whole-image", workers=1).probabilities
        return bool(np.allclose(found, expected[number % len(faces)], atol=1e-6))

    used = []
    with ThreadPoolExecutor(threads) as pool:
        for half in (range(count // 2), range(count // 2, count)):
            for same in pool.map(predict, half):
                outcomes.counts["as expected" if same else "other numbers"] += 1
            gc.collect()
            used.append(_resident_bytes())
    if outcomes.counts["other numbers"]:
        outcomes.fault(f"threads: {outcomes.counts['other numbers']} predictions differ")
    slope = (used[1] - used[0]) / max(1, count - count // 2)
    outcomes.notes.append(f"memory grew by {slope:.0f} bytes a prediction in the second half")
    if slope > GROWTH_BYTES and count >= 2000:  # fewer say nothing: the allocator takes memory in large pieces
        outcomes.fault(f"threads: memory grew by {slope:.0f} bytes a prediction")
    return outcomes


def _resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
