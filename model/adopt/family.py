"""What a family of published networks is: how it is fed and what its outputs mean."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.adopt.arrays import Array, as_floats, take, transpose
from model.artefact import Task
from model.geometry import Alignment, Fit, Resize

#: Outputs of a network, in its order -> the outputs of our format.
Decode = Callable[[Sequence[Array]], tuple[Array, ...]]


class AdoptError(ValueError):
    """The file cannot be adopted; the text says why in one line."""


@dataclass(frozen=True)
class Example:
    """Names and arrays (1, ...) of the outputs for one photo.

    size: (height, width) of the input. person: the class of persons.
    """

    size: tuple[int, int]
    names: tuple[str, ...]
    outputs: tuple[npt.NDArray[np.float32], ...]
    person: int

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the outputs."""
        return [output.shape for output in self.outputs]


@dataclass(frozen=True)
class Preprocessing:
    """How a network is fed.

    rgb: the order of its channels, otherwise BGR. mean, std: of the channels in that order, as pixel values.
    fit, fill: where the image lies in the input of a detector, and the grey level where it does not.
    resize: how the image of a detector is scaled.
    """

    rgb: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: Fit = Fit.TOP_LEFT
    fill: int = 114
    resize: Resize = Resize.LINEAR

    def __call__(self, image: Array) -> Array:
        """The input (N, 3, H, W) of the network for images (N, H, W, 3) BGR."""
        planes = transpose(as_floats(image), (0, 3, 1, 2))
        if self.rgb:
            planes = take(planes, 1, (2, 1, 0))
        mean, std = (np.array(each, np.float32).reshape(1, 3, 1, 1) for each in (self.mean, self.std))
        return (planes - mean) * (1 / std)


IMAGENET = Preprocessing(rgb=True, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
IMAGENET_BGR = Preprocessing(rgb=False, mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395))


@dataclass(frozen=True)
class Family:
    """Networks of one published layout.

    plan: how the outputs of an example are decoded, None where they are not of this layout.
    hints: words in names of the file and its tensors that speak for the family where several fit.
    """

    name: str
    task: Task
    project: str
    preprocessing: Preprocessing
    plan: Callable[[Example], Decode | None]
    hints: tuple[str, ...] = ()
    alignment: Alignment = Alignment.CENTRES
