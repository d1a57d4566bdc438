"""Settings of the service, from the environment."""

import difflib
import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

_PREFIX = "POSE_"
_WEIGHTS = Path(__file__).parents[1] / "model" / "weights"
# variables of docker-compose.yml and of the tests
_OTHERS = re.compile(r"POSE_(CPUS|MEMORY|TEST_\w+)")
# variables that Kubernetes sets for a Service named pose or pose-...
_SERVICE_LINK = re.compile(r"POSE_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_ORIGIN = re.compile(r"https?://[^/?#@\s]+|\*")
_ROOT_PATH = re.compile(r"(/[\w.~-]+)*", re.ASCII)


def listed(text: str) -> list[str]:
    """The items of a comma-separated list."""
    return [item.strip() for item in text.split(",") if item.strip()]


def _origins(text: str) -> str:
    for item in listed(text):
        if not _ORIGIN.fullmatch(item.lower()):
            raise ValueError(f"{item!r} is not an origin such as https://app.example:8443, or *")
    return text.lower()  # as browsers send it


def _proxies(text: str) -> str:
    for item in listed(text):
        if item != "*":
            ipaddress.ip_network(item, strict=False)
    return text


def _root_path(text: str) -> str:
    path = text.rstrip("/")
    if not _ROOT_PATH.fullmatch(path):
        raise ValueError(f"{text!r} is not a path such as /pose")
    return path


Seconds = Annotated[float, Field(gt=0, le=3600)]


class Settings(BaseSettings):
    """Every setting, read once at start-up from POSE_<NAME>."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_ignore_empty=True, frozen=True, allow_inf_nan=False
    )

    host: str = Field(
        default="127.0.0.1", description="address that both servers listen on; `::` is IPv6 and IPv4"
    )
    http_port: int = Field(default=8000, description="port of REST; 0: a free one", ge=0, le=65535)
    grpc_port: int = Field(default=50051, description="port of gRPC; 0: a free one", ge=0, le=65535)
    weights: Path = Field(default=_WEIGHTS, description="folder with pose.onnx and detector.onnx")
    detector: Path | None = Field(default=None, description="detector file, in place of that of POSE_WEIGHTS")
    pose: Path | None = Field(default=None, description="pose network file, in place of that of POSE_WEIGHTS")
    runtime: Literal["auto", "onnx", "openvino", "torch"] = Field(
        default="auto",
        description="onnx: onnxruntime; openvino: OpenVINO on a CPU; torch: torch on a GPU without"
        " onnxruntime-gpu; auto: what is fastest: OpenVINO with the int8 networks on a CPU with AVX-512 VNNI,"
        " OpenVINO for the pose network on one with AVX-512, otherwise onnxruntime",
    )
    worker: Literal["thread", "process"] = Field(
        default="thread",
        description="thread: networks run in the service; process: in a child process, restarted if it dies",
    )
    threads: int = Field(
        default=0, description="images that run in parallel on a CPU; 0: the CPU quota", ge=0, le=1024
    )
    max_batch: int = Field(default=8, description="largest batch on a GPU, in images", ge=1, le=1024)
    max_images: int = Field(
        default=64, description="images admitted at the same time; further ones are refused", ge=1
    )
    max_streams: int = Field(
        default=64, description="streams open at the same time; further ones are refused", ge=0
    )
    max_body_bytes: int = Field(
        default=20 * 2**20, description="largest request body or gRPC message in bytes", ge=1024, le=2**31 - 1
    )
    body_memory_bytes: int = Field(
        default=384 * 2**20, description="bytes of all request bodies in memory; further requests wait", ge=1
    )
    max_video_bytes: int = Field(default=200 * 2**20, description="largest video file in bytes", ge=1024)
    max_video_s: float = Field(default=600, description="longest video file in seconds", gt=0)
    max_pixels: int = Field(default=40_000_000, description="largest image in pixels", ge=1)
    request_timeout_s: Seconds = Field(
        default=30, description="limit in seconds from admission to the answer"
    )
    worker_timeout_s: Seconds = Field(
        default=30,
        description="limit in seconds of a run in a worker process; then the process is killed and restarted",
    )
    receipt_timeout_s: Seconds = Field(
        default=30, description="limit in seconds for a request body to arrive"
    )
    drain_timeout_s: Seconds = Field(
        default=30, description="limit in seconds for accepted work after SIGTERM"
    )
    head_timeout_s: Seconds = Field(
        default=10, description="limit in seconds for the head of an HTTP request"
    )
    idle_timeout_s: Seconds = Field(default=75, description="limit in seconds of an idle HTTP connection")
    max_connections: int = Field(default=512, description="HTTP connections open at the same time", ge=1)
    api_keys: SecretStr = Field(
        default=SecretStr(""), description="comma-separated API keys, each `key` or `name:key`"
    )
    api_keys_file: Path | None = Field(
        default=None, description="file of API keys, one a line; reloaded when it changes"
    )
    rate_limit: float = Field(
        default=0, description="limit of requests, images and frames a second for each key; 0: none", ge=0
    )
    tls_cert: Path | None = Field(
        default=None, description="certificate chain of both servers, PEM; reloaded when it changes"
    )
    tls_key: Path | None = Field(default=None, description="private key of POSE_TLS_CERT, PEM, not encrypted")
    tls_client_ca: Path | None = Field(
        default=None, description="CA that must have signed the certificates of clients, PEM"
    )
    allowed_origins: Annotated[str, AfterValidator(_origins)] = Field(
        default="",
        description="comma-separated origins whose pages may use the service (CORS and WebSocket), such as"
        " https://app.example; *: all",
    )
    root_path: Annotated[str, AfterValidator(_root_path)] = Field(
        default="", description="path of the service behind a proxy, such as /pose"
    )
    trusted_proxies: Annotated[str, AfterValidator(_proxies)] = Field(
        default="",
        description="comma-separated addresses or networks of proxies whose X-Forwarded-Proto and"
        " X-Forwarded-For are trusted; *: all",
    )

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.http_port == self.grpc_port != 0:
            raise ValueError(f"POSE_HTTP_PORT and POSE_GRPC_PORT are both {self.http_port}")
        return self


def read_settings() -> Settings:
    """The settings of this process. Exits with one line for each invalid variable."""
    faults = list(_misnamed_or_empty({name.upper(): value for name, value in os.environ.items()}))
    settings: Settings | None = None
    try:
        settings = Settings()
    except ValidationError as error:
        for each in error.errors():
            names = "".join(f"{_PREFIX}{str(name).upper()}: " for name in each["loc"][:1])
            faults.append(names + each["msg"].removeprefix("Value error, "))
    if settings is None or faults:
        raise SystemExit("\n".join(faults))
    return settings


def _misnamed_or_empty(variables: Mapping[str, str]) -> Iterator[str]:
    """A message for each variable with our prefix that is not a setting, or is empty.

    Ignoring it would keep a default that the user meant to change, such as no keys.
    """
    fields = {_PREFIX + name.upper(): field for name, field in Settings.model_fields.items()}
    # the client's variable may also be set
    with_keys = "POSE_API_KEYS" in variables or "POSE_API_KEYS_FILE" in variables
    for name, value in sorted(variables.items()):
        if name in fields and not value.strip():
            default = str(fields[name].default)
            yield f"{name}: is empty; unset it for the default{f': {default}' * bool(default)}"
        if not name.startswith(_PREFIX) or name in fields:
            continue
        if _OTHERS.fullmatch(name) or _SERVICE_LINK.fullmatch(name) or value.startswith(("tcp://", "udp://")):
            continue
        if name != "POSE_API_KEY" or not with_keys:
            own_names = [each.upper() for each in Settings.model_fields]
            nearest = difflib.get_close_matches(name.removeprefix(_PREFIX), own_names, 1)
            hint = f"did you mean {_PREFIX}{nearest[0]}?" if nearest else "`lgm-pose --help` lists them"
            yield f"{name}: there is no such setting; {hint}"


def describe_settings() -> str:
    """A table of names, defaults and descriptions."""
    return "\n".join(_line(name, field) for name, field in Settings.model_fields.items())


def _line(name: str, field: FieldInfo) -> str:
    default = "" if field.default is None else field.default
    return f"  {_PREFIX + name.upper():<24} {field.description} [{default}]"
