"""Items of several requests are worked on together, in order, and one bad item loses no other."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from facenet2expnet.deploy.batching import Batcher


@contextlib.asynccontextmanager
async def working(
    run: Callable[[Any, list[int]], list[Any]], most_items: int = 4, most_cost: float = 100.0
) -> AsyncIterator[Batcher[int, Any]]:
    batcher: Batcher[int, Any] = Batcher(run, most_items=most_items, most_cost=most_cost)
    task = asyncio.create_task(batcher.work())
    yield batcher
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def batches_of(requests: list[list[tuple[str, int, float]]], **limits: Any) -> tuple[list[list[int]], list[Any]]:
    """The batches after a first one, during which all requests come in; and the results of the requests."""
    seen: list[list[int]] = []
    begun, go = threading.Event(), threading.Event()

    def run(key: str, items: list[int]) -> list[int]:
        seen.append(items)
        begun.set()
        go.wait(5)
        return [10 * item for item in items]

    async def main() -> list[Any]:
        async with working(run, **limits) as batcher:
            first = asyncio.create_task(batcher.submit([("first", 0, 1.0)]))
            await asyncio.to_thread(begun.wait, 5)
            tasks = [asyncio.create_task(batcher.submit(request)) for request in requests]
            await asyncio.sleep(0)
            go.set()
            return (await asyncio.gather(first, *tasks))[1:]

    results = asyncio.run(main())
    return seen[1:], results


def test_what_waits_is_worked_on_together_and_results_keep_their_order() -> None:
    batches, results = batches_of([[("a", 1, 1.0), ("a", 2, 1.0)], [("a", 3, 1.0)]])
    assert batches == [[1, 2, 3]]
    assert results == [[10, 20], [30]]


def test_a_batch_ends_at_its_number_of_items_and_at_its_cost() -> None:
    items = [("a", number, 1.0) for number in range(1, 7)]
    assert batches_of([items])[0] == [[1, 2, 3, 4], [5, 6]]
    assert batches_of([items], most_cost=2.0)[0] == [[1, 2], [3, 4], [5, 6]]
    assert batches_of([[("a", 1, 500.0), ("a", 2, 1.0)]])[0] == [[1], [2]]  # too costly for any batch: alone


def test_only_items_of_one_key_are_in_a_batch_the_oldest_first() -> None:
    batches, results = batches_of([[("a", 1, 1.0), ("b", 2, 1.0), ("a", 3, 1.0)], [("b", 4, 1.0)]])
    assert batches == [[1, 3], [2, 4]]
    assert results == [[10, 20, 30], [40]]


def test_one_bad_item_loses_no_other() -> None:
    def run(key: str, items: list[int]) -> list[int]:
        return [100 // item for item in items]

    async def main() -> list[Any]:
        async with working(run) as batcher:
            return await batcher.submit([("a", 1, 1.0), ("a", 0, 1.0), ("a", 5, 1.0)])

    one, bad, five = asyncio.run(main())
    assert (one, five) == (100, 20)
    assert isinstance(bad, ZeroDivisionError)


def test_what_a_caller_gave_up_is_not_worked_on() -> None:
    seen: list[list[int]] = []
    begun, go = threading.Event(), threading.Event()

    def run(key: str, items: list[int]) -> list[int]:
        seen.append(items)
        begun.set()
        go.wait(5)
        return items

    async def main() -> None:
        async with working(run) as batcher:
            first = asyncio.create_task(batcher.submit([("a", 1, 1.0)]))
            await asyncio.to_thread(begun.wait, 5)
            lost, kept = (asyncio.create_task(batcher.submit([("a", number, 1.0)])) for number in (2, 3))
            await asyncio.sleep(0)
            lost.cancel()
            await asyncio.gather(lost, return_exceptions=True)
            go.set()
            assert await first == [1]
            assert await kept == [3]

    asyncio.run(main())
    assert seen == [[1], [3]]


def test_what_waits_when_the_service_ends_is_cancelled() -> None:
    begun, go = threading.Event(), threading.Event()

    def run(key: str, items: list[int]) -> list[int]:
        begun.set()
        go.wait(5)
        return items

    async def main() -> list[Any]:
        async with working(run) as batcher:
            tasks = [asyncio.create_task(batcher.submit([("a", 1, 1.0)]))]
            await asyncio.to_thread(begun.wait, 5)
            tasks.append(asyncio.create_task(batcher.submit([("b", 2, 1.0)])))
            await asyncio.sleep(0)
            go.set()
        return (await asyncio.wait_for(asyncio.gather(*tasks[1:]), 5))[0]

    (result,) = asyncio.run(main())
    assert isinstance(result, asyncio.CancelledError)


@pytest.mark.parametrize("count", [0, 1])
def test_a_request_without_items_is_answered(count: int) -> None:
    async def main() -> list[Any]:
        async with working(lambda key, items: items) as batcher:
            return await asyncio.wait_for(batcher.submit([("a", 7, 1.0)] * count), 5)

    assert asyncio.run(main()) == [7] * count
