"""Many photos over REST, a few at a time."""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import orjson
from tqdm import tqdm

from service.client.credentials import Credentials
from service.client.errors import ServiceError
from service.client.http import AsyncHttpClient
from service.core.coco import CocoResult, coco_results
from service.core.drawing import draw
from service.types import Options, Poses

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
                    drawn = await asyncio.to_thread(draw, data, poses.persons)
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
                    results += [replace(each, image_id=index) for each in coco_results([poses])]
                else:
                    _print({"file": str(photo), **asdict(poses)})
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
    if coco:
        _print(results)
    return not failed


def _print(value: object) -> None:
    print(orjson.dumps(value).decode(), flush=True)
