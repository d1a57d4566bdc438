"""Exports a network to ONNX: `python -m model.export --task pose runs/pose/pose.safetensors`.

The file has all that serving needs: uint8 BGR images as input, normalisation inside the graph, and the
geometry in its metadata. It is written only if onnxruntime and torch agree on it. The same weights are
written in half precision for further training or for serving with torch. `--int8 ../shared/data` also writes
TASK.int8.onnx, which the service runs on processors with instructions for it (model.quantize).
"""

import argparse
import subprocess
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from model import detector, lgmpose
from model.artefact import DetectorMetadata, Metadata, int8_file
from model.fuse import for_bgr, fused
from model.quantize import QuantisationError, write_int8
from model.serving import ServingGraph, detector_metadata, pose_metadata

Network = TypeVar("Network", bound=nn.Module)
TOLERANCE = 1e-4


class ExportError(RuntimeError):
    """onnxruntime and torch disagree on the exported graph."""


def export_pose(network: lgmpose.LGMPose, path: Path, version: str) -> float:
    """Write LGM-Pose: `image` -> `heatmaps` (N, K, H/4, W/4). Returns the largest difference found.

    Raises ExportError when onnxruntime and torch differ by more than TOLERANCE.
    """
    return _export(network, pose_metadata(network, version, _commit()), ["heatmaps"], path)


def export_detector(network: detector.PersonDetector, path: Path, version: str) -> float:
    """Write the detector: `image` -> `boxes` (N, A, 4), `scores` (N, A). Otherwise like export_pose."""
    return _export(network, detector_metadata(network, version, _commit()), ["boxes", "scores"], path)


def _export(network: nn.Module, metadata: Metadata, outputs: Sequence[str], path: Path) -> float:
    graph, quick = ServingGraph(network).eval(), ServingGraph(for_bgr(fused(network)), rgb=False).eval()
    sizes = _sizes(metadata)
    image = torch.randint(
        0, 256, (2, *sizes[-1], 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "graph.onnx"
        torch.onnx.export(
            quick, (image,), str(part), input_names=["image"], output_names=list(outputs), dynamo=True,
            dynamic_shapes=(_dynamic(metadata),), external_data=False, optimize=True, verbose=False,
        )  # fmt: skip
        model = onnx.load(part)
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, metadata.entries())
        notes: list[Any] = [*model.graph.node, *model.graph.value_info]
        for item in notes:
            del item.metadata_props[:]  # the exporter's notes, with paths of this machine
            item.doc_string = ""
        onnx.checker.check_model(model)
        difference = _difference(graph, model.SerializeToString(), sizes)
    if difference > TOLERANCE:
        raise ExportError(f"onnxruntime and torch differ by {difference:.2g}, more than {TOLERANCE:g}")
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return difference


def _dynamic(metadata: Metadata) -> dict[int, Any]:
    """The variable axes of the input (N, H, W, 3)."""
    axes = {0: torch.export.Dim("batch", min=1, max=4096)}
    if isinstance(metadata, DetectorMetadata) and metadata.input_step:
        for axis, name in ((1, "rows"), (2, "columns")):
            most = metadata.input_size[axis - 1] // metadata.input_step
            axes[axis] = metadata.input_step * torch.export.Dim(name, min=1, max=most)
    return axes


def _sizes(metadata: Metadata) -> list[tuple[int, int]]:
    """Heights and widths of inputs to check: the largest, the smallest, and one in between."""
    height, width = metadata.input_size
    if isinstance(metadata, DetectorMetadata) and (step := metadata.input_step):
        return [(height, width), (step, width), (height, step), (height, max(step, width - step))]
    return [(height, width)]


def _difference(graph: nn.Module, serialised: bytes, sizes: Sequence[tuple[int, int]]) -> float:
    """Largest difference of an output, relative to the largest value of that output (at least 1)."""
    session = onnxruntime.InferenceSession(serialised, providers=["CPUExecutionProvider"])
    worst = 0.0
    for n, size in product((1, 3), sizes):
        image = np.random.default_rng(n).integers(0, 256, (n, *size, 3), dtype=np.uint8)
        with torch.no_grad():
            expected = graph(torch.from_numpy(image))
        for ours, theirs in zip(
            (expected,) if isinstance(expected, Tensor) else expected,
            session.run(None, {"image": image}),
            strict=True,
        ):
            scale = max(1.0, float(ours.abs().max()))
            worst = max(worst, float(np.abs(ours.numpy() - theirs).max()) / scale)
    return worst


def rounded(network: Network) -> Network:
    """The network in single precision with weights rounded to half precision."""
    return network.half().float()


def _commit() -> str:
    """The commit of the code, or "unknown" outside a checkout."""
    found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m model.export", description=__doc__)
    parser.add_argument("weights", type=Path, help=".safetensors with a .json of the same name")
    parser.add_argument("--task", choices=("pose", "detector"), default="pose", help="[pose]")
    parser.add_argument("--out", type=Path, help="default: model/weights/TASK.onnx")
    parser.add_argument("--version", default="0.1.0", help="version of the weights")
    parser.add_argument(
        "--size",
        type=int,
        default=416,
        help="side of the detector's square input in pixels [%(default)s]",
    )
    parser.add_argument(
        "--int8", type=Path, metavar="DATA", help="folder of labelled photos: write int8, too"
    )
    options = parser.parse_args(arguments)
    out = options.out or Path(__file__).parent / "weights" / f"{options.task}.onnx"
    weights = out.with_suffix(".safetensors")
    if options.task == "pose":
        pose = rounded(lgmpose.load(options.weights))
        difference = export_pose(pose, out, options.version)
        lgmpose.save(pose.half(), weights)
    else:
        size = options.size, options.size
        persons = rounded(detector.resized(detector.load(options.weights), size))
        difference = export_detector(persons, out, options.version)
        detector.save(persons.half(), weights)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, onnxruntime and torch differ by {difference:.1g}")
    if options.int8:
        try:
            loss = write_int8(out, options.int8)
        except QuantisationError as error:
            raise SystemExit(f"{int8_file(out)}: not written: {error}") from error
        print(f"{int8_file(out)}: loses {loss:.4f} AP on photos kept apart")


if __name__ == "__main__":
    main()
