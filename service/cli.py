"""The command `lgm-pose`, also `python -m service`."""

import argparse
import os
from collections.abc import Sequence

from service.config import describe_settings, read_settings


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a subcommand, by default `serve`; exits with its status."""
    parser = argparse.ArgumentParser(
        prog="lgm-pose",
        description="Pose estimation over REST and gRPC. Settings come from the environment:",
        epilog=describe_settings(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, text in (
        ("serve", "serve until SIGTERM or SIGINT (the default)"),
        ("doctor", "check the set-up and report errors"),
    ):
        commands.add_parser(name, help=text, description=text)
    for name, text in (
        ("estimate", "find the persons of photos"),
        ("stream", "find the persons of a camera or a video"),
    ):
        commands.add_parser(name, help=f"{text}, with a temporary service", add_help=False)
    commands.add_parser("adopt", help="convert a published ONNX network for the service", add_help=False)
    options, rest = parser.parse_known_args(arguments)
    if options.command in ("estimate", "stream"):
        from service.local import run_client

        return run_client(options.command, rest)
    if options.command == "adopt":
        raise SystemExit(_adopt(rest))
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if options.command == "doctor":
        from service.doctor import run_doctor

        raise SystemExit(run_doctor(read_settings()))
    settings = read_settings()
    _configure_opencv(settings.max_pixels)
    from service.server import serve

    serve(settings)


def _configure_opencv(max_pixels: int) -> None:
    """Set what OpenCV reads when it is imported."""
    os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(max_pixels)  # backs up the limit of service.core.image
    # otherwise its thread spins for 2 ms of a lone request, on a processor that others need
    os.environ.setdefault("OPENCV_THREAD_POOL_ACTIVE_WAIT_WORKER", "0")


def _adopt(arguments: Sequence[str]) -> int | str:
    """Run `adopt`, which needs the package onnx, and return its exit status."""
    try:
        from model.adopt.command import main
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        return "adopt needs the package onnx: pip install 'lgm-pose[adopt]'"
    main(arguments)
    return 0
