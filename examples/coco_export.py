"""Labels photos as a COCO data set, to correct by hand in CVAT, Label Studio or FiftyOne:

python examples/coco_export.py FOLDER_OF_PHOTOS annotations.json [URL]
"""

import json
import sys
from pathlib import Path
from typing import Any

from lgm_pose_client import HttpClient
from lgm_pose_client.keypoints import EDGES, NAMES
from lgm_pose_client.types import Person

SEEN, HIDDEN = 0.5, 0.2  # scores above which a joint is labelled as visible, as hidden


def annotation(person: Person) -> dict[str, Any]:
    """A person as a COCO annotation, but for its ids."""
    keypoints: list[float] = []
    for x, y, score in person.keypoints:
        visibility = 2 if score >= SEEN else 1 if score >= HIDDEN else 0
        keypoints += [x, y, visibility] if visibility else [0, 0, 0]
    x1, y1, x2, y2 = person.bbox
    box = [x1, y1, x2 - x1, y2 - y1]
    labelled = sum(flag > 0 for flag in keypoints[2::3])
    return {
        "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, "keypoints": keypoints,
        "num_keypoints": labelled, "score": person.score,
    }  # fmt: skip


def main(folder: str, out: str, url: str = "http://127.0.0.1:8000") -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with HttpClient(url) as client:
        for photo in sorted(Path(folder).glob("*.[jpw]*[gp]")):
            poses = client.estimate(photo.read_bytes())
            image = {
                "id": len(images) + 1,
                "file_name": photo.name,
                "width": poses.width,
                "height": poses.height,
            }
            images.append(image)
            for person in poses.persons:
                ids = {"id": len(annotations) + 1, "image_id": image["id"]}
                annotations.append(ids | annotation(person))
    skeleton = [[a + 1, b + 1] for a, b in EDGES]
    category = {"id": 1, "name": "person", "keypoints": NAMES, "skeleton": skeleton}
    data = {"images": images, "annotations": annotations, "categories": [category]}
    Path(out).write_text(json.dumps(data) + "\n")
    print(f"{len(annotations)} persons of {len(images)} photos in {out}")


if __name__ == "__main__":
    main(*sys.argv[1:])
