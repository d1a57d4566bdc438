"""An ONNX file becomes a session that runs it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import onnxruntime

from service.errors import ArtefactError
from service.types import Floats, Image, Model

Task = Literal["pose", "detector"]
Runtime = Literal["onnx", "torch"]
FORMAT = "1"
_COMMON = ("name", "version", "commit", "input_size")
_REQUIRED = {
    "pose": (*_COMMON, "heatmap_stride", "crop_padding", "keypoint_names"),
    "detector": (*_COMMON, "letterbox_fill"),
}
_PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")


class Session(Protocol):
    """A network that is ready to run."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the file says of itself, all as text."""

    @property
    def single(self) -> "Session":
        """The same network on one thread, for callers side by side; itself where that is of no use."""

    def run(self, images: Image) -> tuple[Floats, ...]:
        """The network's outputs, each (N, ...), of uint8 images (N, H, W, 3) BGR."""


class OnnxSession:
    """A network run by onnxruntime, on the best device that it offers.

    On processors a batch goes image by image, which keeps an image's layers in the caches, to threads that do
    not wait for each other; of fewer images than threads, each operation is shared by all.
    """

    def __init__(self, path: Path, *, threads: int) -> None:
        """Load `path` and run it on `threads` processors. Raises ArtefactError."""
        self._session, self._threads = _load(path, threads), threads
        self._one_by_one = self._session.get_providers() == ["CPUExecutionProvider"]
        self._single: OnnxSession | None = None
        if threads > 1 and self._one_by_one:
            self._single = OnnxSession(path, threads=1)
            self._pool = ThreadPoolExecutor(threads, path.stem)
        self.metadata: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
        self._input = self._session.get_inputs()[0].name

    @property
    def single(self) -> "OnnxSession":
        """See Session."""
        return self._single or self

    def run(self, images: Image) -> tuple[Floats, ...]:
        """See Session."""
        if not self._one_by_one or len(images) == 1:
            return tuple(self._session.run(None, {self._input: images}))
        if self._single is None or len(images) < self._threads:
            outputs: Iterable[tuple[Floats, ...]] = map(self.run, images[:, None])
        else:
            outputs = self._pool.map(self._single.run, images[:, None])
        return tuple(np.concatenate(parts) for parts in zip(*outputs, strict=True))


def _load(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Raises ArtefactError."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # idle threads that spin would take the processors from the servers and the decoders
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = [name for name in _PROVIDERS if name in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # onnxruntime's own exceptions have no common class
        raise ArtefactError(f"{path}: cannot be loaded: {_first_line(error)}") from error


class TorchSession:
    """The network of an ONNX file, run by torch from the weights beside it: on a GPU in half precision."""

    def __init__(self, path: Path, task: Task, *, threads: int) -> None:
        """Raises ArtefactError when torch or the .safetensors of `path` is missing or does not fit."""
        self.metadata: Mapping[str, str] = OnnxSession(path, threads=1).metadata
        weights = path.with_suffix(".safetensors")
        try:
            from model.serving import TorchNetwork  # torch is needed by this runtime alone

            self.run = TorchNetwork(weights, task, threads=threads).run
        except (ImportError, OSError, KeyError, RuntimeError, ValueError) as error:
            raise ArtefactError(f"{weights}: torch cannot run it: {_first_line(error)}") from error

    @property
    def single(self) -> "TorchSession":
        """See Session."""
        return self


def open_session(path: Path, task: Task, *, threads: int, runtime: Runtime = "onnx") -> Session:
    """The network of `path`, checked and warmed. Raises ArtefactError when it is not one for `task`."""
    if not path.is_file():
        raise ArtefactError(f"{path}: no such file")
    session: Session
    if runtime == "torch":
        session = TorchSession(path, task, threads=threads)
    else:
        session = OnnxSession(path, threads=threads)
    check(session.metadata, task, path)
    try:
        picture = _colours(*input_size(session))
        outputs = session.run(picture)
        fit = _fit(outputs, session, task)
        session.run(np.repeat(picture, threads, 0))  # warms what batches take
    except Exception as error:
        raise ArtefactError(f"{path}: cannot be run: {_first_line(error)}") from error
    if not fit:
        raise ArtefactError(f"{path}: its outputs are not those of a {task}")
    if not all(np.isfinite(output).all() for output in outputs):
        raise ArtefactError(f"{path}: its outputs are not finite")
    return session


def _colours(height: int, width: int) -> Image:
    """A picture (1, height, width, 3) of many colours."""
    return np.resize(np.arange(251, dtype=np.uint8), (1, height, width, 3))


def _fit(outputs: Sequence[Floats], session: Session, task: Task) -> bool:
    """Whether outputs for one image have the shapes that a network for `task` gives."""
    height, width = input_size(session)
    match [output.shape for output in outputs]:
        case [(1, keypoints, rows, columns)] if task == "pose":
            stride = int(session.metadata["heatmap_stride"])
            names = json.loads(session.metadata["keypoint_names"])
            return (keypoints, rows * stride, columns * stride) == (len(names), height, width)
        case [(1, boxes, 4), (1, scores)] if task == "detector":
            return bool(boxes == scores)
    return False


def check(metadata: Mapping[str, str], task: Task, path: Path) -> None:
    """Raises ArtefactError unless the metadata of `path` are those of a network for `task`."""
    if metadata.get("format") != FORMAT:
        raise ArtefactError(f"{path}: format {metadata.get('format')!r}, this service reads {FORMAT!r}")
    if metadata.get("task") != task:
        raise ArtefactError(f"{path}: made for task {metadata.get('task')!r}, not {task!r}")
    if missing := [key for key in _REQUIRED[task] if key not in metadata]:
        raise ArtefactError(f"{path}: metadata without {', '.join(missing)}")


def input_size(session: Session) -> tuple[int, int]:
    """Height and width in pixels of the images that a network takes."""
    height, width = json.loads(session.metadata["input_size"])
    return int(height), int(width)


def model_of(session: Session) -> Model:
    """What a network is called."""
    return Model(*(session.metadata[key] for key in ("name", "version", "commit")))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
