"""Claims: one owner at a time, and what happens to the claims of the dead."""

from __future__ import annotations

import math
import multiprocessing
import os
import resource
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from facenet2expnet import claims
from facenet2expnet.claims import Claims, living
from facenet2expnet.errors import UserError

PROCESSES = multiprocessing.get_context("spawn")


def age(folder: Path, seconds: float) -> None:
    """Make all claims in a folder older."""
    for path in folder.glob("*.json"):
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))


def elsewhere(monkeypatch: pytest.MonkeyPatch, name: str = "other-host") -> None:
    """From now on this process seems to run on another machine."""
    monkeypatch.setattr(socket, "gethostname", lambda: name)


def take_all(folder: str, names: list[str], taken: Any, barrier: Any) -> None:
    """Claim what is free; run by several processes, which keep their claims until all are done."""
    with Claims(Path(folder)) as own:
        barrier.wait(60)
        taken.put([name for name in names if own.take(name)])
        barrier.wait(60)


def test_a_claim_has_one_owner_until_it_is_released(tmp_path: Path) -> None:
    with Claims(tmp_path / "claims") as first, Claims(tmp_path / "claims") as second:
        assert first.take("fold-1/scratch")
        assert first.holds("fold-1/scratch")
        assert not second.take("fold-1/scratch")
        assert second.take("fold-1/scratch.2")  # a name that begins with the other
        found = {claim.name: claim for claim in living(tmp_path / "claims")}
        assert set(found) == {"fold-1/scratch", "fold-1/scratch.2"}
        assert found["fold-1/scratch"].owner == f"process {os.getpid()} on {socket.gethostname()}"
        first.release("fold-1/scratch")
        assert second.take("fold-1/scratch")
    assert not list((tmp_path / "claims").iterdir())


def test_processes_that_claim_at_the_same_time_share_without_overlap(tmp_path: Path) -> None:
    names, taken = [f"job-{number}" for number in range(40)], PROCESSES.Queue()
    given = (str(tmp_path), names, taken, PROCESSES.Barrier(3))
    processes = [PROCESSES.Process(target=take_all, args=given) for _ in range(3)]
    for process in processes:
        process.start()
    lists = [taken.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert sorted(name for one in lists for name in one) == sorted(names)


def test_threads_that_take_over_an_expired_claim_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = Claims(tmp_path)
    elsewhere(monkeypatch)
    assert dead.take("job")
    monkeypatch.undo()
    age(tmp_path, claims.EXPIRES_S + 1)
    others, won = [Claims(tmp_path) for _ in range(8)], []
    start = threading.Barrier(8)

    def race(own: Claims) -> None:
        start.wait()
        won.extend([own] if own.take("job") else [])

    threads = [threading.Thread(target=race, args=(own,)) for own in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert [path.name for path in tmp_path.glob("*.json")] == ["job.2.json"]


def test_a_claim_of_another_machine_is_respected_until_it_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    far, near = Claims(tmp_path), Claims(tmp_path)
    elsewhere(monkeypatch)
    assert far.take("job")
    monkeypatch.undo()
    age(tmp_path, claims.EXPIRES_S - 60)
    assert not near.take("job")
    age(tmp_path, 61)
    assert near.take("job")
    assert "taken over from process" in caplog.text


def test_a_dead_process_of_this_machine_loses_its_claim_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = PROCESSES.Process(target=os.getpid)
    process.start()
    process.join(60)
    dead = Claims(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "getpid", lambda: process.pid)
        assert dead.take("job")
    assert not living(tmp_path)
    assert Claims(tmp_path).take("job")


def test_a_process_of_another_container_is_not_taken_for_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Claims(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(claims, "namespace", lambda: "pid:[1]")
        patched.setattr(os, "getpid", lambda: 99_999_999)  # no process here
        assert other.take("job")
    assert not Claims(tmp_path).take("job")


def test_the_heartbeat_keeps_a_claim_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(monkeypatch)
    with Claims(tmp_path, expires_s=1.0) as own:
        assert own.take("job")
        monkeypatch.undo()
        time.sleep(1.5)
        assert not Claims(tmp_path, expires_s=1.0).take("job")
        assert own.holds("job")


def test_an_owner_learns_that_its_claim_was_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(monkeypatch)
    with Claims(tmp_path, expires_s=8.0) as slept, Claims(tmp_path, expires_s=8.0) as other:
        assert slept.take("job")
        monkeypatch.undo()
        age(tmp_path, 9)
        assert other.take("job")
        deadline = time.monotonic() + 20
        while slept.holds("job") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not slept.holds("job")
        slept.release("job")
        assert other.holds("job")


def test_who_was_slow_to_take_over_gives_way_to_a_claim_that_began_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, quick, slow = (Claims(tmp_path) for _ in range(3))
    elsewhere(monkeypatch)
    assert dead.take("job")
    monkeypatch.undo()
    age(tmp_path, claims.EXPIRES_S + 1)
    create = claims._create

    def meanwhile(path: Path) -> bool:
        """Others take over, release, and claim again, between the slow one's look and its own file."""
        monkeypatch.setattr(claims, "_create", create)
        for _ in range(2):
            assert quick.take("job")
            if quick._held["job"].name == "job.2.json":
                quick.release("job")
        return create(path)

    monkeypatch.setattr(claims, "_create", meanwhile)
    assert not slow.take("job")
    assert quick.holds("job")
    assert [path.name for path in tmp_path.glob("*.json")] == ["job.1.json"]


def test_a_claim_that_is_released_while_another_is_refused_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exists(temporary: Path, path: Path) -> None:
        raise FileExistsError(17, "File exists")  # and it is gone already

    monkeypatch.setattr(os, "link", exists)
    assert not Claims(tmp_path).take("job")
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_hard_links_has_claims_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert Claims(tmp_path).take("job")
    assert not Claims(tmp_path).take("job")


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_full_disk_is_told_and_no_half_claim_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hard_links: bool
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if not hard_links:
        real = Path.write_text
        monkeypatch.setattr(Path, "write_text", lambda path, text, **named: real(path, "", **named))

        def refuse(*paths: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(UserError, match=r"job\.1\.json: can't be written: File too large; make room"):
            Claims(tmp_path).take("job")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())
    assert Claims(tmp_path).take("job")


@pytest.mark.parametrize(
    "content",
    ['{"a":' * 50_000, "7", "[]", '"pid"', '{"host": 3, "pid": "x", "namespace": [], "since": null}', "\ud800"],
    ids=["nested", "number", "list", "text", "other types", "not UTF-8"],
)
def test_a_damaged_claim_is_of_an_unknown_process_until_it_expires(tmp_path: Path, content: str) -> None:
    (tmp_path / "job.1.json").write_text(content, "utf-8", "surrogatepass")
    assert [claim.owner for claim in living(tmp_path)] == ["process 0 on ?"]
    assert not Claims(tmp_path).take("job")
    age(tmp_path, claims.EXPIRES_S + 1)
    assert Claims(tmp_path).take("job")


def test_a_pid_that_no_process_can_have_does_not_run() -> None:
    assert not claims.runs(10**30)
    assert claims.runs(os.getpid())


def test_a_clock_that_jumps_ahead_lets_others_take_over_and_the_owner_learns_of_it(tmp_path: Path) -> None:
    with Claims(tmp_path) as own, Claims(tmp_path) as other:
        assert own.take("job")
        age(tmp_path, 3600)  # to the clock of now, it was touched an hour ago
        assert other.take("job")
        assert not own.holds("job")
        assert other.holds("job")


def test_a_clock_that_is_set_back_keeps_a_claim_and_the_next_touch_mends_its_age(tmp_path: Path) -> None:
    with Claims(tmp_path) as own:
        assert own.take("job")
        age(tmp_path, -3600)
        assert not Claims(tmp_path).take("job")
        assert own.holds("job")
        assert abs(living(tmp_path)[0].age_s) < 60


def make_and_die(path: str) -> None:
    Path(path).write_text(claims.owner_text())


def test_hidden_files_of_killed_processes_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = PROCESSES.Process(target=make_and_die, args=(str(tmp_path / ".dead"),))
    process.start()
    process.join()
    (tmp_path / ".living").write_text(claims.owner_text())
    for name in (".unknown", ".clock.0", ".old"):
        (tmp_path / name).touch()
    os.utime(tmp_path / ".old", (0, 0))
    with monkeypatch.context() as patched:
        elsewhere(patched)
        (tmp_path / ".other").write_text(claims.owner_text())
    with Claims(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {".living", ".other", ".unknown", ".clock.0"}
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    claims.delete_left(tmp_path, ".[lo]*", math.inf)
    assert {path.name for path in tmp_path.iterdir()} == {".living", ".other", ".unknown", ".clock.0"}
    with Claims(tmp_path):
        assert not list(tmp_path.iterdir())
