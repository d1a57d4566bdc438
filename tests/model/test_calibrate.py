import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model import calibrate, detector
from model.calibrate import MARGINS, f1_of_margins, fit, found, main, reliability
from model.geometry import Floats, Pixels
from model.metrics import Scored
from model.samples import KEPT_APART, Sample
from tests.model.labelled import person, random_keypoints, sample
from tests.model.shards import FIRST_ID, write_shard


def box(*edges: float) -> Floats:
    return np.array(edges, np.float32)


def test_a_person_is_found_once_and_boxes_of_a_crowd_do_not_count() -> None:
    rng = np.random.default_rng(0)
    one, crowd = person(1, random_keypoints(rng)), person(2, random_keypoints(rng) + 400, crowd=True)
    boxes = np.stack([one.box, one.box + 1, crowd.box, box(900, 900, 950, 950)])
    hits, counts = found(boxes, [one, crowd])
    assert hits.tolist() == [True, False, False, False]
    assert counts.tolist() == [True, True, False, True]


def test_scores_that_are_too_high_become_the_chance_of_a_hit() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, 20_000)
    hits = rng.random(20_000) < 1 / (1 + np.exp(-(3 * logits - 1)))
    calibration = fit((1 / (1 + np.exp(-logits))).astype(np.float32), hits, int(hits.sum()))
    assert calibration.scale == pytest.approx(3, rel=0.1) and calibration.shift == pytest.approx(-1, abs=0.15)
    # where every person has a box, F1 is best where a hit is worth half of it
    assert calibration.threshold == pytest.approx(calibration.f1 / 2, abs=0.08)
    chance = calibration.chance((1 / (1 + np.exp(-logits))).astype(np.float32))
    shares = [float(line.split()[-1]) for line in reliability(chance, hits).splitlines()[1:]]
    np.testing.assert_allclose(shares, np.arange(0.05, 1, 0.1), atol=0.06)


def test_a_calibrated_network_moves_scores_but_not_what_training_sees() -> None:
    torch.manual_seed(0)
    network = detector.PersonDetector().eval()
    torch.nn.init.normal_(network.score.weight)
    image = torch.rand(1, 3, 320, 320) * 255
    with torch.no_grad():
        boxes, logits = network.predict(image)
        network.config = replace(network.config, score_scale=2.0, score_shift=-0.5)
        same, moved = network(image)
        assert torch.equal(network.predict(image)[1], logits)
    assert torch.equal(boxes, same)
    torch.testing.assert_close(moved, (2 * logits - 0.5).sigmoid(), rtol=1e-4, atol=1e-5)


def test_the_statistics_of_batch_norm_are_those_of_the_photos_at_the_exported_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibrate, "PHOTOS", 4)
    monkeypatch.setattr(calibrate, "BATCH", 2)
    torch.manual_seed(0)
    network = detector.resized(detector.PersonDetector(), (64, 96))
    photos = [sample(1, [], np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))]
    calibrate.renormalise(network, photos)
    assert not network.training
    normalised: list[torch.Tensor] = []
    layer = next(each for each in network.modules() if isinstance(each, torch.nn.BatchNorm2d))
    layer.register_forward_hook(lambda module, inputs, output: normalised.append(output))
    with torch.no_grad():
        network(next(calibrate._batches(photos, (64, 96))))
    before = (normalised[0] - layer.bias[:, None, None]) / layer.weight[:, None, None]
    torch.testing.assert_close(before.mean((0, 2, 3)), torch.zeros_like(layer.bias), atol=0.01, rtol=0)
    torch.testing.assert_close(before.var((0, 2, 3)), torch.ones_like(layer.bias), atol=0.2, rtol=0)


class Sure:
    """Keypoints in the middle of the box that all score `score`."""

    def __init__(self, score: float) -> None:
        self.score = score

    def estimate(self, images: Sequence[Pixels], boxes: Sequence[Floats]) -> list[Floats]:
        return [np.stack([self._pose(one) for one in each]) for each in boxes]

    def _pose(self, one: Floats) -> Floats:
        return np.tile(np.append((one[:2] + one[2:]) / 2, np.float32(self.score)), (17, 1))


def detections(person_score: float, other_score: float) -> tuple[list[Sample], list[Scored]]:
    """Three photos of one person each, with a box on the person and one that shows nobody."""
    rng = np.random.default_rng(2)
    samples = [sample(n, [person(n, random_keypoints(rng))]) for n in range(3)]
    nobody = box(800, 800, 900, 900)
    scores = np.array([person_score, other_score], np.float32)
    order = np.argsort(-scores)
    return samples, [(np.stack([s.persons[0].box, nobody])[order], scores[order]) for s in samples]


def best_margins(keypoint_score: float, person_score: float, other_score: float) -> list[float]:
    """The margins of the best F1."""
    f1 = f1_of_margins(Sure(keypoint_score), *detections(person_score, other_score))
    assert tuple(f1) == MARGINS
    return [margin for margin, value in f1.items() if value == max(f1.values())]


def test_a_margin_excludes_boxes_that_show_nobody_and_keeps_those_of_persons() -> None:
    # scores of 0.25 and 0.3 are 1.67 and 2 times the default min_score of 0.15
    assert best_margins(0.8, 0.9, 0.25) == [margin for margin in MARGINS if margin > 1.67]
    assert best_margins(0.8, 0.3, 0.25) == [1.7, 1.8, 1.9, 2.0]
    assert best_margins(0.8, 0.25, 0.9) == [margin for margin in MARGINS if margin < 1.67]


def test_margins_are_equal_where_nobody_is_returned() -> None:
    assert best_margins(0.1, 0.9, 0.25) == list(MARGINS)


def test_the_command_writes_a_network_that_carries_its_margin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.support.networks import save_networks

    monkeypatch.setitem(KEPT_APART, "train", [FIRST_ID, FIRST_ID + 1])
    sizes, photos = list[tuple[int, int]](), list[int]()

    def record(network: detector.PersonDetector, samples: Sequence[Sample]) -> None:
        """What is measured; the network stays as it is, because noise would make its scores large."""
        sizes.append(network.config.input_size)
        photos.extend(each.id for each in samples)

    monkeypatch.setattr(calibrate, "renormalise", record)
    write_shard(tmp_path / "data" / "train-0.tar", "train", 3, seed=1)
    save_networks(tmp_path)
    torch.manual_seed(0)
    network = detector.PersonDetector()
    torch.nn.init.constant_(network.score.bias, 0.0)  # type: ignore[arg-type]
    detector.save(network, tmp_path / "detector.safetensors")
    out = tmp_path / "calibrated.safetensors"
    weights = str(tmp_path / "detector.safetensors")
    main([weights, "--out", str(out), "--data", str(tmp_path / "data"), "--pose", str(tmp_path / "pose.onnx"),
          "--size", "320"])  # fmt: skip
    assert capsys.readouterr().out.startswith("2 photos, 2 persons")
    assert json.loads(out.with_suffix(".json").read_text())["box_margin"] in MARGINS
    with torch.no_grad():
        scores = detector.load(out)(torch.zeros(1, 3, 320, 320))[1]
        again = detector.load(out)
    main([str(out), "--data", str(tmp_path / "data"), "--pose", str(tmp_path / "pose.onnx"), "--size", "320"])
    assert detector.load(out).config == again.config  # calibrating again starts from the raw logits
    assert sizes == [(320, 320)] * 2 and photos == [FIRST_ID + 2] * 2  # not those that are kept apart
    assert scores.max() < 0.2  # next to no box of an untrained network finds anybody
