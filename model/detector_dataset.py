"""Whole photos for detector training: letterboxed once into a memory-mapped file, augmented as tensors."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from model import augment
from model.detector import LETTERBOX_FILL
from model.geometry import letterbox
from model.packed import PackedImages, pack_images
from model.samples import EVERYDAY, Sample

CANVAS = 384, 384  # height, width

#: Sampling weight of the photos of a source.
SOURCE_WEIGHT = {
    "coco": 6.0,
    "misc": 3.0,
    "lspet": 0.25,
    "fashionA": 0.3,
    "fashionB": 0.3,
    "ccp": 0.5,
    "yoga": 0.5,
    "coco500": 6.0,
    "coco_mini": 6.0,
    "fashion17": 0.2,
    "clothing_attr": 0.3,
    "exercise_db": 0.2,
    "sports22": 0.5,
    "yoga_manoj": 0.3,
}
SOURCE_WEIGHT |= dict.fromkeys(EVERYDAY, 2.0)


def pack(samples: Sequence[Sample], folder: Path) -> None:
    """Write the letterboxed photos into `folder`, completely or not at all."""
    images = (letterbox(sample.image(), CANVAS, LETTERBOX_FILL)[0] for sample in samples)
    pack_images(folder, images, [sample.source for sample in samples], CANVAS, "photo")


class Canvases:
    """The packed photos, and augmented batches of them as a function of a step number."""

    jitter = augment.Jitter(scale=(0.6, 1.5), rotation=8, rotated=0.2, shift=0.12)

    def __init__(
        self, folders: Sequence[Path], size: tuple[int, int], device: torch.device, share: float = 1.0
    ) -> None:
        self.size = size
        self.photos = PackedImages(folders, device)
        self.chances = self.photos.weights(SOURCE_WEIGHT, share)

    def __len__(self) -> int:
        return len(self.chances)

    def batch(self, step: int, n: int, seed: int) -> Tensor:
        """The photos of a step, float32 RGB (n, 3, H, W) in 0..255; they depend only on step, n and seed."""
        images, _, generator = self.photos.draw(self.chances, step, n, seed)
        device = images.device
        centre = torch.tensor([(CANVAS[1] - 1) / 2, (CANVAS[0] - 1) / 2], device=device).repeat(n, 1)
        scale = torch.full((n,), CANVAS[0] / self.size[0], device=device)
        affine, _ = augment.random_affine(centre, scale, self.size, self.jitter, generator)
        warped = augment.warp(images, affine, self.size, LETTERBOX_FILL)
        recoloured: Tensor = augment.recolour(warped, generator)
        return recoloured.contiguous(memory_format=torch.channels_last)
