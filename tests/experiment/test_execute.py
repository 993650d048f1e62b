"""Jobs side by side and shared: the same numbers as one by one, and nothing lost when a job or a process fails."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import socket
import threading
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import spawned
import torch

import tiny
from facenet2expnet import claims, recipes
from facenet2expnet.claims import Claims
from facenet2expnet.data.dataset import Dataset, load_dataset
from facenet2expnet.data.manifest import read_manifest
from facenet2expnet.data.splits import Split
from facenet2expnet.errors import UserError
from facenet2expnet.experiment import execute, workers
from facenet2expnet.experiment.ablation import ablate
from facenet2expnet.experiment.compare import compare
from facenet2expnet.experiment.execute import make_chains
from facenet2expnet.experiment.job import METHODS, Job, collect, plan_jobs
from facenet2expnet.experiment.status import read_status
from facenet2expnet.faces.store import prepare
from facenet2expnet.recipe import Recipe

CPU: dict[str, Any] = {"device": "cpu", "threads": 1}


@pytest.fixture(scope="module", autouse=True)
def tiny_everywhere(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The face net "tiny" is found in all processes; they begin from one that has PyTorch loaded."""
    folder = tmp_path_factory.mktemp("entry-point")
    spawned.write_entry_point(folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(folder)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["facenet2expnet.experiment.execute", "spawned"])
        patched.setattr(workers, "START", context)
        patched.setattr(execute, "POLL_S", 0.05)
        yield


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_faces(tmp_path_factory.mktemp("jobs") / "faces", each=6)


@pytest.fixture(scope="module")
def run(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds of all methods, one job after the other."""
    return compare(faces, recipe=tiny.tiny_recipe(), out=tmp_path_factory.mktemp("serial") / "run", folds=2, **CPU)


def numbers(run: Path) -> tuple[bytes, pd.DataFrame]:
    return (run / "metrics.json").read_bytes(), pd.read_parquet(run / "predictions.parquet")


def same_numbers(left: Path, right: Path) -> None:
    """Metrics byte for byte, predictions bit for bit."""
    (metrics, predictions), (others, other_predictions) = numbers(left), numbers(right)
    assert metrics == others
    pd.testing.assert_frame_equal(predictions, other_predictions, check_exact=True)


def states(run: Path) -> dict[str, str]:
    """The state of every job by its method and fold."""
    return {job.title.partition(", seed")[0].replace(", fold fold-", " "): job.state for job in read_status(run)}


def everything(state: str) -> dict[str, str]:
    return {f"{method} {fold}": state for fold in (1, 2) for method in METHODS}


def test_jobs_side_by_side_give_the_numbers_of_one_by_one(run: Path, faces: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    out = compare(
        faces, recipe=tiny.tiny_recipe(), out=tmp_path / "run", folds=2, jobs=2, **CPU,
        progress=lambda *given: seen.append(given),
    )  # fmt: skip
    same_numbers(run, out)
    assert states(out) == states(run) == everything("done")
    log = (out / "log.txt").read_text()
    assert "jobs side by side: 2, CPU threads of each: 1" in log
    assert "fn2en, fold fold-2, seed 0 (6 of 6): stage1 epoch 2/2" in log
    assert ("jobs", 6, 6) in seen
    assert ("fn2en, fold fold-1, seed 0 (3 of 6)", 4, 4) in seen
    assert any(what == "fn2en, fold fold-1, seed 0 (3 of 6): teacher's features" for what, _, _ in seen)
    assert not (out / "claims").exists()
    assert not list(out.rglob("views*"))


@pytest.mark.slow
def test_spawned_processes_give_the_same_numbers_too(
    run: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user starts them: each loads PyTorch anew."""
    monkeypatch.setattr(workers, "START", multiprocessing.get_context("spawn"))
    same_numbers(run, compare(faces, recipe=tiny.tiny_recipe(), out=tmp_path / "run", folds=2, jobs=2, **CPU))


def test_a_killed_process_loses_its_own_job_and_resume_does_it_again(
    run: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "do_task", spawned.killed_in_stage1)
    arguments = {"recipe": tiny.tiny_recipe(), "out": tmp_path / "run", "folds": 2, "jobs": 2, **CPU}
    with pytest.raises(
        UserError, match=r"1 of 6 jobs failed: fn2en, fold fold-1.*its process died \(SIGKILL.*--resume"
    ):
        compare(faces, **arguments)
    assert states(tmp_path / "run") == everything("done") | {"fn2en 1": "failed"}
    assert not (tmp_path / "run" / "metrics.json").exists()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("result.json")}
    assert len(before) == 5
    out = compare(faces, **arguments, resume=True)
    same_numbers(run, out)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert states(out) == everything("done")
    assert not list(out.rglob("views-*"))


def test_a_job_that_raises_does_not_stop_the_others(
    run: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"recipe": tiny.tiny_recipe(), "out": tmp_path / "run", "folds": 2, "jobs": 2, **CPU}
    with monkeypatch.context() as patched:
        patched.setattr(execute, "do_task", spawned.raises_in_scratch)
        with pytest.raises(UserError, match="3 of 6 jobs failed") as failed:
            compare(faces, **arguments)
    for reason in ("ZeroDivisionError: a fault of ours", "No space left on device", "its face net failed"):
        assert reason in str(failed.value)
    wrong = {"scratch 1": "failed", "fine-tune 2": "failed", "fn2en 2": "failed"}
    assert states(tmp_path / "run") == everything("done") | wrong
    assert "spawned.py" in (tmp_path / "run" / "log.txt").read_text()  # the traceback
    same_numbers(run, compare(faces, **(arguments | {"jobs": 1}), resume=True))


def test_one_by_one_goes_on_after_a_failure_too(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_job = execute.run_job

    def fail(job: Job, *given: Any) -> None:
        if (job.method, job.split.name) == ("fine-tune", "fold-1"):
            raise UserError("its disk is full")
        if (job.method, job.split.name) == ("scratch", "fold-2"):
            raise ZeroDivisionError("a fault of ours")
        run_job(job, *given)

    monkeypatch.setattr(execute, "run_job", fail)
    with pytest.raises(UserError, match=r"3 of 6 jobs failed: fine-tune, fold fold-1.*its disk is full.*ZeroDivis"):
        compare(faces, recipe=tiny.tiny_recipe(), out=tmp_path / "run", folds=2, **CPU)
    wrong = {"fine-tune 1": "failed", "fn2en 1": "failed", "scratch 2": "failed"}
    assert states(tmp_path / "run") == everything("done") | wrong
    reasons = {job.reason for job in read_status(tmp_path / "run")}
    assert reasons == {"", "its disk is full", "its face net failed", "ZeroDivisionError: a fault of ours"}
    assert "in fail\n    raise ZeroDivisionError" in (tmp_path / "run" / "log.txt").read_text()


def test_a_face_store_is_mapped_as_it_is_and_other_pixels_through_a_file(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, used = tiny.tiny_recipe(), []
    write = execute._SharedPixels._write
    monkeypatch.setattr(
        execute._SharedPixels, "_write", lambda self, pixels: used.append(write(self, pixels)) or used[-1]
    )
    store = prepare(read_manifest(faces), recipe.crop, tmp_path / "store")
    arguments = {"recipe": recipe, "methods": ["scratch"], "folds": 2, "jobs": 2, **CPU}
    runs = [compare(data, out=tmp_path / f"{n}", **arguments) for n, data in enumerate((store.folder, faces))]
    assert used[0] == tmp_path / "store" / "faces.npy"
    assert not used[1].exists()
    scores = [pd.read_parquet(run / "predictions.parquet").filter(like="p_").to_numpy() for run in runs]
    assert np.array_equal(*scores)


def test_an_ablation_side_by_side_gives_the_table_of_one_by_one(faces: Path, tmp_path: Path) -> None:
    changes = ["stage2.lr=0.002", "crop.crop_px=48 & crop.stored_px=54"]
    common = {"recipe": tiny.tiny_recipe(), "methods": ("scratch", "fn2en"), "folds": 2, **CPU}
    one, two = (ablate(faces, changes, out=tmp_path / f"{jobs}", jobs=jobs, **common) for jobs in (1, 2))
    left, right = (pd.read_parquet(out / "predictions.parquet") for out in (one, two))
    pd.testing.assert_frame_equal(left, right, check_exact=True)
    tables = [pd.read_csv(out / "table.csv") for out in (one, two)]
    timed = ["training_seconds", "ms_per_picture"]
    pd.testing.assert_frame_equal(*(table.drop(columns=timed) for table in tables))
    assert {job.state for job in read_status(two)} == {"done"}
    assert not list(two.rglob("views*"))


def test_a_stopped_variant_is_a_result_side_by_side_too(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "do_task", spawned.stops_at_a_rate)
    changes = ["stage2.lr=0.5", "stage2.lr=0.002"]
    common = {"recipe": tiny.tiny_recipe(), "out": tmp_path / "out", "folds": 2, "first_folds": 1, "jobs": 2, **CPU}
    out = ablate(faces, changes, **common)
    stopped = pd.read_csv(out / "table.csv", dtype={"stopped": str})["stopped"].fillna("")
    assert list(stopped) == ["", "the loss is nan", ""]
    assert [job.state for job in read_status(out)] == ["done", "done", "failed", "done"]


def test_two_processes_that_join_share_the_jobs(run: Path, faces: Path, tmp_path: Path) -> None:
    arguments = {"recipe": tiny.tiny_recipe(), "out": tmp_path / "run", "folds": 2, "join": True, **CPU}
    other = workers.START.Process(target=partial(compare, faces, **arguments))
    other.start()
    compare(faces, **arguments)
    other.join(300)
    assert other.exitcode == 0
    same_numbers(run, tmp_path / "run")
    logs = [path.read_text() for path in (tmp_path / "run").glob("log-*.txt")]
    assert len(logs) == 2
    for title in ("scratch, fold fold-1", "fn2en, fold fold-2"):
        assert (
            sum(f"{title}, seed 0" in log and "training pictures" in log.partition(title)[2][:60] for log in logs) == 1
        )
    assert json.loads((tmp_path / "run" / "run.json").read_text())["finished"]


def test_who_joins_waits_for_a_job_of_another_machine_and_takes_it_over_when_it_dies(
    run: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    far = Claims(out / claims.FOLDER)
    with monkeypatch.context() as patched:
        patched.setattr(socket, "gethostname", lambda: "far")
        assert far.take("fold-1/fine-tune")
    arguments = {"recipe": tiny.tiny_recipe(), "out": out, "folds": 2, "join": True, **CPU}
    thread = threading.Thread(target=partial(compare, faces, **arguments))
    thread.start()
    mine = everything("done") | {"fine-tune 1": "running", "fn2en 1": "waiting"}
    deadline = time.monotonic() + 120
    while not (out / "jobs.json").is_file() or states(out) != mine:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    running = next(job for job in read_status(out) if job.state == "running")
    assert running.where == f"process {os.getpid()} on far"
    with pytest.raises(UserError, match=r"process \d+ on .* may be at work here; add --join"):
        compare(faces, **(arguments | {"join": False}), resume=True)
    path = out / claims.FOLDER / "fold-1%2Ffine-tune.1.json"
    os.utime(path, (0, 0))
    thread.join(120)
    same_numbers(run, out)


def test_a_failure_on_another_machine_ends_the_waiting(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    far = Claims(out / claims.FOLDER)
    with monkeypatch.context() as patched:
        patched.setattr(socket, "gethostname", lambda: "far")
        assert far.take("fold-1/scratch")

    def fail_there() -> None:
        while not (out / "fold-2" / "scratch" / "result.json").is_file():
            time.sleep(0.05)
        (out / "fold-1" / "scratch").mkdir(parents=True, exist_ok=True)
        (out / "fold-1" / "scratch" / "failed.txt").write_text("its memory was full")
        far.release("fold-1/scratch")

    thread = threading.Thread(target=fail_there)
    thread.start()
    with pytest.raises(UserError, match=r"1 of 2 jobs failed: scratch, fold fold-1.*its memory was full"):
        compare(faces, recipe=tiny.tiny_recipe(), out=out, folds=2, methods=["scratch"], join=True, **CPU)
    thread.join()


def test_who_lost_its_claim_writes_no_failure_and_waits(
    run: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, run_job, seen = tmp_path / "run", execute.run_job, list[str]()

    def lose(job: Job, *given: Any) -> None:
        if job.title.startswith("fine-tune, fold fold-1") and not seen:
            claim = out / claims.FOLDER / "fold-1%2Ffine-tune.1.json"
            claim.rename(claim.with_name("fold-1%2Ffine-tune.2.json"))  # as after a take-over
            os.utime(claim.with_name("fold-1%2Ffine-tune.2.json"), (0, 0))  # and the other one died
            seen.append(job.title)
            raise UserError("the other one deleted its files")
        assert not (job.folder / "failed.txt").exists()
        run_job(job, *given)

    monkeypatch.setattr(execute, "run_job", lose)
    compare(faces, recipe=tiny.tiny_recipe(), out=out, folds=2, join=True, **CPU)
    assert seen
    same_numbers(run, out)


def test_a_late_machine_keeps_the_time_of_the_end_and_the_caller_its_threads(
    run: Path, faces: Path, tmp_path: Path
) -> None:
    arguments = {"recipe": tiny.tiny_recipe(), "out": tmp_path / "run", "folds": 2, "methods": ["scratch"]}
    before = torch.get_num_threads()
    compare(faces, **arguments, device="cpu", threads=before + 1)
    assert torch.get_num_threads() == before
    record = tmp_path / "run" / "run.json"
    value = json.loads(record.read_text()) | {"finished": "2026-01-01T00:00:00+00:00"}
    record.write_text(json.dumps(value))
    compare(faces, **arguments, **CPU, join=True)
    late = json.loads(record.read_text())
    assert (late["finished"], late["threads"]) == (value["finished"], before + 1)


def test_another_ablation_can_not_join(faces: Path, tmp_path: Path) -> None:
    common = {"recipe": tiny.tiny_recipe(), "out": tmp_path / "out", "folds": 2, "first_folds": 1, **CPU}
    common["methods"] = ["scratch"]
    ablate(faces, ["scratch.lr=0.002"], **common)
    ablate(faces, ["scratch.lr=0.002"], **common, join=True)
    for change, message in (
        ({"changes": ["scratch.lr=0.003"]}, "other axes"),
        ({"changes": ["scratch.lr=0.002"], "seeds": [1]}, "other seeds"),
        ({"changes": ["scratch.lr=0.002"], "settings": ["scratch.epochs=3"]}, "another recipe: scratch.epochs=2"),
    ):
        with pytest.raises(UserError, match=f"was started with {message}"):
            ablate(faces, **(common | change), join=True)


def test_views_that_a_killed_process_left_are_deleted(faces: Path, tmp_path: Path) -> None:
    common = {"recipe": tiny.tiny_recipe(), "out": tmp_path / "out", "folds": 2, "first_folds": 1, **CPU}
    ablate(faces, ["stage2.lr=0.002"], **common)
    chain = json.loads((tmp_path / "out" / "jobs.json").read_text())[0]["chain"]
    views = execute.views_folder(tmp_path / "out", chain)
    views.mkdir()
    ablate(faces, ["stage2.lr=0.002"], **common, resume=True)
    assert not views.exists()


def test_pixels_that_a_killed_process_left_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute.tempfile, "tempdir", str(tmp_path))
    with execute._SharedPixels(lambda recipe: None) as living:  # type: ignore[arg-type, return-value]
        dead = living.folder.with_name(living.folder.name.replace(f"-{os.getpid()}-", "-99999999-"))
        dead.mkdir()
        with execute._SharedPixels(lambda recipe: None):  # type: ignore[arg-type, return-value]
            assert not dead.exists()
            assert living.folder.exists()
    assert not list(tmp_path.iterdir())


def test_pixels_are_written_once_for_each_crop(faces: Path, tmp_path: Path) -> None:
    asked: list[Recipe] = []

    def dataset(recipe: Recipe) -> Dataset:
        asked.append(recipe)
        return load_dataset(read_manifest(faces), recipe.crop)

    one = tiny.tiny_recipe()
    other = recipes.override(one, ["crop.stored_px=40"])
    with execute._SharedPixels(dataset, tmp_path) as shared:
        found = [shared.get(recipe) for recipe in (one, other, one, other)]
        assert asked == [one, other]
        assert [np.load(path).shape[1] for _, path in found[:2]] == [one.crop.stored_px, 40]
        assert found[:2] == found[2:]
    assert not list(tmp_path.iterdir())


def test_others_are_looked_at_now_and_then_and_named_once(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each epoch reports progress; idle processes don't ask the file server then."""
    out = tmp_path / "run"
    far, looks, take = Claims(out / claims.FOLDER), list[float](), execute._Queue.take
    monkeypatch.setattr(execute, "POLL_S", 0.5)
    with monkeypatch.context() as patched:
        patched.setattr(socket, "gethostname", lambda: "far")
        assert far.take("fold-1/scratch")

    def counted(self: Any) -> Any:
        found = take(self)
        if found is None:
            looks.append(time.monotonic())
        if len(looks) == 3:
            far.release("fold-1/scratch")
        return found

    monkeypatch.setattr(execute._Queue, "take", counted)
    recipe = tiny.tiny_recipe("scratch.epochs=40")
    compare(faces, recipe=recipe, out=out, folds=2, methods=["scratch"], join=True, jobs=2, **CPU)
    assert len(looks) >= 3
    assert sum(later - earlier < 0.45 for earlier, later in pairwise(looks)) <= 2  # jobs that ended
    log = next(out.glob("log-*.txt")).read_text()
    assert log.count("waiting for jobs of other processes: fold-1/scratch") == 1


def test_another_recipe_can_not_join(run: Path, faces: Path) -> None:
    with pytest.raises(UserError, match="was started with another recipe"):
        compare(faces, recipe=tiny.tiny_recipe("scratch.lr=0.5"), out=run, folds=2, join=True, **CPU)


def test_chains_are_the_jobs_of_a_face_net_and_share_views_if_several_learn(tmp_path: Path) -> None:
    split = Split("fold-1", np.arange(2), np.arange(2, 4))
    recipe, teacher = tiny.tiny_recipe(), tmp_path / "teacher"
    names = ("scratch", "fine-tune", "fn2en", "fn2en")
    jobs = [
        (Job(name, split, 0, teacher if name == "fine-tune" else tmp_path / f"{n}", teacher), recipe)
        for n, name in enumerate(names)
    ]
    alone, chain = make_chains(jobs, tmp_path)
    assert (alone.name, [job.method for job, _ in alone.jobs]) == ("0", ["scratch"])
    assert (chain.name, [job.method for job, _ in chain.jobs]) == ("teacher", ["fine-tune", "fn2en", "fn2en"])
    assert [job.number for job, _ in chain.jobs] == [2, 3, 4]
    assert {job.views_folder for job, _ in chain.jobs} == {tmp_path / "views-of-teacher"}
    few = make_chains(jobs[:3], tmp_path)[1]
    assert {job.views_folder for job, _ in few.jobs} == {None}


LONG = {"title": "x", "folder": "9" * 5000, "chain": "x"}


@pytest.mark.parametrize("plan", [[3], [{"title": "x"}], 5, [{"title": "x", "folder": 1, "chain": "x"}], [LONG]])
def test_a_plan_of_another_form_is_named(tmp_path: Path, plan: object) -> None:
    (tmp_path / "jobs.json").write_text(json.dumps(plan))
    with pytest.raises(UserError, match=r"jobs\.json is damaged: .*written again when the run goes on, with --resume"):
        read_status(tmp_path)


@pytest.mark.parametrize("name", ["predictions.parquet", "history.csv"])
def test_damaged_results_of_a_job_are_named(run: Path, tmp_path: Path, name: str) -> None:
    split = Split("fold-1", np.array([0]), np.array([1]))
    jobs = plan_jobs([split], ["scratch"], [0], tiny.tiny_recipe(), tmp_path)
    shutil.copytree(run / "fold-1" / "scratch", jobs[0].folder)
    assert len(collect(jobs)[0]) > 0
    (jobs[0].folder / name).write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"scratch: its results can't be read .*add --resume to do this job again"):
        collect(jobs)
