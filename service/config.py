"""Settings of the service, from the environment."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

_PREFIX = "POSE_"
_WEIGHTS = Path(__file__).parents[1] / "model" / "weights"


class Settings(BaseSettings):
    """Every setting, read once at start-up from POSE_<NAME>."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True)

    host: str = Field(default="127.0.0.1", description="address that both servers listen on")
    http_port: int = Field(default=8000, description="port of REST; 0 takes a free one", ge=0, le=65535)
    grpc_port: int = Field(default=50051, description="port of gRPC; 0 takes a free one", ge=0, le=65535)
    weights: Path = Field(default=_WEIGHTS, description="folder of pose.onnx and detector.onnx")
    runtime: Literal["onnx", "torch"] = Field(
        default="onnx", description="onnx: onnxruntime; torch: for a GPU without onnxruntime-gpu"
    )
    worker: Literal["thread", "process"] = Field(
        default="thread", description="where the networks run; a process of its own can be lost and restarted"
    )
    threads: int = Field(
        default=0,
        description="images that run at the same time on a CPU; 0: its quota",
        ge=0,
        le=1024,
    )
    max_batch: int = Field(default=8, description="images that run together on a GPU, at most", ge=1, le=1024)
    max_images: int = Field(
        default=64, description="images admitted at once; more are refused as overload", ge=1
    )
    max_streams: int = Field(default=64, description="streams open at once; more are refused", ge=0)
    stream_window: int = Field(
        default=4, description="frames of a stream worked on at once, at most", ge=1, le=256
    )
    max_body_bytes: int = Field(
        default=20 * 2**20, description="bytes of a request or gRPC message, at most", ge=1024, le=2**31 - 1
    )
    max_video_bytes: int = Field(default=200 * 2**20, description="bytes of a video file, at most", ge=1024)
    max_video_s: float = Field(default=600, description="seconds of a video file, at most", gt=0)
    max_pixels: int = Field(default=40_000_000, description="pixels of an image, at most", ge=1)
    request_timeout_s: float = Field(
        default=30, description="seconds from admission to the answer, at most", gt=0, le=3600
    )
    receipt_timeout_s: float = Field(
        default=30, description="seconds for a request body to arrive, at most", gt=0, le=3600
    )
    drain_timeout_s: float = Field(
        default=30, description="seconds for accepted work to finish after SIGTERM", gt=0, le=3600
    )
    head_timeout_s: float = Field(
        default=10, description="seconds for the head of an HTTP request to arrive, at most", gt=0, le=3600
    )
    max_connections: int = Field(default=512, description="HTTP connections open at once", ge=1)
    api_keys: SecretStr = Field(
        default=SecretStr(""), description="keys that callers must show: `key` or `name:key`, apart by commas"
    )
    api_keys_file: Path | None = Field(
        default=None, description="a file of keys, one a line, read again when it changes"
    )
    rate_limit: float = Field(
        default=0, description="requests, images or frames a second of one key; 0: any number", ge=0
    )
    tls_cert: Path | None = Field(
        default=None, description="certificate chain of both servers, PEM, read again when it changes"
    )
    tls_key: Path | None = Field(default=None, description="its private key, PEM, not encrypted")
    tls_client_ca: Path | None = Field(
        default=None, description="clients must show a certificate signed by this CA, PEM"
    )


def read_settings() -> Settings:
    """The settings of this process. Exits with one line for each value that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        lines = (f"{_PREFIX}{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
        raise SystemExit("\n".join(lines)) from None


def describe_settings() -> str:
    """A table of names, defaults and descriptions."""
    return "\n".join(_line(name, field) for name, field in Settings.model_fields.items())


def _line(name: str, field: FieldInfo) -> str:
    return f"  {_PREFIX + name.upper():<24} {field.description} [{field.default}]"
