"""Batches of whatever waits when the worker is free: no timer, so nothing waits for a batch to fill.

A worker that is lost takes along what ran and what waited; it is restarted while newcomers are refused.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import Generic, TypeVar

from service.errors import InferenceFailed, PoseError, ShuttingDown, WorkerLost
from service.observability.metrics import BATCH_IMAGES, QUEUE_DEPTH, WORKER_RESTARTS

logger = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")
_PAUSES_S = (0, 0.5, 1, 2, 4, 8, 16, 30)  # before a restart; the last for all that follow
_STEADY_S = 10  # a worker that has lived so long is not in a loop of crashes
_LOOK_S = 0.2  # between looks at an idle worker


@dataclass(slots=True, eq=False)
class _Entry(Generic[Item, Result]):
    item: Item
    answer: asyncio.Future[tuple[Result, float]]
    since: float


class Batcher(Generic[Item, Result]):
    """Runs items in batches on one thread, taking turns among the sources that they come from."""

    def __init__(
        self,
        run: Callable[[list[Item]], Sequence[Result]],
        *,
        max_batch: int,
        side_by_side: int = 1,
        alive: Callable[[], bool] = lambda: True,
        restart: Callable[[], None] = lambda: None,
    ) -> None:
        """run: as many results as items, in their order; called on the batcher's thread, as restart is.

        side_by_side: items that `run` works on at the same time; a batch of more is a multiple of it, lest
        threads idle while the last item is worked on.

        The worker is lost when `alive` says so, when `run` raises WorkerLost, runs out of memory, or raises
        what is no Exception. Then `restart` is called until it does not raise.
        """
        self._run, self._max_batch, self._side_by_side = run, max_batch, side_by_side
        self._alive, self._restart = alive, restart
        self._lost, self._losses, self._back = False, 0, monotonic()
        self._watchers: list[Callable[[], None]] = []
        self._waiting: dict[Hashable, deque[_Entry[Item, Result]]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._worker.start()

    async def submit(self, item: Item, source: Hashable) -> tuple[Result, float]:
        """The item's result, and the seconds it waited. A cancelled item that still waits never runs.

        Raises InferenceFailed, WorkerLost, and ShuttingDown once closed.
        """
        entry = _Entry[Item, Result](item, asyncio.get_running_loop().create_future(), perf_counter())
        with self._changed:
            if self._closed:
                raise ShuttingDown("the service is shutting down")
            if self._lost:
                raise WorkerLost
            self._waiting.setdefault(source, deque()).append(entry)
            QUEUE_DEPTH.inc()
            self._changed.notify()
        try:
            return await entry.answer
        except asyncio.CancelledError:
            self._withdraw(entry, source)
            raise

    @property
    def ready(self) -> bool:
        """Whether it has a worker."""
        return not self._lost and self._alive()

    async def readiness(self) -> AsyncIterator[bool]:
        """`ready`: now, and after each change."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            loop.call_soon_threadsafe(changed.set)

        self._watchers.append(tell)
        try:
            while True:
                changed.clear()
                yield self.ready
                await changed.wait()
        finally:
            self._watchers.remove(tell)

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
            try:
                self._answer(batch)
            except BaseException:
                logger.exception("the worker is lost")
                self._fail(batch)
                self._recover()

    def _answer(self, batch: list[_Entry[Item, Result]]) -> None:
        if not self._alive():
            raise WorkerLost
        if batch:
            now = perf_counter()
            BATCH_IMAGES.observe(len(batch))
            outcomes = self._outcomes([entry.item for entry in batch])
            batch[0].answer.get_loop().call_soon_threadsafe(_settle, batch, outcomes, now)

    def _take(self) -> list[_Entry[Item, Result]] | None:
        """Up to `max_batch` entries, one of each source in turn; None when closed and empty.

        None of them when the worker dies while nothing waits.
        """
        with self._changed:
            while not (self._waiting or self._closed) and self._alive():
                self._changed.wait(_LOOK_S)
            if self._closed and not self._waiting:
                return None
            batch: list[_Entry[Item, Result]] = []
            room = self._room()
            while self._waiting and len(batch) < room:
                source = next(iter(self._waiting))
                queue = self._waiting.pop(source)
                entry = queue.popleft()
                QUEUE_DEPTH.dec()
                if not entry.answer.done():  # else its caller is gone
                    batch.append(entry)
                if queue:
                    self._waiting[source] = queue  # to the end of the round
            return batch

    def _room(self) -> int:
        """Entries that the next batch takes of those that wait."""
        most = min(self._max_batch, sum(map(len, self._waiting.values())))
        return most - most % self._side_by_side if most > self._side_by_side else most

    def _outcomes(self, items: list[Item]) -> list[Result | PoseError]:
        """A result or a failure of each; a batch that fails is run again one by one."""
        try:
            results = list(self._run(items))
            if len(results) != len(items):
                raise RuntimeError(f"{len(results)} results of {len(items)} items")
            return [*results]
        except (MemoryError, WorkerLost):
            raise
        except Exception:
            logger.exception("a batch of %d failed", len(items))
            if len(items) == 1:
                return [InferenceFailed()]
            return [outcome for item in items for outcome in self._outcomes([item])]

    def _fail(self, batch: list[_Entry[Item, Result]]) -> None:
        """Tell at once those in the batch, and those who wait, that the worker is lost."""
        with self._changed:
            self._lost = True
            waiting = [entry for queue in self._waiting.values() for entry in queue]
            self._waiting.clear()
            QUEUE_DEPTH.dec(len(waiting))
        self._tell()
        if lost := batch + waiting:
            outcomes: list[Result | PoseError] = [WorkerLost() for _ in lost]
            lost[0].answer.get_loop().call_soon_threadsafe(_settle, lost, outcomes, 0)

    def _recover(self) -> None:
        """Restart the worker: at once, or after ever longer pauses where it keeps dying; once closed, not."""
        if monotonic() - self._back > _STEADY_S:
            self._losses = 0
        while True:
            pause = _PAUSES_S[min(self._losses, len(_PAUSES_S) - 1)]
            self._losses += 1
            with self._changed:
                if self._changed.wait_for(lambda: self._closed, pause):
                    return
            WORKER_RESTARTS.inc()
            try:
                self._restart()
            except BaseException:
                logger.exception("the worker cannot be restarted")
            else:
                break
        self._lost, self._back = False, monotonic()
        logger.info("the worker is back")
        self._tell()

    def _tell(self) -> None:
        for tell in [*self._watchers]:
            tell()


def _settle(batch: list[_Entry[Item, Result]], outcomes: list[Result | PoseError], start: float) -> None:
    for entry, outcome in zip(batch, outcomes, strict=True):
        if entry.answer.done():
            continue  # its caller is gone
        if isinstance(outcome, PoseError):
            entry.answer.set_exception(outcome)
        else:
            entry.answer.set_result((outcome, start - entry.since))
