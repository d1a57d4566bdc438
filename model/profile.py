"""Cost of the reconstruction compared with the paper: `python -m model.profile` prints its eight rows.

Parameters in millions are rounded to the paper's digits. Multiply-accumulates in billions are truncated to
them, like the paper's figures for known networks (Lite-HRNet-18 at 384x288 has 0.4616 G according to its
authors, and 0.4 in table 1). Exits with status 1 if a row differs from the paper.
"""

import argparse
import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from model.lgmpose import CONFIGS, LGMPose, LGMPoseConfig, for_input

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # fvcore compiles losses that are not used here
    from fvcore.nn import FlopCountAnalysis

#: Counted operations; normalisation, activations and additions are excluded, as usual.
COUNTED = ("conv", "linear", "matmul")


@dataclass(frozen=True)
class Row:
    """A row of the paper: parameters (M) and multiply-accumulates (G) as printed, and its network."""

    name: str
    table: int
    params: str
    macs: str
    size: tuple[int, int] = (256, 256)
    num_keypoints: int = 16
    fusion: str = "sfusion"
    mixer: str = "larm"

    def config(self, base: LGMPoseConfig) -> LGMPoseConfig:
        """The variant of a configuration for this row."""
        return replace(for_input(base, *self.size, self.num_keypoints), fusion=self.fusion, mixer=self.mixer)


ROWS = (
    Row("COCO 256x192", 1, "1.1", "0.6", size=(256, 192), num_keypoints=17),
    Row("COCO 384x288", 1, "1.2", "1.5", size=(384, 288), num_keypoints=17),
    Row("MPII 256x256, SFusion", 5, "1.1", "0.90"),
    Row("no fusion", 5, "0.8", "0.7", fusion="none"),
    Row("conv 3x3", 5, "2.1", "1.5", fusion="conv3"),
    Row("DW g=1", 5, "1.08", "0.89", fusion="dw1"),
    Row("DW g=2", 5, "1.1", "0.90", fusion="dw2"),
    Row("MobileViT block", 4, "2.5", "1.4", mixer="transformer"),
)


@dataclass(frozen=True)
class Cost:
    params: int
    macs: int


def cost(network: LGMPose) -> Cost:
    """Parameters and multiply-accumulates of one crop, counted by fvcore."""
    crop = torch.zeros(1, 3, *network.config.input_size)
    analysis = FlopCountAnalysis(network.eval(), crop)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    operations: dict[str, Any] = analysis.by_operator()
    macs = sum(int(operations.get(name, 0)) for name in COUNTED)
    return Cost(sum(p.numel() for p in network.parameters()), macs)


def printed(counted: Cost, row: Row) -> tuple[str, str]:
    """The figures with the digits of the paper's row: parameters rounded, operations truncated."""
    param_digits, mac_digits = (len(text.partition(".")[2]) for text in (row.params, row.macs))
    cut = math.floor(counted.macs / 10 ** (9 - mac_digits)) / 10**mac_digits
    return f"{counted.params / 1e6:.{param_digits}f}", f"{cut:.{mac_digits}f}"


def compare(base: LGMPoseConfig, rows: Sequence[Row] = ROWS) -> tuple[list[str], bool]:
    """The lines of a table of paper and reconstruction, and whether all rows agree."""
    lines = ["| row | table | paper, M / G | ours, M / G | as printed | same |", "| --- " * 6 + "|"]
    for row in rows:
        counted = cost(LGMPose(row.config(base)))
        params, macs = printed(counted, row)
        same = "yes" if (params, macs) == (row.params, row.macs) else "NO"
        exact = f"{counted.params / 1e6:.4f} / {counted.macs / 1e9:.4f}"
        cells = row.name, row.table, f"{row.params} / {row.macs}", exact, f"{params} / {macs}", same
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines, not any(line.endswith("NO |") for line in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m model.profile", description=__doc__)
    parser.add_argument(
        "--network", choices=CONFIGS, default="pretrained", help="configuration of LGM-Pose [%(default)s]"
    )
    lines, agrees = compare(CONFIGS[parser.parse_args(arguments).network])
    print("\n".join(lines))
    sys.exit(not agrees)


if __name__ == "__main__":
    main()
