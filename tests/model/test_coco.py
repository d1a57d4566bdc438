import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from model.coco import read_coco
from tests.model.labelled import PORTRAIT, annotation, encode

PHOTO = PORTRAIT[:240]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two photos in COCO's published layout, the second without persons."""
    keypoints = [0] * 51
    keypoints[:6] = [230, 120, 2, 245, 105, 1]
    fields: dict[str, Any] = {"segmentation": [[1, 2, 3, 4, 5, 6]], "num_keypoints": 2}
    person = annotation(1001, 42, (160.5, 20.25, 180, 200), area=20345.5, keypoints=keypoints, **fields)
    counts: dict[str, Any] = {"segmentation": {"counts": [0, 9], "size": [240, 512]}, "num_keypoints": 0}
    crowd = annotation(1002, 42, (0, 0, 50, 40), iscrowd=1, keypoints=[0] * 51, **counts)
    images = [
        {"id": number, "file_name": f"{number:012}.jpg", "height": 240, "width": 512, "license": 1}
        for number in (42, 43)
    ]
    content = {
        "info": {},
        "licenses": [],
        "images": images,
        "annotations": [crowd, person],
        "categories": [{"id": 1, "name": "person", "supercategory": "person"}],
    }
    for split in ("train", "val"):
        (tmp_path / f"{split}2017").mkdir()
    for image in images:
        (tmp_path / "val2017" / str(image["file_name"])).write_bytes(encode(PHOTO, ".jpg"))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "person_keypoints_val2017.json").write_text(json.dumps(content))
    return tmp_path


def test_the_published_layout_is_read(root: Path) -> None:
    full, empty = read_coco(root, "val")
    assert (full.id, full.source, full.split, full.boxes_complete) == (42, "coco", "val", True)
    assert (empty.id, empty.persons) == (43, ())
    crowd, person = full.persons
    assert crowd.crowd and not crowd.keypoints.any()
    assert not person.crowd and person.id == 1001 and person.area == 20345.5
    assert person.box.tolist() == [160.5, 20.25, 340.5, 220.25]
    assert person.keypoints.shape == (17, 3)
    assert person.keypoints[:3].tolist() == [[230, 120, 2], [245, 105, 1], [0, 0, 0]]
    assert not person.teacher.any() and person.head_size is None


def test_the_photo_is_read_in_blue_green_red(root: Path) -> None:
    image = read_coco(root, "val")[0].image()
    decoded = cv2.imread(str(root / "val2017" / "000000000042.jpg"))
    np.testing.assert_array_equal(image, decoded)
    assert np.abs(image.astype(int) - PHOTO).mean() < 4


def test_missing_files_are_reported(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="person_keypoints_train2017"):
        read_coco(root, "train")
    (root / "val2017" / "000000000042.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="000000000042"):
        read_coco(root, "val")[0].image()
