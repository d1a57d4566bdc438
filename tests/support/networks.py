"""Tiny networks in the service's file format with known answers.

The detector finds a person in the box `BOX` of its input where the image has a bright pixel; the pose
network puts keypoint k at the brightest place of colour channel k % 3.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model.keypoints import COCO, Skeleton

BOX = (80.0, 20.0, 240.0, 300.0)
_DARK = 114  # the letterbox's fill


def save_networks(
    folder: Path,
    *,
    slow: bool = False,
    not_finite: bool = False,
    skeleton: Skeleton = COCO,
    **metadata: str | None,
) -> Path:
    """Write detector.onnx and pose.onnx; `metadata` replaces entries of both, None leaves one out.

    slow: the detector takes a tenth of a second or more for an image. not_finite: heatmaps of NaN and
    infinity. skeleton: of the pose network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for task, model in (("detector", _detector(slow)), ("pose", _pose(not_finite, len(skeleton.names)))):
        entries = {**_metadata(task, skeleton), **metadata}
        helper.set_model_props(model, {key: value for key, value in entries.items() if value is not None})
        onnx.checker.check_model(model)
        onnx.save(model, folder / f"{task}.onnx")
    return folder


def _metadata(task: str, skeleton: Skeleton) -> dict[str, str]:
    common = {"format": "1", "task": task, "name": f"tiny-{task}", "version": "0", "commit": "0" * 40}
    if task == "detector":
        return {**common, "input_size": "[320, 320]", "letterbox_fill": str(_DARK)}
    pose = {
        **common,
        "input_size": "[256, 192]",
        "heatmap_stride": "4",
        "crop_padding": "1.25",
        "keypoint_names": json.dumps(skeleton.names),
    }
    if skeleton == COCO:
        return pose
    return {
        **pose,
        "keypoint_edges": json.dumps(skeleton.edges),
        "keypoint_flip_pairs": json.dumps(skeleton.flip_pairs),
        "keypoint_sigmas": json.dumps(skeleton.oks_sigmas),
    }


def _detector(slow: bool) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["image"], ["values"], to=TensorProto.FLOAT),
        *(_delay() if slow else [helper.make_node("Identity", ["values"], ["late"])]),
        helper.make_node("ReduceMax", ["late", "pixels"], ["brightest"], keepdims=0),
        helper.make_node("Sub", ["brightest", "dark"], ["above"]),
        helper.make_node("Div", ["above", "range"], ["score"]),
        helper.make_node("Unsqueeze", ["score", "last"], ["scores"]),
        helper.make_node("Shape", ["scores"], ["n_by_1"]),
        helper.make_node("Concat", ["n_by_1", "four"], ["shape"], axis=0),
        helper.make_node("Expand", ["box", "shape"], ["boxes"]),
    ]
    constants = {
        "pixels": np.array([1, 2, 3]),
        "dark": np.array(_DARK, np.float32),
        "range": np.array(255 - _DARK, np.float32),
        "last": np.array([1]),
        "four": np.array([4]),
        "box": np.array([[BOX]], np.float32),
    }
    if slow:
        constants |= {
            "widen": np.zeros((32, 3, 3, 3), np.float32),
            "work": np.zeros((32, 32, 3, 3), np.float32),
            "narrow": np.zeros((3, 32, 1, 1), np.float32),
        }
    outputs = {"boxes": ["N", 1, 4], "scores": ["N", 1]}
    return _model(nodes, constants, (320, 320), outputs)


def _delay() -> list[onnx.NodeProto]:
    """`values` as `late`, after convolutions that add zero."""
    return [
        helper.make_node("Transpose", ["values"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "widen"], ["wide"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["wide", "work"], ["worked"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["worked", "narrow"], ["zeros"]),
        helper.make_node("Transpose", ["zeros"], ["nothing"], perm=[0, 2, 3, 1]),
        helper.make_node("Add", ["values", "nothing"], ["late"]),
    ]


def _pose(not_finite: bool, keypoints: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["image"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["values", "scale"], ["shares"]),
        helper.make_node("Transpose", ["shares"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Gather", ["pooled", "channels"], ["heatmaps"], axis=1),
    ]
    constants = {
        # dividing by zero gives infinities where a pixel is lit and NaN where it is black
        "scale": np.array(0 if not_finite else 255, np.float32),
        "channels": np.arange(keypoints) % 3,
    }
    return _model(nodes, constants, (256, 192), {"heatmaps": ["N", keypoints, 64, 48]})


def _model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, Any],
    size: tuple[int, int],
    outputs: dict[str, list[Any]],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", *size, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)])
