"""How jobs are shared out: what contradicts itself is refused, and threads and GPUs are dealt out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from facenet2expnet.errors import UserError
from facenet2expnet.experiment import parallel
from facenet2expnet.experiment.parallel import Parallel
from facenet2expnet.experiment.ray_workers import RayWorkers
from facenet2expnet.experiment.workers import Workers


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"jobs": 0}, "jobs is 0, expected 1 or more"),
        ({"jobs_per_gpu": 2}, "jobs_per_gpu is 2, expected gpus with it"),
        ({"gpus": ("0", "0")}, "gpus: got 0, 0, expected different ones"),
        ({"gpus": ("0",), "jobs": 3}, "jobs is 3 and gpus are given"),
        ({"engine": "slurm"}, "engine is 'slurm', expected one of local, ray"),
        ({"address": "head:6379"}, "address is head:6379, and the engine is local: add --engine ray"),
        ({"engine": "ray", "gpus": ("0",)}, "the engine ray, which shares out all GPUs of its cluster: leave them out"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Parallel(**change)


def test_threads_are_shared_out_unless_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 8)
    assert Parallel().threads(None) is None
    assert Parallel(jobs=3).threads(None) == 2
    assert Parallel(jobs=16).threads(None) == 1
    assert Parallel(jobs=3).threads(5) == 5
    assert Parallel(engine="ray").threads(None) == 1
    assert Parallel(engine="ray", jobs=8).threads(3) == 3


def test_side_by_side_are_jobs_and_those_of_gpus(tmp_path: Path) -> None:
    assert not Parallel().side_by_side
    assert not Parallel(jobs=1).side_by_side
    for given, devices in (
        ({"jobs": 2}, [None, None]),
        ({"gpus": ("5",)}, ["5"]),
        ({"gpus": ("0", "1"), "jobs_per_gpu": 2}, ["0", "1", "0", "1"]),
    ):
        chosen = Parallel(**given)
        assert chosen.side_by_side
        workers = chosen.workers(print, tmp_path, torch.device("cpu"), 1)
        assert isinstance(workers, Workers)
        assert workers.devices == devices


@pytest.mark.parametrize(("device", "share"), [("cpu", 0.0), ("cuda", 0.25)])
def test_a_job_on_ray_asks_for_its_share_of_a_gpu(device: str, share: float, tmp_path: Path) -> None:
    chosen = Parallel(engine="ray", jobs_per_gpu=4, jobs=7)
    assert chosen.side_by_side
    workers = chosen.workers(print, tmp_path, torch.device(device), 3)
    assert isinstance(workers, RayWorkers)
    assert (workers.gpus, workers.threads, workers.count) == (share, 3, 7)


def test_gpus_need_cuda() -> None:
    with pytest.raises(UserError, match="gpus are 0,1, and the device is cpu"):
        Parallel(gpus=("0", "1")).device("cpu")
