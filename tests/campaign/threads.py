"""Predict from many threads and in other processes: the same numbers each time, and memory that does not grow."""

from __future__ import annotations

import gc
import importlib.util
import multiprocessing
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

import tiny
from campaign.trials import HANGS_S, Outcomes, memory_of_status
from facenet2expnet.errors import UserError
from facenet2expnet.predict.onnx_model import load_onnx
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
            used.append(memory_of_status("VmRSS"))
    if outcomes.counts["other numbers"]:
        outcomes.fault(f"threads: {outcomes.counts['other numbers']} predictions differ")
    slope = (used[1] - used[0]) / max(1, count - count // 2)
    outcomes.notes.append(f"memory grew by {slope:.0f} bytes a prediction in the second half")
    if slope > GROWTH_BYTES and count >= 2000:  # fewer say nothing: the allocator takes memory in large pieces
        outcomes.fault(f"threads: memory grew by {slope:.0f} bytes a prediction")
    return outcomes


def run_processes() -> Outcomes:
    """Use a recognizer in a forked and in a spawned process: the same numbers, or an error that says what to do."""
    outcomes, before = Outcomes("processes"), torch.get_num_threads()
    torch.set_num_threads(2)  # with one, a forked process has nothing to wait for
    try:
        for name, recognizer in _recognizers():
            for method in ("fork", "spawn"):
                found = _in_process(method, recognizer)
                outcomes.counts[found] += 1
                if found in ("hangs", "other numbers"):
                    outcomes.fault(f"{name}, {method}: {found}")
    finally:
        torch.set_num_threads(before)
    return outcomes


def _recognizers() -> Iterator[tuple[str, Recognizer]]:
    model = tiny.sure_model()
    yield "PyTorch", Recognizer(model, "cpu")
    if importlib.util.find_spec("onnxscript"):
        from facenet2expnet.deploy import onnx

        content = onnx.with_metadata(onnx.to_graph(model), model, {"precision": "float32"})
        yield "ONNX Runtime", Recognizer(load_onnx(content, "cpu"))


def _in_process(method: str, recognizer: Recognizer) -> str:
    """Predict here and in a process that is started by a method of `multiprocessing`; return what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        here, there = (Path(folder) / f"{name}.npy" for name in ("here", "there"))
        _save_prediction(recognizer, here)
        process = multiprocessing.get_context(method).Process(target=_save_prediction, args=(recognizer, there))
        try:
            process.start()
        except UserError as error:
            return str(error)
        process.join(HANGS_S)
        if process.is_alive():
            process.kill()
            return "hangs"
        same = there.is_file() and np.allclose(np.load(here), np.load(there), atol=1e-6)
        return "the same numbers" if same else "other numbers"


def _save_prediction(recognizer: Recognizer, path: Path) -> None:
    np.save(path, recognizer.predict(list(tiny.faces(16)), faces="whole-image", workers=1).probabilities)
