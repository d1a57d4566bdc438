"""The published layouts of top-down pose networks."""

from collections.abc import Sequence

from model.adopt.arrays import Array, as_floats
from model.adopt.family import IMAGENET, Decode, Example, Family
from model.geometry import Alignment


def _heatmaps(example: Example) -> Decode | None:
    """Heatmaps (N, K, h, w) whose stride divides the input; other outputs, such as peaks, are left out."""
    height, width = example.size
    found = [
        index
        for index, shape in enumerate(example.shapes)
        if len(shape) == 4
        and height % shape[2] == 0
        and (height // shape[2]) * shape[3] == width
        and height // shape[2] <= 16
    ]
    if len(found) != 1:
        return None

    def decode(outputs: Sequence[Array]) -> tuple[Array, ...]:
        return (as_floats(outputs[found[0]]),)

    return decode


def _simcc(example: Example) -> Decode | None:
    """Classes of the columns (N, K, bins) and of the rows (N, K, bins), the same number of bins a pixel."""
    height, width = example.size
    match example.shapes:
        case [(1, first, columns), (1, second, rows)] if first == second and columns * height == rows * width:
            return lambda outputs: tuple(as_floats(each) for each in outputs)
    return None


_CLASSIC, _UDP = Alignment.ORIGINS, Alignment.CORNERS
_CLASSIC_HINTS = "hrnet", "resnet", "simple", "mobilenet"

POSES = (
    Family("rtmpose", "pose", "RTMPose, OpenMMLab", IMAGENET, _simcc, (), _CLASSIC),
    Family("hrnet", "pose", "HRNet, SimpleBaseline", IMAGENET, _heatmaps, _CLASSIC_HINTS, _CLASSIC),
    Family("vitpose", "pose", "ViTPose", IMAGENET, _heatmaps, ("vitpose", "udp"), _UDP),
    Family(
        "tinypose", "pose", "PP-TinyPose, PaddleDetection", IMAGENET, _heatmaps, ("tinypose", "p2o."), _UDP
    ),
)
