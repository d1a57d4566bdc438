"""A network run by OpenVINO on processors; it is installed with the service on Linux on x86-64."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from queue import LifoQueue

import numpy as np
import openvino

from service.inference.cpu import is_whole_machine
from service.inference.session import joined, precision_of
from service.types import Floats, Image


@cache
def _core() -> openvino.Core:
    """The one core of the process, which is never freed.

    On processors with AVX-512 its plugin gives the thread that creates it a stack for signals. When another
    thread frees the core, that stack is freed, too, and the next signal of the first thread ends the process.
    """
    return openvino.Core()


class OpenVinoSession:
    """See Session. A batch runs image by image."""

    batches = False
    runtime = "openvino"

    def __init__(self, path: Path, *, threads: int, calls: int = 1) -> None:
        """Load `path` (N, H, W, 3). threads: that share a call; calls: at the same time, further ones wait.

        Raises RuntimeError if OpenVINO cannot run it.
        """
        network = _core().read_model(path)
        entries = dict(network.rt_info).get("framework", {})
        self.metadata: Mapping[str, str] = {key: value.astype(str) for key, value in entries.items()}
        self.precision = precision_of(self.metadata)
        network.reshape([1, *list(network.input().partial_shape)[1:]])
        hints = {
            # 0: the calling thread does the work; otherwise it wakes another thread and waits for it
            "NUM_STREAMS": 0 if threads == 1 else 1,
            "INFERENCE_NUM_THREADS": threads,
            # a lone request takes 0.4 ms less; but services that each have a part of the machine would all
            # pin their threads to the same processors
            "ENABLE_CPU_PINNING": threads > 1 and is_whole_machine(threads),
            "INFERENCE_PRECISION_HINT": "f32",  # otherwise bfloat16, where the processor has it
        }
        compiled = _core().compile_model(network, "CPU", hints)
        copies = [_core().import_model(compiled.export_model(), "CPU", hints) for _ in range(1, calls)]
        self._requests = LifoQueue[openvino.InferRequest]()
        for each in (compiled, *copies):  # the calls of a network without streams wait for each other
            self._requests.put(each.create_infer_request())

    def run(self, images: Image) -> tuple[Floats, ...]:
        """See Session: outputs (N, ...) of images (N, H, W, 3)."""
        return joined([self._run_one(np.ascontiguousarray(image)) for image in images[:, None]])

    def _run_one(self, image: Image) -> tuple[Floats, ...]:
        request = self._requests.get()
        try:
            return tuple(request.infer({0: image}, share_inputs=True, share_outputs=False).values())
        finally:
            self._requests.put(request)
