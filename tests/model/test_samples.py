import pickle
from pathlib import Path

import numpy as np
import pytest

from model.samples import read_shards
from tests.model.labelled import PORTRAIT, annotation, photo, write_photos


def test_a_shard_gives_the_photos_with_their_persons(tmp_path: Path) -> None:
    keypoints = [float(value) for k in range(17) for value in (10 * k, 10 * k + 1, k % 3)]
    teacher = [float(value) for k in range(17) for value in (10 * k + 2, 10 * k + 3, 0.5)]
    first = annotation(7, 1, (10, 20, 30, 50), keypoints=keypoints, teacher_keypoints=teacher)
    second = annotation(8, 2, (1, 2, 3, 4), iscrowd=1, area=5.5, teacher_keypoints=[])
    third = annotation(9, 1, (0, 0, 9, 9))
    photos = [photo(1, PORTRAIT), photo(2, PORTRAIT[:100], source="misc", boxes_complete=False)]
    write_photos(tmp_path / "val.tar", photos, [first, second, third])
    one, two = read_shards([tmp_path / "val.tar"])
    assert (one.id, one.source, one.split, one.boxes_complete) == (1, "coco", "val", True)
    assert (two.id, two.source, two.boxes_complete) == (2, "misc", False)
    np.testing.assert_array_equal(one.image(), PORTRAIT)
    np.testing.assert_array_equal(two.image(), PORTRAIT[:100])
    assert [person.id for person in one.persons] == [7, 9] and [person.id for person in two.persons] == [8]
    person, crowd, bare = one.persons[0], two.persons[0], one.persons[1]
    assert person.box.tolist() == [10, 20, 40, 70] and person.area == 1500
    assert person.keypoints[4].tolist() == [40, 41, 1] and person.teacher[4].tolist() == [42, 43, 0.5]
    assert crowd.crowd and crowd.area == 5.5 and not crowd.teacher.any()
    assert not bare.crowd and bare.keypoints.shape == (17, 3) and not bare.keypoints.any()


def test_shards_follow_each_other(tmp_path: Path) -> None:
    for number in (1, 2):
        write_photos(tmp_path / f"{number}.tar", [photo(number, PORTRAIT[:32, :32])], [])
    samples = read_shards([tmp_path / "2.tar", tmp_path / "1.tar"])
    assert [sample.id for sample in samples] == [2, 1]


def test_samples_can_be_pickled(tmp_path: Path) -> None:
    write_photos(tmp_path / "val.tar", [photo(1, PORTRAIT)], [annotation(1, 1, (0, 0, 9, 9))])
    sample = pickle.loads(pickle.dumps(read_shards([tmp_path / "val.tar"])[0]))
    np.testing.assert_array_equal(sample.image(), PORTRAIT)


def test_a_missing_shard_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_shards([tmp_path / "none.tar"])


def test_a_photo_that_cannot_be_decoded_is_reported(tmp_path: Path) -> None:
    write_photos(tmp_path / "val.tar", [photo(1, b"no image at all"), photo(2, PORTRAIT)], [])
    bad, good = read_shards([tmp_path / "val.tar"])
    with pytest.raises(ValueError, match="image 1 of coco cannot be decoded"):
        bad.image()
    assert good.image().shape == PORTRAIT.shape
