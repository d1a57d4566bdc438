"""The networks to evaluate: ours, from a file or in memory, in the pipeline of the service."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime

from model import detector, lgmpose
from model.artefact import DetectorMetadata, PoseMetadata
from model.geometry import Floats, Pixels
from model.serving import detector_metadata, pose_metadata, run_by_torch
from model.topdown import Detections, Detector, Network, PoseEstimator


class PosePredictor(Protocol):
    """The interface of a pose network for evaluation, see model.topdown.PoseEstimator."""

    def estimate(self, images: Sequence[Pixels], boxes: Sequence[Floats]) -> list[Floats]:
        """Keypoints (N, K, 3) as x, y in image pixels and score, of the boxes (N, 4) of each image."""
        ...


class PersonPredictor(Protocol):
    """The interface of a detector for evaluation, see model.topdown.Detector."""

    def detect(self, images: Sequence[Pixels]) -> list[Detections]:
        """Boxes (N, 4) in image pixels and scores (N,) of each image, sorted by descending score."""
        ...


def load_pose(path: Path, *, dark: bool = True, flip: bool = False) -> PoseEstimator:
    """A pose network from an exported .onnx, or from a .safetensors with a .json of the same name.

    dark: see PoseEstimator; flip: average with the heatmaps of the mirrored crop. Raises MetadataError.
    """
    if path.suffix == ".safetensors":
        pose = torch_pose(lgmpose.load(path))
    else:
        session = open_session(path)
        metadata = PoseMetadata.read(session.get_modelmeta().custom_metadata_map)
        pose = PoseEstimator(run_by_onnx(session), metadata)
    network = flip_average(pose.network, pose.metadata.skeleton.flip_index) if flip else pose.network
    return replace(pose, network=network, dark=dark)


def torch_pose(network: lgmpose.LGMPose) -> PoseEstimator:
    """A pose network in memory, in evaluation mode, on the device of its weights."""
    return PoseEstimator(run_by_torch(network), pose_metadata(network))


def flip_average(network: Network, flip_index: Sequence[int]) -> Network:
    """A heatmap network that averages its heatmaps with those of the mirrored crop.

    flip_index: for each keypoint the index of its mirror image.
    """

    def run(crops: Pixels) -> tuple[Floats, ...]:
        (heatmaps,) = network(crops)
        (mirrored,) = network(np.ascontiguousarray(crops[:, :, ::-1]))
        return ((heatmaps + mirrored[:, list(flip_index), :, ::-1]) / np.float32(2),)

    return run


def load_detector(path: Path) -> Detector:
    """A detector from an exported .onnx, or from a .safetensors with a .json of the same name.

    Raises MetadataError.
    """
    if path.suffix == ".safetensors":
        return torch_detector(detector.load(path))
    session = open_session(path)
    return Detector(run_by_onnx(session), DetectorMetadata.read(session.get_modelmeta().custom_metadata_map))


def torch_detector(network: detector.PersonDetector) -> Detector:
    """A detector in memory, in evaluation mode, on the device of its weights."""
    return Detector(run_by_torch(network), detector_metadata(network))


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """An ONNX file on one CPU thread, so that figures do not depend on the machine."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_by_onnx(session: onnxruntime.InferenceSession) -> Network:
    """A session of one of our files with the interface of the pipeline."""
    name = session.get_inputs()[0].name

    def run(images: Pixels) -> tuple[Floats, ...]:
        return tuple(np.asarray(output, np.float32) for output in session.run(None, {name: images}))

    return run
