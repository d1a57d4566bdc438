"""Converts the messages of proto/pose.proto: reads requests, builds answers."""

from dataclasses import asdict

from service.errors import InvalidArgument
from service.streaming.frames import (
    Answer,
    Dropped,
    Failed,
    Policy,
    StreamConfig,
    StreamFrame,
)
from service.types import (
    MAX_PERSONS,
    ROTATIONS,
    Options,
    Person,
    Picture,
    Poses,
    RawImage,
    TrackedPerson,
)
from service.wire.pb import pose_pb2

_POLICIES = {
    pose_pb2.POLICY_UNSPECIFIED: Policy.LATEST,
    pose_pb2.POLICY_LATEST: Policy.LATEST,
    pose_pb2.POLICY_ALL: Policy.ALL,
}


def read_options(message: pose_pb2.Options) -> Options:
    """The options of a message. Raises InvalidArgument for values out of range."""
    default = Options()
    min_score = message.min_score if message.HasField("min_score") else default.min_score
    max_persons = message.max_persons if message.HasField("max_persons") else default.max_persons
    if not 0 <= min_score <= 1:
        raise InvalidArgument(f"min_score {min_score:g} is not in [0, 1]")
    if not 1 <= max_persons <= MAX_PERSONS:
        raise InvalidArgument(f"max_persons {max_persons} is not in 1 to {MAX_PERSONS}")
    if message.rotate not in ROTATIONS:
        raise InvalidArgument(f"rotate {message.rotate} is not one of 0, 90, 180, 270")
    return Options(min_score, max_persons, message.rotate)


def poses_message(poses: Poses) -> pose_pb2.Poses:
    """Poses as a message."""
    return pose_pb2.Poses(
        persons=[_person_message(person) for person in poses.persons],
        width=poses.width,
        height=poses.height,
        timings=pose_pb2.Timings(**asdict(poses.timings)),
    )


def read_config(message: pose_pb2.StreamConfig) -> StreamConfig:
    """The config of a stream. Raises InvalidArgument."""
    if message.policy not in _POLICIES:
        raise InvalidArgument(f"unknown policy {message.policy}")
    return StreamConfig(
        options=read_options(message.options),
        policy=_POLICIES[message.policy],
        camera_id=message.camera_id,
        tracking=message.tracking,
        smoothing=message.smoothing,
        detect_every=message.detect_every or 1,
        skip_unchanged=message.skip_unchanged,
    )


def read_frame(message: pose_pb2.Frame) -> StreamFrame:
    """The frame of a message."""
    timestamp = message.timestamp if message.HasField("timestamp") else None
    return StreamFrame(message.frame_id, _read_picture(message), timestamp)


def answer_message(answer: Answer) -> pose_pb2.EstimateStreamResponse:
    """The answer to a frame as a message."""
    message = pose_pb2.EstimateStreamResponse(
        frame_id=answer.frame_id, counts=pose_pb2.Counts(**asdict(answer.counts)), time=answer.time
    )
    match answer.outcome:
        case Poses() as poses:
            message.poses.CopyFrom(poses_message(poses))
        case Dropped(reason):
            message.dropped.reason = reason
        case Failed(code, text):
            message.error.CopyFrom(pose_pb2.Error(code=code, message=text))
    return message


def _person_message(person: Person) -> pose_pb2.Person:
    x1, y1, x2, y2 = person.bbox
    return pose_pb2.Person(
        bbox=pose_pb2.BoundingBox(x1=x1, y1=y1, x2=x2, y2=y2),
        score=person.score,
        keypoints=[pose_pb2.Keypoint(x=x, y=y, score=score) for x, y, score in person.keypoints],
        track_id=person.track_id if isinstance(person, TrackedPerson) else None,
    )


def _read_picture(frame: pose_pb2.Frame) -> Picture:
    if frame.WhichOneof("picture") == "raw":
        raw = frame.raw
        return RawImage(raw.data, raw.width, raw.height, rgb=raw.order == pose_pb2.RawImage.RGB)
    return frame.image
