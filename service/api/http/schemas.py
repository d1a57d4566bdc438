"""The JSON of the REST interface, and the texts of its OpenAPI document."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from service.api.http.problem import MEDIA_TYPE, Problem
from service.types import MAX_PERSONS, ROTATIONS, Models, Options, Poses, array_of

_DEFAULT = Options()
KeypointPair = Annotated[tuple[int, int], array_of(2, "integer", "two indices into the names")]


class OptionsQuery(BaseModel):
    """The parameters of every request for persons."""

    model_config = ConfigDict(extra="forbid")

    min_score: Annotated[float, Field(ge=0, le=1, description="minimum score of a person")] = (
        _DEFAULT.min_score
    )
    max_persons: Annotated[
        int,
        Field(
            ge=1,
            le=MAX_PERSONS,
            description="maximum number of persons of an image, chosen by the score of their boxes",
        ),
    ] = _DEFAULT.max_persons
    rotate: Annotated[
        int,
        Field(
            ge=min(ROTATIONS),
            le=max(ROTATIONS),
            multiple_of=90,
            description="clockwise rotation in degrees (0, 90, 180, 270), after the EXIF orientation and"
            " before detection; all coordinates are those of the rotated image",
        ),
    ] = _DEFAULT.rotate

    def options(self) -> Options:
        """The service's options."""
        return Options(self.min_score, self.max_persons, self.rotate)


class PosesQuery(OptionsQuery):
    """Parameters of POST /v1/poses."""

    format: Annotated[
        Literal["poses", "coco"], Field(description="`coco` returns a list of COCO keypoint results")
    ] = "poses"


@dataclass(frozen=True, slots=True)
class PosesAnswer:
    """One result for each image, in order, and the networks."""

    results: list[Poses]
    model: Models


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Names of the keypoints; limbs and left-right pairs as indices into them; OKS sigmas as COCO's."""

    names: tuple[str, ...]
    edges: tuple[KeypointPair, ...]
    flip_pairs: tuple[KeypointPair, ...]
    oks_sigmas: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """State of the service."""

    status: str


_BINARY = {"schema": {"type": "string", "format": "binary"}}
# the field `file` is accepted too; a schema cannot require one of the two
_FORM = {
    "type": "object",
    "required": ["image"],
    "properties": {
        "image": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}},
    },
    "additionalProperties": False,
}
_FORMATS = ("jpeg", "png", "webp", "avif", "bmp", "tiff", "gif", "heic")
_IMAGE_TYPES = (*(f"image/{name}" for name in _FORMATS), "application/octet-stream")
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One or more images as `image` or `file` of a form, or one as the body.",
        "content": {
            "multipart/form-data": {"schema": _FORM},
            **{media_type: _BINARY for media_type in _IMAGE_TYPES},
        },
    }
}
PICTURE: dict[str, Any] = {
    "description": "The persons; with `Accept: image/jpeg` the image with the skeletons drawn.",
    "content": {"image/jpeg": _BINARY},
}
METRICS: dict[str, Any] = {
    "content": {
        media: {"schema": {"type": "string"}} for media in ("text/plain", "application/openmetrics-text")
    }
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses of the statuses, as problem details."""
    content = {MEDIA_TYPE: {"schema": TypeAdapter(Problem).json_schema()}}
    return {status: {"description": _PROBLEMS[status], "content": content} for status in statuses}


_PROBLEMS = {
    400: "Not an image, a damaged or truncated image, or a malformed form.",
    401: "No key, or an unknown one.",
    404: "There is no model of that name or version.",
    408: "The body did not arrive in time.",
    413: "Too many bytes or too many pixels.",
    415: "The type of the body is not supported.",
    422: "A parameter or form field is unknown or out of range.",
    429: "The service is full, or the key is over its rate; see Retry-After.",
    500: "A fault of the service.",
    501: "The service was installed without the extra that this needs.",
    503: "The service is shutting down, or its worker crashed and restarts within seconds.",
    504: "The answer was not ready in time.",
    507: "There is no disk space to store the video.",
}
