"""Reports when a person has been lying for two seconds: python examples/fall_alert.py SOURCE [ADDRESS]

SOURCE: a webcam's number, a video file, an rtsp:// URL or a folder of pictures. Not a medical device.
"""

import asyncio
import sys

from lgm_pose_client import AsyncGrpcClient, Person, Poses, StreamConfig, TrackedPerson
from lgm_pose_client.sources import open_source

SECONDS = 2.0


def lies(person: Person, min_score: float = 0.3) -> bool:
    """Whether the visible joints span more width than height."""
    seen = [(x, y) for x, y, score in person.keypoints if score >= min_score]
    if len(seen) < 6:
        return False
    width, height = (max(axis) - min(axis) for axis in zip(*seen, strict=True))
    return width > 1.2 * height


async def main(name: str, address: str = "127.0.0.1:50051") -> None:
    since: dict[int, float] = {}
    reported: set[int] = set()
    source = open_source(name, report=print)
    config = StreamConfig(policy=source.policy, tracking=True)
    async with AsyncGrpcClient(address) as client:
        async for answer in client.stream(source.stream(), config):
            persons = answer.outcome.persons if isinstance(answer.outcome, Poses) else ()
            now = answer.time or 0.0
            for person in persons:
                if not isinstance(person, TrackedPerson):
                    continue
                ident = person.track_id
                if not lies(person):
                    since.pop(ident, None)
                    reported.discard(ident)
                elif now - since.setdefault(ident, now) > SECONDS and ident not in reported:
                    reported.add(ident)
                    print(
                        f"person {ident} has been down for {SECONDS:g} s (frame {answer.frame_id})",
                        flush=True,
                    )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
