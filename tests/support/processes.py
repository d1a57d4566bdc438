"""Commands of processes that need a preparation before they start."""

import sys


def prepared(preparation: str, *command: object) -> list[str]:
    """The interpreter with the arguments of `command`, in a process that runs some Python lines first.

    This is instead of `preexec_fn`, which forks the test process: where it has gRPC channels, the fork
    handlers of gRPC can abort the child.
    """
    start = "import os, sys; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    return [sys.executable, "-c", f"{preparation}\n{start}", *map(str, command)]
