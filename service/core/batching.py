"""Queue and runners: sources take turns, and a free runner takes items that wait at that moment.

There is no timer: no item waits for a batch to fill. When the worker is lost, all running and waiting items
fail. It is restarted, and new items are refused until then.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Generic, TypeVar

from service.errors import InferenceFailed, PoseError, ShuttingDown, WorkerLost
from service.observability.metrics import BATCH_IMAGES, QUEUE_DEPTH, WORKER_RESTARTS

logger = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")
_PAUSES_S = (0, 0.5, 1, 2, 4, 8, 16, 30)  # before successive restarts; the last one repeats
_STEADY_S = 10  # after this time the pauses start again at 0
_LOOK_S = 0.2  # interval of the check of an idle worker


@dataclass(slots=True, eq=False)
class Turn(Generic[Item, Result]):
    """An item's turn in the queue. Another item may replace it until a runner takes it."""

    item: Item
    source: Hashable
    answer: asyncio.Future[Result | PoseError]
    lock: threading.Condition
    taken: bool = False

    def replace(self, item: Item) -> bool:
        """Replace the present item by `item`. Returns False when a runner has taken it or it has failed."""
        with self.lock:  # a runner that takes the item holds the same lock
            if not self.taken:
                self.item = item
            return not self.taken


class Batcher(Generic[Item, Result]):
    """Runs items on a fixed number of threads; the sources of the items take turns."""

    def __init__(
        self,
        run: Callable[[list[Item]], Sequence[Result | PoseError]],
        *,
        runners: int = 1,
        max_batch: int = 1,
        spread: bool = False,
        alive: Callable[[], bool] = lambda: True,
        restart: Callable[[], None] = lambda: None,
    ) -> None:
        """run: returns one result for each item, in order; all runners call it at the same time.

        runners: number of threads that call `run`. max_batch: maximum number of items of a call.
        spread: each runner has a processor of its own, so a runner takes at most its share of the items.

        The worker is lost when `alive` returns False, and when `run` raises WorkerLost, MemoryError or a
        BaseException that is not an Exception. Then one of the runners calls `restart` until it succeeds.
        """
        self._run, self._max_batch, self._spread = run, max_batch, spread
        self._alive, self._restart = alive, restart
        self._lost, self._losses, self._back = False, 0, monotonic()
        self._life = 0  # number of the worker's current life; several runners may see its end
        self._watchers: list[Callable[[], None]] = []
        self._waiting: dict[Hashable, deque[Turn[Item, Result]]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._runners = [
            threading.Thread(target=self._work, args=(number == 0,), name=f"runner-{number}", daemon=True)
            for number in range(runners)
        ]
        for runner in self._runners:
            runner.start()

    async def submit(self, items: Iterable[Item], source: Hashable) -> list[Result | PoseError]:
        """The outcome of each item, in order. After a cancellation the waiting items never run.

        Raises what `enter` raises.
        """
        turns: list[Turn[Item, Result]] = []
        try:
            for item in items:
                turns.append(self.enter(item, source))
            return [await turn.answer for turn in turns]
        except BaseException:
            for turn in turns:
                self._withdraw(turn)
            raise

    def enter(self, item: Item, source: Hashable) -> Turn[Item, Result]:
        """Add the item to the queue. Raises WorkerLost, and ShuttingDown after `close`."""
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
        """The result of the item that the turn holds when a runner takes it. A cancelled turn never runs.

        Raises InferenceFailed, WorkerLost, or the PoseError that `run` returned instead of a result.
        """
        try:
            outcome = await turn.answer
        except asyncio.CancelledError:
            self._withdraw(turn)
            raise
        if isinstance(outcome, PoseError):
            raise outcome
        return outcome

    @property
    def ready(self) -> bool:
        """Whether the worker is alive."""
        return not self._lost and self._alive()

    async def readiness(self) -> AsyncIterator[bool]:
        """The value of `ready`: now, and after each change."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def notify() -> None:
            loop.call_soon_threadsafe(changed.set)

        self._watchers.append(notify)
        try:
            while True:
                changed.clear()
                yield self.ready
                await changed.wait()
        finally:
            self._watchers.remove(notify)

    async def close(self) -> None:
        """Refuse new items, answer the waiting ones, and end the runners."""
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

    def _work(self, watches: bool) -> None:
        """watches: checks the worker while no item waits; the other runners see a loss in their calls."""
        while (taken := self._take(_LOOK_S if watches else None)) is not None:
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

    def _take(self, look_s: float | None) -> tuple[list[Turn[Item, Result]], int] | None:
        """One or more turns, one from each source in turn, and the number of the worker's life.

        An empty list when the worker dies while no item waits; None when closed and empty. look_s: interval
        of the check of an idle worker, None for no check.
        """
        with self._changed:
            while not (self._waiting or self._closed) and (self._lost or self._alive()):
                self._changed.wait(look_s)
            if self._closed and not self._waiting:
                return None
            batch: list[Turn[Item, Result]] = []
            most = self._most()
            while self._waiting and len(batch) < most:
                source = next(iter(self._waiting))
                queue = self._waiting.pop(source)
                turn = queue.popleft()
                turn.taken = True
                QUEUE_DEPTH.dec()
                if not turn.answer.done():  # otherwise its client has left
                    batch.append(turn)
                if queue:
                    self._waiting[source] = queue  # it has its next turn after all others
            return batch, self._life

    def _most(self) -> int:
        """How many of the waiting items a runner takes, at most."""
        if not self._spread:
            return self._max_batch
        waiting = sum(map(len, self._waiting.values()))
        return min(self._max_batch, max(1, waiting // len(self._runners)))

    def _outcomes(self, items: list[Item]) -> list[Result | PoseError]:
        """A result or an error for each item. If a batch fails, its items run again one by one."""
        try:
            results = list(self._run(items))
            if len(results) != len(items):
                raise RuntimeError(f"{len(results)} results for {len(items)} items")
            return results
        except (MemoryError, WorkerLost):
            raise
        except Exception:
            logger.exception("a batch of %d failed", len(items))
            if len(items) == 1:
                return [InferenceFailed()]
            return [outcome for item in items for outcome in self._outcomes([item])]

    def _lose(self, batch: list[Turn[Item, Result]], life: int) -> None:
        """Fail the batch. The first runner that sees a loss also fails the queue and restarts the worker."""
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
            self._notify()
        outcomes: list[Result | PoseError] = [WorkerLost() for _ in lost]
        _settle(lost, outcomes)
        if first:
            self._recover()

    def _recover(self) -> None:
        """Restart the worker, after growing pauses if it keeps dying; not after `close`."""
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
        self._notify()

    def _notify(self) -> None:
        for notify in [*self._watchers]:
            notify()


def _settle(batch: list[Turn[Item, Result]], outcomes: list[Result | PoseError]) -> None:
    """Set the outcome of each turn on the event loop; called from a runner's thread."""

    def settle() -> None:
        for turn, outcome in zip(batch, outcomes, strict=True):
            if not turn.answer.done():  # otherwise its client has left
                turn.answer.set_result(outcome)

    if batch:
        batch[0].answer.get_loop().call_soon_threadsafe(settle)
