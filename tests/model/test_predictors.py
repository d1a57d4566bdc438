from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model import detector, lgmpose
from model.keypoints import COCO, MPII
from model.predictors import load_detector, load_pose, torch_pose
from tests.model.labelled import dotted
from tests.support.networks import BOX, save_networks


class RedDot(lgmpose.LGMPose):
    """A pose network that puts every keypoint where the crop is reddest."""

    def forward(self, crops: Tensor) -> Tensor:
        red: Tensor = torch.nn.functional.avg_pool2d(crops[:, :1], 4) / 255
        return red.expand(-1, self.config.num_keypoints, -1, -1)


def test_networks_in_torch_see_red_green_blue() -> None:
    red, blue = dotted(np.array([[300, 120]], np.float32)), dotted(np.array([[200, 200]], np.float32))
    image = np.concatenate([blue[..., :1], blue[..., :1] * 0, red[..., :1]], 2)
    box = np.array([[100, 50, 400, 350]], np.float32)
    sixteen = lgmpose.for_input(lgmpose.LGMPoseConfig(), 256, 256, 16)
    for network, skeleton in ((RedDot(), COCO), (RedDot(sixteen), MPII)):
        pose = torch_pose(network.eval())
        assert pose.metadata.skeleton == skeleton
        (found,) = pose.estimate([image], [box])
        np.testing.assert_allclose(found[0, :, :2], [[300, 120]] * len(skeleton.names), atol=1)


def test_checkpoints_answer_as_the_network_that_was_saved(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    boxes = np.array([[20, 30, 200, 220], [5, 5, 90, 200]], np.float32)
    network = lgmpose.LGMPose().eval()
    lgmpose.save(network, tmp_path / "pose.safetensors")
    loaded = load_pose(tmp_path / "pose.safetensors")
    np.testing.assert_array_equal(
        loaded.estimate([image], [boxes])[0], torch_pose(network).estimate([image], [boxes])[0]
    )
    persons = detector.PersonDetector().eval()
    torch.nn.init.constant_(persons.score.bias, 0.0)
    detector.save(persons, tmp_path / "detector.safetensors")
    ((found, scores),) = load_detector(tmp_path / "detector.safetensors").detect([image])
    assert len(found) and (np.diff(scores) <= 0).all() and (found <= (320, 240, 320, 240)).all()


def test_exported_files_say_how_they_are_fed(tmp_path: Path) -> None:
    save_networks(tmp_path)
    pose, persons = load_pose(tmp_path / "pose.onnx"), load_detector(tmp_path / "detector.onnx")
    assert (pose.metadata.input_size, pose.metadata.heatmap_stride) == ((256, 192), 4)
    image = np.zeros((320, 320, 3), np.uint8)
    points = np.array([[120.3, 60.2], [200.4, 150.1], [160.0, 250.7]], np.float32)  # blue, green, red
    for channel, at in enumerate(points):
        image[..., channel] = dotted(at[None], (320, 320))[..., channel]
    ((boxes, scores),) = persons.detect([image])
    np.testing.assert_allclose(boxes, [BOX])
    assert 0.9 < scores[0] <= 1
    (found,) = pose.estimate([image], [boxes])
    np.testing.assert_allclose(found[0, :3, :2], points, atol=0.5)
    (averaged,) = load_pose(tmp_path / "pose.onnx", flip=True).estimate([image], [boxes])
    # the network does not know left from right: the mirrored crop has the point elsewhere
    assert averaged[0, 1, 2] < 0.7 * found[0, 1, 2]
