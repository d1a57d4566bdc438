"""Exits with 0 if the service of this container is ready, else with 1."""

import http.client
import os
import sys


def status(port: int) -> int:
    """The status of /readyz, 0 without an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(status(int(os.environ["POSE_HTTP_PORT"])) != 200)
