from pathlib import Path

import numpy as np
import pytest
import torch

from model.geometry import decode_heatmaps
from model.pose_dataset import ABSENT, CACHE_SIZE, PersonCrops, pack, prepare, read_data, targets, usable
from model.samples import KEPT_APART, PersonAnnotation
from tests.model.shards import FIRST_ID, write_shard

CPU = torch.device("cpu")


def person(keypoints: np.ndarray, teacher: np.ndarray, **fields: bool) -> PersonAnnotation:
    box = np.array([0, 0, 50, 100], np.float32)
    return PersonAnnotation(
        1, box, keypoints.astype(np.float32), teacher.astype(np.float32), 2500.0, **fields
    )


@pytest.fixture(scope="module")
def crops(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> PersonCrops:
    folder = tmp_path_factory.mktemp("persons")
    pack(read_data(shards, "train"), folder)
    return PersonCrops([folder], (256, 192), CPU)


def test_labels_have_weight_one_and_the_teacher_its_score() -> None:
    human, teacher = np.zeros((17, 3)), np.zeros((17, 3))
    human[0] = 10, 20, 2
    teacher[:5] = [(99, 99, 0.9), (30, 40, 0.6), (50, 60, 0.2), (70, 80, 0.05), (1, 1, 0.4)]
    points, weights = targets(person(human, teacher))
    assert points[0].tolist() == [10, 20] and points[1].tolist() == [30, 40]
    np.testing.assert_allclose(weights[:5], [1, 0.6, 0, 0.2, 0.4])
    assert points[3].tolist() == [ABSENT, ABSENT]  # the teacher is sure that it is out of sight


def test_an_unlabelled_joint_without_a_teacher_has_weight_zero() -> None:
    human = np.zeros((17, 3))
    human[5] = 10, 20, 1
    _, weights = targets(person(human, np.zeros((17, 3))))
    assert weights[5] == 1 and weights.sum() == 1


def test_crowds_and_persons_with_few_joints_are_left_out() -> None:
    human = np.zeros((17, 3))
    human[:6] = 10, 20, 2
    none = np.zeros((17, 3))
    assert usable(person(human, none))
    assert not usable(person(human, none, crowd=True))
    assert not usable(person(none, none))


def test_every_person_is_packed_with_room_around_it(crops: PersonCrops) -> None:
    images, _, _ = crops.crops.draw(np.ones(12, np.float32), 0, 2, 0)
    assert len(crops) == 12 and images.shape == (2, 3, *CACHE_SIZE)
    # a figure 140 px high fills 1 / 1.6 of the crop's height
    heights = crops.points[:, 15, 1] - crops.points[:, 0, 1]
    torch.testing.assert_close(heights, torch.full((12,), 0.88 * 320 / 1.6), atol=0.5, rtol=0)


def test_a_batch_depends_on_its_step_and_seed_alone(crops: PersonCrops) -> None:
    first, again = crops.batch(7, 4, 1), crops.batch(7, 4, 1)
    assert torch.equal(first.images, again.images) and torch.equal(first.heatmaps, again.heatmaps)
    assert not torch.equal(first.images, crops.batch(8, 4, 1).images)
    assert not torch.equal(first.images, crops.batch(7, 4, 2).images)


def test_targets_lie_on_the_drawn_joints(crops: PersonCrops) -> None:
    batch = crops.batch(3, 12, 5)
    keypoints = decode_heatmaps(batch.heatmaps.numpy(), 4)
    bright = 0
    seen = 0
    for image, joints in zip(batch.images.numpy(), keypoints, strict=True):
        contrast = image[0] - image[2]  # the figure is yellow on grey, unless recoloured to grey
        if contrast.max() < 60:
            continue
        for x, y, score in joints:
            if score > 0.9 and 3 < x < 188 and 3 < y < 252:
                seen += 1
                bright += (
                    contrast[int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4].max() > 0.5 * contrast.max()
                )
    assert seen > 60 and bright / seen > 0.85  # occluders hide some


def test_each_folder_has_a_pack_without_the_photos_kept_apart(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard(tmp_path / "more" / "a.tar", "train", 5, seed=3)
    monkeypatch.setitem(KEPT_APART, "train", [FIRST_ID, FIRST_ID + 1])
    packs = prepare(f"{shards},{tmp_path / 'more'}", tmp_path / "persons", pack)
    assert packs == [tmp_path / "persons", tmp_path / "persons-more"]
    both = PersonCrops(packs, (256, 192), CPU)
    assert len(both) == (12 - 2) + (5 - 2) and both.batch(0, 4, 1).images.shape == (4, 3, 256, 192)
    written = (packs[1] / "images.npy").stat().st_mtime_ns
    assert prepare(f"{shards},{tmp_path / 'more'}", tmp_path / "persons", pack) == packs
    assert (packs[1] / "images.npy").stat().st_mtime_ns == written


def test_an_unknown_folder_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=tmp_path.name):
        read_data(tmp_path, "train")
