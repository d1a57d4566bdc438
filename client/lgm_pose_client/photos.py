"""Many photos over REST, a few at a time."""

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from lgm_pose_client.coco import CocoResult, coco_results
from lgm_pose_client.credentials import Credentials
from lgm_pose_client.drawing import draw_person
from lgm_pose_client.errors import ServiceError
from lgm_pose_client.http import AsyncHttpClient
from lgm_pose_client.pictures import decode, encode
from lgm_pose_client.types import Options, Poses

_AT_ONCE = 4


async def estimate_photos(
    photos: Sequence[Path],
    url: str,
    options: Options,
    *,
    credentials: Credentials,
    coco: bool,
    folder: Path | None,
) -> bool:
    """Write the persons of each photo to standard output, and pictures of them into a folder.

    A photo that cannot be read or is refused is told on standard error, and False is returned. Raises
    ServiceError when the service cannot be reached.
    """
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    places = asyncio.Semaphore(_AT_ONCE)
    results: list[CocoResult] = []
    failed = 0
    async with AsyncHttpClient(url, credentials=credentials) as client:

        async def estimate(photo: Path) -> Poses:
            async with places:
                data = await asyncio.to_thread(photo.read_bytes)
                poses = await client.estimate(data, options)
                if folder is not None:
                    drawn = await asyncio.to_thread(_drawn, data, poses)
                    (folder / f"{photo.stem}.jpg").write_bytes(drawn)
                return poses

        work = [asyncio.create_task(estimate(photo)) for photo in photos]
        try:
            for index, photo in enumerate(tqdm(photos, unit="photo", disable=len(photos) < 2)):
                try:
                    poses = await work[index]
                except (OSError, ServiceError) as error:
                    if isinstance(error, ServiceError) and error.code == "unreachable":
                        raise
                    tqdm.write(f"{photo}: {error}", file=sys.stderr)
                    failed += 1
                    continue
                if coco:
                    results += coco_results(index, poses)
                else:
                    _print({"file": str(photo), **asdict(poses)})
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
    if coco:
        _print(results)
    return not failed


def _drawn(data: bytes, poses: Poses) -> bytes:
    image = decode(data)
    for person in poses.persons:
        draw_person(image, person)
    return encode(image)


def _print(value: object) -> None:
    print(json.dumps(value), flush=True)
