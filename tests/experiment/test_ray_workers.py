"""Jobs and shards on a Ray cluster: the same numbers as on one machine, whatever dies."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import ray_cluster
import spawned
from ray_cluster import GIVEN

import tiny
from facenet2expnet import claims
from facenet2expnet.errors import UserError
from facenet2expnet.experiment import execute, ray_workers
from facenet2expnet.experiment.ablation import ablate
from facenet2expnet.experiment.compare import compare
from facenet2expnet.experiment.parallel import Parallel
from facenet2expnet.experiment.status import read_status
from facenet2expnet.predict.model_folder import save_model
from facenet2expnet.predict.options import Options
from facenet2expnet.predict.recognizer import Recognizer
from facenet2expnet.predict.shards import PARTS, Shard, ShardTask, do_shard, predict_shard, predict_shards


@pytest.mark.parametrize(
    ("node", "threads", "gpus", "expected"),
    [
        ({"CPU": 8.0}, 1, 0.0, 8),
        ({"CPU": 8.0}, 3, 0.0, 2),
        ({"CPU": 2.0}, 3, 0.0, 0),
        ({"GPU": 1.0}, 1, 0.0, 0),
        ({"CPU": 8.0, "GPU": 1.0}, 1, 1 / 3, 3),
        ({"CPU": 2.0, "GPU": 1.0}, 1, 1 / 3, 2),
        ({"CPU": 8.0}, 1, 1 / 3, 0),
    ],
)
def test_the_room_of_a_node(node: dict[str, float], threads: int, gpus: float, expected: int) -> None:
    assert ray_workers.room(node, threads, gpus) == expected


def test_ray_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"the engine ray needs the package ray; pip install 'facenet2expnet\[ray\]'"):
        compare(tmp_path / "faces", out=tmp_path / "run", engine="ray")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("address", "reason"),
    [("127.0.0.1:1", "refused"), ("head", "expected HOST:PORT"), ("head:x", "expected HOST:PORT")],
)
def test_a_wrong_address_is_found_at_once(address: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself would try for minutes."""
    pytest.importorskip("ray")
    with pytest.raises(UserError, match=rf"no Ray cluster answers at {address} \(.*{reason}.*--address HOST:6379"):
        Parallel(engine="ray", address=address).device("auto")
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=f"no Ray cluster answers at {address} "):
        Parallel(engine="ray").device("auto")


def test_a_cluster_has_no_mps() -> None:
    with pytest.raises(UserError, match="device is 'mps', expected auto, cpu or cuda on a Ray cluster"):
        Parallel(engine="ray").device("mps")


def test_a_node_that_does_not_see_the_folders_says_so(tmp_path: Path) -> None:
    """What runs on a node, as far as it needs no Ray."""
    host, marker = socket.gethostname(), tmp_path / "run" / ".shared.0"
    found = ray_workers._do(print, "task", None, str(tmp_path / "absent"), marker, 1)
    assert found.error.startswith(f"{host} has no folder {tmp_path / 'absent'}; run the command in a folder that")
    found = ray_workers._do(print, "task", None, os.getcwd(), marker, 1)
    assert found.error.startswith(f"{host} does not see {tmp_path / 'run'}; with the engine ray the results must be")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Where the processes of the cluster find the face net "tiny" and these tests."""
    entry = tmp_path_factory.mktemp("entry-point")
    spawned.write_entry_point(entry)
    return [entry]


@pytest.fixture(scope="module")
def cluster(paths: list[Path]) -> Iterator[ray_cluster.Nodes]:
    """Two nodes."""
    pytest.importorskip("ray")
    with ray_cluster.nodes(paths) as found, pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(paths[0])
        patched.setattr(execute, "POLL_S", 0.05)
        found.add()
        found.add()
        yield found


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_faces(tmp_path_factory.mktemp("ray") / "faces", each=6)


@pytest.fixture(scope="module")
def run(cluster: ray_cluster.Nodes, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds of all methods, one job after the other, without Ray."""
    return compare(faces, out=tmp_path_factory.mktemp("local") / "run", **GIVEN)


def same_numbers(left: Path, right: Path) -> None:
    """Metrics byte for byte, predictions bit for bit; nothing is left beside them."""
    assert (left / "metrics.json").read_bytes() == (right / "metrics.json").read_bytes()
    tables = [pd.read_parquet(run / "predictions.parquet") for run in (left, right)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert {job.state for job in read_status(right)} == {"done"}
    assert not [path for path in right.iterdir() if path.name.startswith((".pixels", ".shared", "views"))]


@pytest.mark.slow
def test_a_killed_process_and_a_killed_node_change_no_number(
    run: Path, faces: Path, cluster: ray_cluster.Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The jobs in the middle of stage 1 go on from their checkpoints, in other processes and on the other node."""
    out = tmp_path / "run"
    monkeypatch.setattr(execute, "do_task", ray_cluster.waits_in_stage1)

    def kill() -> None:
        marks = [out / f"fold-{fold}" / "waits.txt" for fold in (1, 2)]
        ray_cluster.wait_for(lambda: all(mark.exists() for mark in marks))
        where = {node: int(pid) for pid, node in (mark.read_text().split() for mark in marks)}
        assert len(where) == 2
        doomed = where.pop(cluster.second.node_id)
        cluster.kill_second()
        ray_cluster.wait_for(lambda: ray_cluster.gone(doomed))
        os.kill(*where.values(), signal.SIGKILL)

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill)
        compare(faces, out=out, **GIVEN, engine="ray", address=cluster.address)
        killed.result()
    same_numbers(run, out)
    log = (out / "log.txt").read_text()
    assert "on a Ray cluster of 2 nodes, jobs at once: 2, CPU threads of each: 1" in log
    assert log.count("died (") == 2
    for fold in (1, 2):
        assert f"fn2en, fold fold-{fold}, seed 0 ({3 * fold} of 6): stage1 continues after epoch " in log
    assert sum("process" in line and ": on " in line for line in log.splitlines()) == 8
    cluster.add()


@pytest.mark.slow
def test_a_killed_command_ends_its_jobs_and_ray_goes_on_with_them(
    run: Path, faces: Path, cluster: ray_cluster.Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    arguments = {"out": out, **GIVEN, "engine": "ray", "address": cluster.address}
    command = "import sys, ray_cluster; ray_cluster.waiting(*sys.argv[1:])"
    process = subprocess.Popen([sys.executable, "-c", command, faces, out, cluster.address])
    marks = [out / f"fold-{fold}" / "waits.txt" for fold in (1, 2)]
    ray_cluster.wait_for(lambda: process.poll() is not None or all(mark.exists() for mark in marks))
    process.kill()
    assert process.wait() == -signal.SIGKILL
    for mark in marks:
        ray_cluster.wait_for(partial(ray_cluster.gone, int(mark.read_text().split()[0])))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    assert before
    compare(faces, **arguments, resume=True)
    same_numbers(run, out)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_what_one_engine_began_the_other_goes_on_with(
    run: Path, faces: Path, cluster: ray_cluster.Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_ray = {"engine": "ray", "address": cluster.address}
    arguments = {"out": tmp_path / "run", **GIVEN}
    with monkeypatch.context() as patched:
        patched.setattr(execute, "do_task", spawned.raises_in_scratch)
        with pytest.raises(UserError, match="3 of 6 jobs failed") as failed:
            compare(faces, **arguments, **on_ray)
    for reason in ("ZeroDivisionError: a fault of ours", "No space left on device", "its face net failed"):
        assert reason in str(failed.value)
    assert "spawned.py" in (tmp_path / "run" / "log.txt").read_text()  # the traceback
    same_numbers(run, compare(faces, **arguments, resume=True))
    out = tmp_path / "local"
    shutil.copytree(run, out)
    shutil.rmtree(out / "fold-2")
    (out / "metrics.json").unlink()
    seen: list[tuple[str, int, int]] = []
    arguments |= {"out": out, "jobs": 1, "progress": lambda *given: seen.append(given)}
    same_numbers(run, compare(faces, **arguments, **on_ray, resume=True))
    assert ("jobs", 6, 6) in seen
    assert ("fn2en, fold fold-2, seed 0 (6 of 6)", 6, 6) in seen


@pytest.mark.slow
def test_an_ablation_on_ray_has_the_table_of_one_machine(
    faces: Path, cluster: ray_cluster.Nodes, tmp_path: Path
) -> None:
    """Two variants learn from one fine-tuned face net, and a third one sees pictures of another size."""
    changes = ["stage2.lr=0.002", "crop.crop_px=40 & crop.stored_px=45"]
    common = {"recipe": tiny.tiny_recipe(), "folds": 2, "first_folds": 1, "device": "cpu", "threads": 1}
    one = ablate(faces, changes, out=tmp_path / "one", **common)
    two = ablate(faces, changes, out=tmp_path / "two", engine="ray", address=cluster.address, **common)
    left, right = (pd.read_parquet(out / "predictions.parquet") for out in (one, two))
    pd.testing.assert_frame_equal(left, right, check_exact=True)
    assert sorted(right["method"].unique()) == ["0 fn2en", "1 fn2en", "2 fn2en"]
    tables = [pd.read_csv(out / "table.csv") for out in (one, two)]
    timed = ["training_seconds", "ms_per_picture"]
    pd.testing.assert_frame_equal(*(table.drop(columns=timed) for table in tables), check_exact=True)
    assert [job.state for job in read_status(two)] == ["done"] * 5  # two face nets, three expression nets
    assert (two / "log.txt").read_text().count("process ") >= 5
    assert not [path for path in two.rglob("*") if path.name.startswith((".pixels", ".shared", "views"))]


@pytest.mark.slow
def test_more_threads_than_a_node_has_are_refused(faces: Path, cluster: ray_cluster.Nodes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no node of the Ray cluster has 2 CPUs, .*take fewer threads"):
        compare(faces, out=tmp_path / "run", **(GIVEN | {"threads": 2}), engine="ray", address=cluster.address)


@pytest.mark.slow
def test_shards_on_ray_have_the_rows_of_one_machine(
    cluster: ray_cluster.Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = tiny.write_faces(tmp_path / "pictures", each=4)
    (pictures / "surprise" / "damaged.jpg").write_bytes(b"nothing")
    save_model(tiny.tiny_model(), tmp_path / "model")
    recognizer, options = Recognizer.load(tmp_path / "model", "cpu"), Options(faces="whole-image", workers=1)
    task = ShardTask(str(tmp_path / "model"), "cpu", (str(pictures),), tmp_path / "ray", options, part_pictures=2)
    for number in (1, 2, 3):
        predict_shard(
            recognizer, task.sources, tmp_path / "one", Shard(number, 3), options, part_pictures=2
        )  # fmt: skip
    predict_shard(recognizer, task.sources, tmp_path / "ray", Shard(2, 3), options, part_pictures=2)
    with monkeypatch.context() as patched:
        patched.setattr(os, "getpid", lambda: 2**22 + 1)  # no process has this number
        (tmp_path / "ray" / ".shared.0").write_text(claims.owner_text())
    workers = Parallel(engine="ray", address=cluster.address).workers(
        do_shard, tmp_path / "ray", Parallel().device("cpu"), 1
    )
    found = predict_shards(recognizer, task, None, workers, resume=True)
    names = [sorted(path.name for path in (tmp_path / out / PARTS).iterdir()) for out in ("one", "ray")]
    assert names[0] == names[1]
    assert (found.parts, found.parts_before, found.missing, found.unread) == (len(names[0]), 2, 0, 1)
    assert not list((tmp_path / "ray").rglob(".*"))
    one, two = (
        pd.concat([pd.read_parquet(tmp_path / out / PARTS / name) for name in names[0]]) for out in ("one", "ray")
    )
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert len(one) == 13
