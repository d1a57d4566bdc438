"""The command `lgm-pose`, also `python -m service`."""

import argparse
from collections.abc import Sequence

from service.config import describe_settings, read_settings


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a subcommand, `serve` where none is given; exits with its status."""
    parser = argparse.ArgumentParser(
        prog="lgm-pose",
        description="Pose estimation over REST and gRPC. Settings come from the environment:",
        epilog=describe_settings(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("serve", help="serve until SIGTERM or SIGINT (the default)")
    commands.add_parser("doctor", help="check the set-up and say what is wrong with it")
    options = parser.parse_args(arguments)
    if options.command == "doctor":
        from service.doctor import run_doctor

        raise SystemExit(run_doctor(read_settings()))
    from service.server import serve

    serve(read_settings())
