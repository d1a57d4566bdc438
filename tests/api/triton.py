"""NVIDIA's client of the Open Inference Protocol, in a separate process because of its own .proto."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import get_context
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]


@dataclass
class Reply:
    """The client's result: `status` is empty if it succeeded."""

    status: str = ""
    message: str = ""
    outputs: Arrays = field(default_factory=dict)
    content: dict[str, Any] = field(default_factory=dict)


class Triton:
    """A client for `http` or `grpc`."""

    def __init__(self, protocol: str, address: str) -> None:
        self._to = protocol, address
        self._pool = ProcessPoolExecutor(1, get_context("spawn"))

    def infer(self, inputs: Mapping[str, npt.NDArray[Any]], **request: Any) -> Reply:
        """`request`: as of `infer` there, and `binary`, `wanted`: names of outputs."""
        return self._pool.submit(_infer, *self._to, dict(inputs), **request).result(timeout=120)

    def ask(self, method: str, *arguments: object) -> Reply:
        """Any other method of the client."""
        return self._pool.submit(_ask, *self._to, method, *arguments).result(timeout=120)

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


def _infer(
    protocol: str,
    address: str,
    inputs: Arrays,
    *,
    model: str = "lgm-pose",
    binary: bool = True,
    wanted: Sequence[str] = (),
    **request: Any,
) -> Reply:
    library = import_module(f"tritonclient.{protocol}")
    how = {"binary_data": binary} if protocol == "http" else {}
    tensors = []
    for name, array in inputs.items():
        datatype = {np.dtype(np.uint8): "UINT8", np.dtype(np.float32): "FP32"}.get(array.dtype, "BYTES")
        tensor = library.InferInput(name, array.shape, datatype)
        tensor.set_data_from_numpy(array, **how)
        tensors.append(tensor)
    outputs = [library.InferRequestedOutput(name, **how) for name in wanted] or None

    def call(client: Any) -> Reply:
        result = client.infer(model, tensors, outputs=outputs, **request)
        response = result.get_response()
        named = response["outputs"] if protocol == "http" else response.outputs
        names = [each["name"] if protocol == "http" else each.name for each in named]
        ident = response.get("id", "") if protocol == "http" else response.id
        return Reply(outputs={name: result.as_numpy(name) for name in names}, content={"id": ident})

    return _with_client(library, address, call)


def _ask(protocol: str, address: str, method: str, *arguments: object) -> Reply:
    library = import_module(f"tritonclient.{protocol}")
    as_json = {"as_json": True} if protocol == "grpc" and "metadata" in method else {}

    def call(client: Any) -> Reply:
        content = getattr(client, method)(*arguments, **as_json)
        return Reply(content=content if isinstance(content, dict) else {"is": content})

    return _with_client(library, address, call)


def _with_client(library: Any, address: str, call: Any) -> Reply:
    client = library.InferenceServerClient(address)
    try:
        return call(client)  # type: ignore[no-any-return]
    except library.InferenceServerException as error:
        return Reply(str(error.status()), str(error.message()))
    finally:
        client.close()
