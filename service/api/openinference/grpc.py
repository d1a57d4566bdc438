"""The Open Inference Protocol over gRPC; its reference is proto/openinference.proto."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import zip_longest

import grpc

from service.api.grpc.context import Context, abort
from service.api.grpc.receive import parse, received
from service.api.intake import Intake
from service.api.openinference.tensors import (
    EXTENSIONS,
    INPUTS,
    MODEL,
    PLATFORM,
    VERSION,
    Parameter,
    Tensor,
    TensorMetadata,
    arrays,
    check_model,
    check_outputs,
    outputs,
    packed,
    read_options,
    read_picture,
)
from service.core.estimator import Estimator
from service.errors import InvalidArgument, PoseError
from service.types import Floats, Options, Picture
from service.wire.pb import openinference_pb2 as pb
from service.wire.pb import openinference_pb2_grpc

_PIECE = 2**16  # elements


def add_open_inference(server: grpc.aio.Server, estimator: Estimator, intake: Intake) -> str:
    """Add the calls to a server; returns the full name of their service."""
    servicer = OpenInferenceServicer(estimator, intake)
    openinference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    name: str = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
    return name


class OpenInferenceServicer(openinference_pb2_grpc.GRPCInferenceServiceServicer):
    """The calls of inference.GRPCInferenceService."""

    def __init__(self, estimator: Estimator, intake: Intake) -> None:
        self._estimator, self._intake = estimator, intake

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        """The process is running."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        """Whether the service is ready."""
        return pb.ServerReadyResponse(ready=self._estimator.ready)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        """Whether the model is ready: when the service is."""
        await _check_model(context, request.name, request.version)
        return pb.ModelReadyResponse(ready=self._estimator.ready)

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        """Name, version and extensions."""
        return pb.ServerMetadataResponse(name=MODEL, version=version("lgm-pose"), extensions=EXTENSIONS)

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        """Inputs and outputs; a request has one of the inputs."""
        await _check_model(context, request.name, request.version)
        return pb.ModelMetadataResponse(
            name=MODEL,
            versions=[VERSION],
            platform=PLATFORM,
            inputs=[_metadata(each) for each in INPUTS],
            outputs=[_metadata(each) for each in outputs(len(self._estimator.skeleton.names))],
        )

    async def ModelInfer(self, _: object, context: Context) -> pb.ModelInferResponse:
        """The persons of one image; see HeadFirst."""
        async with received(context, "grpc_v2", self._intake, _read) as (asked, access):
            access.poses = await self._estimator.estimate(
                [asked.picture], asked.options, timeout_s=context.time_remaining()
            )
        return _response(asked, arrays(access.poses[0], len(self._estimator.skeleton.names)))


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a request asks. raw: its tensors, and those of the answer, are raw bytes."""

    ident: str
    raw: bool
    picture: Picture
    options: Options
    names: tuple[str, ...]


def _read(data: bytes) -> _Asked:
    """An encoded request. Raises InvalidArgument or NotFound."""
    request = parse(pb.ModelInferRequest, data)
    check_model(request.model_name, request.model_version)
    return _Asked(
        ident=request.id,
        raw=bool(request.raw_input_contents),
        options=read_options(_parameters(request.parameters)),
        names=check_outputs([(each.name, each.parameters) for each in request.outputs]),
        picture=read_picture(_tensors(request)),
    )


async def _check_model(context: Context, name: str, model_version: str) -> None:
    try:
        check_model(name, model_version)
    except PoseError as error:
        await abort(context, error)


def _metadata(tensor: TensorMetadata) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=tensor.name, datatype=tensor.datatype, shape=tensor.shape
    )


def _parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Parameter]:
    found: dict[str, Parameter] = {}
    for name, parameter in parameters.items():
        if (kind := parameter.WhichOneof("parameter_choice")) is None:
            raise InvalidArgument(f"parameter {name[:64]!r} has no value")
        found[name] = getattr(parameter, kind)
    return found


def _tensors(request: pb.ModelInferRequest) -> list[Tensor]:
    """The tensors of a request, with raw or typed contents. Raises InvalidArgument."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidArgument(f"{len(request.inputs)} inputs have {len(raw)} raw contents")
    return [
        Tensor(each.name, each.datatype, tuple(each.shape), _bytes_of(each) if data is None else data)
        for each, data in zip_longest(request.inputs, raw)
    ]


def _bytes_of(tensor: pb.ModelInferRequest.InferInputTensor) -> bytes:
    if tensor.datatype == "BYTES":
        return packed(tensor.contents.bytes_contents)
    try:
        elements = tensor.contents.uint_contents
        # in pieces: between them, other threads get the interpreter's lock
        pieces = (elements[start : start + _PIECE] for start in range(0, len(elements), _PIECE))
        return b"".join(map(bytes, pieces))
    except ValueError:
        raise InvalidArgument(f"input {tensor.name[:64]!r}: its contents are not 8-bit numbers") from None


def _response(asked: _Asked, found: Mapping[str, Floats]) -> pb.ModelInferResponse:
    """The requested outputs, raw if the request was raw."""
    response = pb.ModelInferResponse(model_name=MODEL, model_version=VERSION, id=asked.ident)
    for name, array in found.items():
        if name not in asked.names:
            continue
        output = response.outputs.add(name=name, datatype="FP32", shape=array.shape)
        if asked.raw:
            response.raw_output_contents.append(array.tobytes())
        else:
            output.contents.fp32_contents.extend(array.ravel())
    return response
