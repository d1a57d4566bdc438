"""The batcher: batches, failures, and clients that cancel."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from service.core.batching import Batcher
from service.errors import ArtefactError, InferenceFailed, ShuttingDown, WorkerLost
from service.observability.metrics import QUEUE_DEPTH, WORKER_RESTARTS


class Worker:
    """Doubles numbers; each batch waits until the test releases it."""

    def __init__(self, fail: Callable[[list[int]], Any] = lambda items: None) -> None:
        self.batches: list[list[int]] = []
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self._fail = fail

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.begun.release()
        assert self.go.acquire(timeout=30)
        self._fail(items)
        return [2 * item for item in items]

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=30)


async def submit(batcher: Batcher[int, int], *items: int, source: object = None) -> list[asyncio.Task[Any]]:
    """Tasks that wait for the results of the items; returns when all are in the queue."""
    tasks = [asyncio.create_task(batcher.result(batcher.enter(item, source or item))) for item in items]
    await asyncio.sleep(0)
    return tasks


async def results(tasks: list[asyncio.Task[Any]]) -> list[Any]:
    outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
    return [*outcomes]


async def test_a_free_worker_takes_the_waiting_items_as_a_batch() -> None:
    worker = Worker()
    batcher = Batcher(worker, max_batch=4)
    tasks = await submit(batcher, 0)
    await worker.has_begun()
    tasks += await submit(batcher, *range(1, 8))
    worker.go.release(3)
    assert await results(tasks) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert worker.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]
    await batcher.close()


async def test_a_runner_takes_at_most_its_share() -> None:
    worker = Worker()
    batcher = Batcher(worker, runners=2, max_batch=2, spread=True)
    tasks = await submit(batcher, 0, 1)
    for _ in range(2):
        await worker.has_begun()
    tasks += await submit(batcher, *range(2, 8))
    for _ in range(4):
        worker.go.release()
        await worker.has_begun()
    worker.go.release(2)
    assert await results(tasks) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert worker.batches[2:] == [[2, 3], [4, 5], [6], [7]]
    await batcher.close()


async def test_runners_work_at_the_same_time_and_each_answer_leaves_when_it_is_done() -> None:
    begun = threading.Barrier(16)
    go = [threading.Event() for _ in range(16)]

    def run(items: list[int]) -> list[int]:
        begun.wait(30)
        assert go[items[0]].wait(30)
        return items

    batcher = Batcher(run, runners=16)
    tasks = await submit(batcher, *range(16))
    for item in reversed(range(16)):
        go[item].set()
        assert await results([tasks[item]]) == [item]
        assert not any(task.done() for task in tasks[:item])
    await batcher.close()


async def test_a_turn_runs_the_item_that_it_holds_when_it_is_taken() -> None:
    worker = Worker()
    batcher = Batcher(worker)
    tasks = await submit(batcher, 0)
    await worker.has_begun()
    turn = batcher.enter(1, "camera")
    tasks += await submit(batcher, 9)
    assert turn.replace(2)
    assert turn.replace(3)
    worker.go.release()
    await worker.has_begun()
    assert not turn.replace(4)
    worker.go.release(2)
    assert await asyncio.wait_for(batcher.result(turn), 30) == 6
    assert await results(tasks) == [0, 18]
    assert worker.batches == [[0], [3], [9]]
    await batcher.close()


async def test_a_turn_that_is_left_or_lost_takes_no_other_item() -> None:
    def fail(items: list[int]) -> None:
        raise WorkerLost

    worker = Worker(fail)
    batcher = Batcher(worker)
    tasks = await submit(batcher, 0)
    await worker.has_begun()
    left, lost = batcher.enter(1, "left"), batcher.enter(2, "lost")
    leaving = asyncio.create_task(batcher.result(left))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving])
    assert not left.replace(3)
    worker.go.release()
    with pytest.raises(WorkerLost):
        await asyncio.wait_for(batcher.result(lost), 30)
    assert not lost.replace(4)
    assert isinstance((await results(tasks))[0], WorkerLost)
    assert worker.batches == [[0]]
    await batcher.close()


async def test_a_loss_that_several_runners_see_restarts_the_worker_once() -> None:
    begun, restarts = threading.Barrier(3), []

    def run(items: list[int]) -> list[int]:
        if items[0] < 3:
            begun.wait(30)
            raise WorkerLost
        return items

    batcher = Batcher(run, runners=3, restart=lambda: restarts.append(1))
    states = aiter(batcher.readiness())
    assert await anext(states)
    tasks = await submit(batcher, 0, 1, 2)
    assert [type(each) for each in await results(tasks)] == [WorkerLost] * 3
    while not await anext(states):
        pass
    assert await results(await submit(batcher, 4, 5, 6)) == [4, 5, 6]
    assert restarts == [1]
    await batcher.close()


async def test_clients_that_cancel_during_a_batch_do_not_affect_the_others() -> None:
    worker = Worker()
    batcher = Batcher(worker, max_batch=4)
    tasks = await submit(batcher, 0)
    await worker.has_begun()
    tasks += await submit(batcher, 1, 2, 3)
    worker.go.release()
    await worker.has_begun()
    tasks[2].cancel()
    await asyncio.wait([tasks[2]])
    worker.go.release()
    del tasks[2]
    assert await results(tasks) == [0, 2, 6]
    assert worker.batches == [[0], [1, 2, 3]]
    tasks = await submit(batcher, 5)
    worker.go.release()
    assert await results(tasks) == [10]
    await batcher.close()


async def test_cancelled_work_never_runs() -> None:
    worker = Worker()
    batcher = Batcher(worker, max_batch=2)
    tasks = await submit(batcher, 0)
    await worker.has_begun()
    before = QUEUE_DEPTH._value.get()
    left = await submit(batcher, *range(1, 1001))
    for task in left:
        task.cancel()
    stays = await submit(batcher, -1)
    await asyncio.wait(left)
    assert QUEUE_DEPTH._value.get() == before + 1
    worker.go.release(2)
    assert await results(tasks + stays) == [0, -2]
    assert worker.batches == [[0], [-1]]
    await batcher.close()


async def test_one_bad_item_fails_alone() -> None:
    def fail(items: list[int]) -> None:
        if 2 in items:
            raise ValueError("two")

    worker = Worker(fail)
    batcher = Batcher(worker, max_batch=8)
    tasks = await submit(batcher, 0)
    await worker.has_begun()
    tasks += await submit(batcher, 1, 2, 3)
    worker.go.release(5)
    first, second, bad, third = await results(tasks)
    assert (first, second, third) == (0, 2, 6)
    assert isinstance(bad, InferenceFailed)
    assert "two" not in str(bad)
    tasks = await submit(batcher, 7)
    worker.go.release()
    assert await results(tasks) == [14]
    await batcher.close()


async def test_a_batch_with_too_few_results_fails() -> None:
    batcher: Batcher[int, int] = Batcher(lambda items: items[1:], max_batch=8)
    assert all(isinstance(each, InferenceFailed) for each in await results(await submit(batcher, 1, 2, 3)))
    await batcher.close()


async def test_sources_take_turns() -> None:
    worker = Worker()
    batcher = Batcher(worker, max_batch=3)
    tasks = await submit(batcher, 0)
    await worker.has_begun()
    for source, items in (("busy", (10, 11, 12, 13)), ("calm", (20,)), ("third", (30, 31))):
        tasks += await submit(batcher, *items, source=source)
    worker.go.release(4)
    await results(tasks)
    assert worker.batches == [[0], [10, 20, 30], [11, 31, 12], [13]]
    await batcher.close()


async def test_the_outcomes_of_several_items_keep_their_order_and_one_failure_leaves_the_others() -> None:
    def fail(items: list[int]) -> None:
        if 2 in items:
            raise ValueError

    worker = Worker(fail)
    batcher = Batcher(worker, runners=2)
    worker.go.release(4)
    first, second, third = await asyncio.wait_for(batcher.submit([1, 2, 3], "request"), 30)
    assert (first, third) == (2, 6)
    assert isinstance(second, InferenceFailed)
    await batcher.close()


async def test_after_a_cancellation_none_of_several_waiting_items_runs() -> None:
    worker = Worker()
    batcher = Batcher(worker)
    before = QUEUE_DEPTH._value.get()
    request = asyncio.create_task(batcher.submit([0, 1, 2], "request"))
    await worker.has_begun()
    request.cancel()
    await asyncio.wait([request])
    assert QUEUE_DEPTH._value.get() == before
    worker.go.release(2)
    assert await asyncio.wait_for(batcher.submit([3], "next"), 30) == [6]
    assert worker.batches == [[0], [3]]
    await batcher.close()


async def test_closing_answers_waiting_items_and_refuses_new_ones() -> None:
    worker = Worker()
    batcher = Batcher(worker, max_batch=2)
    tasks = await submit(batcher, 0, 1, 2, 3, 4)
    closing = asyncio.create_task(batcher.close())
    await worker.has_begun()
    with pytest.raises(ShuttingDown):
        await batcher.submit([9], "late")
    worker.go.release(5)
    await asyncio.wait_for(closing, 30)
    assert await results(tasks) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("loss", [WorkerLost, MemoryError, SystemExit, GeneratorExit])
async def test_a_crashed_worker_fails_running_and_waiting_items_and_restarts(
    loss: type[BaseException],
) -> None:
    def fail(items: list[int]) -> None:
        if 0 in items:
            raise loss

    worker, may_restart = Worker(fail), threading.Semaphore(0)

    def restart() -> None:
        assert may_restart.acquire(timeout=30)

    batcher = Batcher(worker, max_batch=2, restart=restart)
    states = aiter(batcher.readiness())
    assert await anext(states) is True
    before = QUEUE_DEPTH._value.get()
    tasks = await submit(batcher, 0)
    await worker.has_begun()
    tasks += await submit(batcher, 1, 2, 3)
    worker.go.release()
    assert [type(each) for each in await results(tasks)] == [WorkerLost] * 4
    assert await anext(states) is False
    assert not batcher.ready
    with pytest.raises(WorkerLost):
        await batcher.submit([4], "newcomer")
    may_restart.release()
    assert await anext(states) is True
    worker.go.release()
    assert await results(await submit(batcher, 5)) == [10]
    assert worker.batches == [[0], [5]]
    assert QUEUE_DEPTH._value.get() == before
    await batcher.close()


async def test_a_worker_that_dies_while_idle_is_restarted() -> None:
    lives = [False, True]
    batcher: Batcher[int, int] = Batcher(
        lambda items: items, max_batch=2, alive=lambda: lives[0], restart=lambda: lives.pop(0) and None
    )
    async for ready in batcher.readiness():
        if ready:
            break
    assert await results(await submit(batcher, 1)) == [1]
    await batcher.close()


async def test_restarts_of_a_dying_worker_have_growing_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    wait_for = threading.Condition.wait_for

    def no_pause(self: threading.Condition, predicate: Callable[[], Any], timeout: float) -> Any:
        pauses.append(timeout)
        return wait_for(self, predicate, 0)

    monkeypatch.setattr(threading.Condition, "wait_for", no_pause)
    failures = iter([True] * 9)

    def restart() -> None:
        if next(failures, False):
            raise ArtefactError("no memory")

    before = WORKER_RESTARTS._value.get()
    batcher: Batcher[int, int] = Batcher(_die, restart=restart)
    for _ in range(2):
        await results(await submit(batcher, 0))
        async for ready in batcher.readiness():
            if ready:
                break
    await batcher.close()
    assert pauses == [0, 0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]
    assert WORKER_RESTARTS._value.get() - before == 11


def _die(items: list[int]) -> list[int]:
    raise WorkerLost


async def test_closing_does_not_wait_for_a_crashed_worker() -> None:
    def restart() -> None:
        raise MemoryError

    batcher: Batcher[int, int] = Batcher(_die, restart=restart)
    assert [type(each) for each in await results(await submit(batcher, 1))] == [WorkerLost]
    await asyncio.wait_for(batcher.close(), 30)
    with pytest.raises(ShuttingDown):
        await batcher.submit([2], "late")
