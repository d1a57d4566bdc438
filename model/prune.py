"""Removes channels of a trained detector: `python -m model.prune WEIGHTS.safetensors --keep 0.67 --out FILE`.

Each block of the backbone keeps the channels, between its two 1x1 convolutions, from which its output can be
reproduced best, and the second convolution is fitted again, on training photos (He et al., ICCV 2017). The
channels leave one by one, each time the one that increases the squared error least (Hassibi & Stork, NIPS
1992). A block sees the output of the pruned blocks before it, so it also corrects their errors. Training
continues from the file as from any other.
"""

import argparse
import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from model import detector
from model.blocks import InvertedResidual
from model.geometry import letterbox
from model.pose_dataset import read_data
from model.samples import kept_apart

BATCH = 8
POSITIONS = 20_000  # of a feature map that are drawn from each batch
RIDGE = 1e-6  # of the mean square of a channel, against channels that repeat each other


@dataclass(frozen=True)
class Fit:
    """The channels that a block keeps, and the weights (outputs, channels) and bias (outputs,) that follow.

    error: squared error of the block's output, as a share of its variance.
    """

    channels: Tensor
    weight: Tensor
    bias: Tensor
    error: float


def fit(hidden: Sequence[Tensor], wanted: Sequence[Tensor], keep: int) -> Fit:
    """Reproduces `wanted` from `keep` of the channels of `hidden`.

    hidden: (positions, channels) of each batch; wanted: (positions, outputs).
    """
    x = torch.cat([torch.cat([each, torch.ones(len(each), 1)], 1).double() for each in hidden])
    y = torch.cat([each.double() for each in wanted])
    gram, cross = x.T @ x / len(x), y.T @ x / len(x)
    inverse = torch.linalg.inv(gram + RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype))
    weight = cross @ inverse
    left = torch.arange(x.shape[1])  # the last column is the bias
    while len(left) > keep + 1:
        worse = weight.square().sum(0) / inverse.diagonal()
        worst = int(worse[:-1].argmin())
        column = inverse[:, worst] / inverse[worst, worst]
        rest = torch.arange(len(left)) != worst
        weight = (weight - torch.outer(weight[:, worst], column))[:, rest]
        inverse = (inverse - torch.outer(column, inverse[worst]))[rest][:, rest]
        left = left[rest]
    error = (y.square().mean(0) - (weight * cross[:, left]).sum(1)).sum() / y.var(0).sum()
    return Fit(left[:-1], weight[:, :-1].float(), weight[:, -1].float(), float(error))


def shrink(block: InvertedResidual, fitted: Fit) -> None:
    """Removes the other channels of a block whose convolutions have a bias, in place."""
    expand, depthwise, project = block.expand.conv, block.depthwise.conv, block.project.conv
    for conv in (expand, depthwise):
        assert isinstance(conv, nn.Conv2d) and conv.bias is not None
        conv.weight = nn.Parameter(conv.weight.detach()[fitted.channels])
        conv.bias = nn.Parameter(conv.bias.detach()[fitted.channels])
        conv.out_channels = len(fitted.channels)
    depthwise.in_channels = depthwise.groups = project.in_channels = len(fitted.channels)
    project.weight = nn.Parameter(fitted.weight[:, :, None, None].contiguous())
    project.bias = nn.Parameter(fitted.bias.contiguous())


@torch.no_grad()
def pruned(
    network: detector.PersonDetector, images: Tensor, shares: Sequence[float]
) -> detector.PersonDetector:
    """A smaller copy of the network.

    images: float32 RGB (N, 3, H, W) in 0..255. shares: of the channels that remain, one for each block with
    an expansion; the numbers of channels are rounded to multiples of 8, above the number of inputs.
    """
    smaller = copy.deepcopy(network).eval()
    specs, left = [*network.config.backbone], iter(shares)
    of_original = of_smaller = [*(images / 127.5 - 1).split(BATCH)]  # inputs of the next layer
    for index, layer in enumerate(network.eval().backbone.layers):
        outputs, other = [layer(x) for x in of_original], smaller.backbone.layers[index]
        if isinstance(other, InvertedResidual) and specs[index - 1][0] > 1:
            inputs, channels = of_smaller[0].shape[1], other.project.conv.in_channels
            keep = max(inputs + 8, round(channels * next(left) / 8) * 8)
            error = _fit_block(other, of_smaller, outputs, keep)
            print(f"block {index}: {channels} -> {keep} channels, error {error:.3f}", flush=True)
            specs[index - 1] = (keep / inputs, *specs[index - 1][1:])
        of_original, of_smaller = outputs, [other(x) for x in of_smaller]
    smaller.config = replace(network.config, backbone=tuple(specs))
    return smaller


def _fit_block(
    block: InvertedResidual, inputs: Sequence[Tensor], outputs: Sequence[Tensor], keep: int
) -> float:
    """Shrink the block so that it maps the inputs to the outputs, each (N, C, H, W). Returns the error."""
    hidden, wanted = [], []
    for x, y in zip(inputs, outputs, strict=True):
        features, target = block.depthwise(block.expand(x)), y - x if block.residual else y
        drawn = torch.randperm(target[:, 0].numel())[:POSITIONS]
        hidden.append(features.permute(0, 2, 3, 1).flatten(0, 2)[drawn])
        wanted.append(target.permute(0, 2, 3, 1).flatten(0, 2)[drawn])
    fitted = fit(hidden, wanted, keep)
    shrink(block, fitted)
    return fitted.error


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m model.prune", description=__doc__)
    parser.add_argument(
        "weights", type=Path, help="the detector's .safetensors, with a .json of the same name"
    )
    parser.add_argument("--keep", type=float, nargs="+", required=True, help="share of each block, or of all")
    parser.add_argument("--out", type=Path, required=True, help=".safetensors of the smaller detector")
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder of shards [%(default)s]"
    )
    parser.add_argument("--photos", type=int, default=48, help="training photos to fit on [%(default)s]")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    network = detector.load(options.weights)
    samples = [sample for sample in read_data(options.data, "train") if not kept_apart(sample)]
    everyday = [sample for sample in samples if sample.source == "coco"] or samples
    size, fill = network.config.input_size, detector.LETTERBOX_FILL
    photos = np.stack([letterbox(sample.image(), size, fill)[0] for sample in everyday[: options.photos]])
    images = torch.from_numpy(photos[..., ::-1].copy()).permute(0, 3, 1, 2).float()
    blocks = sum(spec[0] > 1 for spec in network.config.backbone)
    shares = options.keep * blocks if len(options.keep) == 1 else options.keep
    if len(shares) != blocks:
        parser.error(f"--keep needs one share, or {blocks}")
    detector.save(pruned(network, images, shares), options.out)


if __name__ == "__main__":
    main()
