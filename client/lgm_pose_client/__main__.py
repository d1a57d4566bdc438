"""The command `lgm-pose-client`: photos over REST; with `stream`, cameras and videos over gRPC."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from lgm_pose_client.credentials import Credentials
from lgm_pose_client.errors import ServiceError
from lgm_pose_client.frames import Policy, StreamConfig
from lgm_pose_client.grpc import ADDRESS
from lgm_pose_client.http import URL
from lgm_pose_client.live import run_stream
from lgm_pose_client.photos import estimate_photos
from lgm_pose_client.types import ROTATIONS, Options

T = TypeVar("T")


def main(arguments: list[str] | None = None) -> None:
    """Run the command. Exits with one line when it cannot be done."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        if given[:1] == ["stream"]:
            _stream(given[1:])
        else:
            _photos(given)
    except (ServiceError, ValueError, OSError) as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None


def _photos(given: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="lgm-pose-client",
        description="The persons of photos, as JSON on standard output.",
        epilog="`lgm-pose-client stream --help` describes cameras and videos.",
    )
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO", help="image files, folders of them")
    parser.add_argument("--url", default=URL, help="the service's address [%(default)s]")
    parser.add_argument(
        "--format",
        choices=("json", "coco"),
        default="json",
        help="json: one object a photo; coco: one list of COCO results, image_id = index [%(default)s]",
    )
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="write pictures with skeletons there")
    _add_common(parser)
    chosen = parser.parse_args(given)
    work = estimate_photos(
        chosen.photos,
        chosen.url,
        _options(chosen),
        credentials=_credentials(chosen),
        coco=chosen.format == "coco",
        folder=chosen.draw,
    )
    if not asyncio.run(_until_stopped(work)):
        raise SystemExit(1)


def _stream(given: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="lgm-pose-client stream", description="The persons of a camera or a video, live."
    )
    parser.add_argument("source", help="webcam's number, video file, rtsp:// URL or folder of pictures")
    parser.add_argument(
        "--address",
        default=ADDRESS,
        help="the service's gRPC address; https:// before it: TLS [%(default)s]",
    )
    parser.add_argument(
        "--policy",
        choices=[policy.value for policy in Policy],
        help="latest: frames that wait are dropped for newer ones, videos run at their own pace;"
        " all: every frame is answered, videos run as fast as they can [latest for cameras, all for others]",
    )
    parser.add_argument("--no-tracking", action="store_true", help="persons get no ids")
    parser.add_argument("--no-smoothing", action="store_true", help="keypoints as they were found")
    parser.add_argument(
        "--detect-every", type=int, default=1, metavar="N", help="run the detector on one frame in N [1]"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.mp4", help="write an annotated video there")
    parser.add_argument("--json", type=Path, metavar="FILE.jsonl", help="write answers there, one a line")
    parser.add_argument("--camera-id", default="", help="the stream's name in the service's log")
    parser.add_argument("--once", action="store_true", help="end when the camera is lost")
    _add_common(parser)
    chosen = parser.parse_args(given)
    config = StreamConfig(
        _options(chosen),
        camera_id=chosen.camera_id,
        tracking=not chosen.no_tracking,
        smoothing=not (chosen.no_tracking or chosen.no_smoothing),
        detect_every=chosen.detect_every,
    )
    work = run_stream(
        chosen.source,
        chosen.address,
        config,
        Policy(chosen.policy) if chosen.policy else None,
        credentials=_credentials(chosen),
        once=chosen.once,
        video=chosen.out,
        lines=chosen.json,
    )
    asyncio.run(_until_stopped(work))


async def _until_stopped(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, or until SIGTERM or SIGHUP: files that are written are closed before the exit."""
    task = asyncio.ensure_future(work)
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        received.append(number)
        task.cancel()

    if sys.platform != "win32":
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
                asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if received:
            raise SystemExit(128 + received[0]) from None
        raise


def _add_common(parser: argparse.ArgumentParser) -> None:
    default = Options().min_score
    parser.add_argument(
        "--min-score", type=float, default=default, help="leave out persons below it [%(default)s]"
    )
    parser.add_argument(
        "--rotate",
        type=int,
        choices=ROTATIONS,
        default=0,
        help="turn pictures by these degrees, clockwise; coordinates are those of the turned picture [0]",
    )
    parser.add_argument("--api-key", metavar="KEY", help="the key to show, better given as POSE_API_KEY")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="who signed the service's certificate, PEM")
    parser.add_argument("--cert", type=Path, metavar="FILE", help="the certificate to show, PEM")
    parser.add_argument("--cert-key", type=Path, metavar="FILE", help="its private key, PEM")


def _options(chosen: argparse.Namespace) -> Options:
    return Options(min_score=chosen.min_score, rotate=chosen.rotate)


def _credentials(chosen: argparse.Namespace) -> Credentials:
    key = chosen.api_key or os.environ.get("POSE_API_KEY", "")
    return Credentials(key, chosen.ca, chosen.cert, chosen.cert_key)


if __name__ == "__main__":
    main()
