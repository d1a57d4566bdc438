"""Person crops for pose training: packed once into a memory-mapped file, augmented as tensors."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from model import augment
from model.coco import read_coco
from model.geometry import Floats, Pixels, box_to_affine, crop, transform
from model.lgmpose import CROP_PADDING, HEATMAP_STRIDE
from model.mpii import read_mpii
from model.packed import PackedImages, is_packed, pack_images
from model.samples import EVERYDAY, FIXED_CAMERA, PersonAnnotation, Sample, kept_apart, read_shards

CACHE_SIZE = 320, 240  # height, width of a cached crop
CACHE_PADDING = 1.6  # margin for shift, rotation and zoom, compared with CROP_PADDING
SIGMA = 2.0  # of the target Gaussians, in heatmap pixels at an input of 256 x 192
ABSENT = -1e4  # coordinate of a joint that is known to be invisible

#: Sampling weight of the persons of a source. Everyday scenes have the largest weights; workplaces and
#: streets from fixed cameras, studios and acrobatics are frequent in the data and similar to each other.
SOURCE_WEIGHT = {
    "coco": 4.0,
    "misc": 3.0,
    "lspet": 0.4,
    "fashionA": 0.6,
    "fashionB": 0.6,
    "ccp": 0.6,
    "yoga": 0.8,
    "coco500": 5.0,
    "coco_mini": 5.0,
    "julito22": 3.0,
    "stanford40": 1.5,
    "twitter": 1.5,
    "fashion17": 0.5,
    "clothing_attr": 0.5,
    "exercise_db": 0.4,
    "sports22": 0.5,
    "yoga_manoj": 0.5,
    "dance_forms": 0.7,
    "football": 0.7,
    "children_protect": 0.7,
}
SOURCE_WEIGHT |= dict.fromkeys(EVERYDAY, 3.0)
SOURCE_WEIGHT |= dict.fromkeys(FIXED_CAMERA, 0.6)


def read_data(root: Path, split: str) -> list[Sample]:
    """Samples of a folder of shards, of COCO or of MPII. Raises FileNotFoundError for other folders."""
    match layout(root):
        case "shards":
            return [sample for sample in read_shards(sorted(root.glob("*.tar"))) if sample.split == split]
        case "coco":
            return read_coco(root, split)
        case "mpii":
            return read_mpii(root, split)


def layout(root: Path) -> Literal["shards", "coco", "mpii"]:
    """The layout of a folder of photos. Raises FileNotFoundError for an unknown one."""
    if any(root.glob("*.tar")):
        return "shards"
    if (root / "annotations").is_dir():
        return "coco"
    if (root / "images").is_dir():
        return "mpii"
    raise FileNotFoundError(f"{root} holds neither *.tar shards nor COCO nor MPII")


def prepare(data: str, cache: Path, pack: Callable[[Sequence[Sample], Path], None]) -> list[Path]:
    """The packed training photos of the comma-separated folders `data`; packs them if necessary.

    Those of the first folder are in `cache`, those of the others next to it, under their names. Photos that
    are kept apart are not included.
    """
    first, *others = (Path(part) for part in data.split(",") if part)
    packs = {cache: first} | {cache.with_name(f"{cache.name}-{root.name}"): root for root in others}
    for folder, root in packs.items():
        if not is_packed(folder):
            pack([sample for sample in read_data(root, "train") if not kept_apart(sample)], folder)
    return list(packs)


def targets(person: PersonAnnotation) -> tuple[Floats, Floats]:
    """Target points float32 (K, 2) in image pixels, and their weights float32 (K,).

    Human labels have weight 1; other joints use the teacher's points, weighted by their score. A joint with a
    very low teacher score has an empty map as target, at a low weight.
    """
    human, teacher = person.keypoints, person.teacher
    labelled, score = human[:, 2] > 0, teacher[:, 2]
    seen = score > 0.25
    absent = ~labelled & (score < 0.12) & score.any()
    points = np.where(labelled[:, None], human[:, :2], teacher[:, :2])
    points[absent] = ABSENT
    weights = np.where(labelled, 1.0, np.where(seen, score, np.where(absent, 0.2, 0.0)))
    return points.astype(np.float32), weights.astype(np.float32)


def usable(person: PersonAnnotation) -> bool:
    """Whether the person has enough labelled joints and enough pixels."""
    known = (person.keypoints[:, 2] > 0) | (person.teacher[:, 2] > 0.3)
    least = 3 if (person.keypoints[:, 2] > 0).any() else 6
    return not person.crowd and int(known.sum()) >= least and float(person.box[3] - person.box[1]) >= 32


def pack(samples: Sequence[Sample], folder: Path) -> None:
    """Write the crops and targets of all usable persons into `folder`, completely or not at all."""
    persons = [(sample, person) for sample in samples for person in sample.persons if usable(person)]
    affines = [box_to_affine(person.box, CACHE_SIZE, CACHE_PADDING) for _, person in persons]
    folder.mkdir(parents=True, exist_ok=True)
    points, weights = zip(*(targets(person) for _, person in persons), strict=True)
    moved = [
        np.where(xy == ABSENT, ABSENT, transform(xy, affine))
        for xy, affine in zip(points, affines, strict=True)
    ]
    np.savez(folder / "targets.npz", points=np.stack(moved), weights=np.stack(weights))
    samples_of = [sample for sample, _ in persons]
    images = (
        crop(image, affine, CACHE_SIZE) for image, affine in zip(_decoded(samples_of), affines, strict=True)
    )
    pack_images(folder, images, [sample.source for sample in samples_of], CACHE_SIZE, "person")


def _decoded(samples: Iterable[Sample]) -> Iterator[Pixels]:
    """The image of each sample; consecutive equal samples are decoded once."""
    for _, same in groupby(samples, key=id):
        first = next(same)
        image = first.image()
        yield from (image for _ in chain([first], same))


@dataclass(frozen=True)
class PoseBatch:
    """images: float32 RGB (n, 3, H, W) in 0..255; heatmaps (n, K, H/4, W/4); weights (n, K)."""

    images: Tensor
    heatmaps: Tensor
    weights: Tensor


class PersonCrops:
    """The packed crops, and batches of them as a function of a step number."""

    jitter = augment.Jitter(scale=(0.75, 1.3), rotation=35, rotated=0.6, shift=0.04)

    def __init__(
        self, folders: Sequence[Path], size: tuple[int, int], device: torch.device, share: float = 1.0
    ) -> None:
        self.size, self.device = size, device
        self.crops = PackedImages(folders, device)
        stored = [np.load(folder / "targets.npz") for folder in folders]
        points, weights = (np.concatenate([each[key] for each in stored]) for key in ("points", "weights"))
        self.points = torch.from_numpy(points).to(device)
        self.weights = torch.from_numpy(weights).to(device)
        quality = weights.mean(1).clip(0.2, 1.0)
        self.chances = self.crops.weights(SOURCE_WEIGHT, share) * quality

    def __len__(self) -> int:
        return len(self.points)

    def batch(self, step: int, n: int, seed: int) -> PoseBatch:
        """The batch of a step; it depends only on step, size and seed."""
        images, index, generator = self.crops.draw(self.chances, step, n, seed)
        return self._augment(images, self.points[index], self.weights[index], generator)

    def _augment(
        self, images: Tensor, points: Tensor, weights: Tensor, generator: torch.Generator
    ) -> PoseBatch:
        n, height = len(images), self.size[0]
        centre = torch.tensor([(CACHE_SIZE[1] - 1) / 2, (CACHE_SIZE[0] - 1) / 2], device=self.device).repeat(
            n, 1
        )
        extent = torch.full((n,), CACHE_SIZE[0] * CROP_PADDING / CACHE_PADDING, device=self.device)
        known = (weights > 0) & (points[:, :, 0] > ABSENT)
        half_centre, half_extent, halved = augment.half_body(points, known, 0.25, generator)
        centre = torch.where(halved[:, None], half_centre, centre)
        extent = torch.where(halved, half_extent.clamp(min=80), extent)
        affine, mirrored = augment.random_affine(centre, extent / height, self.size, self.jitter, generator)
        warped = augment.warp(images, affine, self.size)
        warped = augment.occlude(augment.recolour(warped, generator), 0.3, generator)
        absent = points[:, :, :1] == ABSENT
        moved = torch.where(absent, ABSENT, augment.move_points(points, affine))
        moved, weights = (
            augment.mirror_keypoints(moved, mirrored),
            augment.mirror_keypoints(weights, mirrored),
        )
        heatmaps = gaussians(moved, self.size, SIGMA * height / 256)
        return PoseBatch(warped.contiguous(memory_format=torch.channels_last), heatmaps, weights)


def gaussians(points: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Heatmaps (n, K, H/4, W/4) of points (n, K, 2) in crop pixels, see model.geometry.encode_heatmaps."""
    centre = (points + 0.5) / HEATMAP_STRIDE - 0.5
    ys = torch.arange(size[0] // HEATMAP_STRIDE, device=points.device)
    xs = torch.arange(size[1] // HEATMAP_STRIDE, device=points.device)
    gauss_x = (-((xs - centre[:, :, :1]) ** 2) / (2 * sigma**2)).exp()
    gauss_y = (-((ys - centre[:, :, 1:]) ** 2) / (2 * sigma**2)).exp()
    return gauss_y[:, :, :, None] * gauss_x[:, :, None, :]
