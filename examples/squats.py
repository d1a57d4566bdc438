"""Counts squats, of each person in front of a camera: python examples/squats.py SOURCE [ADDRESS]

SOURCE: a webcam's number, a video file, an rtsp:// URL or a folder of pictures.
"""

import asyncio
import sys
from collections import defaultdict

import numpy as np

from lgm_pose_client import AsyncGrpcClient
from lgm_pose_client.frames import StreamConfig
from lgm_pose_client.sources import open_source, paced
from lgm_pose_client.types import Person, Poses, TrackedPerson

LEGS = (11, 13, 15), (12, 14, 16)  # hip, knee, ankle in COCO's order
STANDING, SQUATTING = 155, 110  # degrees at the knee; between them nothing changes


def knee_angle(person: Person, least_score: float = 0.3) -> float | None:
    """Degrees at the straighter knee, as a squat bends both; None where no leg is seen."""
    angles = []
    for leg in LEGS:
        hip, knee, ankle = (np.array(person.keypoints[joint]) for joint in leg)
        if min(hip[2], knee[2], ankle[2]) >= least_score:
            thigh, shin = (hip - knee)[:2], (ankle - knee)[:2]
            cosine = thigh @ shin / max(np.linalg.norm(thigh) * np.linalg.norm(shin), 1e-6)
            angles.append(float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))))
    return max(angles, default=None)


async def main(source: str, address: str = "127.0.0.1:50051") -> None:
    down: dict[int, bool] = defaultdict(bool)
    squats: dict[int, int] = defaultdict(int)
    config = StreamConfig(tracking=True, smoothing=True)
    async with AsyncGrpcClient(address) as client:
        async for answer in client.stream(paced(open_source(source)), config):
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
