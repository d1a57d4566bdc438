"""Who runs next: sources take turns, and a runner that is free takes what waits at that moment.

No timer: nothing waits for a batch to fill. A worker that is lost takes along what ran and what waited; it is
restarted while newcomers are refused.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from dataclasses import dataclass
from time import monotonic
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
class Turn(Generic[Item, Result]):
    """An item's turn in the queue. Another item may replace it until a runner takes it."""

    item: Item
    source: Hashable
    answer: asyncio.Future[Result]
    lock: threading.Condition
    taken: bool = False

    def replace(self, item: Item) -> bool:
        """Put `item` in the place of the present one; False when a runner has taken that, or it was lost."""
        with self.lock:  # the runner that takes the item holds it too
            if not self.taken:
                self.item = item
            return not self.taken


class Batcher(Generic[Item, Result]):
    """Runs items on a fixed number of threads, taking turns among the sources that they come from."""

    def __init__(
        self,
        run: Callable[[list[Item]], Sequence[Result | PoseError]],
        *,
        runners: int = 1,
        max_batch: int = 1,
        alive: Callable[[], bool] = lambda: True,
        restart: Callable[[], None] = lambda: None,
    ) -> None:
        """run: as many results as items, in their order; called by all runners at the same time.

        runners: threads that call `run`. max_batch: items of a call, at most.

        The worker is lost when `alive` says so, when `run` raises WorkerLost, runs out of memory, or raises
        what is no Exception. Then one of the runners calls `restart` until it does not raise.
        """
        self._run, self._max_batch = run, max_batch
        self._alive, self._restart = alive, restart
        self._lost, self._losses, self._back = False, 0, monotonic()
        self._life = 0  # of the worker; several runners may see the end of one
        self._watchers: list[Callable[[], None]] = []
        self._waiting: dict[Hashable, deque[Turn[Item, Result]]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._runners = [
            threading.Thread(target=self._work, name=f"runner-{number}", daemon=True)
            for number in range(runners)
        ]
        for runner in self._runners:
            runner.start()

    async def submit(self, item: Item, source: Hashable) -> Result:
        """The item's result. Raises as `enter` and `result` do."""
        return await self.result(self.enter(item, source))

    def enter(self, item: Item, source: Hashable) -> Turn[Item, Result]:
        """A turn in the queue. Raises WorkerLost, and ShuttingDown once closed."""
        answer = asyncio.get_running_loop().create_future()
        turn = Turn[Item, Result](item, source, answer, self._changed)
        with self._changed:
            if self._closed:
                raise ShuttingDown("the service is shutting down")
            if self._lost:
                raise WorkerLost
            self._waiting.setdefault(source, deque()).append(turn)
            QUEUE_DEPTH.inc()
            self._changed.notify()
        return turn

    async def result(self, turn: Turn[Item, Result]) -> Result:
        """The result of the item that the turn holds when it is taken; when cancelled before, it never runs.

        Raises InferenceFailed, WorkerLost, and the PoseError that `run` gave in place of a result.
        """
        try:
            return await turn.answer
        except asyncio.CancelledError:
            self._withdraw(turn)
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
        """Refuse new items, answer those that wait, end the runners."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for runner in self._runners:
            await asyncio.to_thread(runner.join)

    def _withdraw(self, turn: Turn[Item, Result]) -> None:
        with self._changed:
            if not turn.taken:
                turn.taken = True
                self._waiting[turn.source].remove(turn)
                QUEUE_DEPTH.dec()
                if not self._waiting[turn.source]:
                    del self._waiting[turn.source]

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            batch, life = taken
            try:
                self._answer(batch)
            except BaseException:
                logger.exception("the worker is lost")
                self._lose(batch, life)

    def _answer(self, batch: list[Turn[Item, Result]]) -> None:
        if not self._alive():
            raise WorkerLost
        if batch:
            BATCH_IMAGES.observe(len(batch))
            _settle(batch, self._outcomes([turn.item for turn in batch]))

    def _take(self) -> tuple[list[Turn[Item, Result]], int] | None:
        """Up to `max_batch` turns, one of each source in turn, and the life of the worker that they fall in.

        No turns when the worker dies while nothing waits; None when closed and empty.
        """
        with self._changed:
            while not (self._waiting or self._closed) and (self._lost or self._alive()):
                self._changed.wait(_LOOK_S * len(self._runners))  # each looks, so that together they do often
            if self._closed and not self._waiting:
                return None
            batch: list[Turn[Item, Result]] = []
            while self._waiting and len(batch) < self._max_batch:
                source = next(iter(self._waiting))
                queue = self._waiting.pop(source)
                turn = queue.popleft()
                turn.taken = True
                QUEUE_DEPTH.dec()
                if not turn.answer.done():  # else its caller is gone
                    batch.append(turn)
                if queue:
                    self._waiting[source] = queue  # to the end of the round
            return batch, self._life

    def _outcomes(self, items: list[Item]) -> list[Result | PoseError]:
        """A result or a failure of each; a batch that fails is run again one by one."""
        try:
            results = list(self._run(items))
            if len(results) != len(items):
                raise RuntimeError(f"{len(results)} results of {len(items)} items")
            return results
        except (MemoryError, WorkerLost):
            raise
        except Exception:
            logger.exception("a batch of %d failed", len(items))
            if len(items) == 1:
                return [InferenceFailed()]
            return [outcome for item in items for outcome in self._outcomes([item])]

    def _lose(self, batch: list[Turn[Item, Result]], life: int) -> None:
        """Fail the batch. The first runner to see the loss also fails what waits, and restarts the worker."""
        lost = [*batch]
        with self._changed:
            if first := life == self._life:
                self._lost, self._life = True, life + 1
                waiting = [turn for queue in self._waiting.values() for turn in queue]
                for turn in waiting:
                    turn.taken = True
                self._waiting.clear()
                QUEUE_DEPTH.dec(len(waiting))
                lost += waiting
        if first:
            self._tell()
        outcomes: list[Result | PoseError] = [WorkerLost() for _ in lost]
        _settle(lost, outcomes)
        if first:
            self._recover()

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


def _settle(batch: list[Turn[Item, Result]], outcomes: list[Result | PoseError]) -> None:
    """Give each turn its outcome, on the event loop; from a runner's thread."""

    def settle() -> None:
        for turn, outcome in zip(batch, outcomes, strict=True):
            if turn.answer.done():
                continue  # its caller is gone
            if isinstance(outcome, PoseError):
                turn.answer.set_exception(outcome)
            else:
                turn.answer.set_result(outcome)

    if batch:
        batch[0].answer.get_loop().call_soon_threadsafe(settle)
