"""`python -m service.client`: photos over REST; with `stream`, cameras and videos over gRPC."""

import argparse
import asyncio
import sys
from pathlib import Path

from service.client.errors import ServiceError
from service.client.grpc import ADDRESS
from service.client.http import URL
from service.client.live import run_stream
from service.client.photos import estimate_photos
from service.errors import PoseError
from service.frames import Policy, StreamConfig
from service.types import Options


def main(arguments: list[str] | None = None) -> None:
    """Run the command. Exits with one line when it cannot be done."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        if given[:1] == ["stream"]:
            _stream(given[1:])
        else:
            _photos(given)
    except (ServiceError, PoseError, ValueError, OSError) as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _photos(given: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m service.client",
        description="The persons of photos, as JSON on standard output.",
        epilog="`python -m service.client stream --help` tells of cameras and videos.",
    )
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO", help="JPEG, PNG or WebP files")
    parser.add_argument("--url", default=URL, help="the service's address [%(default)s]")
    parser.add_argument(
        "--format",
        choices=("json", "coco"),
        default="json",
        help="json: one object a photo; coco: one list of COCO results, image_id = index [%(default)s]",
    )
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="write pictures with skeletons there")
    _add_min_score(parser)
    chosen = parser.parse_args(given)
    options = Options(min_score=chosen.min_score)
    coco = chosen.format == "coco"
    if not asyncio.run(estimate_photos(chosen.photos, chosen.url, options, coco=coco, folder=chosen.draw)):
        raise SystemExit(1)


def _stream(given: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m service.client stream", description="The persons of a camera or a video, live."
    )
    parser.add_argument("source", help="webcam's number, video file, rtsp:// URL or folder of pictures")
    parser.add_argument("--address", default=ADDRESS, help="the service's gRPC address [%(default)s]")
    parser.add_argument(
        "--policy",
        choices=[policy.value for policy in Policy],
        default=Policy.LATEST.value,
        help="latest: frames that wait are dropped for newer ones, videos run at their own pace;"
        " all: every frame is answered, videos run as fast as they can [%(default)s]",
    )
    parser.add_argument("--no-tracking", action="store_true", help="persons get no ids")
    parser.add_argument("--no-smoothing", action="store_true", help="keypoints as they were found")
    parser.add_argument(
        "--detect-every", type=int, default=1, metavar="N", help="run the detector on one frame in N [1]"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.mp4", help="write an annotated video there")
    parser.add_argument("--json", type=Path, metavar="FILE.jsonl", help="write answers there, one a line")
    parser.add_argument("--camera-id", default="", help="the stream's name in the service's log")
    _add_min_score(parser)
    chosen = parser.parse_args(given)
    config = StreamConfig(
        Options(min_score=chosen.min_score),
        Policy(chosen.policy),
        camera_id=chosen.camera_id,
        tracking=not chosen.no_tracking,
        smoothing=not (chosen.no_tracking or chosen.no_smoothing),
        detect_every=chosen.detect_every,
    )
    asyncio.run(run_stream(chosen.source, chosen.address, config, video=chosen.out, lines=chosen.json))


def _add_min_score(parser: argparse.ArgumentParser) -> None:
    default = Options().min_score
    parser.add_argument(
        "--min-score", type=float, default=default, help="leave out persons below it [%(default)s]"
    )


if __name__ == "__main__":
    main()
