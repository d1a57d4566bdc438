from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Policy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POLICY_UNSPECIFIED: _ClassVar[Policy]
    POLICY_LATEST: _ClassVar[Policy]
    POLICY_ALL: _ClassVar[Policy]
POLICY_UNSPECIFIED: Policy
POLICY_LATEST: Policy
POLICY_ALL: Policy

class Options(_message.Message):
    __slots__ = ("min_score", "max_persons", "rotate")
    MIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    MAX_PERSONS_FIELD_NUMBER: _ClassVar[int]
    ROTATE_FIELD_NUMBER: _ClassVar[int]
    min_score: float
    max_persons: int
    rotate: int
    def __init__(self, min_score: _Optional[float] = ..., max_persons: _Optional[int] = ..., rotate: _Optional[int] = ...) -> None: ...

class EstimateRequest(_message.Message):
    __slots__ = ("image", "options")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    options: Options
    def __init__(self, image: _Optional[bytes] = ..., options: _Optional[_Union[Options, _Mapping]] = ...) -> None: ...

class EstimateResponse(_message.Message):
    __slots__ = ("poses", "model")
    POSES_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    poses: Poses
    model: Models
    def __init__(self, poses: _Optional[_Union[Poses, _Mapping]] = ..., model: _Optional[_Union[Models, _Mapping]] = ...) -> None: ...

class Poses(_message.Message):
    __slots__ = ("persons", "width", "height", "timings")
    PERSONS_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    persons: _containers.RepeatedCompositeFieldContainer[Person]
    width: int
    height: int
    timings: Timings
    def __init__(self, persons: _Optional[_Iterable[_Union[Person, _Mapping]]] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class Person(_message.Message):
    __slots__ = ("bbox", "score", "keypoints", "track_id")
    BBOX_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    KEYPOINTS_FIELD_NUMBER: _ClassVar[int]
    TRACK_ID_FIELD_NUMBER: _ClassVar[int]
    bbox: BoundingBox
    score: float
    keypoints: _containers.RepeatedCompositeFieldContainer[Keypoint]
    track_id: int
    def __init__(self, bbox: _Optional[_Union[BoundingBox, _Mapping]] = ..., score: _Optional[float] = ..., keypoints: _Optional[_Iterable[_Union[Keypoint, _Mapping]]] = ..., track_id: _Optional[int] = ...) -> None: ...

class BoundingBox(_message.Message):
    __slots__ = ("x1", "y1", "x2", "y2")
    X1_FIELD_NUMBER: _ClassVar[int]
    Y1_FIELD_NUMBER: _ClassVar[int]
    X2_FIELD_NUMBER: _ClassVar[int]
    Y2_FIELD_NUMBER: _ClassVar[int]
    x1: float
    y1: float
    x2: float
    y2: float
    def __init__(self, x1: _Optional[float] = ..., y1: _Optional[float] = ..., x2: _Optional[float] = ..., y2: _Optional[float] = ...) -> None: ...

class Keypoint(_message.Message):
    __slots__ = ("x", "y", "score")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    x: float
    y: float
    score: float
    def __init__(self, x: _Optional[float] = ..., y: _Optional[float] = ..., score: _Optional[float] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("decode", "queue", "detect", "pose", "other")
    DECODE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    DETECT_FIELD_NUMBER: _ClassVar[int]
    POSE_FIELD_NUMBER: _ClassVar[int]
    OTHER_FIELD_NUMBER: _ClassVar[int]
    decode: float
    queue: float
    detect: float
    pose: float
    other: float
    def __init__(self, decode: _Optional[float] = ..., queue: _Optional[float] = ..., detect: _Optional[float] = ..., pose: _Optional[float] = ..., other: _Optional[float] = ...) -> None: ...

class Models(_message.Message):
    __slots__ = ("pose", "detector")
    POSE_FIELD_NUMBER: _ClassVar[int]
    DETECTOR_FIELD_NUMBER: _ClassVar[int]
    pose: Model
    detector: Model
    def __init__(self, pose: _Optional[_Union[Model, _Mapping]] = ..., detector: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "version", "commit")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    commit: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., commit: _Optional[str] = ...) -> None: ...

class EstimateStreamRequest(_message.Message):
    __slots__ = ("config", "frame")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    config: StreamConfig
    frame: Frame
    def __init__(self, config: _Optional[_Union[StreamConfig, _Mapping]] = ..., frame: _Optional[_Union[Frame, _Mapping]] = ...) -> None: ...

class StreamConfig(_message.Message):
    __slots__ = ("options", "camera_id", "policy", "tracking", "smoothing", "detect_every", "skip_unchanged")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    CAMERA_ID_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    TRACKING_FIELD_NUMBER: _ClassVar[int]
    SMOOTHING_FIELD_NUMBER: _ClassVar[int]
    DETECT_EVERY_FIELD_NUMBER: _ClassVar[int]
    SKIP_UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    options: Options
    camera_id: str
    policy: Policy
    tracking: bool
    smoothing: bool
    detect_every: int
    skip_unchanged: bool
    def __init__(self, options: _Optional[_Union[Options, _Mapping]] = ..., camera_id: _Optional[str] = ..., policy: _Optional[_Union[Policy, str]] = ..., tracking: bool = ..., smoothing: bool = ..., detect_every: _Optional[int] = ..., skip_unchanged: bool = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("frame_id", "image", "raw", "timestamp")
    FRAME_ID_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    frame_id: int
    image: bytes
    raw: RawImage
    timestamp: float
    def __init__(self, frame_id: _Optional[int] = ..., image: _Optional[bytes] = ..., raw: _Optional[_Union[RawImage, _Mapping]] = ..., timestamp: _Optional[float] = ...) -> None: ...

class RawImage(_message.Message):
    __slots__ = ("data", "width", "height", "order")
    class Order(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        BGR: _ClassVar[RawImage.Order]
        RGB: _ClassVar[RawImage.Order]
    BGR: RawImage.Order
    RGB: RawImage.Order
    DATA_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    width: int
    height: int
    order: RawImage.Order
    def __init__(self, data: _Optional[bytes] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., order: _Optional[_Union[RawImage.Order, str]] = ...) -> None: ...

class EstimateStreamResponse(_message.Message):
    __slots__ = ("frame_id", "poses", "error", "dropped", "counts", "time")
    FRAME_ID_FIELD_NUMBER: _ClassVar[int]
    POSES_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    frame_id: int
    poses: Poses
    error: Error
    dropped: Dropped
    counts: Counts
    time: float
    def __init__(self, frame_id: _Optional[int] = ..., poses: _Optional[_Union[Poses, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., dropped: _Optional[_Union[Dropped, _Mapping]] = ..., counts: _Optional[_Union[Counts, _Mapping]] = ..., time: _Optional[float] = ...) -> None: ...

class Dropped(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Counts(_message.Message):
    __slots__ = ("received", "poses", "errors", "dropped")
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    POSES_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    received: int
    poses: int
    errors: int
    dropped: int
    def __init__(self, received: _Optional[int] = ..., poses: _Optional[int] = ..., errors: _Optional[int] = ..., dropped: _Optional[int] = ...) -> None: ...

class GetSkeletonRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Skeleton(_message.Message):
    __slots__ = ("names", "edges", "flip_pairs", "oks_sigmas")
    NAMES_FIELD_NUMBER: _ClassVar[int]
    EDGES_FIELD_NUMBER: _ClassVar[int]
    FLIP_PAIRS_FIELD_NUMBER: _ClassVar[int]
    OKS_SIGMAS_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    edges: _containers.RepeatedCompositeFieldContainer[KeypointPair]
    flip_pairs: _containers.RepeatedCompositeFieldContainer[KeypointPair]
    oks_sigmas: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, names: _Optional[_Iterable[str]] = ..., edges: _Optional[_Iterable[_Union[KeypointPair, _Mapping]]] = ..., flip_pairs: _Optional[_Iterable[_Union[KeypointPair, _Mapping]]] = ..., oks_sigmas: _Optional[_Iterable[float]] = ...) -> None: ...

class KeypointPair(_message.Message):
    __slots__ = ("first", "second")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SECOND_FIELD_NUMBER: _ClassVar[int]
    first: int
    second: int
    def __init__(self, first: _Optional[int] = ..., second: _Optional[int] = ...) -> None: ...
