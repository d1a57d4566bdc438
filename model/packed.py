"""Images of one size in a memory-mapped file, drawn at random by step number."""

import json
import mmap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from model.geometry import Floats, Pixels


def is_packed(folder: Path) -> bool:
    """Whether `folder` holds a complete pack."""
    return (folder / "sources.json").exists()


def pack_images(
    folder: Path, images: Iterable[Pixels], sources: Sequence[str], size: tuple[int, int], what: str
) -> None:
    """Write uint8 BGR images (height, width, 3), one for each source, as RGB.

    `is_packed` is true only once all are written. `what` names the images in the progress bar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    packed = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (len(sources), *size, 3))
    for index, image in enumerate(tqdm(images, f"packing {what}s", len(sources), unit=what)):
        packed[index] = image[:, :, ::-1]
    packed.flush()
    (folder / "sources.json").write_text(json.dumps(sources))


class PackedImages:
    """The images of several packed folders, one after the other: mapped files on a CPU, in the device's
    memory on an accelerator."""

    def __init__(self, folders: Sequence[Path], device: torch.device) -> None:
        self.device = device
        packs: list[list[str]] = [json.loads((folder / "sources.json").read_text()) for folder in folders]
        self.sources = [source for pack in packs for source in pack]
        self._starts = np.cumsum([0, *map(len, packs)])
        on_cpu = device.type == "cpu"
        mapped: list[npt.NDArray[np.uint8]] = [
            np.load(folder / "images.npy", mmap_mode="r" if on_cpu else None) for folder in folders
        ]
        if on_cpu:
            for each in mapped:  # reading ahead would read, and cache, megabytes for each image
                each.base.madvise(mmap.MADV_RANDOM)  # type: ignore[union-attr]
        self._images = mapped if on_cpu else torch.cat([torch.from_numpy(each) for each in mapped]).to(device)

    def weights(self, of_source: Mapping[str, float], share: float = 1.0) -> Floats:
        """Float32 (N,): the weight of each image's source, 1 where the mapping has none.

        A share below 1 keeps about that part of the images, always the same ones, and sets the others to 0.
        """
        kept = np.random.default_rng(0).random(len(self.sources)) < share
        weights = np.array([of_source.get(source, 1.0) for source in self.sources], np.float32)
        return np.where(kept, weights, np.float32(0))

    def draw(self, weights: Floats, step: int, n: int, seed: int) -> tuple[Tensor, Tensor, torch.Generator]:
        """The images of a step, float32 RGB (n, 3, H, W) in 0..255, their indices int64 (n,), and a generator
        for their augmentation.

        The result depends only on step and seed. weights: (N,), not negative.
        """
        probability = weights / weights.sum(dtype=np.float64)
        chosen = np.random.default_rng([seed, step]).choice(len(weights), n, p=probability)
        index = torch.from_numpy(chosen).to(self.device)
        images = (
            self._images[index]
            if isinstance(self._images, Tensor)
            else torch.from_numpy(np.stack([self._mapped(self._images, each) for each in chosen]))
        )
        generator = torch.Generator(self.device).manual_seed(seed * 1_000_003 + step)
        return images.permute(0, 3, 1, 2).float(), index, generator

    def _mapped(self, packs: Sequence[npt.NDArray[np.uint8]], index: int) -> npt.NDArray[np.uint8]:
        pack = int(np.searchsorted(self._starts, index, side="right")) - 1
        return np.asarray(packs[pack][index - self._starts[pack]])
