"""The adopted file against the published one, on photos: both must give the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from model.adopt.family import AdoptError, Decode, Preprocessing
from model.adopt.network import Published, first_line, open_session
from model.artefact import DetectorMetadata, PoseMetadata
from model.geometry import Floats, Pixels, box_to_affine, crop, letterbox
from model.keypoints import MIN_KEYPOINT_SCORE
from model.topdown import Detector, Network, PoseEstimator

#: Largest difference, as a share of the largest value of an output (at least 1).
TOLERANCE = 1e-3
_FOUND = 0.3


@dataclass(frozen=True)
class Adoption:
    """A published network and what it became."""

    published: Published
    preprocessing: Preprocessing
    decode: Decode
    model: ModelProto
    metadata: PoseMetadata | DetectorMetadata

    def compare(self, photos: Mapping[Path, Pixels]) -> tuple[float, list[str]]:
        """The largest difference on the photos (H, W, 3), and what the result finds in each.

        Raises AdoptError if the difference is above TOLERANCE or the result cannot be run.
        """
        path = self.published.path
        session = open_session(path, self.model)

        def run(images: Pixels) -> tuple[Floats, ...]:
            try:
                return tuple(session.run(None, {"image": images}))
            except Exception as error:
                raise AdoptError(f"{path}: the adopted network cannot be run: {first_line(error)}") from error

        batch = self.model.graph.input[0].type.tensor_type.shape.dim[0]
        worst = 0.0
        for photo in photos.values():
            inputs = np.concatenate([self._input(photo), self._input(np.ascontiguousarray(photo[:, ::-1]))])
            ours = [run(each) for each in inputs[:, None]]
            theirs = [self._original(each) for each in inputs[:, None]]
            pairs = [pair for sets in zip(ours, theirs, strict=True) for pair in zip(*sets, strict=True)]
            if batch.dim_param:
                pairs += zip(run(inputs), map(np.concatenate, zip(*ours, strict=True)), strict=True)
            if not all(np.isfinite(output).all() for pair in pairs for output in pair):
                raise AdoptError(f"{path}: gives values that are infinite or not a number")
            worst = max([worst, *(difference(*pair) for pair in pairs)])
        if not worst <= TOLERANCE:
            raise AdoptError(
                f"{path}: the result differs by {worst:.2g} from the original, above {TOLERANCE:g}"
            )
        if not self.metadata.fits([output.shape for output in ours[0]]):
            raise AdoptError(f"{path}: its outputs are not those of a {self.metadata.task}")
        return worst, [self._found(run, name, photo) for name, photo in photos.items()]

    def _input(self, photo: Pixels) -> Pixels:
        """A photo as the network gets it, (1, H, W, 3); a pose network gets all of it as one person."""
        metadata = self.metadata
        if isinstance(metadata, DetectorMetadata):
            canvas, _ = letterbox(
                photo, metadata.input_size, metadata.letterbox_fill, metadata.fit, resize=metadata.resize
            )
            return canvas[None]
        affine = box_to_affine(_whole(photo), metadata.input_size, 1.0, metadata.alignment)
        return crop(photo, affine, metadata.input_size)[None]

    def _original(self, image: Pixels) -> tuple[Floats, ...]:
        """What the published network gives for an image (1, H, W, 3), decoded by NumPy."""
        return self.decode(self.published.run(self.preprocessing(image)))

    def _found(self, network: Network, name: Path, photo: Pixels) -> str:
        if isinstance(self.metadata, DetectorMetadata):
            ((_, scores),) = Detector(network, self.metadata).detect([photo])
            best = f", the best of score {scores[0]:.2f}" if len(scores) else ""
            return f"{name.name}: {int((scores >= _FOUND).sum())} boxes of score {_FOUND} or more{best}"
        ((person,),) = PoseEstimator(network, self.metadata).estimate([photo], [_whole(photo)[None]])
        seen = int((person[:, 2] > MIN_KEYPOINT_SCORE).sum())
        return f"{name.name}: {seen} of {len(person)} keypoints of score {MIN_KEYPOINT_SCORE} or more"


def _whole(photo: Pixels) -> Floats:
    return np.array([0, 0, photo.shape[1], photo.shape[0]], np.float32)


def difference(ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32]) -> float:
    """The largest difference of two outputs (...), as a share of the largest value, at least 1."""
    if ours.shape != theirs.shape:
        return float("inf")
    if not ours.size:
        return 0.0
    return float(np.abs(ours - theirs).max() / max(1.0, float(np.abs(theirs).max())))
