"""LitServe: batches in a separate process."""

import sys

import litserve
from fastapi import Request, Response

from benchmarks.servers.work import MAX_BATCH, open_work


class Poses(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.work = open_work()

    def decode_request(self, request: Request) -> bytes:  # the annotation makes it a form
        image: bytes = request["image"].file.read()
        return image

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return inputs

    def predict(self, images: list[bytes]) -> list[bytes]:
        return self.work(images)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> Response:
        return Response(output, media_type="application/json")


if __name__ == "__main__":
    server = litserve.LitServer(
        Poses(max_batch_size=MAX_BATCH, batch_timeout=0), accelerator="cpu", workers_per_device=1, timeout=120
    )
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
