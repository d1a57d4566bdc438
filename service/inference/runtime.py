"""Sessions that run an ONNX file."""

import hashlib
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime

from model.artefact import KINDS, MetadataError, Task, int8_file
from service.errors import ArtefactError
from service.inference.session import Session, joined, precision_of
from service.types import Floats, Image

logger = logging.getLogger(__name__)
Runtime = Literal["auto", "onnx", "openvino", "torch"]
_WARM_BATCH = 8  # the default of POSE_MAX_BATCH
_CUDA = "CUDAExecutionProvider"
# the default tries every algorithm at the first run of each number of images, while requests wait
_CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC"}


@dataclass(frozen=True, slots=True)
class Files:
    """The files of the two networks."""

    detector: Path
    pose: Path

    @classmethod
    def of(cls, folder: Path, detector: Path | None = None, pose: Path | None = None) -> "Files":
        """`detector.onnx` and `pose.onnx` of a folder, unless others are given."""
        return cls(detector or folder / "detector.onnx", pose or folder / "pose.onnx")


class OnnxSession:
    """A network that onnxruntime runs on the best available device.

    On a CPU a batch runs image by image, which keeps an image's layers in the caches.
    """

    runtime = "onnxruntime"

    def __init__(self, path: Path, *, threads: int) -> None:
        """Load `path`; on a CPU `threads` threads share each operation. Raises ArtefactError."""
        self._session = _load(path, threads)
        image = self._session.get_inputs()[0]
        on_cpu = self._session.get_providers() == ["CPUExecutionProvider"]
        self.batches = not on_cpu and image.shape[0] != 1  # some published networks accept only one image
        self.metadata: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
        self.precision = precision_of(self.metadata)
        self._input = image.name

    def run(self, images: Image) -> tuple[Floats, ...]:
        """See Session: images (N, H, W, 3), outputs (N, ...)."""
        runs = [images] if self.batches else images[:, None]
        return joined([tuple(self._session.run(None, {self._input: each})) for each in runs])


def _load(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Raises ArtefactError."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # idle threads that spin take the processors from the servers and the decoders
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    cuda = [(_CUDA, _CUDA_OPTIONS)] if _CUDA in onnxruntime.get_available_providers() else []
    try:
        return onnxruntime.InferenceSession(path, options, providers=[*cuda, "CPUExecutionProvider"])
    except Exception as error:  # the exceptions of onnxruntime have no common class
        raise ArtefactError(f"{path}: cannot be loaded: {_first_line(error)}") from error


class TorchSession:
    """The network of an ONNX file, run by torch from its .safetensors; on a GPU in float16."""

    batches = True
    runtime = "torch"

    def __init__(self, path: Path, task: Task, *, threads: int) -> None:
        """Raises ArtefactError when torch or the .safetensors of `path` is missing or does not fit."""
        self.metadata: Mapping[str, str] = OnnxSession(path, threads=1).metadata
        weights = path.with_suffix(".safetensors")
        try:
            from model.serving import TorchNetwork  # only this runtime needs torch

            network = TorchNetwork(weights, task, threads=threads)
            self.run, self.precision = network.run, network.precision
        except (ImportError, OSError, KeyError, RuntimeError, ValueError) as error:
            raise ArtefactError(f"{weights}: torch cannot run it: {_first_line(error)}") from error


class SpreadSession:
    """A network on several processors: several images run at the same time, a few share the processors.

    An image on each processor takes less time than one image after the other on all of them, because threads
    that share an image wait for each other at each operation.
    """

    batches = False

    def __init__(self, shared: Session, single: Session, *, threads: int) -> None:
        """shared: runs each operation on `threads` threads; single: the same network, on one."""
        self._shared, self._single, self._threads = shared, single, threads
        self._pool = ThreadPoolExecutor(threads)
        self.metadata, self.runtime, self.precision = shared.metadata, shared.runtime, shared.precision

    def run(self, images: Image) -> tuple[Floats, ...]:
        """See Session: images (N, H, W, 3), outputs (N, ...)."""
        apart = len(images) - len(images) % self._threads
        if len(images) - apart > self._threads / 2:
            apart = len(images)
        parts = [*self._pool.map(self._single.run, images[:apart, None])]
        if apart < len(images):
            parts.append(self._shared.run(images[apart:]))
        return joined(parts)


def open_session(
    path: Path, task: Task, *, threads: int, calls: int = 1, runtime: Runtime = "auto"
) -> Session:
    """The network of `path`, checked and warmed up. Raises ArtefactError when it is not valid for `task`.

    On a CPU `threads` threads share a call, and `calls` calls run at the same time.
    """
    if not path.is_file():
        raise ArtefactError(f"{path}: no such file")
    if runtime == "auto":
        session = _fastest(path, task, threads, calls)
    else:
        session = _open(path, task, runtime, threads, calls)
    try:
        metadata = KINDS[task].read(session.metadata)
    except MetadataError as error:
        raise ArtefactError(f"{path}: {error}") from error
    try:
        picture = _colours(*metadata.input_size)
        outputs = session.run(picture)
        if session.batches:
            session.run(np.repeat(picture, _WARM_BATCH, 0))
    except Exception as error:
        raise ArtefactError(f"{path}: cannot be run: {_first_line(error)}") from error
    if not metadata.fits([output.shape for output in outputs]):
        raise ArtefactError(f"{path}: its outputs do not match the task {task}")
    if not all(np.isfinite(output).all() for output in outputs):
        raise ArtefactError(f"{path}: its outputs are not finite")
    return session


def _open(path: Path, task: Task, runtime: Runtime, threads: int, calls: int) -> Session:
    if runtime == "torch":
        return TorchSession(path, task, threads=threads)
    if runtime == "onnx":
        return OnnxSession(path, threads=threads)
    try:
        from service.inference.openvino_session import OpenVinoSession  # only this runtime needs openvino

        return OpenVinoSession(path, threads=threads, calls=calls)
    except (ImportError, RuntimeError) as error:
        raise ArtefactError(f"{path}: OpenVINO cannot run it: {_first_line(error)}") from error


def _fastest(path: Path, task: Task, threads: int, calls: int) -> Session:
    """The network in the form that this machine runs fastest, each better than the next by more than a tenth:

    its int8 file in OpenVINO, on processors with AVX-512 VNNI; the pose network in OpenVINO, on processors
    with AVX-512; onnxruntime. The last is also for GPUs, and for machines without OpenVINO.
    """
    flags = set() if _CUDA in onnxruntime.get_available_providers() else _processor_flags()
    if "avx512f" not in flags or not find_spec("openvino"):
        return _open(path, task, "onnx", threads, calls)
    if "avx512_vnni" in flags and int8_file(path).is_file():
        session = _open(int8_file(path), task, "openvino", threads, calls)
        if session.metadata.get("float32_sha256") == hashlib.sha256(path.read_bytes()).hexdigest():
            return session
        reason = f"{int8_file(path)} is not made from {path}"
        logger.warning("int8 network not used", extra={"reason": reason})
    return _open(path, task, "openvino" if task == "pose" else "onnx", threads, calls)


def _processor_flags(path: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Instruction sets of the processor, as Linux names them; empty on other systems."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def _colours(height: int, width: int) -> Image:
    """A test image uint8 (1, height, width, 3) with many colours."""
    return np.resize(np.arange(251, dtype=np.uint8), (1, height, width, 3))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
