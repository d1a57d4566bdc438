"""What runs a network, whatever the runtime."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from service.types import Floats, Image


class Session(Protocol):
    """A loaded network, which any number of threads may run at the same time.

    metadata: of the file, as text. batches: one call with several images is faster than parallel calls, as
    on a GPU. runtime: what runs the network: onnxruntime, openvino or torch.
    """

    metadata: Mapping[str, str]
    batches: bool
    runtime: str
    precision: str

    def run(self, images: Image) -> tuple[Floats, ...]:
        """The outputs float32 (N, ...) of images uint8 BGR (N, H, W, 3) of the network's input size."""


def joined(runs: Sequence[tuple[Floats, ...]]) -> tuple[Floats, ...]:
    """The outputs (N, ...) of several runs of a network, one after the other."""
    return runs[0] if len(runs) == 1 else tuple(map(np.concatenate, zip(*runs, strict=True)))


def precision_of(metadata: Mapping[str, str]) -> str:
    """The precision that the metadata of an ONNX file name."""
    return metadata.get("precision", "float32")
