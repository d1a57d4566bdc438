"""Labelled photos as records, as samples in memory, and as a shard."""

import gzip
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.cbook import get_sample_data

from model.geometry import Floats, Pixels
from model.samples import PersonAnnotation, Sample

#: A photo of a person, BGR (606, 512, 3).
PORTRAIT = np.asarray(cv2.imread(str(get_sample_data("grace_hopper.jpg", asfileobj=False))), np.uint8)


def person(number: int, keypoints: Floats, area: float = 5000.0, **fields: Any) -> PersonAnnotation:
    """A label whose box encloses its keypoints."""
    low, high = keypoints[:, :2].min(0) - 5, keypoints[:, :2].max(0) + 5
    box = np.concatenate([low, high]).astype(np.float32)
    return PersonAnnotation(number, box, keypoints, np.zeros_like(keypoints), area, **fields)


def sample(
    number: int, persons: Sequence[PersonAnnotation], image: Pixels | None = None, **fields: Any
) -> Sample:
    """A photo with labels; black if no pixels are given."""
    data = encode(np.zeros((400, 500, 3), np.uint8) if image is None else image)
    return Sample(number, "coco", "val", fields.pop("boxes_complete", True), tuple(persons), lambda: data)


def random_keypoints(rng: np.random.Generator, size: float = 100.0) -> Floats:
    """Random keypoints (17, 3), all labelled."""
    corner = rng.uniform(0, 250, 2)
    xy = corner + rng.uniform(0, size, (17, 2)) * (1, 1.5)
    return np.concatenate([xy, rng.integers(1, 3, (17, 1))], 1).astype(np.float32)


def random_joints(seed: int = 0) -> Floats:
    """Random MPII joints (16, 3), all labelled."""
    return np.concatenate([np.random.default_rng(seed).uniform(0, 200, (16, 2)), np.ones((16, 1))], 1).astype(
        np.float32
    )


def shift(keypoints: Floats, x: float, y: float) -> Floats:
    """Keypoints (..., 3) moved by x, y."""
    return keypoints + np.array([x, y, 0], np.float32)


def dotted(points: Floats, shape: tuple[int, int] = (400, 500)) -> Pixels:
    """A black image with one soft grey dot at each of the points (n, 2)."""
    image = np.zeros((*shape, 3), np.float32)
    for x, y in points:
        rows, columns = np.mgrid[: shape[0], : shape[1]]
        image += 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 18)[..., None]
    return np.asarray(image.clip(0, 255), np.uint8)


def encode(pixels: Pixels, suffix: str = ".png") -> bytes:
    """An image BGR (H, W, 3) encoded in the given format."""
    written, buffer = cv2.imencode(suffix, pixels)
    assert written
    return bytes(np.asarray(buffer).tobytes())


def photo(number: int, pixels: Pixels | bytes, **fields: Any) -> dict[str, Any]:
    """An image record with its pixels or its encoded bytes."""
    data = pixels if isinstance(pixels, bytes) else encode(pixels)
    record = {"id": number, "file_name": f"{number:06}.png", "source": "coco", "split": "val"}
    return {**record, "boxes_complete": True, "data": data, **fields}


def annotation(number: int, image: int, box: Sequence[float], **fields: Any) -> dict[str, Any]:
    """A person of an image with the box x, y, width, height and optional keypoints."""
    record = {"id": number, "image_id": image, "category_id": 1, "bbox": list(box), "iscrowd": 0}
    return {**record, "area": box[2] * box[3], **fields}


def write_photos(path: Path, photos: Sequence[dict[str, Any]], annotations: Sequence[dict[str, Any]]) -> None:
    """Write photos (from `photo`) and annotations (from `annotation`) as one shard."""
    images = [{key: value for key, value in record.items() if key != "data"} for record in photos]
    labels = json.dumps({"images": images, "annotations": list(annotations)}).encode()
    with tarfile.open(path, "w") as tar:
        _add(tar, "annotations.json.gz", gzip.compress(labels))
        for record in photos:
            _add(tar, record["file_name"], record["data"])


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
