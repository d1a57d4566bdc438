"""A tiny data set in the layout of the shards: drawn figures with known keypoints."""

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from model.keypoints import EDGES

#: A standing figure in a unit box, COCO order.
FIGURE = np.array([
    [.50, .08], [.54, .06], [.46, .06], [.58, .08], [.42, .08], [.66, .22], [.34, .22],
    [.74, .38], [.26, .38], [.78, .52], [.22, .52], [.60, .54], [.40, .54],
    [.62, .75], [.38, .75], [.63, .96], [.37, .96],
])  # fmt: skip


FIRST_ID = 900_000  # no photo of these is kept apart


def write_shard(path: Path, split: str, images: int, seed: int) -> None:
    """A tar of WebP photos 160 x 200 with one figure each and its annotations."""
    rng = np.random.default_rng(seed)
    coco: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for index in range(FIRST_ID, FIRST_ID + images):
            name = f"coco_{index:06d}.webp"
            photo, box, points = draw_figure(rng)
            _add(tar, name, cv2.imencode(".webp", photo)[1].tobytes())
            coco["images"].append({
                "id": index, "file_name": name, "width": 160, "height": 200, "source": "coco", "split": split,
                "labels": "human", "boxes_complete": True,
            })  # fmt: skip
            visible = np.concatenate([points, np.full((17, 1), 2.0)], 1)
            sure = np.concatenate([points, np.full((17, 1), 0.9)], 1)
            coco["annotations"].append({
                "id": index, "image_id": index, "category_id": 1, "iscrowd": 0, "bbox": box.tolist(),
                "area": float(box[2] * box[3] * 0.55), "keypoints": visible.ravel().tolist(),
                "num_keypoints": 17, "teacher_keypoints": sure.ravel().tolist(),
            })  # fmt: skip
        _add(tar, "annotations.json.gz", gzip.compress(json.dumps(coco).encode()))


def draw_figure(rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """A photo (200, 160, 3), the figure's box x, y, w, h and its points (17, 2)."""
    photo = rng.integers(60, 110, (200, 160, 3), dtype=np.uint8)
    box = np.array([rng.uniform(10, 50), rng.uniform(10, 40), 70.0, 140.0])
    points = box[:2] + FIGURE * box[2:]
    for a, b in EDGES:
        cv2.line(photo, tuple(points[a].astype(int)), tuple(points[b].astype(int)), (40, 220, 250), 3)
    return photo, box, points


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
