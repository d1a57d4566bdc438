"""Whole photos for detector training: letterboxed once into a memory-mapped file, augmented as tensors."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from model import augment
from model.detector import LETTERBOX_FILL
from model.geometry import letterbox
from model.scenes import EVERYDAY, Scene

CANVAS = 384, 384  # height, width

#: How often a photo of a source is drawn.
SOURCE_WEIGHT = {
    "coco": 6.0,
    "misc": 3.0,
    "lspet": 0.25,
    "fashionA": 0.3,
    "fashionB": 0.3,
    "ccp": 0.5,
    "yoga": 0.5,
}
SOURCE_WEIGHT |= dict.fromkeys(EVERYDAY, 2.0)


def pack(scenes: Sequence[Scene], folder: Path) -> None:
    """Write every photo's canvas (RGB) into `folder`, complete or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    canvases = np.lib.format.open_memmap(folder / "canvases.npy", "w+", np.uint8, (len(scenes), *CANVAS, 3))
    for index, scene in enumerate(tqdm(scenes, "packing photos", unit="photo")):
        canvas, _ = letterbox(scene.image(), CANVAS, LETTERBOX_FILL)
        canvases[index] = canvas[:, :, ::-1]
    canvases.flush()
    (folder / "sources.json").write_text(json.dumps([scene.source for scene in scenes]))


class Canvases:
    """The packed photos, and augmented batches of them as a function of a step number."""

    jitter = augment.Jitter(scale=(0.45, 1.35), rotation=8, rotated=0.2, shift=0.12)

    def __init__(self, folder: Path, size: tuple[int, int], device: torch.device) -> None:
        self.size, self.device = size, device
        canvases: npt.NDArray[np.uint8] = np.load(
            folder / "canvases.npy", mmap_mode="r" if device.type == "cpu" else None
        )
        self.canvases = canvases if device.type == "cpu" else torch.from_numpy(canvases).to(device)
        weight = np.array(
            [SOURCE_WEIGHT.get(s, 1.0) for s in json.loads((folder / "sources.json").read_text())]
        )
        self.probability = weight / weight.sum()

    def __len__(self) -> int:
        return len(self.canvases)

    def batch(self, step: int, n: int, seed: int) -> Tensor:
        """The step's photos, float RGB (n, 3, H, W) in 0..255, the same for the same seed."""
        chosen = np.random.default_rng([seed, step]).choice(len(self), n, p=self.probability)
        generator = torch.Generator(self.device).manual_seed(seed * 1_000_003 + step)
        photos = (
            self.canvases[torch.from_numpy(chosen).to(self.device)]
            if isinstance(self.canvases, Tensor)
            else torch.from_numpy(self.canvases[chosen])
        )
        images = photos.permute(0, 3, 1, 2).float()
        centre = torch.tensor([(CANVAS[1] - 1) / 2, (CANVAS[0] - 1) / 2], device=self.device).repeat(n, 1)
        scale = torch.full((n,), CANVAS[0] / self.size[0], device=self.device)
        affine, _ = augment.random_affine(centre, scale, self.size, self.jitter, generator)
        warped = augment.warp(images, affine, self.size, LETTERBOX_FILL)
        recoloured: Tensor = augment.recolour(warped, generator)
        return recoloured.contiguous(memory_format=torch.channels_last)
