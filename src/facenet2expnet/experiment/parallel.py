"""How the jobs of a run are shared out: in this process, in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from facenet2expnet.device import choose_device
from facenet2expnet.errors import UserError
from facenet2expnet.experiment import ray_workers
from facenet2expnet.experiment.ray_workers import RayWorkers
from facenet2expnet.experiment.workers import Work, Workers
from facenet2expnet.processor import cores

LOCAL, RAY = ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Parallel:
    """How the jobs of a run are shared out.

    Attributes:
        jobs: side by side; None for 1, or on a Ray cluster for as many as it has room for.
        gpus: of this machine, each a value of CUDA_VISIBLE_DEVICES, as "0"; empty for no choice.
        jobs_per_gpu: jobs that share one of `gpus`, or a GPU of a Ray cluster.
        join: let other processes, here or on other machines, work in the folder at the same time.
        engine: of ENGINES; "local" computes on this machine.
        address: of the Ray cluster; None for the one in RAY_ADDRESS, or that of this machine.
    Raises:
        UserError: If the values contradict each other.
    """

    jobs: int | None = None
    gpus: tuple[str, ...] = ()
    jobs_per_gpu: int = 1
    join: bool = False
    engine: str = LOCAL
    address: str | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise UserError(f"engine is '{self.engine}', expected one of {', '.join(ENGINES)}")
        for name in ("jobs", "jobs_per_gpu"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"{name} is {value}, expected 1 or more")
        if len(set(self.gpus)) < len(self.gpus) or not all(gpu.strip() for gpu in self.gpus):
            raise UserError(f"gpus: got {', '.join(self.gpus)}, expected different ones, as 0,1")
        if self.engine == RAY and self.gpus:
            raise UserError(
                "gpus are given with the engine ray, which shares out all GPUs of its cluster: leave them out"
            )
        if self.engine == LOCAL and self.address is not None:
            raise UserError(f"address is {self.address}, and the engine is local: add --engine ray")
        if self.engine == LOCAL and self.jobs_per_gpu > 1 and not self.gpus:
            raise UserError(f"jobs_per_gpu is {self.jobs_per_gpu}, expected gpus with it, as 0,1")
        if (self.jobs or 1) > 1 and self.gpus:
            raise UserError(f"jobs is {self.jobs} and gpus are given: their number and jobs_per_gpu say how many jobs")

    @property
    def on_cluster(self) -> bool:
        """Whether the jobs run on machines that see nothing of this one but shared folders."""
        return self.engine == RAY

    @property
    def side_by_side(self) -> bool:
        """Whether jobs run in processes other than this one."""
        return self.on_cluster or self._processes > 1 or bool(self.gpus)

    @property
    def _processes(self) -> int:
        return len(self.gpus) * self.jobs_per_gpu or self.jobs or 1

    def threads(self, asked: int | None) -> int | None:
        """Return the CPU threads of a job: those asked for, or an equal share; None for PyTorch's own choice.

        On a cluster the default is one: its machines may have any number of cores.
        """
        if asked is None and self.on_cluster:
            return 1
        if asked is None and self._processes > 1:
            return max(1, cores() // self._processes)
        return asked

    def device(self, name: str) -> torch.device:
        """Return where the jobs compute; see `choose_device`.

        Raises:
            UserError: If there is no such device, GPUs are given for another, or there is no such cluster.
        """
        if self.on_cluster:
            return torch.device(ray_workers.choose_device(name, self.address))
        device = choose_device(name)
        if self.gpus and device.type != "cuda":
            raise UserError(f"gpus are {','.join(self.gpus)}, and the device is {device.type}: expected one of CUDA")
        return device

    def workers(self, work: Work, folder: Path, device: torch.device, threads: int) -> Workers | RayWorkers:
        """Return what does `work` side by side; on a cluster, in a folder that all its machines share."""
        if self.on_cluster:
            gpus = 1 / self.jobs_per_gpu if device.type == "cuda" else 0.0
            return RayWorkers(work, folder, threads=threads, gpus=gpus, count=self.jobs, address=self.address)
        return Workers(self._processes, work, threads=threads, devices=self.gpus or (None,))
