"""Each published layout, adopted, against a plain implementation of that project's postprocessing."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from model.adopt.command import Choices, adopt, main
from model.artefact import DetectorMetadata, PoseMetadata
from model.geometry import Fit, Resize
from model.keypoints import MPII
from model.topdown import PoseEstimator
from service.inference.runtime import open_session
from tests.model.adopt import published
from tests.model.adopt.published import SIZE, cells
from tests.support.service import ROOT

PHOTO = np.asarray(cv2.imread(str(ROOT / "examples" / "astronaut.jpg")), np.uint8)
Arrays = list[npt.NDArray[Any]]
IMAGENET = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


def run(path: Path, feed: dict[str, npt.NDArray[Any]]) -> Arrays:
    return list(onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feed))


def normalised_bgr(image: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    return (image - IMAGENET[0][::-1]) / IMAGENET[1][::-1]


def normalised_rgb(image: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    return (image[..., ::-1] - IMAGENET[0]) / IMAGENET[1]


def as_they_are(image: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    return image.astype(np.float64)


def rgb_shares(image: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    return image[..., ::-1] / 255


def logistic(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def expectation(bins: npt.NDArray[Any]) -> float:
    """The mean of a softmax distribution over 0, 1, 2 ..."""
    powers = np.exp(bins.astype(np.float64) - bins.max())
    return float((powers / powers.sum() * np.arange(len(bins))).sum())


def around(point: npt.NDArray[Any], left: float, top: float, right: float, bottom: float) -> list[float]:
    return [point[0] - left, point[1] - top, point[0] + right, point[1] + bottom]


def centred(x: float, y: float, width: float, height: float) -> list[float]:
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def of_rtmdet(outputs: Arrays) -> list[list[float]]:
    rows = np.concatenate([each[0].reshape(-1, 5) for each in outputs])
    points, _ = cells((8, 16, 32), 0)
    return [[*around(p, *row[1:]), logistic(row[0])] for p, row in zip(points, rows, strict=True)]


def of_rtmdet_head(outputs: Arrays) -> list[list[float]]:
    scores, sides = (
        np.concatenate([each[0].reshape(each.shape[1], -1).T for each in half])
        for half in (outputs[:3], outputs[3:])
    )
    points, _ = cells((8, 16, 32), 0)
    return [[*around(p, *d), logistic(s[0])] for p, d, s in zip(points, sides, scores, strict=True)]


def of_mmdeploy(outputs: Arrays) -> list[list[float]]:
    dets, labels = outputs
    found = [[*row[:4], row[4] if kind == 0 else 0.0] for row, kind in zip(dets[0], labels[0], strict=True)]
    assert 0 < np.count_nonzero(labels) < labels.size
    return found + [[0.0] * 5] * (300 - len(found))


def of_yolox(outputs: Arrays) -> list[list[float]]:
    points, strides = cells((8, 16, 32), 0)
    found = []
    for (x, y), stride, row in zip(points, strides, outputs[0][0].astype(np.float64), strict=True):
        size = np.exp(row[2:4]) * stride
        found.append([*centred(row[0] * stride + x, row[1] * stride + y, *size), row[4] * row[5]])
    return found


def of_decoded_yolox(outputs: Arrays) -> list[list[float]]:
    return [[*centred(*row[:4]), row[4] * row[5]] for row in outputs[0][0].astype(np.float64)]


def of_picodet(outputs: Arrays) -> list[list[float]]:
    scores, bins = (np.concatenate([each[0] for each in half]) for half in (outputs[:4], outputs[4:]))
    points, strides = cells((8, 16, 32, 64), 0.5)
    return [
        [*around(p, *(expectation(side) * s for side in row.reshape(4, 8))), score[0]]
        for p, s, row, score in zip(points, strides, bins, scores, strict=True)
    ]


def of_picodet_boxes(outputs: Arrays) -> list[list[float]]:
    boxes, scores = outputs
    return [[*box, score] for box, score in zip(boxes[0], scores[0, 0], strict=True)]


def of_picodet_rows(outputs: Arrays) -> list[list[float]]:
    found = [[*row[2:], row[1] if row[0] == 0 else 0.0] for row in outputs[0]]
    assert {row[0] for row in outputs[0]} == {0.0, 1.0}
    return found + [[0.0] * 5] * (300 - len(found))


def of_nanodet(strides: tuple[int, ...], offset: float) -> Callable[[Arrays], list[list[float]]]:
    def decode(outputs: Arrays) -> list[list[float]]:
        points, steps = cells(strides, offset)
        return [
            [*around(p, *(expectation(side) * s for side in row[80:].reshape(4, 8))), row[0]]
            for p, s, row in zip(points, steps, outputs[0][0], strict=True)
        ]

    return decode


def of_yolov8(outputs: Arrays) -> list[list[float]]:
    return [[*centred(*row[:4]), row[4]] for row in outputs[0][0].T.astype(np.float64)]


def of_named_yolov8(outputs: Arrays) -> list[list[float]]:
    return [[*centred(*row[:4]), row[6]] for row in outputs[0][0].T.astype(np.float64)]


def mmdeploy_yolox(path: Path) -> Path:
    return published.mmdeploy(path, head="bbox_head.multi_level_conv_cls.0.weight", scale=0.005)


def yolov8_of_names(path: Path) -> Path:
    return published.yolov8(path, names="{0: 'helmet', 1: 'vest', 2: 'person'}")


def decoded_yolox(path: Path) -> Path:
    return published.yolox(path, decoded=True)


def one_class_yolox(path: Path) -> Path:
    return published.yolox(path, classes=1)


def nanodet_plus(path: Path) -> Path:
    return published.nanodet(path, plus=True)


#: How OpenCV scales an image in the preprocessing of each project.
RESIZE = {"picodet": Resize.CUBIC} | dict.fromkeys(("rtmdet", "yolox", "nanodet", "yolov8"), Resize.LINEAR)
#: The maker of a network, its family, its preprocessing, its postprocessing, where the image lies.
LAYOUTS: list[tuple[Any, str, Any, Any, Fit]] = [
    (published.rtmdet, "rtmdet", normalised_bgr, of_rtmdet, Fit.TOP_LEFT),
    (published.rtmdet_head, "rtmdet", normalised_bgr, of_rtmdet_head, Fit.TOP_LEFT),
    (published.mmdeploy, "rtmdet", normalised_bgr, of_mmdeploy, Fit.TOP_LEFT),
    (mmdeploy_yolox, "yolox", as_they_are, of_mmdeploy, Fit.TOP_LEFT),
    (published.yolox, "yolox", as_they_are, of_yolox, Fit.TOP_LEFT),
    (one_class_yolox, "yolox", as_they_are, of_yolox, Fit.TOP_LEFT),
    (decoded_yolox, "yolox", as_they_are, of_decoded_yolox, Fit.TOP_LEFT),
    (published.picodet, "picodet", normalised_rgb, of_picodet, Fit.STRETCH),
    (published.picodet_boxes, "picodet", normalised_rgb, of_picodet_boxes, Fit.STRETCH),
    (published.picodet_rows, "picodet", normalised_rgb, of_picodet_rows, Fit.STRETCH),
    (published.nanodet, "nanodet", normalised_bgr, of_nanodet((8, 16, 32), 0.5), Fit.STRETCH),
    (nanodet_plus, "nanodet", normalised_bgr, of_nanodet((8, 16, 32, 64), 0.0), Fit.STRETCH),
    (published.yolov8, "yolov8", rgb_shares, of_yolov8, Fit.CENTRED),
    (yolov8_of_names, "yolov8", rgb_shares, of_named_yolov8, Fit.CENTRED),
]


@pytest.mark.parametrize(
    ("make", "family", "prepare", "decode", "fit"), LAYOUTS, ids=[each[0].__name__ for each in LAYOUTS]
)
def test_a_detector_gives_what_its_project_makes_of_it(
    make: Callable[[Path], Path], family: str, prepare: Any, decode: Any, fit: Fit, tmp_path: Path
) -> None:
    original = make(tmp_path / "network.onnx")
    path, lines = adopt(original, tmp_path / "adopted", Choices(licence="MIT"))
    assert path == tmp_path / "adopted" / "detector.onnx"
    assert f"detector of the layout {family} " in lines[0]
    images = [np.asarray(cv2.resize(each, SIZE[::-1]), np.uint8) for each in (PHOTO, PHOTO[:, ::-1])]
    boxes, scores = run(path, {"image": images[0][None]})
    feed: dict[str, npt.NDArray[Any]] = {
        "images": prepare(images[0]).transpose(2, 0, 1)[None].astype(np.float32)
    }
    further = {"scale_factor": np.ones((1, 2), np.float32), "im_shape": np.array([SIZE], np.float32)}
    feed |= {
        each.name: further[each.name] for each in onnx.load(original).graph.input if each.name in further
    }
    expected = np.array(decode(run(original, feed)), np.float64)
    np.testing.assert_allclose(boxes[0], expected[:, :4], rtol=1e-4, atol=2e-2)
    np.testing.assert_allclose(scores[0], expected[:, 4], rtol=1e-4, atol=1e-4)
    assert np.ptp(scores) > 0.01
    session = open_session(path, "detector", threads=2)
    metadata = DetectorMetadata.read(session.metadata)
    assert (metadata.fit, metadata.resize, metadata.letterbox_fill) == (fit, RESIZE[family], 114)
    together = session.run(np.stack(images))
    for image, *outputs in zip(images, *together, strict=True):
        for one, alone in zip(outputs, run(path, {"image": image[None]}), strict=True):
            np.testing.assert_allclose(one, alone[0], rtol=1e-4, atol=1e-2)


def test_another_preprocessing_replaces_that_of_the_family(tmp_path: Path) -> None:
    original = published.rtmdet(tmp_path / "network.onnx")
    own = ["--colour", "rgb", "--mean", "0,0,0", "--std", "255,255,255"]
    main([str(original), "--out", str(tmp_path), *own, "--fit", "centred", "--fill", "7"])
    path = tmp_path / "detector.onnx"
    metadata = DetectorMetadata.read(open_session(path, "detector", threads=1).metadata)
    assert (metadata.fit, metadata.letterbox_fill) == (Fit.CENTRED, 7)
    image = np.asarray(cv2.resize(PHOTO, SIZE[::-1]), np.uint8)
    boxes, scores = run(path, {"image": image[None]})
    feed = {"images": rgb_shares(image).transpose(2, 0, 1)[None].astype(np.float32)}
    expected = np.array(of_rtmdet(run(original, feed)), np.float64)
    np.testing.assert_allclose(boxes[0], expected[:, :4], rtol=1e-4, atol=2e-2)
    np.testing.assert_allclose(scores[0], expected[:, 4], rtol=1e-4, atol=1e-4)


def test_a_network_of_any_size_is_adopted_at_the_size_that_is_given(tmp_path: Path) -> None:
    original = published.rtmdet(tmp_path / "network.onnx")
    model = onnx.load(original)
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "any"
    onnx.save(model, original)
    main([str(original), "--out", str(tmp_path), "--size", "96x160"])
    metadata = DetectorMetadata.read(open_session(tmp_path / "detector.onnx", "detector", threads=1).metadata)
    assert metadata.input_size == (96, 160)


def test_the_file_says_where_it_comes_from(tmp_path: Path) -> None:
    original = published.rtmdet(tmp_path / "published.onnx")
    path, _ = adopt(original, tmp_path, Choices(name="person", licence="Apache-2.0"))
    metadata = DetectorMetadata.read(open_session(path, "detector", threads=1).metadata)

    assert metadata.source == "published.onnx" and metadata.licence == "Apache-2.0"
    assert metadata.source_sha256 == sha256(original.read_bytes()).hexdigest()
    assert (metadata.name, metadata.version) == ("person", metadata.source_sha256[:12])


def centre_and_scale(box: npt.NDArray[Any], aspect: float) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The published projects' centre and scale of a box, in pixels: grown to the aspect, then by 1.25."""
    width, height = box[2] - box[0], box[3] - box[1]
    if width > aspect * height:
        height = width / aspect
    else:
        width = height * aspect
    return (box[:2] + box[2:]) / 2, np.array([width, height]) * 1.25


def peaks(maps: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """x, y (K, 2) of the highest value of each map (K, h, w)."""
    return np.array([np.unravel_index(each.argmax(), each.shape)[::-1] for each in maps], np.float64)


BOX = np.array([120.0, 30.0, 330.0, 500.0])


def crop(matrix: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.warpAffine(PHOTO, matrix, SIZE[::-1]), np.uint8)


def estimated(path: Path, box: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The keypoints (K, 2) of the adopted network without refinement."""
    session = open_session(path, "pose", threads=1)
    pose = PoseEstimator(session.run, PoseMetadata.read(session.metadata), dark=False)
    ((person,),) = pose.estimate([PHOTO], [box[None].astype(np.float32)])
    return np.asarray(person[:, :2])


@pytest.mark.parametrize("stride", [4, 8])
def test_classic_heatmaps_lie_where_their_projects_put_them(stride: int, tmp_path: Path) -> None:
    """HRNet, SimpleBaseline: the middle of the box at half the size; pixels in proportion to sizes."""
    original = published.heatmaps(tmp_path / "network.onnx", stride=stride)
    path, lines = adopt(original, tmp_path, Choices(family="hrnet"))
    assert path.name == "pose.onnx" and "pose of the layout hrnet" in lines[0]
    centre, scale = centre_and_scale(BOX, SIZE[1] / SIZE[0])
    factor = SIZE[1] / scale[0]
    shift = np.array([SIZE[1] / 2, SIZE[0] / 2]) - centre * factor
    image = crop(np.array([[factor, 0, shift[0]], [0, factor, shift[1]]]))
    maps, _ = run(original, {"images": normalised_rgb(image).transpose(2, 0, 1)[None].astype(np.float32)})
    size = np.array(maps.shape[:1:-1])
    expected = peaks(maps[0]) * scale / size + centre - scale / 2
    np.testing.assert_allclose(estimated(path, BOX), expected, atol=0.05)


@pytest.mark.parametrize("family", ["vitpose", "tinypose"])
def test_unbiased_heatmaps_have_their_corners_on_those_of_the_box(family: str, tmp_path: Path) -> None:
    """ViTPose, PP-TinyPose: sizes count from the first pixel to the last."""
    original = published.heatmaps(tmp_path / "network.onnx")
    path, lines = adopt(original, tmp_path, Choices(family=family))
    assert f"pose of the layout {family}" in lines[0]
    centre, scale = centre_and_scale(BOX, SIZE[1] / SIZE[0])
    last = np.array([SIZE[1] - 1, SIZE[0] - 1])
    factor, shift = last / scale, last / 2 - centre * last / scale
    image = crop(np.array([[factor[0], 0, shift[0]], [0, factor[1], shift[1]]]))
    maps, _ = run(original, {"images": normalised_rgb(image).transpose(2, 0, 1)[None].astype(np.float32)})
    expected = peaks(maps[0]) * scale / (np.array(maps.shape[:1:-1]) - 1) + centre - scale / 2
    np.testing.assert_allclose(estimated(path, BOX), expected, atol=0.05)


def test_classes_of_coordinates_are_halves_of_pixels(tmp_path: Path) -> None:
    """RTMPose: the largest class of each coordinate, divided by the split ratio of 2."""
    original = published.simcc(tmp_path / "network.onnx")
    path, lines = adopt(original, tmp_path, Choices())
    assert "pose of the layout rtmpose" in lines[0]
    centre, scale = centre_and_scale(BOX, SIZE[1] / SIZE[0])
    factor = SIZE[1] / scale[0]
    shift = np.array([SIZE[1] / 2, SIZE[0] / 2]) - centre * factor
    image = crop(np.array([[factor, 0, shift[0]], [0, factor, shift[1]]]))
    x, y = run(original, {"images": normalised_rgb(image).transpose(2, 0, 1)[None].astype(np.float32)})
    places = np.stack([x[0].argmax(1), y[0].argmax(1)], 1) / 2
    expected = places / np.array(SIZE[::-1]) * scale + centre - scale / 2
    np.testing.assert_allclose(estimated(path, BOX), expected, atol=0.05)


def test_sixteen_joints_are_those_of_mpii(tmp_path: Path) -> None:
    original = published.heatmaps(tmp_path / "hrnet.onnx", keypoints=16)
    path, _ = adopt(original, tmp_path, Choices())
    assert PoseMetadata.read(open_session(path, "pose", threads=1).metadata).skeleton == MPII


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("simplebaseline-r50", "hrnet"),
        ("pose-resnet-50-256x192", "hrnet"),
        ("td-hm_mobilenetv2", "hrnet"),
        ("lite-hrnet-18", "hrnet"),
        ("ViTPose-b-coco", "vitpose"),
        ("PP-TinyPose_128x96", "tinypose"),
    ],
)
def test_the_name_of_a_file_says_how_its_heatmaps_are_aligned(name: str, family: str, tmp_path: Path) -> None:
    _, lines = adopt(published.heatmaps(tmp_path / f"{name}.onnx"), tmp_path / "adopted", Choices())
    assert f"pose of the layout {family} " in lines[0]
