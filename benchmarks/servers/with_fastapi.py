"""Plain FastAPI: each request on a thread of Starlette's pool, no batches."""

import sys

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from benchmarks.servers.work import open_work

app = FastAPI()
work = open_work()


@app.post("/poses")
async def poses(request: Request) -> Response:
    (answer,) = await run_in_threadpool(work, [await request.body()])
    return Response(answer, media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning")
