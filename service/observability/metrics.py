"""Every Prometheus metric. No label has values that a client can choose."""

from prometheus_client import (
    PROCESS_COLLECTOR,
    REGISTRY,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
)

from service.observability.process_metrics import ProcessesCollector

disable_created_metrics()
REGISTRY.unregister(PROCESS_COLLECTOR)
REGISTRY.register(ProcessesCollector())

_SECONDS = tuple(0.001 * 2**power for power in range(14))
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)

REQUESTS = Counter("pose_requests", "Requests and stream frames answered", ("api", "code"))
REQUEST_SECONDS = Histogram(
    "pose_request_seconds", "From the end of the input to the poses", ("api",), buckets=_SECONDS
)
STAGE_SECONDS = Histogram("pose_stage_seconds", "Time of an image in a stage", ("stage",), buckets=_SECONDS)
IN_FLIGHT = Gauge("pose_in_flight", "Requests and stream frames not yet answered", ("api",))
STREAMS = Gauge("pose_streams_open", "Streams open", ("api",))
STREAM_FRAMES = Counter("pose_stream_frames", "Stream frames by outcome", ("policy", "outcome"))
QUEUE_DEPTH = Gauge("pose_queue_depth", "Images that wait for their turn")
BATCH_IMAGES = Histogram("pose_batch_images", "Images in a batch", buckets=_COUNTS)
BATCH_CROPS = Histogram("pose_batch_crops", "Person crops in a batch", buckets=(0, *_COUNTS, 256, 512))
IMAGES = Counter("pose_images", "Images answered")
PERSONS = Counter("pose_persons", "Persons in answers")
MODEL_RELOADS = Counter("pose_model_reloads", "New networks, loaded or rejected", ("outcome",))
WORKER_RESTARTS = Counter("pose_worker_restarts", "Attempts to restart the worker")
MODEL = Info("pose_model", "The loaded network", ("task",))
