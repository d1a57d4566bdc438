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
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from threading import Lock, Thread, Timer
from typing import Any

from service.errors import ArtefactError, WorkerLost
from service.inference.pipeline import open_pipeline
from service.inference.runtime import Runtime
from service.types import Estimate, Frame, Models

_ROOT = Path(__file__).parents[2]
_START_S = 300  # for the networks to be opened, and optimised where the runtime does that


class ProcessPipeline:
    """As Pipeline, with the work done by a child that ends with this process, whatever ends it."""

    def __init__(self, weights: Path, *, threads: int, runtime: Runtime, timeout_s: float) -> None:
        """timeout_s: for a batch; a child that takes longer is killed. Raises ArtefactError."""
        self._weights, self._threads, self._runtime = weights, threads, runtime
        self._timeout_s = timeout_s
        self._busy = Lock()
        self._copies = TemporaryDirectory(prefix="pose-")  # a restart has the same networks, whatever comes
        try:
            for path in weights.glob("*.*"):
                if path.stem in ("pose", "detector"):
                    shutil.copy(path, self._copies.name)
            self._start()
        except BaseException as error:
            self._copies.cleanup()
            if isinstance(error, WorkerLost):
                raise ArtefactError(f"{weights}: {error.__cause__}") from error
            raise

    def run(self, frames: Sequence[Frame]) -> list[Estimate]:
        """See Pipeline. Raises WorkerLost, and RuntimeError with the child's traceback."""
        with self._busy:
            answer = self._ask(frames, self._timeout_s)
        if isinstance(answer, str):
            raise RuntimeError(answer)
        estimates: list[Estimate] = answer
        return estimates

    def alive(self) -> bool:
        """Whether the child runs."""
        return self._child.poll() is None

    def restart(self) -> None:
        """A new child with the networks of the old. Raises WorkerLost."""
        with self._busy:
            self._end()
            self._start()

    def close(self) -> None:
        """End the child once its batch is done."""
        with self._busy:
            self._end()
            self._copies.cleanup()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "service.inference.child", str(theirs.fileno())],
                cwd=_ROOT,
                pass_fds=[theirs.fileno()],
                process_group=0,  # a Ctrl-C is for the parent, which drains
            )
        self._link = Connection(ours.detach())
        try:
            answer = self._ask((self._copies.name, self._threads, self._runtime), _START_S)
            if isinstance(answer, str):
                raise ArtefactError(answer.replace(self._copies.name, str(self._weights)))
        except BaseException:
            self._end()
            raise
        self.models: Models = answer

    def _ask(self, question: object, timeout_s: float) -> Any:
        """The child's answer. Raises WorkerLost when it ends first, or is killed for taking too long."""
        watchdog = Timer(timeout_s, self._child.kill)
        watchdog.start()
        try:
            _send(self._link, question)
            return _receive(self._link)
        except (EOFError, OSError) as error:
            self._child.kill()
            raise WorkerLost from RuntimeError(
                f"the worker process ended with {self._child.wait()}: {error!r}"
            )
        finally:
            watchdog.cancel()

    def _end(self) -> None:
        self._link.close()
        self._child.kill()  # it holds nothing that needs an orderly end
        self._child.wait()


def _send(link: Connection, message: object) -> None:
    """Pixels go as they lie in memory, beside the pickle of the rest."""
    buffers: list[pickle.PickleBuffer] = []
    link.send((pickle.dumps(message, 5, buffer_callback=buffers.append), len(buffers)))
    for buffer in buffers:
        link.send_bytes(buffer.raw())


def _receive(link: Connection) -> Any:
    data, count = link.recv()
    return pickle.loads(data, buffers=[link.recv_bytes() for _ in range(count)])


def _read(link: Connection, questions: SimpleQueue[Any]) -> None:
    """Ends the child when the other end is closed, even in mid-batch."""
    try:
        while True:
            questions.put(_receive(link))
    except (EOFError, OSError):
        os._exit(0)


def _main() -> None:
    """The child: networks to open, answered by their names; then frames, answered by persons.

    A failure is answered by its text; what may have left the process unsound ends it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # those who stop every process at once cut no batch
        signal.signal(number, signal.SIG_IGN)
    link, questions = Connection(int(sys.argv[1])), SimpleQueue[Any]()
    Thread(target=_read, args=(link, questions), daemon=True).start()
    folder, threads, runtime = questions.get()
    try:
        pipeline = open_pipeline(Path(folder), threads=threads, runtime=runtime)
    except ArtefactError as error:
        _send(link, str(error))
        return
    _send(link, pipeline.models)
    while True:
        frames = questions.get()
        try:
            answer: object = pipeline.run(frames)
        except MemoryError:
            raise
        except Exception:
            answer = traceback.format_exc()
        _send(link, answer)


if __name__ == "__main__":
    _main()
