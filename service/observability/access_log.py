"""Records each request: one log line, metrics, and an id that is returned to the client.

Answered requests are recorded together, a tenth of a second later at most: a client that waited for its
answer sends the next request at once, which is read first, and several records take less time together.
"""

import asyncio
import logging
import re
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter, time

from grpc import StatusCode

from service.errors import Abandoned, InferenceFailed, PoseError
from service.observability.logs import log_time
from service.observability.metrics import IMAGES, IN_FLIGHT, PERSONS, REQUEST_SECONDS, REQUESTS, STAGE_SECONDS
from service.observability.tracing import describe_span, request_span
from service.security.client import CLIENT
from service.types import Poses

logger = logging.getLogger(__name__)
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_STAGES = ("decode", "queue", "detect", "pose", "other")
_SECONDS_OF = {stage: STAGE_SECONDS.labels(stage) for stage in (*_STAGES, "receive")}
_SERVED = ("200", "OK")
_DELAY_S = 0.1
_MOST = 32  # requests that are recorded at once, in about 2 ms
_answered: deque[Callable[[], None]] = deque()  # what records the requests that are not recorded yet
_OUR_FAULTS = ("INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN")


@dataclass(slots=True)
class Access:
    """The current request, with its status and results.

    since: the time when its input was complete, before that its start, in seconds of `perf_counter`.
    receive: the seconds in which its input arrived, which are not part of its latency.
    """

    request_id: str
    code: str
    poses: Sequence[Poses] = ()
    since: float = field(default_factory=perf_counter)
    receive: float | None = None

    def receipt_ended(self) -> None:
        """The input is complete: the latency starts now."""
        now = perf_counter()
        self.receive, self.since = (self.receive or 0) + now - self.since, now


def request_id(given: str | None) -> str:
    """The client's id if it is valid, else a new one."""
    return given if given and _ID.fullmatch(given) else uuid.uuid4().hex


def named_client() -> dict[str, str]:
    """The name of the client's key, for log lines."""
    client = CLIENT.get()
    return {"key": client.name} if client else {}


@contextmanager
def observed(
    api: str, ident: str, *, code: str, level: int = logging.INFO, since: float | None = None
) -> Iterator[Access]:
    """Measures, counts and logs a request of this event loop; code: its status if the answer sets no other.

    since: its start in seconds of `perf_counter`, by default now.
    """
    access = Access(ident, code) if since is None else Access(ident, code, since=since)
    IN_FLIGHT.labels(api).inc()
    with request_span(api, access.since) as trace_id:
        try:
            yield access
        finally:
            IN_FLIGHT.labels(api).dec()
            seconds = perf_counter() - access.since
            _describe(access)
            _record_later(partial(_record, api, access, time(), seconds, level, trace_id, named_client()))


def _record_later(record: Callable[[], None]) -> None:
    if not _answered:
        asyncio.get_running_loop().call_later(_DELAY_S, record_answered)
    _answered.append(record)
    if len(_answered) >= _MOST:
        record_answered()


def record_answered() -> None:
    """Record the requests that were just answered; to be called before metrics are read, and at the end."""
    while _answered:
        _answered.popleft()()


@contextmanager
def observed_call(
    api: str, ident: str, *, level: int = logging.INFO, since: float | None = None
) -> Iterator[Access]:
    """Like `observed`, with the names of gRPC's codes as status.

    Raises only PoseError: unexpected exceptions are logged and become InferenceFailed.
    """
    with observed(api, ident, code=StatusCode.CANCELLED.name, level=level, since=since) as access:
        try:
            yield access
        except PoseError as error:
            access.code = error.grpc_status.name
            raise
        except Exception as error:
            logger.exception("request failed", extra={"request_id": ident})
            access.code = StatusCode.INTERNAL.name
            raise InferenceFailed("the service failed; search its log for the request id") from error
        access.code = StatusCode.OK.name


@dataclass(slots=True)
class Opening:
    """A stream that is being opened. done: it is open, and its frames are recorded."""

    done: bool = False


@contextmanager
def observed_opening(api: str, ident: str) -> Iterator[Opening]:
    """Records the failure of a stream that is not opened, unless its client disconnected. Raises it again."""
    opening = Opening()
    try:
        yield opening
    except PoseError as error:
        if not (opening.done or isinstance(error, Abandoned)):
            with observed(api, ident, code=error.grpc_status.name):
                pass
        raise


def _describe(access: Access) -> None:
    ours = access.code.startswith("5") or access.code in _OUR_FAULTS
    describe_span(failed=ours, request_id=access.request_id, code=access.code, persons=_persons(access))


def _persons(access: Access) -> int:
    return sum(len(poses.persons) for poses in access.poses)


def _record(
    api: str,
    access: Access,
    moment: float,
    seconds: float,
    level: int,
    trace_id: str,
    client: Mapping[str, str],
) -> None:
    REQUESTS.labels(api, access.code).inc()
    if access.code in _SERVED:  # an invalid or refused request is answered at once
        REQUEST_SECONDS.labels(api).observe(seconds, {"trace_id": trace_id})
    persons = _persons(access)
    PERSONS.inc(persons)
    IMAGES.inc(len(access.poses))
    stages = {stage: [getattr(poses.timings, stage) for poses in access.poses] for stage in _STAGES}
    for stage, values in stages.items():
        for value in values:
            _SECONDS_OF[stage].observe(value)
    if access.receive is not None:
        _SECONDS_OF["receive"].observe(access.receive)
    logger.log(
        level,
        "request",
        extra={
            "time": log_time(moment),
            "request_id": access.request_id,
            "trace_id": trace_id,
            "api": api,
            **client,
            "code": access.code,
            "seconds": round(seconds, 6),
            "images": len(access.poses),
            "persons": persons,
            **({} if access.receive is None else {"receive": round(access.receive, 6)}),
            **{stage: max(values) for stage, values in stages.items() if values},
        },
    )
