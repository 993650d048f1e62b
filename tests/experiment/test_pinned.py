"""The numbers of a small training of every stage and both baselines, as commit 4d05e45 gave them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

import tiny
from facenet2expnet.data import splits
from facenet2expnet.data.manifest import read_manifest
from facenet2expnet.experiment.compare import compare

TESTED = {"anger": (1, 2, 3, 5), "happiness": (0, 5, 6, 7), "surprise": (1, 3, 5, 6)}
WEIGHTS = {
    "scratch/scratch": 5237.9970385792285,
    "fine-tune/fine_tune": 107.89748435002912,
    "fn2en/stage1": 5137.297406058915,
    "fn2en/stage2": 5318.329370817297,
}
"""Stage -> sum of the absolute values of all its weights and buffers; equal to the last bit on the processor that gave
them, and nearly so on others."""


@pytest.mark.usefixtures("tiny_face_net")
def test_small_trainings_give_the_weights_of_before(tmp_path: Path) -> None:
    faces = tiny.write_faces(tmp_path / "faces")
    test = [f"{label}/{number:02}.png" for label, numbers in TESTED.items() for number in numbers]
    train = [image for image in read_manifest(faces).table["image"] if image not in test]
    fold = {"name": "fold-1", "train": train, "test": test}
    (tmp_path / "folds.json").write_text(json.dumps({"format": splits.FORMAT, "folds": [fold]}))
    run = compare(
        faces, recipe=tiny.tiny_recipe("stage2.soft_labels=0.5"), out=tmp_path / "run",
        protocol=str(tmp_path / "folds.json"), device="cpu", threads=1,
    )  # fmt: skip
    found = {
        stage: sum(
            float(value.double().abs().sum()) for value in load_file(run / "fold-1" / f"{stage}.safetensors").values()
        )
        for stage in WEIGHTS
    }
    assert found == pytest.approx(WEIGHTS, rel=1e-5)
