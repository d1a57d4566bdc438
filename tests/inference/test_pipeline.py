"""The pipeline without a server: invalid files, batches, unusual networks."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.artefact import DetectorMetadata
from model.geometry import letterbox
from model.keypoints import COCO, NAMES
from model.topdown import Detector
from service.errors import ArtefactError
from service.inference.persons import find_boxes, find_persons
from service.inference.pipeline import Networks, Pipeline, open_pipeline
from service.inference.runtime import OnnxSession
from service.types import Boxes, Floats, Image, InferenceInput, Options
from tests.support.networks import BOX, save_networks
from tests.support.service import Pixels


@pytest.fixture(scope="module", params=(1, 3), ids="threads {}".format)
def pipeline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return open_pipeline(save_networks(tmp_path_factory.mktemp("networks")), threads=request.param)


def scene(height: int, width: int, spots: Sequence[tuple[int, int]]) -> Image:
    """A dark image with a white, a blue, a green and a red spot at the (x, y) of `spots`."""
    image = np.full((height, width, 3), 20, np.uint8)
    colours = [(255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)]
    for (x, y), colour in zip(spots, colours, strict=False):
        image[y - 6 : y + 7, x - 6 : x + 7] = colour
    return image


def frame(image: Image, **options: Any) -> InferenceInput:
    return InferenceInput(image, Options(**{"min_score": 0.0, **options}))


def test_a_batch_gives_what_each_frame_gives_alone(pipeline: Pipeline, pixels: Pixels) -> None:
    images = [pixels, scene(300, 500, [(200, 150)]), np.zeros((90, 40, 3), np.uint8), pixels[:200, 100:]]
    together = [each.persons for each in pipeline.run([frame(image) for image in images])]
    alone = [pipeline.run([frame(image)])[0].persons for image in images]
    assert together == alone
    assert [len(persons) for persons in alone] == [1, 1, 0, 1]


def test_keypoints_lie_where_the_image_shows_them(pipeline: Pipeline) -> None:
    spots = {"white": (210, 300), "blue": (260, 420), "green": (300, 150), "red": (400, 500)}
    image = scene(640, 640, [])
    for channel, name in enumerate(("blue", "green", "red")):
        x, y = spots[name]
        image[y - 10 : y + 11, x - 10 : x + 11, channel] = 255
    (person,) = pipeline.run([frame(image)])[0].persons
    found = np.array(person.keypoints)[:, :2]
    for keypoint in range(17):
        expected = spots[("blue", "green", "red")[keypoint % 3]]
        assert np.abs(found[keypoint] - expected).max() < 10, keypoint


def test_a_box_is_in_pixels_of_the_image_and_inside_it(pipeline: Pipeline) -> None:
    (square,) = pipeline.run([frame(scene(640, 640, [(300, 300)]))])[0].persons
    assert square.bbox == tuple(2 * edge for edge in BOX)
    (wide,) = pipeline.run([frame(scene(100, 160, [(50, 50)]))])[0].persons
    assert wide.bbox == (40, 10, 120, 100)


def test_a_person_in_two_boxes_is_returned_once() -> None:
    """The second box has the keypoints of the first one, and surer; the third has those of another person."""
    keypoints = np.random.default_rng(0).uniform(10, 90, (3, 17, 3)).astype(np.float32)
    keypoints[1] = keypoints[0] + 0.5
    keypoints[:, :, 2] = np.array([[0.5], [0.9], [0.5]])
    boxes = np.array([[0, 0, 100, 100], [0, 30, 100, 130], [5, 0, 100, 100]], np.float32)
    detected = Boxes(boxes, np.array([0.9, 0.8, 0.7], np.float32))
    persons = find_persons(frame(scene(200, 200, [])), detected, keypoints, COCO)
    assert [person.bbox for person in persons] == [(0, 30, 100, 130), (5, 0, 100, 100)]
    assert [person.score for person in persons] == [0.72, 0.35]


def test_the_score_is_box_times_sure_keypoints_and_filters(pipeline: Pipeline) -> None:
    image = scene(320, 320, [(160, 160)])
    image[160, 160] = 255
    (person,) = pipeline.run([frame(image)])[0].persons
    scores = np.array(person.keypoints)[:, 2]
    assert person.score == pytest.approx(scores[scores > 0.2].mean(), abs=1e-3)
    assert pipeline.run([frame(image, min_score=person.score - 0.001)])[0].persons == (person,)
    assert pipeline.run([frame(image, min_score=person.score + 0.001)])[0].persons == ()


def test_heatmaps_without_a_finite_number_still_give_valid_json(tmp_path: Path) -> None:
    folder = save_networks(tmp_path, not_finite=True)
    odd = Networks(*(OnnxSession(folder / f"{task}.onnx", threads=1) for task in ("detector", "pose")))
    image = scene(320, 320, [(160, 160)])
    image[:100] = 0
    (person,) = odd.run([frame(image)])[0].persons
    assert person.score == 0
    assert np.isfinite(person.keypoints).all()
    assert "NaN" not in json.dumps([person.bbox, person.keypoints])


def finder(boxes: Sequence[Sequence[float]], scores: Sequence[float]) -> Detector:
    """A detector whose network gives these boxes and scores."""

    def run(images: Image) -> tuple[Floats, ...]:
        assert images.shape == (1, 320, 320, 3)
        return np.array([boxes], np.float32), np.array([scores], np.float32)

    metadata = DetectorMetadata(
        name="finder", version="", commit="", input_size=(320, 320), letterbox_fill=114
    )
    return Detector(run, metadata)


class Recorded:
    """A detector that takes inputs of any size and finds no one; it records the shapes of its inputs."""

    runtime = "recorded"
    precision = "float32"

    def __init__(self, batches: bool) -> None:
        self.batches, self.shapes = batches, list[tuple[int, ...]]()
        self.metadata = DetectorMetadata(
            name="", version="", commit="", input_size=(320, 320), letterbox_fill=114, input_step=32
        ).entries()

    def run(self, images: Image) -> tuple[Floats, ...]:
        self.shapes.append(images.shape)
        return np.zeros((len(images), 1, 4), np.float32), np.zeros((len(images), 1), np.float32)


def test_a_gpu_runs_images_of_one_size_together_a_processor_as_small_as_they_are(tmp_path: Path) -> None:
    pose = OnnxSession(save_networks(tmp_path) / "pose.onnx", threads=1)
    frames = [frame(scene(height, 640, [])) for height in (480, 360)]
    gpu, processor = Recorded(batches=True), Recorded(batches=False)
    for detector in (gpu, processor):
        Networks(detector, pose).run(frames)
    assert gpu.shapes == [(2, 320, 320, 3)]
    assert processor.shapes == [(1, 256, 320, 3), (1, 192, 320, 3)]


def test_boxes_are_sorted_suppressed_and_clipped() -> None:
    nan, inf = float("nan"), float("inf")
    boxes: list[list[float]] = [
        [0, 0, 100, 100],
        [200, 200, 300, 300],
        [2, 2, 102, 102],
        [nan, 0, 10, 10],
        [0, 0, inf, 10],
        [150, 0, 160, 20],
        [50, 250, 50, 290],
        [400, 10, 500, 40],
        [110, 110, 120, 140],
    ]
    scores = [0.7, 0.9, 0.8, 0.99, 0.99, nan, 0.9, 0.9, 0.01]
    ((found, sure),) = finder(boxes, scores).detect([np.zeros((320, 320, 3), np.uint8)])
    assert found.tolist() == [[200, 200, 300, 300], [2, 2, 102, 102]]
    assert sure.tolist() == pytest.approx([0.9, 0.8])


def test_boxes_of_one_person_are_averaged_where_the_network_asks_for_it() -> None:
    detector = finder([[0, 0, 100, 100], [2, 2, 102, 102], [0, 0, 100, 30]], [0.6, 0.9, 0.3])
    image = np.zeros((320, 320, 3), np.uint8)
    detector = replace(detector, metadata=replace(detector.metadata, average_iou=0.6))
    ((found, sure),) = detector.detect([image])
    same = 0.9 * 2 / (0.6 + 0.9)
    np.testing.assert_allclose(found[0], [same, same, 100 + same, 100 + same], rtol=1e-6)
    assert len(found) == 2 and sure[0] == pytest.approx(0.9)


def test_boxes_below_the_margin_times_the_score_asked_for_are_left_out() -> None:
    detector = finder([[0, 0, 20, 40], [100, 0, 120, 40], [200, 0, 220, 40]], [0.9, 0.29, 0.31])
    image = np.zeros((320, 320, 3), np.uint8)
    strict = replace(detector, metadata=replace(detector.metadata, box_margin=1.5))
    counts = [
        len(find_boxes(each, [frame(image, min_score=least)])[0].boxes)
        for each in (detector, strict)
        for least in (0.2, 0.0)
    ]
    assert counts == [3, 3, 2, 3]


def test_at_most_max_persons_are_returned() -> None:
    boxes = [[10.0 * i, 0, 10 * i + 8, 20] for i in range(30)]
    detector = finder(boxes, [0.5 + i / 100 for i in range(30)])
    image = np.zeros((320, 320, 3), np.uint8)
    (found,) = find_boxes(detector, [frame(image, max_persons=3)])
    assert found.boxes[:, 0].tolist() == [290, 280, 270]
    (found,) = find_boxes(detector, [frame(image, min_score=0.775)])
    assert found.boxes[:, 0].tolist() == [290, 280]


def test_boxes_that_a_frame_brings_stay_as_they_are() -> None:
    image = np.zeros((320, 320, 3), np.uint8)
    given = Boxes(np.array([[1, 2, 3, 4]], np.float32), np.array([0.01], np.float32))
    seen, unseen = InferenceInput(image, Options(), given), InferenceInput(image, Options())
    first, second, third = find_boxes(finder([[0, 0, 10, 10]], [0.9]), [seen, unseen, seen])
    assert first is given and third is given
    assert second.boxes.tolist() == [[0, 0, 10, 10]]


def test_extreme_image_shapes_are_estimated(pipeline: Pipeline) -> None:
    for shape in ((1, 1), (1, 32_766), (32_766, 1), (2, 20_000)):
        pipeline.run([frame(np.full((*shape, 3), 255, np.uint8))])
    canvas, affine = letterbox(np.zeros((1, 32_766, 3), np.uint8), (320, 320), 114)
    assert canvas.shape == (320, 320, 3)
    assert affine[0, 0] == pytest.approx(320 / 32_766)


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [
        ({"format": "2"}, "format '2'"),
        ({"format": None}, "format None"),
        ({"task": "pose"}, "not 'detector'"),
        ({"name": None, "commit": None}, "without name, commit"),
        ({"letterbox_fill": None}, "letterbox_fill"),
        ({"heatmap_stride": None}, "heatmap_stride"),
        ({"keypoint_names": json.dumps(NAMES[::-1])}, "keypoints other than COCO's need keypoint_edges"),
        ({"input_size": "[64, 64]"}, "cannot be run"),
        ({"input_size": "wide"}, "input_size 'wide' cannot be read"),
        ({"fit": "somewhere"}, "fit 'somewhere' cannot be read"),
    ],
)
def test_a_network_with_other_metadata_is_refused(
    tmp_path: Path, metadata: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ArtefactError, match=complaint) as raised:
        open_pipeline(save_networks(tmp_path, **metadata), threads=1)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_a_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="no such file"):
        open_pipeline(tmp_path, threads=1)
    (tmp_path / "detector.onnx").write_bytes(b"not a network")
    with pytest.raises(ArtefactError, match="cannot be loaded"):
        open_pipeline(tmp_path, threads=1)
