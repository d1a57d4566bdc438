"""Tells when a person lies for two seconds: python examples/fall_alert.py SOURCE [ADDRESS]

SOURCE: a webcam's number, a video file, an rtsp:// URL or a folder of pictures. No medical device.
"""

import asyncio
import sys
import time

import numpy as np

from lgm_pose_client import AsyncGrpcClient
from lgm_pose_client.frames import StreamConfig
from lgm_pose_client.sources import open_source, paced
from lgm_pose_client.types import Person, Poses, TrackedPerson

SECONDS = 2.0


def lies(person: Person, least_score: float = 0.3) -> bool:
    """Whether the joints that are seen spread wider than they are high."""
    joints = np.array(person.keypoints)
    seen = joints[joints[:, 2] >= least_score, :2]
    if len(seen) < 6:
        return False
    width, height = np.ptp(seen, axis=0)
    return bool(width > 1.2 * height)


async def main(source: str, address: str = "127.0.0.1:50051") -> None:
    since: dict[int, float] = {}
    told: set[int] = set()
    async with AsyncGrpcClient(address) as client:
        async for answer in client.stream(paced(open_source(source)), StreamConfig(tracking=True)):
            persons = answer.outcome.persons if isinstance(answer.outcome, Poses) else ()
            for person in persons:
                if not isinstance(person, TrackedPerson):
                    continue
                ident, now = person.track_id, time.monotonic()
                if not lies(person):
                    since.pop(ident, None)
                    told.discard(ident)
                elif now - since.setdefault(ident, now) > SECONDS and ident not in told:
                    told.add(ident)
                    print(f"person {ident} lies since {SECONDS:g} s (frame {answer.frame_id})", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
