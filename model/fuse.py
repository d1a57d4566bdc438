"""Rewrites a trained network, for export only, into an equivalent one that graph runtimes run faster.

Training and torch keep the plain form, because torch has kernels for its operations.
"""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.blocks import LARM, TokenMLP

Network = TypeVar("Network", bound=nn.Module)


class RowMLP(nn.Module):
    """A TokenMLP over the rows of (B, T, C) instead of the last axis.

    Weights are multiplied from the left, so tokens need not be moved to the last axis. The mean of
    LayerNorm is a matrix product too, because runtimes reduce rows several times slower than they multiply.
    """

    mean: Tensor

    def __init__(self, mlp: TokenMLP) -> None:
        super().__init__()
        norm, up, _, down = mlp
        assert isinstance(norm, nn.LayerNorm) and isinstance(up, nn.Linear) and isinstance(down, nn.Linear)
        with torch.no_grad():
            self.up = nn.Parameter(up.weight * norm.weight)
            self.up_bias = nn.Parameter((up.weight @ norm.bias + up.bias)[:, None])
            self.down = nn.Parameter(down.weight.clone())
            self.down_bias = nn.Parameter(down.bias[:, None].clone())
        tokens = len(norm.weight)
        self.register_buffer("mean", torch.full((1, tokens), 1 / tokens))
        self.eps = norm.eps

    def forward(self, x: Tensor) -> Tensor:
        centred = x - self.mean @ x
        variance = self.mean @ (centred * centred)
        hidden = self.up @ (centred * torch.rsqrt(variance + self.eps)) + self.up_bias
        return self.down @ F.gelu(hidden) + self.down_bias


class ChannelsLastLARM(nn.Module):
    """A LARM on maps (B, d, H, W) that works with channels last: patches are cut out as rows of pixels."""

    def __init__(self, larm: LARM) -> None:
        super().__init__()
        self.patch, self.grid, self.residual = larm.patch, larm.grid, larm.residual
        self.across, self.within = RowMLP(larm.across), RowMLP(larm.within)

    def forward(self, x: Tensor) -> Tensor:
        d, (gh, gw), (ph, pw) = x.shape[1], self.grid, self.patch
        x = x.permute(0, 2, 3, 1).reshape(-1, gh, ph, gw, pw * d).transpose(2, 3)
        x = x.reshape(-1, gh * gw, ph * pw * d)
        x = x + self.across(x) if self.residual else self.across(x)
        x = x.reshape(-1, ph * pw, d)
        x = x + self.within(x) if self.residual else self.within(x)
        x = x.reshape(-1, gh, gw, ph, pw * d).transpose(2, 3)
        return x.reshape(-1, gh * ph, gw * pw, d).permute(0, 3, 1, 2)


def fused(network: Network) -> Network:
    """A copy of the network with equal outputs up to rounding, in evaluation mode."""
    network = copy.deepcopy(network).eval()
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, LARM):
                setattr(module, name, ChannelsLastLARM(child))
    return network


def for_bgr(network: Network) -> Network:
    """A copy of the network with the same outputs for BGR images as before for RGB.

    Both networks normalise the three channels alike, so only the first convolution depends on their order.
    """
    network = copy.deepcopy(network)
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    first.weight = nn.Parameter(first.weight.detach().flip(1))
    return network
