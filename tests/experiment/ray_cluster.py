"""A Ray cluster on this machine for tests, of nodes that can be killed, and tasks that wait to be killed."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tiny
from facenet2expnet.experiment import execute
from facenet2expnet.experiment.compare import compare
from facenet2expnet.experiment.execute import Task, do_task
from facenet2expnet.training import loop
from facenet2expnet.training.distil import DistilStage

GIVEN: dict[str, Any] = {
    "recipe": tiny.tiny_recipe("stage1.epochs=4"), "folds": 2, "device": "cpu", "threads": 1,
}  # fmt: skip
"""What is compared."""

MEMORY = 80_000_000
PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")


class Nodes:
    """Nodes with one CPU each; the first one is the head, the last one is `second`."""

    def __init__(self, cluster: Any) -> None:
        self.cluster, self.address = cluster, ""
        self.second: Any = None

    def add(self) -> None:
        """Start a node."""
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in PORTS]
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            ports = {name: one.getsockname()[1] for name, one in zip(PORTS, sockets, strict=True)}
        node = self.cluster.add_node(num_cpus=1, object_store_memory=MEMORY, include_dashboard=False, **ports)
        self.address, self.second = self.cluster.address, node

    def kill_second(self) -> None:
        """Kill the processes that are the second node; those of its tasks end themselves then."""
        self.cluster.remove_node(self.second, allow_graceful=False)


@contextlib.contextmanager
def nodes(paths: list[Path]) -> Iterator[Nodes]:
    """Start a cluster whose processes find modules in `paths`; all end with the block."""
    from ray.cluster_utils import Cluster

    names = {
        "PYTHONPATH": os.pathsep.join([*map(str, paths), *filter(None, sys.path)]),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "180",
    }
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    cluster = Cluster()
    try:
        yield Nodes(cluster)
    finally:
        cluster.shutdown()
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def wait_for(done: Callable[[], object], seconds: float = 300) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def waiting(faces: str, out: str, address: str) -> None:
    """Compare on a cluster, until the jobs wait to be killed."""
    execute.do_task = waits_in_stage1
    compare(faces, out=out, **GIVEN, engine="ray", address=address)


def waits_in_stage1(task: Task, report: Callable[[str, int, int], None]) -> None:
    """Do a job; the first time that stage 1 of a fold is under way, its process waits to be killed.

    There is a checkpoint of every epoch. It writes its pid beside the job, and the id of its Ray node.
    """
    import ray

    loop.SECONDS_BETWEEN_CHECKPOINTS = 0.0
    mark = task.job.folder.parent / "waits.txt"
    if task.job.method == "fn2en" and not mark.exists():
        loss, calls = DistilStage.loss, list[int]()

        def wait(self: Any, examples: Any) -> Any:
            calls.append(1)
            if len(calls) == 3:
                mark.with_suffix(".new").write_text(f"{os.getpid()} {ray.get_runtime_context().get_node_id()}")
                mark.with_suffix(".new").rename(mark)
                time.sleep(600)
            return loss(self, examples)

        DistilStage.loss = wait  # type: ignore[method-assign]
    do_task(task, report)
