"""The person detector: MobileNetV2, a top-down path and an anchor-free head for each of three strides.

Single class, at most 1.2 M parameters and 0.6 GMAC at 320 x 320. The heads are FCOS's (Tian et al.,
ICCV 2019) without centre-ness: a score and four distances at every point of strides 8, 16, 32. Each stride
has its own blocks: in shared ones BatchNorm uses the statistics of one stride while training and those
of all strides while serving, and the scores suffer.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from model.blocks import BlockSpec, Conv, InvertedResidual, MobileNetV2

STRIDES = (8, 16, 32)
LETTERBOX_FILL = 114
AVERAGE_IOU = 0.6  # see model.artefact.DetectorMetadata

_BACKBONE: tuple[BlockSpec, ...] = (
    (1, 16, 1), (6, 24, 2), (6, 24, 1), (6, 32, 2), (6, 32, 1), (6, 32, 1),
    (6, 64, 2), (6, 64, 1), (6, 64, 1), (6, 64, 1), (6, 96, 1), (6, 96, 1), (6, 96, 1), (6, 160, 2),
)  # fmt: skip


@dataclass(frozen=True)
class DetectorConfig:
    """backbone: MobileNetV2 1.0 as published, for pretrained weights; width: of path and heads.

    score_scale, score_shift: of the logits of scores; box_margin: see
    model.artefact.DetectorMetadata. `model.calibrate` measures the three; training does not see them.
    """

    input_size: tuple[int, int] = (320, 320)
    backbone: tuple[BlockSpec, ...] = _BACKBONE
    width: int = 64
    head_blocks: int = 3
    score_scale: float = 1.0
    score_shift: float = 0.0
    box_margin: float = 1.0


class PersonDetector(nn.Module):
    """Boxes and scores of letterboxed RGB images, float (N, 3, H, W) in 0..255.

    boxes: (N, A, 4) x1, y1, x2, y2 in input pixels; scores: (N, A) in [0, 1]; A points in the order
    of strides, rows, columns; before non-maximum suppression.
    """

    def __init__(self, config: DetectorConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or DetectorConfig()
        self.backbone = MobileNetV2(32, c.backbone, "relu6", pretrained=True)
        self.laterals = nn.ModuleList(
            Conv(self.backbone.widths[s], c.width, activation="none") for s in STRIDES
        )
        block = (2, c.width, 1)
        self.heads = nn.ModuleList(
            nn.Sequential(*(InvertedResidual(c.width, block) for _ in range(c.head_blocks))) for _ in STRIDES
        )
        self.score = nn.Conv2d(c.width, 1, 1)
        self.distance = nn.Conv2d(c.width, 4, 1)
        for layer in (self.score, self.distance):
            nn.init.normal_(layer.weight, std=0.01)
        nn.init.constant_(self.score.bias, -4.0)  # type: ignore[arg-type]
        nn.init.constant_(self.distance.bias, 1.0)  # type: ignore[arg-type]

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (N, A, 4) in input pixels and score logits (N, A) before calibration."""
        stages = self.backbone(images / 127.5 - 1)
        levels = [lateral(stages[s]) for lateral, s in zip(self.laterals, STRIDES, strict=True)]
        for index in (1, 0):
            levels[index] = levels[index] + F.interpolate(levels[index + 1], scale_factor=2.0)
        features = [head(level) for head, level in zip(self.heads, levels, strict=True)]
        logits = torch.cat([self.score(f).flatten(1) for f in features], 1)
        raw = torch.cat([self.distance(f).flatten(2) for f in features], 2).transpose(1, 2)
        points, scales = grid((images.shape[2], images.shape[3]), images.device)
        distances = scales * raw.float().clamp(max=5).exp()
        boxes = torch.cat([points - distances[..., :2], points + distances[..., 2:]], -1)
        return boxes, logits.float()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        boxes, logits = self.predict(images)
        return boxes, (logits * self.config.score_scale + self.config.score_shift).sigmoid()


def resized(network: PersonDetector, size: tuple[int, int]) -> PersonDetector:
    """The same weights for another input size (height, width), multiples of 32."""
    other = PersonDetector(replace(network.config, input_size=size))
    other.load_state_dict(network.state_dict())
    return other.eval()


def grid(size: tuple[int, int], device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Points (A, 2) x, y in input pixels and strides (A, 1) of a head on an input (height, width)."""
    points, scales = [], []
    for stride in STRIDES:
        ys, xs = torch.meshgrid(
            *(torch.arange(side // stride, device=device) for side in size), indexing="ij"
        )
        points.append(torch.stack([xs, ys], -1).reshape(-1, 2) * float(stride))
        scales.append(torch.full_like(points[-1][:, :1], stride))
    return torch.cat(points), torch.cat(scales)


def save(network: PersonDetector, path: Path) -> None:
    """Write the weights to `path` (.safetensors) and the configuration to the same name with .json."""
    save_file({k: v.contiguous().cpu() for k, v in network.state_dict().items()}, path)
    path.with_suffix(".json").write_text(json.dumps(asdict(network.config)) + "\n")


def load_config(path: Path) -> DetectorConfig:
    """The configuration next to the weights at `path` (.safetensors)."""
    fields = json.loads(path.with_suffix(".json").read_text())
    backbone = tuple(tuple(spec) for spec in fields.pop("backbone"))
    return DetectorConfig(backbone=backbone, input_size=tuple(fields.pop("input_size")), **fields)


def load(path: Path) -> PersonDetector:
    """The network that `save` wrote, in single precision and evaluation mode."""
    network = PersonDetector(load_config(path))
    network.load_state_dict(load_file(path))
    return network.eval()
