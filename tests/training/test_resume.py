"""A training that was killed and resumed gives, bit for bit, the weights of a training that was not."""

from __future__ import annotations

import multiprocessing
import signal
from pathlib import Path
from typing import Any

import pytest
import victim
from safetensors.torch import load_file
from torch import Tensor

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["facenet2expnet.training.stages", "torch._dynamo"])  # imported once
JOINT = ("stage2.distil_weight=0.5", "stage2.soft_labels=0.5", "stage1.cached_views=0")
"""The live teacher in stage 2 as well."""
QUICK = (
    "stage1.epochs=0", "stage1.mixed_views=0.5", "stage2.soft_labels=0.9", "expnet.blocks=residual",
    "expnet.pool_to_tap=true",
)  # fmt: skip
"""As the recipe `quick`: no stage 1, views without features, residual blocks."""


def train(*given: Any) -> int | None:
    """Run victim.train in a process of its own; give its exit code."""
    process = PROCESSES.Process(target=victim.train, args=given)
    process.start()
    process.join(300)
    return process.exitcode


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], dict[str, Tensor]]:
    """Give the weights of uninterrupted trainings, by their settings."""
    found = {}
    for settings in ((), JOINT, QUICK):
        folder = tmp_path_factory.mktemp("whole")
        assert train(folder, "", 1, settings) == 0
        found[settings] = load_file(folder / "model.safetensors")
    return found


@pytest.mark.parametrize(
    ("where", "count", "settings"),
    [
        ("loss:fine_tune", 6, ()),
        ("views", 1, ()),
        ("loss:stage1", 7, ()),
        ("write", 3, ()),
        ("loss:stage2", 5, ()),
        ("loss:stage2", 5, JOINT),
        ("loss:stage2", 5, QUICK),
    ],
)
def test_a_killed_training_resumes_bit_for_bit(
    uninterrupted: dict[tuple[str, ...], dict[str, Tensor]],
    tmp_path: Path,
    where: str,
    count: int,
    settings: tuple[str, ...],
) -> None:
    assert train(tmp_path, where, count, settings) == -signal.SIGKILL
    assert not (tmp_path / "model.safetensors").exists()
    assert train(tmp_path, "", 1, settings) == 0
    found, expected = load_file(tmp_path / "model.safetensors"), uninterrupted[settings]
    assert set(found) == set(expected)
    assert [name for name, value in found.items() if not value.equal(expected[name])] == []
