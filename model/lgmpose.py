"""LGM-Pose (arXiv 2506.04561), reconstructed from the tables of the paper: crop in, heatmaps out.

"Row" in the comments below is the row of the paper's tables 1, 2, 4 or 5 that determines the value;
`python -m model.profile` prints all rows.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.blocks import (
    LARM,
    BlockSpec,
    Deconv,
    Fusion,
    InvertedResidual,
    MobileNetV2,
    MobileViM,
    TransformerMixer,
)

HEATMAP_STRIDE = 4
CROP_PADDING = 1.25


@dataclass(frozen=True)
class Stage:
    """Inverted residual blocks, then one MobileViM block with `dim` inner channels."""

    blocks: tuple[BlockSpec, ...]
    dim: int


@dataclass(frozen=True)
class LGMPoseConfig:
    """All assumptions of the reconstruction.

    The default uses the blocks of MobileNetV2 1.0 up to stride 8, for which weights are published.
    """

    input_size: tuple[int, int] = (256, 192)  # height, width; rows 256x192, 384x288, 256x256
    num_keypoints: int = 17  # COCO 17, MPII 16
    stem: int = 32  # free: totals of the rows "no fusion" and "DW g=1"
    backbone: tuple[BlockSpec, ...] = ((1, 16, 1), (6, 24, 2), (6, 24, 1), (6, 32, 2), (6, 32, 1), (6, 32, 1))
    pretrained: bool = True  # backbone in the form of published weights: bias for BatchNorm, SAME padding
    # strides 8, 16, 32: the cost ratio of "Conv 3x3" to "DW" needs a stride-32 bottom and three fusions
    stages: tuple[Stage, Stage, Stage] = (
        Stage(((4, 112, 1), (4, 112, 1), (4, 112, 1)), 128),
        Stage(((2, 56, 2),), 144),
        Stage(((2, 32, 2),), 144),
    )
    mixer: str = "larm"  # "larm" or, for the row "MobileViT block", "transformer"
    transformer_depths: tuple[int, int, int] = (2, 4, 3)  # MobileViT's own; row "MobileViT block"
    patch: tuple[int, int] = (4, 3)  # rows 256x192 -> 384x288: growth from 1.1 to 1.2 M
    mlp_ratio: int = 2  # the same rows
    mixer_residual: bool = True  # free: costs nothing; eq. 1 does not show it
    mobilevim_fuse: str = "concat"  # "concat" or "add": free
    block_activation: str = "relu6"  # free: not stated
    activation: str = "relu"  # free: not stated
    deconv_widths: tuple[int, int, int] = (240, 64, 64)  # row "Conv 3x3"; kernel 3
    fusion: str = "sfusion"  # "sfusion", "dw1", "dw2", "conv3", "none": table 5


def _scratch() -> LGMPoseConfig:
    return LGMPoseConfig(
        backbone=((4, 32, 1), (4, 48, 2), (4, 48, 1), (4, 48, 1)),
        pretrained=False,
        stages=(Stage(((4, 80, 2),), 120), Stage(((4, 80, 2),), 144), Stage(((4, 80, 2),), 144)),
        mobilevim_fuse="add",
        block_activation="silu",
        activation="silu",
        deconv_widths=(224, 96, 32),
    )


#: "pretrained" has the blocks of MobileNetV2, for published weights; "scratch" has more even widths.
CONFIGS: dict[str, LGMPoseConfig] = {"pretrained": LGMPoseConfig(), "scratch": _scratch()}


def for_input(config: LGMPoseConfig, height: int, width: int, num_keypoints: int) -> LGMPoseConfig:
    """The configuration for another input size: patches of 4x4 if the input is square, else 4x3."""
    patch = (4, 4) if height == width else (4, 3)
    return replace(config, input_size=(height, width), num_keypoints=num_keypoints, patch=patch)


class LGMPose(nn.Module):
    """Heatmaps of the K keypoints of person crops."""

    def __init__(self, config: LGMPoseConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or LGMPoseConfig()
        self.backbone = MobileNetV2(c.stem, c.backbone, c.block_activation, pretrained=c.pretrained)
        width = self.backbone.widths[self.backbone.strides[-1]]
        self.stages = nn.ModuleList()
        for index in range(3):
            self.stages.append(_stage(c, index, width))
            width = c.stages[index].blocks[-1][1]
        skips = (c.stages[1].blocks[-1][1], c.stages[0].blocks[-1][1], self.backbone.widths[4])
        self.deconvs, self.fusions = nn.ModuleList(), nn.ModuleList()
        for deconv_width, skip in zip(c.deconv_widths, skips, strict=True):
            self.deconvs.append(Deconv(width, deconv_width, c.activation))
            width = deconv_width + (0 if c.fusion == "none" else skip)
            if c.fusion != "none":
                self.fusions.append(Fusion(width, c.fusion, c.activation))
        self.head = nn.Conv2d(width, c.num_keypoints, 1)
        nn.init.normal_(self.head.weight, std=0.001)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, crops: Tensor) -> Tensor:
        """Crops float32 (N, 3, H, W), RGB in 0..255 -> heatmaps float32 (N, K, H / 4, W / 4)."""
        backbone = self.backbone(crops / 127.5 - 1)
        x8 = self.stages[0](backbone[self.backbone.strides[-1]])
        x16 = self.stages[1](x8)
        x = self.stages[2](x16)
        for index, skip in enumerate((x16, x8, backbone[4])):
            x = self.deconvs[index](x)
            if self.fusions:
                x = self.fusions[index](x, skip)
        heatmaps: Tensor = self.head(x)
        return heatmaps


def _stage(config: LGMPoseConfig, index: int, inputs: int) -> nn.Sequential:
    stage, stride = config.stages[index], 8 << index
    size = config.input_size[0] // stride, config.input_size[1] // stride
    blocks: list[nn.Module] = []
    for spec in stage.blocks:
        blocks.append(InvertedResidual(inputs, spec, activation=config.block_activation))
        inputs = spec[1]
    mixer: nn.Module = (
        LARM(size, config.patch, config.mlp_ratio, residual=config.mixer_residual)
        if config.mixer == "larm"
        else TransformerMixer(stage.dim, config.transformer_depths[index])
    )
    mobilevim = MobileViM(inputs, stage.dim, mixer, fuse=config.mobilevim_fuse, activation=config.activation)
    return nn.Sequential(*blocks, mobilevim)


def config_from_json(fields: dict[str, Any]) -> LGMPoseConfig:
    """The configuration from `dataclasses.asdict` after JSON, where its tuples have become lists."""
    tuples = {key: _tuple(value) for key, value in fields.items() if key != "stages"}
    stages = tuple(Stage(blocks=_tuple(s["blocks"]), dim=s["dim"]) for s in fields["stages"])
    return LGMPoseConfig(**tuples, stages=stages)  # type: ignore[arg-type]


def _tuple(value: Any) -> Any:
    return tuple(_tuple(v) for v in value) if isinstance(value, list) else value


def save(network: LGMPose, path: Path) -> None:
    """Write the weights to `path` (.safetensors) and the configuration to the same name with .json."""
    save_file({k: v.contiguous().cpu() for k, v in network.state_dict().items()}, path)
    path.with_suffix(".json").write_text(json.dumps(asdict(network.config), indent=1) + "\n")


def load(path: Path) -> LGMPose:
    """The network that `save` wrote, in single precision and evaluation mode."""
    network = LGMPose(config_from_json(json.loads(path.with_suffix(".json").read_text())))
    network.load_state_dict(load_file(path))
    return network.eval()
