"""Counts the squats of each person in front of a camera: python examples/squats.py SOURCE [ADDRESS]

SOURCE: a webcam's number, a video file, an rtsp:// URL or a folder of pictures.
"""

import asyncio
import math
import sys
from collections import defaultdict

from lgm_pose_client import AsyncGrpcClient, Person, Poses, StreamConfig, TrackedPerson
from lgm_pose_client.sources import open_source

LEGS = (11, 13, 15), (12, 14, 16)  # hip, knee, ankle in COCO's order
STANDING, SQUATTING = 155, 110  # degrees at the knee; between the two the state does not change


def knee_angle(person: Person, min_score: float = 0.3) -> float | None:
    """Degrees at the straighter knee, because a squat bends both; None if no leg is visible."""
    angles = []
    for leg in LEGS:
        (hip_x, hip_y, a), (x, y, b), (ankle_x, ankle_y, c) = (person.keypoints[joint] for joint in leg)
        if min(a, b, c) >= min_score:
            thigh, shin = math.atan2(hip_y - y, hip_x - x), math.atan2(ankle_y - y, ankle_x - x)
            angle = abs(math.degrees(thigh - shin))
            angles.append(min(angle, 360 - angle))
    return max(angles, default=None)


async def main(name: str, address: str = "127.0.0.1:50051") -> None:
    down: dict[int, bool] = defaultdict(bool)
    squats: dict[int, int] = defaultdict(int)
    source = open_source(name, report=print)
    config = StreamConfig(policy=source.policy, tracking=True, smoothing=True)
    async with AsyncGrpcClient(address) as client:
        async for answer in client.stream(source.stream(), config):
            persons = answer.outcome.persons if isinstance(answer.outcome, Poses) else ()
            for person in persons:
                angle = knee_angle(person)
                if angle is None or not isinstance(person, TrackedPerson):
                    continue
                if down[person.track_id] and angle > STANDING:
                    squats[person.track_id] += 1
                    print(f"person {person.track_id}: {squats[person.track_id]}", flush=True)
                down[person.track_id] = angle < (STANDING if down[person.track_id] else SQUATTING)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
