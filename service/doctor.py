"""`lgm-pose doctor`: checks the set-up and reports errors."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Literal

import numpy as np

from service.config import Settings
from service.errors import ArtefactError, ConfigError
from service.inference.cpu import available_cpus
from service.inference.pipeline import open_pipeline
from service.inference.runtime import Files
from service.ports import check_port
from service.security.credentials import Security
from service.types import InferenceInput, Model, Options

Verdict = Literal["ok", "warning", "error"]
_OPENCV = (
    "opencv-python",
    "opencv-contrib-python",
    "opencv-python-headless",
    "opencv-contrib-python-headless",
)
_SPARE_FILES = 64  # libraries, logs, temporary files


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: a verdict and a sentence, which says what to do if necessary."""

    verdict: Verdict
    text: str


def diagnose(settings: Settings) -> Iterator[Finding]:
    """The findings of all checks in the order of start-up. Checks change nothing."""
    for check in _CHECKS:
        yield from check(settings)


def run_doctor(settings: Settings) -> int:
    """Print the findings and return the exit status: 1 if one of them is an error."""
    findings = []
    for finding in diagnose(settings):
        findings.append(finding)
        print(f"{finding.verdict:<8} {finding.text}", flush=True)
    errors = sum(each.verdict == "error" for each in findings)
    print(f"\n{errors} errors, {sum(each.verdict == 'warning' for each in findings)} warnings")
    return int(errors > 0)


def _python(settings: Settings) -> Iterator[Finding]:
    yield Finding("ok", f"Python {sys.version.split()[0]}, lgm-pose {version('lgm-pose')}")


def _packages(settings: Settings) -> Iterator[Finding]:
    opencvs = [name for name in _OPENCV if _installed(name)]
    if len(opencvs) > 1:
        text = (
            f"{' and '.join(opencvs)} overwrite each other's files: uninstall all but one, then reinstall it"
        )
        yield Finding("warning", text)
    if find_spec("av") is None:
        yield Finding(
            "warning", "PyAV is not installed: POST /v1/videos is refused (pip install 'lgm-pose[video]')"
        )
    else:
        yield Finding("ok", f"PyAV {version('av')}: video files are supported")


def _processors(settings: Settings) -> Iterator[Finding]:
    cpus = available_cpus()
    threads = settings.threads or cpus
    text = f"{cpus} processors by affinity and quota, {threads} inference threads"
    if threads > cpus:
        yield Finding("warning", f"{text}: set POSE_THREADS to {cpus} or 0")
    else:
        yield Finding("ok", text)


def _open_files(settings: Settings) -> Iterator[Finding]:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * settings.max_connections + _SPARE_FILES  # the same number over gRPC
    if soft != resource.RLIM_INFINITY and soft < needed:
        text = f"{soft} open files are too few for POSE_MAX_CONNECTIONS={settings.max_connections}"
        yield Finding("warning", f"{text}: run `ulimit -n {needed}` first")
    else:
        yield Finding("ok", f"{soft} open files allowed")


def _ports(settings: Settings) -> Iterator[Finding]:
    for name, port in (("POSE_HTTP_PORT", settings.http_port), ("POSE_GRPC_PORT", settings.grpc_port)):
        try:
            check_port(name, settings.host, port)
        except SystemExit as error:
            yield Finding("error", str(error))
        else:
            yield Finding("ok", f"{name}: {settings.host} port {port} is free")


def _temporary_folder(settings: Settings) -> Iterator[Finding]:
    try:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        yield Finding("warning", f"no temporary folder is writable, video uploads fail: {error.strerror}")
        return
    if free < settings.max_video_bytes:
        text = f"{folder} has {free >> 20} MiB left, less than the largest video"
        yield Finding("warning", f"{text}: POSE_MAX_VIDEO_BYTES={settings.max_video_bytes}")
    else:
        yield Finding("ok", f"{folder} has {free >> 20} MiB left for video uploads")


def _credentials(settings: Settings) -> Iterator[Finding]:
    try:
        security = Security(settings)
    except ConfigError as error:
        yield Finding("error", str(error))
        return
    keys = "API keys are required" if security.keys else "no API keys: every client is served"
    yield Finding("ok", f"{keys}; {'TLS' if security.tls else 'no TLS'}")


def _networks(settings: Settings) -> Iterator[Finding]:
    files = Files.of(settings.weights, settings.detector, settings.pose)
    start = perf_counter()
    try:
        pipeline = open_pipeline(
            files, threads=settings.threads or available_cpus(), runtime=settings.runtime
        )
    except ArtefactError as error:
        yield Finding("error", str(error))
        return
    opened = perf_counter()
    pipeline.run([InferenceInput(np.zeros((480, 640, 3), np.uint8), Options())])
    seconds = f"opened in {opened - start:.1f} s, an empty picture takes {perf_counter() - opened:.3f} s"
    models = pipeline.models
    where = f"{_described(models.detector, files.detector)} and {_described(models.pose, files.pose)}"
    yield Finding("ok", f"{where}: {seconds}")
    pipeline.close()


def _described(model: Model, file: Path) -> str:
    return f"{model.name} ({file}, {model.precision} in {model.runtime})"


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


_CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _python,
    _packages,
    _processors,
    *((_open_files,) if os.name == "posix" else ()),
    _ports,
    _temporary_folder,
    _credentials,
    _networks,
)
