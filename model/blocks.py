"""Building blocks of both networks: MobileNetV2, MobileViM with LARM, SFusion, deconvolution.

LGM-Pose: arXiv 2506.04561. The paper gives tables but no code; each block states its assumptions.
Feature maps are (N, C, H, W), in single precision or, under autocast, in bfloat16.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: (expansion, width, stride) of an inverted residual block.
BlockSpec = tuple[float, int, int]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "none": nn.Identity,
}


class Conv2d(nn.Conv2d):
    """A convolution that ignores the CPU's bfloat16 autocast if it is depthwise and strided.

    oneDNN has no fast gradient for that one case: bfloat16 takes four to twenty times as long as single
    precision (torch 2.13, AVX512-BF16).
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        if self.groups == 1 or self.stride == (1, 1) or not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


class Conv(nn.Module):
    """Convolution with an odd kernel, normalisation and activation.

    norm False: a bias instead of BatchNorm. same True: TensorFlow's SAME padding, which at stride 2 and
    even sizes pads only right and bottom; weights trained in TensorFlow expect it.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        activation: str = "relu",
        norm: bool = True,
        same: bool = False,
    ) -> None:
        super().__init__()
        self.uneven = same and stride == 2 and kernel == 3
        padding = 0 if self.uneven else kernel // 2
        self.conv = Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=not norm)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")
        self.norm = nn.BatchNorm2d(outputs) if norm else nn.Identity()
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        x = F.pad(x, (0, 1, 0, 1)) if self.uneven else x
        activated: Tensor = self.activation(self.norm(self.conv(x)))
        return activated


class InvertedResidual(nn.Module):
    """MobileNetV2's block (Sandler et al., CVPR 2018): expand 1x1, depthwise 3x3, project 1x1."""

    def __init__(
        self,
        inputs: int,
        spec: BlockSpec,
        *,
        activation: str = "relu6",
        norm: bool = True,
        same: bool = False,
    ) -> None:
        super().__init__()
        expansion, outputs, stride = spec
        hidden = round(inputs * expansion)
        self.expand = (
            Conv(inputs, hidden, activation=activation, norm=norm, same=same)
            if expansion > 1
            else nn.Identity()
        )
        self.depthwise = Conv(
            hidden, hidden, 3, stride, groups=hidden, activation=activation, norm=norm, same=same
        )
        self.project = Conv(hidden, outputs, activation="none", norm=norm, same=same)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """A stem of stride 2 and inverted residual blocks.

    pretrained: the form of the published weights: BatchNorm folded into a bias, and SAME padding.
    The first `frozen` of its layers (stem, blocks) run without gradient.
    """

    def __init__(self, stem: int, blocks: Sequence[BlockSpec], activation: str, *, pretrained: bool) -> None:
        super().__init__()
        norm, same = not pretrained, pretrained
        self.layers = nn.ModuleList([Conv(3, stem, 3, 2, activation=activation, norm=norm, same=same)])
        self.strides = [2]
        self.widths = {2: stem}
        width = stem
        for spec in blocks:
            self.layers.append(InvertedResidual(width, spec, activation=activation, norm=norm, same=same))
            width = spec[1]
            self.strides.append(self.strides[-1] * spec[2])
            self.widths[self.strides[-1]] = width
        self.frozen = 0

    def freeze(self, count: int) -> None:
        """Exclude the first `count` layers from training and include the rest."""
        self.frozen = count
        for index, layer in enumerate(self.layers):
            layer.requires_grad_(index >= count)

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """Image (N, 3, H, W) -> the last feature map (N, width, H / stride, W / stride) of each stride."""
        features = {}
        for index, (layer, stride) in enumerate(zip(self.layers, self.strides, strict=True)):
            with torch.set_grad_enabled(torch.is_grad_enabled() and index >= self.frozen):
                x = layer(x)
            features[stride] = x
        return features

    def load_folded(self, weights: dict[str, Tensor]) -> None:
        """Copy weights `stem.weight|bias` and `blocks.I.expand|dw|project.weight|bias` into the convolutions.

        Weights are (outputs, inputs / groups, kernel, kernel), biases (outputs,); further blocks are ignored.
        Raises KeyError when a block's weights are missing.
        """
        names = {"expand": "expand", "depthwise": "dw", "project": "project"}
        with torch.no_grad():
            for index, layer in enumerate(self.layers):
                for name, module in layer.named_modules():
                    if isinstance(module, nn.Conv2d):
                        source = "stem" if index == 0 else f"blocks.{index - 1}.{names[name.split('.')[0]]}"
                        module.weight.copy_(weights[f"{source}.weight"])
                        assert module.bias is not None
                        module.bias.copy_(weights[f"{source}.bias"])


class TokenMLP(nn.Sequential):
    """MLP over the last axis of (..., size) (eq. 1): LayerNorm, Linear, GELU, Linear."""

    def __init__(self, size: int, ratio: int) -> None:
        super().__init__(
            nn.LayerNorm(size), nn.Linear(size, size * ratio), nn.GELU(), nn.Linear(size * ratio, size)
        )


class LARM(nn.Module):
    """Lightweight attentional representation module (section 3.2, eq. 1): MLPs in place of attention.

    The map is cut into patches. One MLP mixes the pixels at the same place of all patches, a second MLP
    mixes the pixels of a patch. The residuals are assumed: eq. 1 does not show them.
    size: (height, width) of the map; patch: (height, width), which must divide it, else ValueError.
    """

    def __init__(self, size: tuple[int, int], patch: tuple[int, int], ratio: int, *, residual: bool) -> None:
        super().__init__()
        self.patch = patch
        self.grid = size[0] // patch[0], size[1] // patch[1]
        if (self.grid[0] * patch[0], self.grid[1] * patch[1]) != size:
            raise ValueError(f"a patch of {patch} does not divide a map of {size}")
        self.residual = residual
        self.across = TokenMLP(self.grid[0] * self.grid[1], ratio)
        self.within = TokenMLP(patch[0] * patch[1], ratio)

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim, H, W) -> (N, dim, H, W)."""
        d, (gh, gw), (ph, pw) = x.shape[1], self.grid, self.patch
        x = x.reshape(-1, d, gh, ph, gw, pw).permute(0, 1, 3, 5, 2, 4).reshape(-1, d, ph * pw, gh * gw)
        x = x + self.across(x) if self.residual else self.across(x)
        x = x.transpose(2, 3)
        x = x + self.within(x) if self.residual else self.within(x)
        x = x.reshape(-1, d, gh, gw, ph, pw).permute(0, 1, 2, 4, 3, 5)
        return x.reshape(-1, d, gh * ph, gw * pw)


class Attention(nn.Module):
    """Multi-head self-attention over the third axis."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, N, dim) -> (B, P, N, dim)."""
        b, p, n, d = x.shape
        qkv: Tensor = self.qkv(x)
        q, k, v = qkv.reshape(b, p, n, 3, self.heads, d // self.heads).permute(3, 0, 1, 4, 2, 5)
        weights = torch.matmul(q, k.transpose(-1, -2)) * (d // self.heads) ** -0.5
        mixed: Tensor = self.out(torch.matmul(weights.softmax(-1), v).transpose(2, 3).reshape(b, p, n, d))
        return mixed


class TransformerMixer(nn.Module):
    """MobileViT's transformer (Mehta and Rastegari, ICLR 2022) instead of LARM, for the ablation row."""

    def __init__(self, dim: int, depth: int, *, patch: tuple[int, int] = (2, 2), heads: int = 4) -> None:
        super().__init__()
        self.patch = patch
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.Sequential(nn.LayerNorm(dim), Attention(dim, heads)),
                    nn.Sequential(
                        nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim)
                    ),
                ]
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim, H, W) -> (N, dim, H, W); `patch` must divide the map."""
        _, d, h, w = x.shape
        ph, pw = self.patch
        x = x.reshape(-1, d, h // ph, ph, w // pw, pw).permute(0, 3, 5, 2, 4, 1)
        x = x.reshape(-1, ph * pw, h * w // (ph * pw), d)
        for layer in self.layers:
            for residual in cast(nn.ModuleList, layer):  # attention, feed-forward
                x = x + residual(x)
        x = self.norm(x).reshape(-1, ph, pw, h // ph, w // pw, d).permute(0, 5, 3, 1, 4, 2)
        return x.reshape(-1, d, h, w)


class MobileViM(nn.Module):
    """MobileViM block (section 3.1): convolutions to `dim` channels, a mixer, a projection back, fusion with
    the input.

    The paper's "convolved and fused" is interpreted as concatenation + 1x1 ("concat") or as a sum ("add").
    """

    def __init__(self, channels: int, dim: int, mixer: nn.Module, *, fuse: str, activation: str) -> None:
        super().__init__()
        self.local = nn.Sequential(
            Conv(channels, channels, 3, activation=activation), Conv(channels, dim, activation=activation)
        )
        self.mixer = mixer
        self.project = Conv(dim, channels, activation=activation)
        self.fuse = Conv(2 * channels, channels, activation=activation) if fuse == "concat" else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, channels, H, W)."""
        y: Tensor = self.project(self.mixer(self.local(x)))
        if self.fuse is None:
            return x + y
        fused: Tensor = self.fuse(torch.cat([x, y], 1))
        return fused


class PairConv(nn.Module):
    """SFusion's core: channel shuffle in two groups, then a 3x3 convolution with two channels per group.

    Implemented as two depthwise convolutions: of each channel, and of its partner half the channels away.
    The outputs are in another order than the paper's; the 1x1 convolution that follows absorbs it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.own = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.partner = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        nn.init.kaiming_normal_(self.own.weight, mode="fan_out")
        nn.init.kaiming_normal_(self.partner.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, channels, H, W)."""
        first, second = x.chunk(2, 1)
        mixed: Tensor = self.own(x) + self.partner(torch.cat([second, first], 1))
        return mixed


class Fusion(nn.Module):
    """Fuses decoder and encoder maps (section 3.3, table 5): concatenation, 3x3, 1x1.

    kind: "sfusion" (shuffled pairs), "dw1" (depthwise), "dw2" (pairs, no shuffle) or "conv3" (dense).
    """

    def __init__(self, channels: int, kind: str, activation: str) -> None:
        super().__init__()
        if kind == "conv3":
            self.mix: nn.Module = Conv(channels, channels, 3, activation=activation)
            return
        spatial: dict[str, Callable[[], nn.Module]] = {
            "sfusion": lambda: nn.Sequential(PairConv(channels), nn.BatchNorm2d(channels)),
            "dw1": lambda: Conv(channels, channels, 3, groups=channels, activation="none"),
            "dw2": lambda: Conv(channels, channels, 3, groups=channels // 2, activation="none"),
        }
        self.mix = nn.Sequential(spatial[kind](), Conv(channels, channels, activation=activation))

    def forward(self, decoded: Tensor, encoded: Tensor) -> Tensor:
        """(N, C1, H, W) and (N, C2, H, W) -> (N, C1 + C2, H, W)."""
        fused: Tensor = self.mix(torch.cat([decoded, encoded], 1))
        return fused


class Deconv(nn.Sequential):
    """Doubles height and width: transposed convolution 3x3 of stride 2, BatchNorm, activation."""

    def __init__(self, inputs: int, outputs: int, activation: str) -> None:
        deconv = nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, 1, bias=False)
        nn.init.kaiming_normal_(deconv.weight, mode="fan_out")
        super().__init__(deconv, nn.BatchNorm2d(outputs), ACTIVATIONS[activation]())
