"""The rate of a client, the token, and the room in the queue."""

from __future__ import annotations

import contextlib
import hmac
from typing import Any

import pytest

from facenet2expnet.deploy import gate as module
from facenet2expnet.deploy.gate import Gate
from facenet2expnet.deploy.uploads import Limits, Refused


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def admitted(gate: Gate, client: str, tries: int) -> int:
    count = 0
    for _ in range(tries):
        with contextlib.suppress(Refused):
            gate.check(client, "")
            count += 1
    return count


def test_a_client_has_two_seconds_worth_at_once_and_then_its_rate(clock: list[float]) -> None:
    gate = Gate(Limits(rate=5))
    assert admitted(gate, "a", 20) == 10
    assert admitted(gate, "b", 3) == 3  # another client is not held up
    clock[0] += 1
    assert admitted(gate, "a", 20) == 5
    clock[0] += 1000
    assert admitted(gate, "a", 20) == 10


def test_a_client_is_told_how_long_to_wait(clock: list[float]) -> None:
    gate = Gate(Limits(rate=0.1))
    gate.check("a", "")
    with pytest.raises(Refused, match=r"more than 0\.1 requests a second") as caught:
        gate.check("a", "")
    assert caught.value.retry_s == 10
    clock[0] += 9.9
    with pytest.raises(Refused):
        gate.check("a", "")
    clock[0] += 0.2
    gate.check("a", "")


def test_without_a_rate_nobody_waits_and_nobody_is_remembered(clock: list[float]) -> None:
    gate = Gate(Limits(rate=0))
    assert admitted(gate, "a", 1000) == 1000


def test_the_memory_of_clients_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLIENTS", 10)
    gate = Gate(Limits())
    for number in range(100):
        gate.check(str(number), "")
    assert len(gate._clients) == 10


@pytest.mark.parametrize(
    ("authorization", "allowed"),
    [
        ("Bearer sésame", True),
        ("bearer  sésame", True),
        ("Bearer other", False),
        ("Basic sésame", False),
        ("sésame", False),
        ("Bearer sésam", False),
        ("Bearer ", False),
        ("", False),
    ],
)
def test_the_token_is_compared_in_constant_time(
    authorization: str, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    def compare(one: Any, other: Any) -> bool:
        compared.append(one)
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    gate = Gate(Limits(), "sésame")
    header = authorization.encode().decode("latin-1")  # as servers hand headers over
    if allowed:
        gate.check("a", header)
    else:
        with pytest.raises(Refused, match="Authorization: Bearer TOKEN") as caught:
            gate.check("a", header)
        assert caught.value.status == 401
    assert len(compared) == 1


def test_the_queue_has_room_for_so_many(clock: list[float]) -> None:
    gate = Gate(Limits(queue=2))
    with gate.slot("a"):
        with gate.slot("b"), pytest.raises(Refused) as caught, gate.slot("c"):
            pass
        assert (caught.value.status, caught.value.retry_s) == (503, 1)
        assert gate.inside == 1
    with pytest.raises(ZeroDivisionError), gate.slot("a"):
        1 / 0  # noqa: B018
    assert gate.inside == 0


def test_one_client_holds_a_quarter_of_the_queue_at_most() -> None:
    gate = Gate(Limits(queue=8))
    with gate.slot("a"), gate.slot("a"):
        with pytest.raises(Refused, match="2 of your requests are being processed") as caught, gate.slot("a"):
            pass
        assert (caught.value.status, caught.value.retry_s) == (503, 1)
        with gate.slot("b"):
            assert gate.inside == 3
    assert gate.inside == 0
    with gate.slot("a"):
        assert gate.inside == 1
    assert not gate._inside  # clients that left are forgotten
