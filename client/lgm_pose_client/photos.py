"""Sends photos over REST, a few at a time."""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path

from tqdm.asyncio import tqdm

from lgm_pose_client.coco import CocoResult, coco_results
from lgm_pose_client.credentials import Credentials
from lgm_pose_client.drawing import draw_person
from lgm_pose_client.errors import ServiceError
from lgm_pose_client.http import AsyncHttpClient
from lgm_pose_client.outputs import drawn_paths
from lgm_pose_client.pictures import decode, encode
from lgm_pose_client.sources import pictures_of
from lgm_pose_client.types import Options, Poses, Skeleton

_AT_ONCE = 4


async def estimate_photos(
    given: Sequence[Path],
    url: str,
    options: Options,
    *,
    credentials: Credentials,
    coco: bool,
    folder: Path | None,
) -> bool:
    """Write the persons of each photo to standard output, and pictures of them into a folder.

    given: photos, and folders of photos. A photo that cannot be read or is refused is named on standard
    error, and False is returned. Raises ValueError if a picture would replace a photo, before any work;
    ServiceError when the service cannot be reached, once all answers are written.
    """
    photos = [photo for path in given for photo in (pictures_of(path) if path.is_dir() else [path])]
    drawn = drawn_paths(photos, folder) if folder is not None else None
    skeleton = await _skeleton(url, credentials) if drawn is not None else None
    results: list[CocoResult] = []
    failures: list[Exception] = []
    try:
        async with aclosing(_answers(photos, url, options, credentials)) as answers:
            progress = tqdm(answers, unit="photo", total=len(photos), disable=len(photos) < 2)
            async for index, answer in progress:
                try:
                    poses = await answer
                    if coco:
                        results += coco_results(index, poses)
                    else:
                        _print({"file": str(photos[index]), **asdict(poses)})
                    if drawn is not None and skeleton is not None:
                        await asyncio.to_thread(
                            _draw, photos[index], poses, skeleton, options.rotate, drawn[index]
                        )
                except (OSError, ValueError, ServiceError) as error:
                    failures.append(error)
                    if not _is_unreachable(error):
                        tqdm.write(f"{photos[index]}: {error}", file=sys.stderr)
    finally:
        if coco:
            _print(results)
    if gone := [error for error in failures if _is_unreachable(error)]:
        raise ServiceError("unreachable", f"{gone[0]}; {len(gone)} of {len(photos)} photos have no answer")
    return not failures


async def _answers(
    photos: Sequence[Path], url: str, options: Options, credentials: Credentials
) -> AsyncGenerator[tuple[int, asyncio.Task[Poses]], None]:
    """Index and answer of each photo, in order. Sends no further photo when the service is unreachable."""
    places = asyncio.Semaphore(_AT_ONCE)
    gone: list[ServiceError] = []

    async def estimate(photo: Path) -> Poses:
        async with places:
            if gone:
                raise gone[0]
            try:
                return await client.estimate(photo, options)
            except ServiceError as error:
                if _is_unreachable(error):
                    gone.append(error)
                raise

    async with AsyncHttpClient(url, credentials=credentials) as client:
        tasks = [asyncio.create_task(estimate(photo)) for photo in photos]
        try:
            for answer in enumerate(tasks):
                yield answer
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _skeleton(url: str, credentials: Credentials) -> Skeleton:
    async with AsyncHttpClient(url, credentials=credentials) as client:
        return await client.skeleton()


def _is_unreachable(error: Exception) -> bool:
    return isinstance(error, ServiceError) and error.code == "unreachable"


def _draw(photo: Path, poses: Poses, skeleton: Skeleton, rotate: int, path: Path) -> None:
    """Write the photo with the persons' skeletons. Raises OSError and ValueError."""
    image = decode(photo.read_bytes(), rotate)
    for person in poses.persons:
        draw_person(image, person, skeleton)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(image))


def _print(value: object) -> None:
    print(json.dumps(value, separators=(",", ":")), flush=True)
