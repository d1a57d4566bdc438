"""Batches of whatever waits when the worker is free: no timer, so nothing waits for a batch to fill."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, TypeVar

from service.errors import InferenceFailed, PoseError, ShuttingDown
from service.metrics import BATCH_IMAGES, QUEUE_DEPTH

logger = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class _Entry(Generic[Item, Result]):
    item: Item
    answer: asyncio.Future[tuple[Result, float]]
    since: float


class Batcher(Generic[Item, Result]):
    """Runs items in batches on one thread, taking turns among the sources that they come from."""

    def __init__(self, run: Callable[[list[Item]], Sequence[Result]], *, max_batch: int) -> None:
        """run: as many results as items, in their order; called on the worker's thread."""
        self._run, self._max_batch = run, max_batch
        self._waiting: dict[Hashable, deque[_Entry[Item, Result]]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._worker.start()

    async def submit(self, item: Item, source: Hashable) -> tuple[Result, float]:
        """The item's result, and the seconds it waited. A cancelled item that still waits never runs.

        Raises InferenceFailed, and ShuttingDown once closed.
        """
        entry = _Entry[Item, Result](item, asyncio.get_running_loop().create_future(), perf_counter())
        with self._changed:
            if self._closed:
                raise ShuttingDown("the service is shutting down")
            self._waiting.setdefault(source, deque()).append(entry)
            QUEUE_DEPTH.inc()
            self._changed.notify()
        try:
            return await entry.answer
        except asyncio.CancelledError:
            self._withdraw(entry, source)
            raise

    async def close(self) -> None:
        """Refuse new items, answer those that wait, end the worker."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        await asyncio.to_thread(self._worker.join)

    def _withdraw(self, entry: _Entry[Item, Result], source: Hashable) -> None:
        with self._changed:
            if entry in self._waiting.get(source, ()):
                self._waiting[source].remove(entry)
                QUEUE_DEPTH.dec()
                if not self._waiting[source]:
                    del self._waiting[source]

    def _work(self) -> None:
        while (batch := self._take()) is not None:
            if not batch:
                continue
            now = perf_counter()
            BATCH_IMAGES.observe(len(batch))
            outcomes = self._outcomes([entry.item for entry in batch])
            batch[0].answer.get_loop().call_soon_threadsafe(_settle, batch, outcomes, now)

    def _take(self) -> list[_Entry[Item, Result]] | None:
        """Up to `max_batch` entries, one of each source in turn; None when closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            batch: list[_Entry[Item, Result]] = []
            while self._waiting and len(batch) < self._max_batch:
                source = next(iter(self._waiting))
                queue = self._waiting.pop(source)
                entry = queue.popleft()
                QUEUE_DEPTH.dec()
                if not entry.answer.done():  # else its caller is gone
                    batch.append(entry)
                if queue:
                    self._waiting[source] = queue  # to the end of the round
            return batch

    def _outcomes(self, items: list[Item]) -> list[Result | PoseError]:
        """A result or a failure of each; a batch that fails is run again one by one."""
        try:
            results = list(self._run(items))
            if len(results) != len(items):
                raise RuntimeError(f"{len(results)} results of {len(items)} items")
            return [*results]
        except Exception:
            logger.exception("a batch of %d failed", len(items))
            if len(items) == 1:
                return [InferenceFailed()]
            return [outcome for item in items for outcome in self._outcomes([item])]


def _settle(batch: list[_Entry[Item, Result]], outcomes: list[Result | PoseError], start: float) -> None:
    for entry, outcome in zip(batch, outcomes, strict=True):
        if entry.answer.done():
            continue  # its caller is gone
        if isinstance(outcome, PoseError):
            entry.answer.set_exception(outcome)
        else:
            entry.answer.set_result((outcome, start - entry.since))
