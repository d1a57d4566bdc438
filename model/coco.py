"""Reader of COCO person keypoints in the published layout (https://cocodataset.org/#download)."""

import json
from pathlib import Path

from model.samples import Sample, persons_by_image


def read_coco(root: Path, split: str) -> list[Sample]:
    """Samples of split "train" or "val" of COCO 2017, including photos without persons.

    root holds `annotations/person_keypoints_{split}2017.json` and the photos in `{split}2017/`.
    Raises FileNotFoundError if the annotations are missing. Reading a missing photo raises it too.
    """
    year_split = f"{split}2017"
    coco = json.loads((root / "annotations" / f"person_keypoints_{year_split}.json").read_text())
    persons = persons_by_image(coco)
    return [
        Sample(
            id=image["id"],
            source="coco",
            split=split,
            boxes_complete=True,
            persons=tuple(persons[image["id"]]),
            read=(root / year_split / image["file_name"]).read_bytes,
        )
        for image in coco["images"]
    ]
