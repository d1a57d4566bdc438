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


def main(arguments: list[str] | None = None, *, prog: str = "") -> None:
    """Run the command. Exits with a one-line message if it fails.

    prog: name of the command in its help text.
    """
    given = sys.argv[1:] if arguments is None else arguments
    try:
        if given[:1] == ["stream"]:
            _stream(given[1:], prog or "lgm-pose-client stream")
        else:
            _photos(given, prog or "lgm-pose-client")
    except (ServiceError, ValueError, OSError) as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None


def _photos(given: list[str], prog: str) -> None:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Writes the persons of photos to standard output as JSON.",
        epilog="`lgm-pose-client stream --help` describes cameras and videos.",
    )
    parser.add_argument(
        "photos", nargs="+", type=Path, metavar="PHOTO", help="image file, or folder of image files"
    )
    parser.add_argument("--url", default=URL, help="address of the service [%(default)s]")
    parser.add_argument(
        "--format",
        choices=("json", "coco"),
        default="json",
        help="json: an object for each photo; coco: a list of COCO results, whose image_id is the index of"
        " the photo [%(default)s]",
    )
    parser.add_argument(
        "--draw", type=Path, metavar="FOLDER", help="also write the photos with skeletons into FOLDER"
    )
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


def _stream(given: list[str], prog: str) -> None:
    chosen = _stream_parser(prog).parse_args(given)
    config = StreamConfig(
        _options(chosen),
        camera_id=chosen.camera_id,
        tracking=not chosen.no_tracking,
        smoothing=not (chosen.no_tracking or chosen.no_smoothing),
        detect_every=chosen.detect_every,
        skip_unchanged=chosen.skip_unchanged,
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


def _stream_parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description="Finds the persons of a camera or a video, and shows the rate and the latency."
    )
    parser.add_argument("source", help="number of a webcam, video file, rtsp:// URL, or folder of images")
    parser.add_argument(
        "--address",
        default=ADDRESS,
        help="gRPC address of the service; https://HOST:PORT uses TLS [%(default)s]",
    )
    parser.add_argument(
        "--policy",
        choices=[policy.value for policy in Policy],
        help="latest: a newer frame replaces a waiting one, and a video runs at its own speed; all:"
        " every frame is estimated, and a video runs as fast as possible"
        " [latest for cameras, all for files and folders]",
    )
    parser.add_argument("--no-tracking", action="store_true", help="do not give persons ids")
    parser.add_argument("--no-smoothing", action="store_true", help="do not smooth keypoints over time")
    parser.add_argument(
        "--detect-every",
        type=int,
        default=1,
        metavar="N",
        help="run the detector at least on one frame in N [1]",
    )
    parser.add_argument(
        "--skip-unchanged",
        action="store_true",
        help="do not run the networks on a frame that shows the same as an earlier one",
    )
    parser.add_argument("--out", type=Path, metavar="FILE.mp4", help="also write a video with skeletons")
    parser.add_argument(
        "--json", type=Path, metavar="FILE.jsonl", help="also write the answers, one JSON object a line"
    )
    parser.add_argument("--camera-id", default="", help="name of the stream in the log of the service")
    parser.add_argument(
        "--once",
        action="store_true",
        help="end when the camera is lost; without it the camera is opened again",
    )
    _add_common(parser)
    return parser


async def _until_stopped(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, or until SIGTERM or SIGHUP. Output files are closed before the exit."""
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
        "--min-score", type=float, default=default, help="minimum score of a person, in [0, 1] [%(default)s]"
    )
    parser.add_argument(
        "--rotate",
        type=int,
        choices=ROTATIONS,
        default=0,
        help="rotate images clockwise by these degrees; coordinates are those of the rotated image [0]",
    )
    parser.add_argument("--api-key", metavar="KEY", help="API key; the variable POSE_API_KEY is safer")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="CA of the service's certificate, PEM")
    parser.add_argument("--cert", type=Path, metavar="FILE", help="client certificate, PEM")
    parser.add_argument(
        "--cert-key", type=Path, metavar="FILE", help="private key of the client certificate, PEM"
    )


def _options(chosen: argparse.Namespace) -> Options:
    return Options(min_score=chosen.min_score, rotate=chosen.rotate)


def _credentials(chosen: argparse.Namespace) -> Credentials:
    key = chosen.api_key or os.environ.get("POSE_API_KEY", "")
    return Credentials(key, chosen.ca, chosen.cert, chosen.cert_key)


if __name__ == "__main__":
    main()
