"""A network run by OpenVINO on processors; it is installed with the service on Linux on x86-64."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from threading import local

import numpy as np
import openvino

from service.inference.cpu import available_cpus
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
    """See Session. Each calling thread has a request of its own; a batch runs image by image."""

    batches = False
    runtime = "openvino"

    def __init__(self, path: Path, *, threads: int) -> None:
        """Load `path` (N, H, W, 3): one call at a time on `threads`, or, with 1, one call for each processor.

        Raises RuntimeError if OpenVINO cannot run it.
        """
        network = _core().read_model(path)
        entries = dict(network.rt_info).get("framework", {})
        self.metadata: Mapping[str, str] = {key: value.astype(str) for key, value in entries.items()}
        self.precision = precision_of(self.metadata)
        network.reshape([1, *list(network.input().partial_shape)[1:]])
        streams = available_cpus() if threads == 1 else 1
        hints = {
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams * threads,
            "ENABLE_CPU_PINNING": False,  # the service's other threads need the processors, too
            "INFERENCE_PRECISION_HINT": "f32",  # otherwise bfloat16, where the processor has it
        }
        self._network = _core().compile_model(network, "CPU", hints)
        self._of_thread = local()

    def run(self, images: Image) -> tuple[Floats, ...]:
        """See Session: outputs (N, ...) of images (N, H, W, 3)."""
        return joined([self._run_one(np.ascontiguousarray(image)) for image in images[:, None]])

    def _run_one(self, image: Image) -> tuple[Floats, ...]:
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._network.create_infer_request()
        outputs = self._of_thread.request.infer({0: image}, share_inputs=True, share_outputs=False)
        return tuple(outputs.values())
