"""A network behind the interface of serving: for export, and for a GPU without onnxruntime-gpu."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from model import detector, lgmpose


class ServingGraph(nn.Module):
    """A network whose input is uint8 (N, H, W, 3) BGR."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        dtype = next(self.network.parameters()).dtype
        rgb = image.permute(0, 3, 1, 2).to(dtype)[:, [2, 1, 0]]
        outputs: Tensor | tuple[Tensor, ...] = self.network(rgb)
        return outputs


class TorchNetwork:
    """A network run by torch: in half precision on a CUDA GPU, in single precision without one."""

    def __init__(self, weights: Path, task: str, *, threads: int) -> None:
        """weights: .safetensors with its .json beside it; threads: on a CPU."""
        network: Any = {"pose": lgmpose.load, "detector": detector.load}[task](weights)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.float16 if self._device.type == "cuda" else torch.float32
        torch.set_num_threads(threads)
        network = network.to(self._device, dtype, memory_format=torch.channels_last)
        self._graph = ServingGraph(network).eval()

    def run(self, images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], ...]:
        """The outputs, each float32 (N, ...), of images uint8 (N, H, W, 3) BGR."""
        with torch.inference_mode():
            outputs = self._graph(torch.from_numpy(images).to(self._device))
        several = (outputs,) if isinstance(outputs, Tensor) else outputs
        return tuple(np.asarray(output.float().cpu().numpy(), np.float32) for output in several)
