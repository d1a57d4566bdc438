"""The JSON of the REST interface, and the words of its OpenAPI document."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from model.keypoints import EDGES, FLIP_PAIRS, NAMES, OKS_SIGMAS
from service.api.problem import MEDIA_TYPE, Problem
from service.types import MAX_PERSONS, Models, Options, Person, Poses

_DEFAULT = Options()


class PosesQuery(BaseModel):
    """Parameters of POST /v1/poses."""

    model_config = ConfigDict(extra="forbid")

    format: Annotated[
        Literal["poses", "coco"], Field(description="`coco` answers a list of COCO keypoint results")
    ] = "poses"
    min_score: Annotated[float, Field(ge=0, le=1, description="persons below this score are left out")] = (
        _DEFAULT.min_score
    )
    max_persons: Annotated[
        int, Field(ge=1, le=MAX_PERSONS, description="at most this many persons of an image, by best box")
    ] = _DEFAULT.max_persons


@dataclass(frozen=True, slots=True)
class PosesAnswer:
    """One result for each image, in their order, and the networks that answered."""

    results: list[Poses]
    model: Models


@dataclass(frozen=True, slots=True)
class CocoResult:
    """A COCO keypoint result: 17 times x, y, score in `keypoints`; `bbox` as x, y, width, height."""

    image_id: int
    category_id: int
    keypoints: list[float]
    score: float
    bbox: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Names of the keypoints; limbs and left-right pairs as indices into them; COCO's OKS sigmas."""

    names: tuple[str, ...] = NAMES
    edges: tuple[tuple[int, int], ...] = EDGES
    flip_pairs: tuple[tuple[int, int], ...] = FLIP_PAIRS
    oks_sigmas: tuple[float, ...] = OKS_SIGMAS


@dataclass(frozen=True, slots=True)
class Status:
    """State of the service."""

    status: str


def coco_results(results: Sequence[Poses]) -> list[CocoResult]:
    """All persons as COCO keypoint results; image_id is the image's index in the request."""
    return [_coco_result(index, person) for index, poses in enumerate(results) for person in poses.persons]


def _coco_result(image_id: int, person: Person) -> CocoResult:
    x1, y1, x2, y2 = person.bbox
    return CocoResult(
        image_id=image_id,
        category_id=1,
        keypoints=[value for keypoint in person.keypoints for value in keypoint],
        score=person.score,
        bbox=(x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)),
    )


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "type": "object",
    "required": ["image"],
    "properties": {
        "image": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}},
    },
    "additionalProperties": False,
}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "JPEG, PNG or WebP: one or more in the field `image`, or one as the body itself.",
        "content": {
            "multipart/form-data": {"schema": _FORM},
            **{media_type: _BINARY for media_type in ("image/jpeg", "image/png", "image/webp")},
        },
    }
}
PICTURE: dict[str, Any] = {
    "description": "The persons; with `Accept: image/jpeg` the picture with their skeletons drawn.",
    "content": {"image/jpeg": _BINARY},
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses of the statuses, as problem details."""
    content = {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{Problem.__name__}"}}}
    return {status: {"description": _PROBLEMS[status], "content": content} for status in statuses}


_PROBLEMS = {
    400: "Not an image, or one that is damaged or truncated; or a malformed form.",
    408: "The body did not arrive in time.",
    413: "Too many bytes or too many pixels.",
    415: "The body is neither multipart/form-data nor an image.",
    422: "A parameter or form field is unknown or out of range.",
    429: "The service is full; Retry-After tells when to try again.",
    500: "A fault of the service.",
    503: "The service is shutting down.",
    504: "The answer was not ready in time.",
}
