"""The batched prediction, and that its memory does not grow with the number of faces."""

from __future__ import annotations

import multiprocessing
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from facenet2expnet.predict.model_folder import Model
from facenet2expnet.predict.scores import class_probabilities, class_scores

FACES = np.random.default_rng(0).integers(0, 256, (150, 40, 40, 3), dtype=np.uint8)


def test_scores_are_those_of_the_centre_crops_in_batches_of_64(model: Model) -> None:
    crops = torch.from_numpy(FACES[:, 4:36, 4:36]).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        expected = torch.cat([model.module(batch) for batch in crops.split(64)])
    found = class_scores(model.module, FACES, 32)
    assert (found.shape, found.dtype) == ((150, 3), np.float32)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(class_probabilities(model.module, FACES, 32), expected.softmax(dim=1).numpy(), atol=1e-6)


def test_rows_select_faces_in_their_order(model: Model) -> None:
    rows = np.array([149, 3, 3, 70])
    found = class_scores(model.module, FACES, 32, rows=rows)
    np.testing.assert_array_equal(found, class_scores(model.module, FACES[rows], 32))
    assert class_scores(model.module, FACES, 32, rows=rows[:0]).shape == (0, 3)


def test_memory_does_not_grow_with_the_number_of_faces(model: Model, tmp_path: Path) -> None:
    """24 MB of memory-mapped faces are read with less than 3 MB."""
    np.save(tmp_path / "faces.npy", np.tile(FACES, (34, 1, 1, 1)))
    faces = np.load(tmp_path / "faces.npy", mmap_mode="r")
    class_scores(model.module, faces[:64], 32)
    tracemalloc.start()
    class_scores(model.module, faces, 32, rows=np.arange(len(faces)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_process_gives_the_same_scores(model: Model, tmp_path: Path) -> None:
    """Without care it waits forever for threads that stayed in its parent."""
    before, expected = torch.get_num_threads(), class_scores(model.module, FACES, 32)

    def predict() -> None:
        np.save(tmp_path / "scores.npy", class_scores(model.module, FACES, 32))

    torch.set_num_threads(2)
    try:
        class_scores(model.module, FACES, 32)
        child = multiprocessing.get_context("fork").Process(target=predict)
        child.start()
        child.join(120)
        waits = child.is_alive()
        child.kill()
    finally:
        torch.set_num_threads(before)
    assert not waits
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), expected, atol=1e-6)
