"""Augmentation of batches of tensors, with the same code on CPU and GPU.

Every function draws from the generator that it is given, so a batch depends only on its seed.
Images are float32 RGB (n, 3, H, W) in 0..255. Coordinates are pixels: x right, y down, integer = pixel
centre.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from model.keypoints import FLIP_INDEX

UPPER_BODY = tuple(range(11))


@dataclass(frozen=True)
class Jitter:
    """Ranges of the random affine.

    scale: smallest and largest factor; rotation: largest angle in degrees; rotated: share of the images that
    are rotated; shift: standard deviation as a fraction of the output's size.
    """

    scale: tuple[float, float]
    rotation: float
    rotated: float
    shift: float


def uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Float32 (n,) uniform in [low, high), on the generator's device."""
    return low + (high - low) * torch.rand(n, generator=generator, device=generator.device)


def chance(n: int, probability: float, generator: torch.Generator) -> Tensor:
    """Bool (n,), each True with the given probability."""
    return uniform(n, 0, 1, generator) < probability


def random_affine(
    centre: Tensor, scale: Tensor, size: tuple[int, int], jitter: Jitter, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Random affines float32 (n, 2, 3), output pixels -> source pixels, and bool (n,): which of them mirror.

    centre: (n, 2) source pixel x, y at the centre of the output; scale: (n,) source pixels per output
    pixel, before jitter; size: (height, width) of the output.
    """
    n = len(centre)
    low, high = (torch.tensor(s).log().item() for s in jitter.scale)
    scale = scale * uniform(n, low, high, generator).exp()
    angle = torch.deg2rad(uniform(n, -jitter.rotation, jitter.rotation, generator))
    angle = angle * chance(n, jitter.rotated, generator)
    mirrored = chance(n, 0.5, generator)
    sign = torch.where(mirrored, -1.0, 1.0)
    extent = torch.tensor([size[1], size[0]], device=centre.device)
    noise = torch.randn(n, 2, generator=generator, device=centre.device) * jitter.shift
    centre = centre + noise.clamp(-0.25, 0.25) * extent * scale[:, None]
    cos, sin = scale * angle.cos(), scale * angle.sin()
    linear = torch.stack([torch.stack([cos * sign, -sin], 1), torch.stack([sin * sign, cos], 1)], 1)
    offset = centre - linear @ ((extent - 1) / 2)
    return torch.cat([linear, offset[:, :, None]], 2), mirrored


def warp(images: Tensor, affine: Tensor, size: tuple[int, int], fill: float = 0) -> Tensor:
    """Images (n, C, height, width) sampled bilinearly from float32 images (n, C, H, W).

    affine: (n, 2, 3), output pixels -> source pixels. Pixels outside the source are `fill`.
    """
    height, width = size
    source_height, source_width = images.shape[2:]
    ys, xs = torch.meshgrid(
        torch.arange(height, device=affine.device), torch.arange(width, device=affine.device), indexing="ij"
    )
    pixels = torch.stack([xs, ys, torch.ones_like(xs)], -1).reshape(-1, 3).float()
    source = pixels @ affine.transpose(1, 2)
    extent = torch.tensor([source_width, source_height], device=affine.device)
    grid = ((source + 0.5) * 2 / extent - 1).reshape(-1, height, width, 2)
    return F.grid_sample(images - fill, grid, align_corners=False) + fill


def move_points(points: Tensor, affine: Tensor) -> Tensor:
    """Points (n, K, 2) x, y in source pixels -> output pixels; affine (n, 2, 3) maps output -> source."""
    linear, offset = affine[:, :, :2], affine[:, :, 2]
    inverse: Tensor = torch.linalg.inv(linear)
    return (points - offset[:, None]) @ inverse.transpose(1, 2)


def mirror_keypoints(values: Tensor, mirrored: Tensor) -> Tensor:
    """Values (n, K, ...) with left and right keypoints swapped where bool mirrored (n,) is True."""
    swapped = values[:, list(FLIP_INDEX)]
    return torch.where(mirrored.reshape(-1, *[1] * (values.ndim - 1)), swapped, values)


def half_body(
    points: Tensor, known: Tensor, probability: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Centre (n, 2) and height (n,), in source pixels, of the upper or lower half of each person.

    points: (n, K, 2) in source pixels; known: bool (n, K). The third result, bool (n,), is True for persons
    to be cropped to that half: chosen with `probability` among those with at least eight known joints,
    three of them in the half.
    """
    n = len(points)
    upper = torch.zeros(points.shape[1], dtype=torch.bool, device=points.device)
    upper[list(UPPER_BODY)] = True
    half = known & (chance(n, 0.7, generator)[:, None] == upper)
    far = torch.where(half[:, :, None], points, torch.nan)
    low = far.nan_to_num(torch.inf).amin(1)
    high = far.nan_to_num(-torch.inf).amax(1)
    enough = (known.sum(1) >= 8) & (half.sum(1) >= 3) & chance(n, probability, generator)
    extent = (high - low) * 1.5
    height = torch.maximum(extent[:, 1], extent[:, 0] * 4 / 3)
    return (low + high) / 2, height, enough


def recolour(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (n, 3, H, W) in 0..255 with random gain, channel gains and contrast; some become grey."""
    n, device = len(images), images.device

    def per_image(low: float, high: float) -> Tensor:
        return uniform(n, low, high, generator)[:, None, None, None]

    gain = per_image(0.7, 1.3) * (
        1 + 0.12 * (torch.rand(n, 3, 1, 1, generator=generator, device=device) - 0.5)
    )
    mean = images.mean((1, 2, 3), keepdim=True)
    images = ((images - mean) * per_image(0.7, 1.3) + mean) * gain
    grey = chance(n, 0.1, generator)[:, None, None, None]
    return torch.where(grey, images.mean(1, keepdim=True), images).clamp(0, 255)


def occlude(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Images (n, 3, H, W), some of them with one rectangle of a random colour."""
    n, _, height, width = images.shape
    device = images.device
    ys, xs = torch.arange(height, device=device), torch.arange(width, device=device)

    def span(length: int, positions: Tensor) -> Tensor:
        start = uniform(n, 0, length, generator)[:, None]
        extent = uniform(n, 0.1 * length, 0.35 * length, generator)[:, None]
        return (positions >= start - extent / 2) & (positions < start + extent / 2)

    inside = span(height, ys)[:, :, None] & span(width, xs)[:, None, :]
    inside &= chance(n, probability, generator)[:, None, None]
    colour = 255 * torch.rand(n, 3, 1, 1, generator=generator, device=device)
    return torch.where(inside[:, None], colour, images)
