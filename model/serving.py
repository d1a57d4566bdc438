"""Our networks with the interface of serving: for export, evaluation, and GPUs with only torch."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model import detector, lgmpose
from model.artefact import DetectorMetadata, PoseMetadata
from model.geometry import Floats, Pixels
from model.keypoints import COCO, MPII
from model.topdown import Network


class ServingGraph(nn.Module):
    """A network with BGR bytes as input. rgb: the network itself takes RGB, as in training."""

    def __init__(self, network: nn.Module, *, rgb: bool = True) -> None:
        super().__init__()
        self.network, self.rgb = network, rgb

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Images uint8 BGR (N, H, W, 3) -> the outputs of the network, each float32 (N, ...)."""
        dtype = next(self.network.parameters()).dtype
        planes = image.permute(0, 3, 1, 2).to(dtype)
        outputs: Tensor | tuple[Tensor, ...] = self.network(planes[:, [2, 1, 0]] if self.rgb else planes)
        return outputs


def pose_metadata(network: lgmpose.LGMPose, version: str = "", commit: str = "") -> PoseMetadata:
    """The metadata of a file of LGM-Pose."""
    return PoseMetadata(
        name="lgm-pose",
        version=version,
        commit=commit,
        input_size=network.config.input_size,
        heatmap_stride=lgmpose.HEATMAP_STRIDE,
        crop_padding=lgmpose.CROP_PADDING,
        skeleton=MPII if network.config.num_keypoints == len(MPII.names) else COCO,
    )


def detector_metadata(
    network: detector.PersonDetector, version: str = "", commit: str = ""
) -> DetectorMetadata:
    """The metadata of a file of our detector."""
    return DetectorMetadata(
        name="lgm-person",
        version=version,
        commit=commit,
        input_size=network.config.input_size,
        letterbox_fill=detector.LETTERBOX_FILL,
        input_step=detector.STRIDES[-1],
        box_margin=network.config.box_margin,
        average_iou=detector.AVERAGE_IOU,
    )


def run_by_torch(network: nn.Module) -> Network:
    """A network in memory with the interface of the pipeline, on its device and in its precision."""
    graph = ServingGraph(network)
    device = next(network.parameters()).device

    def run(images: Pixels) -> tuple[Floats, ...]:
        with torch.inference_mode():
            outputs = graph(torch.from_numpy(images).to(device))
        several = (outputs,) if isinstance(outputs, Tensor) else outputs
        return tuple(np.asarray(output.float().cpu().numpy(), np.float32) for output in several)

    return run


class TorchNetwork:
    """A network run by torch: in float16 on a CUDA GPU, in float32 on a CPU."""

    def __init__(self, weights: Path, task: str, *, threads: int) -> None:
        """weights: .safetensors with a .json of the same name; threads: on a CPU."""
        network: Any = {"pose": lgmpose.load, "detector": detector.load}[task](weights)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.float16 if device.type == "cuda" else torch.float32
        self.precision = "float16" if dtype == torch.float16 else "float32"
        torch.set_num_threads(threads)
        network = network.to(device, dtype, memory_format=torch.channels_last)
        self.run = run_by_torch(network.eval())
