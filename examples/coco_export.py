"""Labels photos as a COCO data set for manual correction in CVAT, Label Studio or FiftyOne:

python examples/coco_export.py FOLDER_OF_PHOTOS annotations.json [URL]

A joint that lies outside the photo is not labelled (visibility 0), and boxes end at the photo's border.
Photos that the service refuses are named on standard error and left out.
"""

import json
import sys
from pathlib import Path
from typing import Any

from lgm_pose_client import HttpClient, Person, Poses, ServiceError
from lgm_pose_client.sources import pictures_of

SEEN, HIDDEN = 0.5, 0.2  # minimum scores of joints labelled as visible and as hidden


def annotation(person: Person, poses: Poses) -> dict[str, Any]:
    """A person as a COCO annotation without ids."""
    keypoints: list[float] = []
    for x, y, score in person.keypoints:
        inside = 0 <= x <= poses.width - 1 and 0 <= y <= poses.height - 1
        visibility = 2 if score >= SEEN else 1 if score >= HIDDEN else 0
        keypoints += [x, y, visibility] if visibility and inside else [0, 0, 0]
    x1, y1, x2, y2 = person.bbox
    x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, poses.width), min(y2, poses.height)
    box = [x1, y1, x2 - x1, y2 - y1]
    labelled = sum(flag > 0 for flag in keypoints[2::3])
    return {
        "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, "keypoints": keypoints,
        "num_keypoints": labelled, "score": person.score,
    }  # fmt: skip


def main(folder: str, out: str, url: str = "http://127.0.0.1:8000") -> int:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    refused = 0
    with HttpClient(url) as client:
        skeleton = client.skeleton()
        for photo in pictures_of(Path(folder)):
            try:
                poses = client.estimate(photo)
            except (ServiceError, OSError) as error:
                print(f"{photo}: {error}", file=sys.stderr)
                refused += 1
                continue
            ident = len(images) + 1
            size = {"width": poses.width, "height": poses.height}
            images.append({"id": ident, "file_name": photo.name, **size})
            for person in poses.persons:
                ids = {"id": len(annotations) + 1, "image_id": ident}
                annotations.append(ids | annotation(person, poses))
    edges = [[a + 1, b + 1] for a, b in skeleton.edges]
    category = {"id": 1, "name": "person", "keypoints": skeleton.names, "skeleton": edges}
    data = {"images": images, "annotations": annotations, "categories": [category]}
    Path(out).write_text(json.dumps(data) + "\n")
    print(f"{len(annotations)} persons of {len(images)} photos in {out}")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
