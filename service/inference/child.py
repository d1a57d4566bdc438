"""The pipeline in a child process: what kills it there leaves the service alive."""

import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Condition, Lock, Thread
from time import monotonic
from typing import Any

from service.errors import ArtefactError, WorkerLost
from service.inference.pipeline import open_pipeline
from service.inference.runtime import Runtime
from service.types import Estimate, Frame

_ROOT = Path(__file__).parents[2]
_START_S = 300  # for the networks to be opened, and optimised where the runtime does that
_MOST_RUNS = 1024  # at the same time; the parent has far fewer runners
_LOOK_S = 0.2  # between looks at how long answers take


class ProcessPipeline:
    """As Pipeline, with the work done by a child that ends with this process, whatever ends it."""

    def __init__(self, weights: Path, *, threads: int, runtime: Runtime, timeout_s: float) -> None:
        """timeout_s: for a run; a child that takes longer is killed. Raises ArtefactError."""
        self._threads, self._runtime, self._timeout_s = threads, runtime, timeout_s
        self._copies = TemporaryDirectory(prefix="pose-")  # a restart has the same networks, whatever comes
        try:
            for path in weights.glob("*.*"):
                if path.stem in ("pose", "detector"):
                    shutil.copy(path, self._copies.name)
            self._start()
        except ArtefactError as error:
            self._copies.cleanup()
            raise ArtefactError(str(error).replace(self._copies.name, str(weights))) from error
        except BaseException as error:
            self._copies.cleanup()
            if isinstance(error, WorkerLost):
                raise ArtefactError(f"{weights}: {error.__cause__}") from error
            raise

    def run(self, frames: Sequence[Frame], *, alone: bool = True) -> list[Estimate]:
        """See Pipeline. Raises WorkerLost, and RuntimeError with the child's traceback."""
        answer = self._child.ask((frames, alone), self._timeout_s)
        if isinstance(answer, str):
            raise RuntimeError(answer)
        estimates: list[Estimate] = answer
        return estimates

    def alive(self) -> bool:
        """Whether the child runs."""
        return self._child.alive()

    def restart(self) -> None:
        """A new child with the networks of the old. Raises WorkerLost."""
        self._child.end()
        self._start()

    def close(self) -> None:
        """End the child once it has answered all that it was asked."""
        self._child.finish()
        self._child.end()
        self._copies.cleanup()

    def _start(self) -> None:
        self._child = _Child()
        try:
            answer = self._child.ask((self._copies.name, self._threads, self._runtime), _START_S)
            if isinstance(answer, str):
                raise ArtefactError(answer)
        except BaseException:
            self._child.end()
            raise
        self.models, self.batches = answer


class _Child:
    """A process, and the questions that it has not yet answered; several threads ask at the same time."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service.inference.child", str(theirs.fileno())],
                cwd=_ROOT,
                pass_fds=[theirs.fileno()],
                process_group=0,  # a Ctrl-C is for the parent, which drains
            )
        self._link = Connection(ours.detach())
        self._sending = Lock()
        self._changed = Condition()
        self._numbers = count()
        self._asked: dict[int, tuple[Future[Any], float]] = {}  # with the moment by which each is overdue
        self._ended = False  # takes no more questions
        self._reader = Thread(target=self._read, name="child", daemon=True)
        self._reader.start()

    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def ask(self, question: object, timeout_s: float) -> Any:
        """Its answer. Raises WorkerLost when it ends first, or is killed for taking too long."""
        future = Future[Any]()
        with self._changed:
            if self._ended:
                raise WorkerLost
            number = next(self._numbers)
            self._asked[number] = future, monotonic() + timeout_s
        try:
            with self._sending:
                _send(self._link, (number, question))
        except OSError:
            self.process.kill()  # the reader sees its end
        return future.result()

    def finish(self) -> None:
        """Wait until all is answered; further questions raise WorkerLost."""
        with self._changed:
            self._changed.wait_for(lambda: not self._asked)
            self._ended = True

    def end(self) -> None:
        """End the process at once: it holds nothing that needs an orderly end."""
        self.process.kill()
        self._reader.join()

    def _read(self) -> None:
        """Hand out the answers until the process ends, and see to it that it does when one is overdue."""
        try:
            while True:
                while not self._link.poll(_LOOK_S):
                    self._kill_if_overdue()
                self._kill_if_overdue()
                number, answer = _receive(self._link)
                with self._changed:
                    future, _ = self._asked.pop(number)
                    self._changed.notify_all()
                future.set_result(answer)
        except (EOFError, OSError) as error:
            self._lose(error)

    def _kill_if_overdue(self) -> None:
        with self._changed:
            _, due = next(iter(self._asked.values()), (None, None))  # the one that was asked first
        if due is not None and monotonic() > due:
            self.process.kill()

    def _lose(self, error: Exception) -> None:
        self.process.kill()
        cause = RuntimeError(f"the worker process ended with {self.process.wait()}: {error!r}")
        with self._changed:
            self._ended = True
            lost = [future for future, _ in self._asked.values()]
            self._asked.clear()
            self._changed.notify_all()
        self._link.close()
        for future in lost:
            loss = WorkerLost()
            loss.__cause__ = cause
            future.set_exception(loss)


def _send(link: Connection, message: object) -> None:
    """Pixels go as they lie in memory, beside the pickle of the rest."""
    buffers: list[pickle.PickleBuffer] = []
    link.send((pickle.dumps(message, 5, buffer_callback=buffers.append), len(buffers)))
    for buffer in buffers:
        link.send_bytes(buffer.raw())


def _receive(link: Connection) -> Any:
    data, count = link.recv()
    return pickle.loads(data, buffers=[link.recv_bytes() for _ in range(count)])


def _main() -> None:
    """The child: networks to open, answered by their names; then frames, answered by persons.

    A failure is answered by its text; what may have left the process in disorder ends it, and so does the end
    of the parent.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # those who stop every process at once cut no run
        signal.signal(number, signal.SIG_IGN)
    link, sending = Connection(int(sys.argv[1])), Lock()

    def answer(ident: int, frames: Sequence[Frame], alone: bool) -> None:
        try:
            found: object = pipeline.run(frames, alone=alone)
        except BaseException as error:
            if not isinstance(error, Exception) or isinstance(error, MemoryError):
                traceback.print_exc()
                os._exit(1)
            found = traceback.format_exc()
        with suppress(OSError), sending:  # a parent that is gone is noticed below
            _send(link, (ident, found))

    try:
        ident, (folder, threads, runtime) = _receive(link)
        try:
            pipeline = open_pipeline(Path(folder), threads=threads, runtime=runtime)
        except ArtefactError as error:
            return _send(link, (ident, str(error)))
        _send(link, (ident, (pipeline.models, pipeline.batches)))
        pool = ThreadPoolExecutor(_MOST_RUNS)
        while True:
            ident, (frames, alone) = _receive(link)
            pool.submit(answer, ident, frames, alone)
    except (EOFError, OSError):
        os._exit(0)  # even in mid-run


if __name__ == "__main__":
    _main()
