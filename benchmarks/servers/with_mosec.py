"""mosec: batches in a worker process, behind a server in Rust."""

import sys
from typing import Any

from mosec import Server, Worker

from benchmarks.servers.work import MAX_BATCH, open_work


class Poses(Worker):
    resp_mime_type = "application/json"

    def __init__(self) -> None:
        super().__init__()
        self.work = open_work()

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: list[bytes]) -> list[bytes]:
        return self.work(data)

    def serialize(self, data: Any) -> bytes:
        answer: bytes = data
        return answer


if __name__ == "__main__":
    address = ["--address", "127.0.0.1", "--port", sys.argv[1]]
    sys.argv[1:] = [*address, "--timeout", "120000", "--log-level", "warning"]
    server = Server()
    server.append_worker(Poses, num=1, max_batch_size=MAX_BATCH, max_wait_time=1)  # ms: 0 would mean 10
    server.run()
