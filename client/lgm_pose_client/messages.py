"""The messages of proto/pose.proto: requests are made, answers are read."""

from lgm_pose_client.frames import Answer, Counts, Dropped, Failed, Outcome, Policy, StreamConfig, StreamFrame
from lgm_pose_client.pb import pose_pb2
from lgm_pose_client.pictures import encoded
from lgm_pose_client.types import Options, Person, Poses, RawImage, Skeleton, Timings, TrackedPerson

_POLICIES = {Policy.LATEST: pose_pb2.POLICY_LATEST, Policy.ALL: pose_pb2.POLICY_ALL}


def estimate_message(image: bytes, options: Options) -> pose_pb2.EstimateRequest:
    """The request for the persons of an encoded image."""
    return pose_pb2.EstimateRequest(image=image, options=_options_message(options))


def config_message(config: StreamConfig) -> pose_pb2.EstimateStreamRequest:
    """The first message of a stream."""
    return pose_pb2.EstimateStreamRequest(
        config=pose_pb2.StreamConfig(
            options=_options_message(config.options),
            camera_id=config.camera_id,
            policy=_POLICIES[config.policy],
            tracking=config.tracking,
            smoothing=config.smoothing,
            detect_every=config.detect_every,
            skip_unchanged=config.skip_unchanged,
        )
    )


def frame_message(frame: StreamFrame) -> pose_pb2.EstimateStreamRequest:
    """A frame as a message of a stream. Raises OSError and ValueError for a picture that cannot be read."""
    message = pose_pb2.Frame(frame_id=frame.frame_id, timestamp=frame.timestamp)
    if isinstance(frame.picture, RawImage):
        raw = frame.picture
        order = pose_pb2.RawImage.RGB if raw.rgb else pose_pb2.RawImage.BGR
        message.raw.CopyFrom(
            pose_pb2.RawImage(data=bytes(raw.data), width=raw.width, height=raw.height, order=order)
        )
    else:
        message.image = encoded(frame.picture)
    return pose_pb2.EstimateStreamRequest(frame=message)


def read_poses(message: pose_pb2.Poses) -> Poses:
    """Poses of a message."""
    times = message.timings
    return Poses(
        width=message.width,
        height=message.height,
        persons=tuple(_read_person(person) for person in message.persons),
        timings=Timings(times.decode, times.queue, times.detect, times.pose, times.other),
    )


def read_skeleton(message: pose_pb2.Skeleton) -> Skeleton:
    """A skeleton of a message."""
    return Skeleton(tuple(message.names), tuple((edge.first, edge.second) for edge in message.edges))


def read_answer(message: pose_pb2.EstimateStreamResponse) -> Answer:
    """The answer to a frame of a message."""
    counts = message.counts
    outcome: Outcome
    match message.WhichOneof("answer"):
        case "poses":
            outcome = read_poses(message.poses)
        case "dropped":
            outcome = Dropped(message.dropped.reason)
        case _:
            outcome = Failed(message.error.code, message.error.message)
    return Answer(
        message.frame_id,
        outcome,
        Counts(counts.received, counts.poses, counts.dropped, counts.errors),
        message.time if message.HasField("time") else None,
    )


def _options_message(options: Options) -> pose_pb2.Options:
    return pose_pb2.Options(
        min_score=options.min_score, max_persons=options.max_persons, rotate=options.rotate
    )


def _read_person(message: pose_pb2.Person) -> Person:
    box = message.bbox
    bbox = box.x1, box.y1, box.x2, box.y2
    keypoints = tuple((point.x, point.y, point.score) for point in message.keypoints)
    if message.HasField("track_id"):
        return TrackedPerson(bbox, message.score, keypoints, message.track_id)
    return Person(bbox, message.score, keypoints)
