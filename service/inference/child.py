"""The pipeline in a child process, so that a crash of the networks does not end the service."""

import glob
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
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Condition, Thread
from time import monotonic
from typing import Any

from service.errors import ArtefactError, WorkerLost
from service.inference.link import Link, Parcel, SharedFiles
from service.inference.pipeline import open_pipeline
from service.inference.runtime import Files, Runtime
from service.types import InferenceInput, InferenceResult

_ROOT = Path(__file__).parents[2]
_START_S = 300  # time limit for loading and optimising the networks
_MOST_RUNS = 1024  # parallel runs; the parent has far fewer runners
_LOOK_S = 0.2  # interval of the check for overdue answers


class ChildPipeline:
    """Like Pipeline, but runs in a child process. The child ends when this process ends, for any reason."""

    def __init__(self, files: Files, *, threads: int, runtime: Runtime, timeout_s: float) -> None:
        """timeout_s: of a run; a child that takes longer is killed. Raises ArtefactError."""
        self._threads, self._runtime, self._timeout_s = threads, runtime, timeout_s
        # copies: a restart loads the same networks even if the files have changed
        self._copies = TemporaryDirectory(prefix="pose-")
        try:
            self._files = Files(*(self._copied(file) for file in (files.detector, files.pose)))
            self._start()
        except ArtefactError as error:
            self._copies.cleanup()
            raise ArtefactError(str(error).replace(f"{self._copies.name}/files", "")) from error
        except BaseException as error:
            self._copies.cleanup()
            if isinstance(error, WorkerLost):
                raise ArtefactError(f"{files.detector}, {files.pose}: {error.__cause__}") from error
            raise

    def run(self, frames: Sequence[InferenceInput], *, alone: bool = True) -> list[InferenceResult]:
        """See Pipeline. Raises WorkerLost, or RuntimeError with the child's traceback."""
        answer = self._child.ask((frames, alone), self._timeout_s)
        if isinstance(answer, str):
            raise RuntimeError(answer)
        estimates: list[InferenceResult] = answer
        return estimates

    def alive(self) -> bool:
        """Whether the child runs."""
        return self._child.alive()

    def restart(self) -> None:
        """Start a new child with the same networks. Raises WorkerLost."""
        self._child.end()
        self._start()

    def close(self) -> None:
        """End the child after it has answered all requests."""
        self._child.finish()
        self._child.end()
        self._copies.cleanup()

    def _copied(self, file: Path) -> Path:
        """A copy of a file and of those that belong to it, under its own path below that of the copies."""
        copy = Path(self._copies.name) / "files" / file.resolve().relative_to("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        for each in file.parent.glob(f"{glob.escape(file.stem)}.*"):
            shutil.copy(each, copy.parent)
        return copy

    def _start(self) -> None:
        self._child = _Child()
        try:
            answer = self._child.ask((self._files, self._threads, self._runtime), _START_S)
            if isinstance(answer, str):
                raise ArtefactError(answer)
        except BaseException:
            self._child.end()
            raise
        self.models, self.skeleton, self.batches = answer


class _Child:
    """A child process and its pending requests; several threads may call `ask` at the same time."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service.inference.child", str(theirs.fileno())],
                cwd=_ROOT,
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C must reach only the parent, which drains
            )
        self._link, self._files = Link(ours), SharedFiles()
        self._changed = Condition()
        self._numbers = count()
        self._asked: dict[int, tuple[Future[Any], float]] = {}  # with the deadline of each
        self._ended = False  # accepts no further requests
        self._reader = Thread(target=self._read, name="child", daemon=True)
        self._reader.start()

    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def ask(self, question: object, timeout_s: float) -> Any:
        """The child's answer. Raises WorkerLost when the child ends first or is killed after `timeout_s`."""
        with self._files.packed(question) as parcel:
            future = Future[Any]()
            with self._changed:
                if self._ended:
                    raise WorkerLost
                number = next(self._numbers)
                self._asked[number] = future, monotonic() + timeout_s
            try:
                self._link.send(number, parcel)
            except OSError:
                self.process.kill()  # the reader sees its end
            return future.result()

    def finish(self) -> None:
        """Wait until all requests are answered; further ones raise WorkerLost."""
        with self._changed:
            self._changed.wait_for(lambda: not self._asked)
            self._ended = True

    def end(self) -> None:
        """Kill the process; it has no state that needs a clean shutdown."""
        self.process.kill()
        self._reader.join()

    def _read(self) -> None:
        """Deliver the answers until the process ends; kill the process when an answer is overdue."""
        try:
            while True:
                while not self._link.poll(_LOOK_S):
                    self._kill_if_overdue()
                self._kill_if_overdue()
                number, answer = self._link.receive()
                with self._changed:
                    future, _ = self._asked.pop(number)
                    self._changed.notify_all()
                future.set_result(answer)
        except (EOFError, OSError) as error:
            self._lose(error)

    def _kill_if_overdue(self) -> None:
        with self._changed:
            _, due = next(iter(self._asked.values()), (None, None))  # the oldest request
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


def _main() -> None:
    """The child process: it loads the networks, answers with their names, then answers frames with persons.

    It answers an error with its text. An error that may have corrupted the process, and the end of the
    parent, end the child.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # a signal to all processes must not interrupt a run
        signal.signal(number, signal.SIG_IGN)
    link = Link(socket.socket(fileno=int(sys.argv[1])))

    def reply(ident: int, message: object) -> None:
        link.send(ident, Parcel(pickle.dumps(message)))

    def answer(ident: int, frames: Sequence[InferenceInput], alone: bool) -> None:
        try:
            found: object = pipeline.run(frames, alone=alone)
        except BaseException as error:
            if not isinstance(error, Exception) or isinstance(error, MemoryError):
                traceback.print_exc()
                os._exit(1)
            found = traceback.format_exc()
        with suppress(OSError):  # the loop below notices the end of the parent
            reply(ident, found)

    try:
        ident, (files, threads, runtime) = link.receive()
        try:
            pipeline = open_pipeline(files, threads=threads, runtime=runtime)
        except ArtefactError as error:
            return reply(ident, str(error))
        reply(ident, (pipeline.models, pipeline.skeleton, pipeline.batches))
        pool = ThreadPoolExecutor(_MOST_RUNS)
        while True:
            ident, (frames, alone) = link.receive()
            pool.submit(answer, ident, frames, alone)
    except (EOFError, OSError):
        os._exit(0)  # even during a run


if __name__ == "__main__":
    _main()
