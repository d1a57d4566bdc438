"""Averages weights: `python -m model.average WEIGHTS WEIGHTS... --out FILE`.

The mean of weights that were trained further from the same start often generalises better than each of them
(model soups, arXiv 2203.05482, section 2). All files must belong to networks of the same configuration.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def average(files: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of each tensor (...), in the type of the first file.

    Raises ValueError if names or shapes differ.
    """
    states = [load_file(file) for file in files]
    first = states[0]
    for file, state in zip(files, states, strict=True):
        if {name: each.shape for name, each in state.items()} != {n: each.shape for n, each in first.items()}:
            raise ValueError(f"{file} is not of the same network as {files[0]}")
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(tensor.dtype)
        for name, tensor in first.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m model.average", description=__doc__)
    parser.add_argument("weights", type=Path, nargs="+", help=".safetensors with a .json of the same name")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors to write")
    options = parser.parse_args(arguments)
    if options.out.exists():
        parser.error(f"{options.out} exists")
    try:
        mean = average(options.weights)
    except ValueError as error:
        parser.error(str(error))
    save_file(mean, options.out)
    shutil.copy(options.weights[0].with_suffix(".json"), options.out.with_suffix(".json"))


if __name__ == "__main__":
    main()
