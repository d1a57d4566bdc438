"""BentoML: one service with one thread for each processor; batches would need a second process."""

import os
import sys
from pathlib import Path
from typing import Annotated

import bentoml
from bentoml.validators import ContentType

from benchmarks.servers.work import open_work
from service.inference.cpu import available_cpus


@bentoml.service(workers=1, threads=available_cpus(), traffic={"timeout": 120})
class Poses:
    def __init__(self) -> None:
        self.work = open_work()

    @bentoml.api
    def poses(self, image: Annotated[Path, ContentType("image/jpeg")]) -> str:
        (answer,) = self.work([image.read_bytes()])
        return answer.decode()


if __name__ == "__main__":
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    target = "benchmarks.servers.with_bentoml:Poses"
    where = ["--host", "127.0.0.1", "--port", sys.argv[1]]
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", "serve", target, *where])
