from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.io import savemat

from model import lgmpose
from model.evaluate import main
from model.mpii import HOLD_OUT, read_mpii
from tests.model.labelled import PORTRAIT, encode

TRAIN_VIDEO, VAL_VIDEO = HOLD_OUT + 1, HOLD_OUT


def struct(*elements: dict[str, Any]) -> npt.NDArray[Any]:
    """A 1 x n MATLAB struct array; missing fields of an element are empty, as in MATLAB."""
    names = list(dict.fromkeys(name for element in elements for name in element))
    array = np.empty((1, len(elements)), [(name, object) for name in names])
    for index, element in enumerate(elements):
        for name in names:
            array[0, index][name] = element.get(name, np.zeros((0, 0)))
    return array


def point(joint: int, x: float, y: float, **visible: Any) -> dict[str, Any]:
    return {"x": x, "y": y, "id": joint, **visible}


def person(points: Sequence[dict[str, Any]], x: float = 101.0, y: float = 201.0) -> dict[str, Any]:
    head = {"x1": 10.0, "y1": 20.0, "x2": 40.0, "y2": 60.0}
    return {
        **head,
        "annopoints": struct({"point": struct(*points)}),
        "scale": 2.0,
        "objpos": struct({"x": x, "y": y}),
    }


def photo(name: str, persons: npt.NDArray[Any], video: Any) -> dict[str, Any]:
    return {"image": struct({"name": name}), "annorect": persons, "frame_sec": 1.0, "vididx": video}


def write(root: Path, photos: Sequence[dict[str, Any]], training: Sequence[int]) -> None:
    release = struct(
        {
            "annolist": struct(*photos),
            "img_train": np.array([training], np.float64),
            "version": "12",
            "single_person": np.array([[np.array([[1]])] for _ in photos], object),
        }
    )
    savemat(root / "mpii_human_pose_v1_u12_1.mat", {"RELEASE": release})
    (root / "images").mkdir()
    for each in photos:
        (root / "images" / each["image"][0, 0]["name"]).write_bytes(encode(PORTRAIT, ".jpg"))


JOINTS = [point(k, 11.0 + k, 21.0 + 2 * k, is_visible=float(k % 2)) for k in range(16)]


def test_persons_of_the_published_layout(tmp_path: Path) -> None:
    text = [point(0, 5.0, 6.0, is_visible="1"), point(9, 7.0, 8.0, is_visible="0"), point(8, 3.0, 4.0)]
    unlabelled = {"scale": 1.0, "objpos": struct({"x": 9.0, "y": 9.0})}
    photos = [
        photo("crowded.jpg", struct(person(JOINTS), person(text, 55.0, 66.0), unlabelled), TRAIN_VIDEO),
        photo("test.jpg", struct({"scale": 1.0, "objpos": struct({"x": 1.0, "y": 2.0})}), np.zeros((0, 0))),
    ]
    write(tmp_path, photos, [1, 0])
    (sample,) = read_mpii(tmp_path, "train")
    assert (sample.id, sample.source, sample.split, sample.boxes_complete) == (0, "mpii", "train", False)
    assert sample.image().shape == PORTRAIT.shape
    first, second = sample.persons
    # the file counts pixels from 1
    assert first.keypoints.tolist() == [[10 + k, 20 + 2 * k, 1 + k % 2] for k in range(16)]
    assert second.keypoints[0].tolist() == [4, 5, 2]
    assert second.keypoints[9].tolist() == [6, 7, 1]
    assert second.keypoints[8].tolist() == [2, 3, 1]
    assert second.keypoints[:, 2].sum() == 4
    assert first.head_size == pytest.approx(0.6 * 50)
    # 200 pixels of scale 2 a side, round 100, 200 + 15 * 2
    assert first.box.tolist() == [-100, 30, 300, 430] and first.area == 400**2
    assert second.box.tolist() == [-146, -105, 254, 295]
    assert first.id != second.id and first.teacher.shape == (16, 3) and not first.teacher.any()


def test_a_single_photo_with_a_single_point(tmp_path: Path) -> None:
    write(tmp_path, [photo("one.jpg", struct(person([point(9, 7.0, 8.0, is_visible=1)])), TRAIN_VIDEO)], [1])
    (sample,) = read_mpii(tmp_path, "train")
    (only,) = sample.persons
    assert only.keypoints[9].tolist() == [6, 7, 2] and np.count_nonzero(only.keypoints[:, 2]) == 1


def test_whole_videos_are_held_out(tmp_path: Path) -> None:
    videos = [*range(1, 4 * HOLD_OUT + 1)] * 2
    photos = [photo(f"{n}.jpg", struct(person(JOINTS)), float(video)) for n, video in enumerate(videos)]
    training = [n % 7 != 0 for n in range(len(videos))]
    write(tmp_path, photos, [int(flag) for flag in training])
    train, val = ({sample.id for sample in read_mpii(tmp_path, split)} for split in ("train", "val"))
    assert train.isdisjoint(val)
    assert train | val == {n for n, flag in enumerate(training) if flag}
    assert {videos[n] for n in train}.isdisjoint({videos[n] for n in val})
    assert {videos[n] for n in val} == {HOLD_OUT, 2 * HOLD_OUT, 3 * HOLD_OUT, 4 * HOLD_OUT}
    assert {sample.split for sample in read_mpii(tmp_path, "val")} == {"val"}


def test_photos_without_usable_persons_are_left_out(tmp_path: Path) -> None:
    nobody = photo("nobody.jpg", np.zeros((0, 0)), TRAIN_VIDEO)
    no_place = {key: value for key, value in person(JOINTS).items() if key != "objpos"}
    write(tmp_path, [nobody, photo("placeless.jpg", struct(no_place), TRAIN_VIDEO)], [1, 1])
    assert read_mpii(tmp_path, "train") == []


def test_evaluation_prints_pckh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = [
        photo(f"{n}.jpg", struct(person(JOINTS), person(JOINTS, 300, 300)), VAL_VIDEO) for n in range(2)
    ]
    write(tmp_path, photos, [1, 1])
    network = lgmpose.LGMPose(lgmpose.for_input(lgmpose.LGMPoseConfig(), 256, 256, 16))
    lgmpose.save(network, tmp_path / "pose.safetensors")
    main(["--pose", f"{tmp_path}/pose.safetensors", "--data", f"{tmp_path}", "--source", "mpii", "--flip"])
    titles, _, ours = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    groups = ["head", "shoulder", "elbow", "wrist", "hip", "knee", "ankle", "mean"]
    assert titles == ["| network", *groups, "persons", "images |"]
    assert ours[0] == "| ours" and ours[-2:] == ["4", "2 |"]
    assert all(0 <= float(rate) <= 1 for rate in ours[1:-2])


def test_the_test_part_has_no_labels(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'test' of MPII has no labels"):
        read_mpii(tmp_path, "test")
    with pytest.raises(FileNotFoundError):
        read_mpii(tmp_path, "val")
