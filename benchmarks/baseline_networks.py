"""The networks that the paper compares LGM-Pose with, to measure their cost: random weights, 17 keypoints.

Each maps RGB crops float32 (N, 3, H, W) to heatmaps (N, 17, H / 4, W / 4).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KEYPOINTS = 17


def conv(inputs: int, outputs: int, size: int = 1, stride: int = 1, **more: Any) -> list[nn.Module]:
    """Convolution and BatchNorm."""
    return [
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False, **more),
        nn.BatchNorm2d(outputs),
    ]


def depthwise(channels: int, stride: int = 1) -> list[nn.Module]:
    return conv(channels, channels, 3, stride, groups=channels)


class Residual(nn.Module):
    """after(shortcut(x) + body(x))."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut, self.after = body, shortcut, after

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.after(self.shortcut(x) + self.body(x))
        return out


def simple_baseline(backbone: nn.Module, channels: int) -> nn.Module:
    """Three deconvolutions of 256 channels on a backbone of stride 32 (arXiv 1804.06208)."""
    layers = []
    for inputs in (channels, 256, 256):
        deconvolution = nn.ConvTranspose2d(inputs, 256, 4, 2, 1, bias=False)
        layers += [deconvolution, nn.BatchNorm2d(256), nn.ReLU()]
    return nn.Sequential(backbone, *layers, nn.Conv2d(256, KEYPOINTS, 1))


def resnet50() -> nn.Module:
    """ResNet-50 up to its 2048 channels (arXiv 1512.03385)."""
    layers = [*conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            step = stride if block == 0 else 1
            body = nn.Sequential(
                *conv(inputs, width),
                nn.ReLU(),
                *conv(width, width, 3, step),
                nn.ReLU(),
                *conv(width, 4 * width),
            )
            same = inputs == 4 * width
            shortcut = nn.Identity() if same else nn.Sequential(*conv(inputs, 4 * width, 1, step))
            layers.append(Residual(body, shortcut, nn.ReLU()))
            inputs = 4 * width
    return nn.Sequential(*layers)


def mobilenetv2() -> nn.Module:
    """MobileNetV2 1.0 up to its 1280 channels (arXiv 1801.04381, table 2)."""
    layers = [*conv(3, 32, 3, 2), nn.ReLU6()]
    inputs = 32
    table = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    for expansion, outputs, blocks, stride in table:
        for block in range(blocks):
            step = stride if block == 0 else 1
            wide = expansion * inputs
            expand = [*conv(inputs, wide), nn.ReLU6()] if expansion > 1 else []
            body = nn.Sequential(*expand, *depthwise(wide, step), nn.ReLU6(), *conv(wide, outputs))
            same = step == 1 and inputs == outputs
            layers.append(Residual(body, nn.Identity(), nn.Identity()) if same else body)
            inputs = outputs
    return nn.Sequential(*layers, *conv(320, 1280), nn.ReLU6())


def shuffled(parts: Sequence[Tensor]) -> Tensor:
    """Interleave the channels of two maps (N, C, H, W): (N, 2 C, H, W)."""
    return torch.stack(list(parts), 2).flatten(1, 2)


class Weighting(nn.Module):
    """Weights in [0, 1] of channels, from a map (N, C, H, W)."""

    def __init__(self, channels: int, reduction: int, *, norm: bool) -> None:
        super().__init__()
        few = channels // reduction
        if norm:
            layers = [*conv(channels, few), nn.ReLU(), *conv(few, channels), nn.Sigmoid()]
        else:
            layers = [nn.Conv2d(channels, few, 1), nn.ReLU(), nn.Conv2d(few, channels, 1), nn.Sigmoid()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class ChannelWeighting(nn.Module):
    """Lite-HRNet's block: half of each branch's channels weighted across resolutions, then over space."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        halves = [width // 2 for width in widths]
        self.halves = halves
        self.across = Weighting(sum(halves), 8, norm=True)
        self.depthwise = nn.ModuleList(nn.Sequential(*depthwise(half)) for half in halves)
        self.spatial = nn.ModuleList(Weighting(half, 4, norm=False) for half in halves)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        kept, changed = zip(*(each.chunk(2, 1) for each in maps), strict=True)
        last = len(changed) - 1
        # the smallest map is 1 / 2^k of the others: adaptive pooling with a fixed kernel
        pooled = [F.avg_pool2d(each, 2 ** (last - i)) if i < last else each for i, each in enumerate(changed)]
        weights = self.across(torch.cat(pooled, 1)).split(self.halves, 1)
        out = []
        for i, (part, weight) in enumerate(zip(changed, weights, strict=True)):
            scaled = (
                part * F.interpolate(weight, scale_factor=2.0 ** (last - i)) if i < last else part * weight
            )
            filtered = self.depthwise[i](scaled)
            out.append(shuffled([kept[i], filtered * self.spatial[i](filtered.mean((2, 3), keepdim=True))]))
        return out


class Exchange(nn.Module):
    """For each branch the sum of all branches, resized to its resolution and width."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.paths = nn.ModuleList(
            nn.ModuleList(self._path(widths, source, target) for source in range(len(widths)))
            for target in range(len(widths))
        )

    @staticmethod
    def _path(widths: Sequence[int], source: int, target: int) -> nn.Module:
        inputs, outputs = widths[source], widths[target]
        if source == target:
            return nn.Identity()
        if source > target:
            return nn.Sequential(*conv(inputs, outputs), nn.Upsample(scale_factor=2 ** (source - target)))
        steps: list[nn.Module] = []
        for _ in range(target - source - 1):
            steps += [*depthwise(inputs, 2), *conv(inputs, inputs), nn.ReLU()]
        return nn.Sequential(*steps, *depthwise(inputs, 2), *conv(inputs, outputs))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [F.relu(sum(p(m) for p, m in zip(paths, maps, strict=True))) for paths in self.paths]


class Stem(nn.Module):
    """From an image to 32 channels at stride 4, as in a ShuffleNetV2 unit."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(*conv(3, 32, 3, 2), nn.ReLU())
        self.plain = nn.Sequential(*depthwise(16, 2), *conv(16, 16), nn.ReLU())
        self.wide = nn.Sequential(*conv(16, 32), nn.ReLU(), *depthwise(32, 2), *conv(32, 16), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.first(x).chunk(2, 1)
        return shuffled([self.plain(one), self.wide(other)])


class LiteHRNet18(nn.Module):
    """Lite-HRNet-18 (arXiv 2104.06403): 2, 4 and 2 modules of 2, 3 and 4 branches, and its head."""

    widths = 40, 80, 160, 320

    def __init__(self) -> None:
        super().__init__()
        self.stem = Stem()
        self.enter = nn.Sequential(*depthwise(32), *conv(32, 40), nn.ReLU())
        before = 32, 80, 160
        self.descend = nn.ModuleList(
            nn.Sequential(*depthwise(inputs, 2), *conv(inputs, outputs), nn.ReLU())
            for inputs, outputs in zip(before, self.widths[1:], strict=True)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(self._module(self.widths[:branches]) for _ in range(modules)))
            for branches, modules in ((2, 2), (3, 4), (4, 2))
        )
        self.rise = nn.ModuleList(
            nn.Sequential(*depthwise(inputs), *conv(inputs, outputs), nn.ReLU())
            for inputs, outputs in ((320, 160), (160, 80), (80, 40), (40, 40))
        )
        self.head = nn.Conv2d(40, KEYPOINTS, 1)

    @staticmethod
    def _module(widths: Sequence[int]) -> nn.Module:
        return nn.Sequential(ChannelWeighting(widths), ChannelWeighting(widths), Exchange(widths))

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        maps = [self.enter(stem), self.descend[0](stem)]
        for stage, descend in zip(self.stages, [*self.descend[1:], None], strict=True):
            maps = stage(maps)
            if descend is not None:
                maps = [*maps, descend(maps[-1])]
        out = self.rise[0](maps[-1])
        for rise, finer in zip(self.rise[1:], reversed(maps[:-1]), strict=True):
            grown = F.interpolate(out, scale_factor=2.0, mode="bilinear", align_corners=True)
            out = rise(finer + grown)
        heatmaps: Tensor = self.head(out)
        return heatmaps


#: Named as in table 1 of the paper.
BASELINES = {
    "SimpleBaseline ResNet-50": lambda: simple_baseline(resnet50(), 2048),
    "MobileNetV2": lambda: simple_baseline(mobilenetv2(), 1280),
    "Lite-HRNet-18": LiteHRNet18,
}
