"""Labelled photos: the record that all readers of data sets return."""

import gzip
import json
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from model.geometry import Floats, Pixels

#: Photos of the source `coco` that are kept apart, by split: those of `train` are not used for training but
#: to calibrate a detector's scores; those of `val` are used to choose weights, and no table reports them.
KEPT_APART: dict[str, list[int]] = json.loads((Path(__file__).parent / "kept_apart.json").read_text())

#: Sources of the shards that show everyday scenes.
EVERYDAY = (
    "voc_mix", "flickr8k_small", "coco_captioning", "coco_vqa_small", "children_rf", "voc2007_tr",
    "coco128", "ducdat", "flickr8k_sic", "flickr8k_224", "humanseg2",
)  # fmt: skip

#: Sources of the shards that show workplaces and streets, from fixed cameras.
FIXED_CAMERA = (
    "pedbeh", "hardhat_rf", "plant_cctv_rf", "smoking_rf", "smoking2_rf", "construction_rf", "cctv_crime_rf",
    "iitd", "fall_laifi",
)  # fmt: skip


@dataclass(frozen=True)
class PersonAnnotation:
    """One person of a photo, in pixels of that photo.

    box: float32 (4,) x1, y1, x2, y2. keypoints: float32 (K, 3) human labels x, y, visibility (0 unlabelled,
    1 hidden, 2 visible). teacher: float32 (K, 3) x, y, score in [0, 1] of another network, zero if missing.
    area: square pixels, as used by OKS.
    head_size: normalising length of PCKh, None if the data set has none.
    """

    id: int
    box: Floats
    keypoints: Floats
    teacher: Floats
    area: float
    crowd: bool = False
    head_size: float | None = None


@dataclass(frozen=True)
class Sample:
    """One photo with its labelled persons; `read` returns the encoded image.

    boxes_complete: every person of the photo has a box, so the rest is background.
    """

    id: int
    source: str
    split: str
    boxes_complete: bool
    persons: tuple[PersonAnnotation, ...]
    read: Callable[[], bytes]

    def image(self) -> Pixels:
        """The decoded photo, uint8 BGR (H, W, 3). Raises ValueError when it cannot be decoded."""
        pixels = cv2.imdecode(np.frombuffer(self.read(), np.uint8), cv2.IMREAD_COLOR)
        if pixels is None:
            raise ValueError(f"image {self.id} of {self.source} cannot be decoded")
        return np.asarray(pixels, np.uint8)


def kept_apart(sample: Sample) -> bool:
    """Whether the photo is kept apart for decisions."""
    return sample.source == "coco" and sample.id in KEPT_APART.get(sample.split, ())


def read_shards(paths: Iterable[Path]) -> list[Sample]:
    """Samples of tar shards, each with images and one COCO-style `annotations.json.gz`.

    Raises FileNotFoundError for a missing shard.
    """
    return [sample for path in paths for sample in _read_shard(path)]


def _read_shard(path: Path) -> list[Sample]:
    with tarfile.open(path) as tar:
        members = {member.name: member for member in tar.getmembers()}
        stored = tar.extractfile(members["annotations.json.gz"])
        assert stored is not None  # a regular file
        coco = json.loads(gzip.decompress(stored.read()))
    persons = persons_by_image(coco)
    return [
        Sample(
            id=image["id"],
            source=image["source"],
            split=image["split"],
            boxes_complete=image["boxes_complete"],
            persons=tuple(persons[image["id"]]),
            read=partial(_read_range, path, member.offset_data, member.size),
        )
        for image in coco["images"]
        for member in [members[image["file_name"]]]
    ]


def _read_range(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def persons_by_image(coco: dict[str, Any]) -> dict[int, list[PersonAnnotation]]:
    """The persons of a COCO `person_keypoints` file; an image id without persons gives an empty list."""
    persons: dict[int, list[PersonAnnotation]] = defaultdict(list)
    for annotation in coco["annotations"]:
        persons[annotation["image_id"]].append(_person(annotation))
    return persons


def _person(annotation: dict[str, Any]) -> PersonAnnotation:
    """An annotation, with `teacher_keypoints` if there are any."""
    x, y, width, height = annotation["bbox"]
    return PersonAnnotation(
        id=annotation["id"],
        box=np.array([x, y, x + width, y + height], np.float32),
        keypoints=_points(annotation.get("keypoints")),
        teacher=_points(annotation.get("teacher_keypoints")),
        area=float(annotation["area"]),
        crowd=bool(annotation["iscrowd"]),
    )


def _points(flat: list[float] | None) -> npt.NDArray[np.float32]:
    return np.array(flat or [0.0] * 51, np.float32).reshape(-1, 3)
