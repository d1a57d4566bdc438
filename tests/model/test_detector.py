from pathlib import Path

import torch

from model.detector import PersonDetector, grid, load, save
from model.loss import distillation_loss, giou


def test_points_and_boxes_are_in_pixels_of_the_input() -> None:
    network = PersonDetector().eval()
    torch.nn.init.zeros_(network.distance.weight)
    torch.nn.init.zeros_(network.distance.bias)
    with torch.inference_mode():
        boxes, scores = network(torch.full((2, 3, 320, 320), 114.0))
    points, strides = grid((320, 320))
    assert boxes.shape == (2, 2100, 4) and scores.shape == (2, 2100)
    # a raw distance of zero is one stride to each side
    torch.testing.assert_close(boxes[1], torch.cat([points - strides, points + strides], 1))
    assert points[41].tolist() == [8.0, 8.0] and points[1600 + 21].tolist() == [16.0, 16.0]
    assert scores.min() >= 0 and scores.max() <= 1


def test_the_statistics_of_training_are_those_of_serving() -> None:
    torch.manual_seed(0)
    network = PersonDetector()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0  # the running statistics are those of the last batch
    photos = 255 * torch.rand(8, 3, 320, 320)
    with torch.inference_mode():
        trained = network.train().predict(photos)
        served = network.eval().predict(photos)
    for ours, theirs in zip(trained, served, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.01, atol=0.01 * float(ours.std()))


def test_detector_is_within_its_budget() -> None:
    assert sum(p.numel() for p in PersonDetector().parameters()) <= 1.2e6


def test_saved_and_loaded_is_the_same_detector(tmp_path: Path) -> None:
    network = PersonDetector().eval()
    save(network, tmp_path / "detector.safetensors")
    photo = 255 * torch.rand(1, 3, 320, 320)
    with torch.inference_mode():
        for ours, theirs in zip(network(photo), load(tmp_path / "detector.safetensors")(photo), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_giou_of_known_boxes() -> None:
    a = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 1, 1]])
    b = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [2, 0, 3, 1]])
    torch.testing.assert_close(giou(a, b), torch.tensor([1.0, 1 / 3, -1 / 3]))


def test_distillation_is_least_where_the_student_agrees() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [5, 5, 9, 9]]])
    scores = torch.tensor([[0.9, 0.0]])
    agreeing = distillation_loss(boxes, torch.logit(scores, 1e-6), boxes, scores)
    wrong_score = distillation_loss(boxes, torch.tensor([[-2.0, 2.0]]), boxes, scores)
    wrong_box = distillation_loss(
        boxes + torch.tensor([3.0, 0, 3, 0]), torch.logit(scores, 1e-6), boxes, scores
    )
    assert agreeing[1] == 0 and agreeing[0] < wrong_score[0] and agreeing[1] < wrong_box[1]
    # where the teacher sees nobody, boxes do not matter
    other = boxes.clone()
    other[0, 1] += 4
    assert distillation_loss(other, torch.logit(scores, 1e-6), boxes, scores)[1] == 0
