import json
from dataclasses import replace

import pytest

from model.artefact import DetectorMetadata, Metadata, MetadataError, PoseMetadata
from model.geometry import Alignment, Fit
from model.keypoints import COCO, MPII, NAMES

DETECTOR = DetectorMetadata(name="d", version="1", commit="c", input_size=(320, 416), letterbox_fill=114)
POSE = PoseMetadata(
    name="p", version="1", commit="c", input_size=(256, 192), crop_padding=1.25, heatmap_stride=4
)
ADOPTED = replace(
    POSE,
    heatmap_stride=0.5,
    alignment=Alignment.CORNERS,
    skeleton=MPII,
    source="x.onnx",
    source_sha256="0" * 64,
    licence="Apache-2.0",
)


@pytest.mark.parametrize("metadata", [DETECTOR, replace(DETECTOR, fit=Fit.STRETCH), POSE, ADOPTED])
def test_what_is_written_is_read(metadata: Metadata) -> None:
    assert type(metadata).read(metadata.entries()) == metadata


def test_our_files_hold_what_they_always_held() -> None:
    common = {"format": "1", "name": "p", "version": "1", "commit": "c"}
    assert POSE.entries() == {
        **common,
        "task": "pose",
        "input_size": "[256, 192]",
        "crop_padding": "1.25",
        "heatmap_stride": "4",
        "keypoint_names": json.dumps(NAMES),
    }
    common |= {"name": "d", "task": "detector"}
    detector = {**common, "input_size": "[320, 416]", "letterbox_fill": "114"}
    assert DETECTOR.entries() == detector


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": "2"}, "format '2', not '1'"),
        ({"task": "detector"}, "made for task 'detector', not 'pose'"),
        ({"name": None, "keypoint_names": None}, "metadata without keypoint_names, name"),
        ({"alignment": "left"}, "alignment 'left' cannot be read"),
        ({"keypoint_names": "[1"}, "keypoint_names '\\[1' cannot be read"),
        ({"keypoint_names": '["a"]'}, "need keypoint_edges, keypoint_flip_pairs, keypoint_sigmas"),
        ({"keypoint_edges": "[[0]]", "keypoint_flip_pairs": "[]", "keypoint_sigmas": "[]"}, "keypoint_edges"),
        ({"keypoint_edges": "[]", "keypoint_flip_pairs": "[]", "keypoint_sigmas": "[1]"}, "17 positive"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(change: dict[str, str | None], complaint: str) -> None:
    entries = {**POSE.entries(), **change}
    with pytest.raises(MetadataError, match=complaint):
        PoseMetadata.read({key: value for key, value in entries.items() if value is not None})


def test_outputs_must_have_the_shapes_that_the_metadata_promise() -> None:
    assert POSE.fits([(1, 17, 64, 48)])
    assert not POSE.fits([(1, 17, 48, 64)]) and not POSE.fits([(1, 16, 64, 48)])
    simcc = replace(POSE, heatmap_stride=0.5, skeleton=COCO)
    assert simcc.fits([(1, 17, 384), (1, 17, 512)]) and not simcc.fits([(1, 17, 512), (1, 17, 384)])
    assert DETECTOR.fits([(1, 9, 4), (1, 9)]) and not DETECTOR.fits([(1, 9, 4), (1, 8)])
    assert not DETECTOR.fits([(1, 9, 4)])
