"""Exit status 0 when the service of this container takes work, 1 when it does not."""

import http.client
import os
import sys


def status(port: int) -> int:
    """The answer of /readyz, 0 where there is none."""
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
