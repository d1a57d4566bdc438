"""The cost of LGM-Pose and of the paper's baseline networks: `python -m benchmarks.network`.

All run in onnxruntime with the service's settings, on crops of 256 x 192. The baselines have random weights,
which does not change their time. A product of two square matrices shows the peak speed of the processor.
"""

import tempfile
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.baseline_networks import BASELINES
from benchmarks.rounds import WEIGHTS, Case, Figures, interleaved, options, write
from model import lgmpose
from model.serving import ServingGraph
from service.inference.runtime import OnnxSession

SIZE = 256, 192
MATRIX = 1536
#: Crops per second on a CPU, from table 1 of the paper.
PAPER = {"LGM-Pose": 33.1, "SimpleBaseline ResNet-50": 7.8, "MobileNetV2": 24.5, "Lite-HRNet-18": 7.4}


def export(network: nn.Module, path: Path) -> None:
    """Write a network with the interface of ours: uint8 BGR crops (N, 256, 192, 3) in, heatmaps out."""
    crop = torch.zeros(2, *SIZE, 3, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=4096)
    torch.onnx.export(
        ServingGraph(network).eval(), (crop,), str(path), input_names=["image"],
        dynamic_shapes=({0: batch},), dynamo=True, external_data=False, optimize=True, verbose=False,
    )  # fmt: skip


def export_product(path: Path) -> None:
    """Write a network that multiplies a batch of one matrix by a constant matrix."""
    values = numpy_helper.from_array(np.ones((MATRIX, MATRIX), np.float32), "b")
    a, c = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, MATRIX, MATRIX]) for name in "ac")
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", [a], [c], [values])
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)]), path)


def cost(network: nn.Module) -> tuple[float, float]:
    """Parameters in millions, and multiply-accumulates of one crop in billions."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(1, 3, *SIZE))
    return sum(p.numel() for p in network.parameters()) / 1e6, counter.get_total_flops() / 2e9


def timed(session: OnnxSession, images: np.ndarray, count: int, gmacs: float, seconds: float) -> Figures:
    """Time and CPU time per item, and operations per second, of runs with `count` items.

    gmacs: billions of multiply-accumulates per item.
    """
    session.run(images)
    times: list[float] = []
    busy, start = process_time(), perf_counter()
    while len(times) < 3 or perf_counter() < start + seconds:
        begin = perf_counter()
        session.run(images)
        times.append(perf_counter() - begin)
    busy = (process_time() - busy) / len(times)
    once = median(times)
    return {"ms": 1000 * once / count, "cpu_ms": 1000 * busy / count, "gflops": 2 * gmacs * count / once}


def cases(folder: Path, batches: Sequence[int], threads: Sequence[int], seconds: float) -> list[Case]:
    """Every network with every batch size and number of threads: LGM-Pose first, the matrix product last."""
    networks = {
        "LGM-Pose": lgmpose.load(WEIGHTS / "pose.safetensors"),
        **{n: of() for n, of in BASELINES.items()},
    }
    files = {"LGM-Pose": WEIGHTS / "pose.onnx", **{name: folder / f"{name}.onnx" for name in BASELINES}}
    for name in BASELINES:
        export(networks[name], files[name])
    costs = {name: cost(network) for name, network in networks.items()}
    matrices = folder / "product.onnx"
    export_product(matrices)
    square = np.ones((1, MATRIX, MATRIX), np.float32)
    found = []
    for each in threads:
        sessions = {name: OnnxSession(path, threads=each) for name, path in files.items()}
        multiply = OnnxSession(matrices, threads=each)
        for batch, (name, session) in product(batches, sessions.items()):
            crops = np.random.default_rng(0).integers(0, 256, (batch, *SIZE, 3), np.uint8)
            params, gmacs = costs[name]
            labels = {"network": name, "params_m": round(params, 2), "gmacs": round(gmacs, 3)}
            run = partial(timed, session, crops, batch, gmacs, seconds)
            found.append(Case(f"batch {batch}, threads {each}", labels, run))
        for batch in batches:
            run = partial(timed, multiply, square, 1, MATRIX**3 / 1e9, seconds)
            found.append(Case(f"batch {batch}, threads {each}", {"network": "matrix product"}, run))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options("network", __doc__)
    parser.add_argument(
        "--seconds", type=float, default=0.5, help="seconds of each case in a round [%(default)s]"
    )
    parser.add_argument("--batches", type=int, nargs="+", default=(1, 8), help="[%(default)s]")
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2), help="[%(default)s]")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        measured = cases(Path(folder), chosen.batches, chosen.threads, chosen.seconds)
        rows = interleaved(measured, chosen.rounds)
    paper = {name: round(PAPER["LGM-Pose"] / rate, 2) for name, rate in PAPER.items()}
    write(chosen.out, chosen.rounds, rows, paper_ratios=paper)


if __name__ == "__main__":
    main()
