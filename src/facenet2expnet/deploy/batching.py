"""Work on the items of several requests together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class _Waiting(Generic[Item, Result]):
    key: Hashable
    item: Item
    cost: float
    future: asyncio.Future[Result]


class Batcher(Generic[Item, Result]):
    """Collects items while a thread works on earlier ones, and hands them to it together.

    A batch forms by itself while the one before it is worked on, so an item never waits for others to come.

    Args:
        run: the items of one key -> one result, or exception, each; called in a thread of its own, never twice at one
            time.
        most_items: items of a batch.
        most_cost: sum of their costs; an item that costs more is worked on alone.
        on_batch: called with the number of items of each batch.
    """

    def __init__(
        self,
        run: Callable[[Any, list[Item]], Sequence[Result | Exception]],
        *,
        most_items: int,
        most_cost: float,
        on_batch: Callable[[int], object] = lambda items: None,
    ) -> None:
        self.run, self.most_items, self.most_cost, self.on_batch = run, most_items, most_cost, on_batch
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._some = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "batch")

    async def submit(self, items: Sequence[tuple[Hashable, Item, float]]) -> list[Result | BaseException]:
        """Work on items, each with its key and cost; return their results, or exceptions, in order.

        Items with equal keys may be worked on together. If the caller is cancelled, what has not begun is left out.
        """
        loop = asyncio.get_running_loop()
        waiting = [_Waiting[Item, Result](key, item, cost, loop.create_future()) for key, item, cost in items]
        self._waiting.extend(waiting)
        self._some.set()
        return list(await asyncio.gather(*(one.future for one in waiting), return_exceptions=True))

    async def work(self) -> None:
        """Work on batches until cancelled; one task for the life of the service."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._some.wait()
                batch = self._next()
                if not batch:
                    self._some.clear()
                    continue
                self.on_batch(len(batch))
                for one, result in await loop.run_in_executor(self._thread, self._results, batch):
                    if one.future.done():
                        continue
                    if isinstance(result, Exception):
                        one.future.set_exception(result)
                    else:
                        one.future.set_result(result)
        finally:
            for one in self._waiting:
                one.future.cancel()
            self._thread.shutdown(wait=True)

    def _next(self) -> list[_Waiting[Item, Result]]:
        """Take the next batch from what waits: the oldest item, and others of its key in their order."""
        batch: list[_Waiting[Item, Result]] = []
        left: deque[_Waiting[Item, Result]] = deque()
        cost, full = 0.0, False
        for one in self._waiting:
            if one.future.done():
                continue
            fits = not batch or (one.key == batch[0].key and cost + one.cost <= self.most_cost)
            if full or not fits:
                left.append(one)
                continue
            batch.append(one)
            cost += one.cost
            full = len(batch) == self.most_items
        self._waiting = left
        return batch

    def _results(self, batch: list[_Waiting[Item, Result]]) -> list[tuple[_Waiting[Item, Result], Result | Exception]]:
        """Run a batch; if that fails, each item alone, so that one bad item does not lose the others."""
        try:
            results = self.run(batch[0].key, [one.item for one in batch])
            return list(zip(batch, results, strict=True))
        except Exception as error:
            if len(batch) == 1:
                return [(batch[0], error)]
            return [pair for one in batch for pair in self._results([one])]
