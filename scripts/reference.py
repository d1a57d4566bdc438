"""Tables of the interface, read from the interface itself: routes, RPCs, settings."""

from pathlib import Path
from typing import Any

from google.protobuf.descriptor import FieldDescriptor, FileDescriptor, MethodDescriptor
from tabular import table  # in the same folder

from service.app import create_app
from service.config import Settings
from service.wire.pb import openinference_pb2, pose_pb2

ROOT = Path(__file__).parents[1]


def rest() -> str:
    """Every route of the OpenAPI document, with parameters, bodies and answers."""
    routes = create_app(Settings()).openapi()["paths"]
    return "\n\n".join(
        _route(method, path, operation)
        for path, operations in routes.items()
        for method, operation in operations.items()
    )


def _route(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [f"### {method.upper()} {path}", f"{operation['summary']}. {operation.get('description', '')}"]
    if bodies := operation.get("requestBody", {}).get("content"):
        parts.append("Body: " + ", ".join(f"`{kind}`" for kind in bodies) + ".")
    if parameters := operation.get("parameters"):
        rows = [
            (f"`{each['name']}`", _values(each["schema"]), each.get("description", "")) for each in parameters
        ]
        parts.append(table(("parameter", "values", ""), rows))
    answers = operation["responses"].items()
    rows = [
        (status, ", ".join(f"`{kind}`" for kind in each["content"]), each["description"])
        for status, each in answers
    ]
    parts.append(table(("status", "body", ""), rows))
    return "\n\n".join(parts)


def _values(schema: dict[str, Any]) -> str:
    allowed = ", ".join(f"`{value}`" for value in schema.get("enum", [])) or schema["type"]
    if "minimum" in schema and "maximum" in schema:
        allowed = f"{schema['minimum']} to {schema['maximum']}"
    return f"{allowed}; default `{schema['default']}`" if "default" in schema else allowed


def grpc() -> str:
    """Every RPC, and every message of `pose.v1` with its fields."""
    files: tuple[FileDescriptor, ...] = pose_pb2.DESCRIPTOR, openinference_pb2.DESCRIPTOR
    methods = [
        (f"`{service.full_name}`", f"`{method.name}`", _signature(method))
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
    ]
    messages = [
        (f"`{message.name}`", ", ".join(f"`{_field(field)}`" for field in message.fields))
        for message in pose_pb2.DESCRIPTOR.message_types_by_name.values()
    ]
    return f"{table(('service', 'RPC', ''), methods)}\n\n{table(('message', 'fields'), messages)}"


def _signature(method: MethodDescriptor) -> str:
    asked = f"{'stream of ' * method.client_streaming}{method.input_type.name}"
    return f"{asked} → {'stream of ' * method.server_streaming}{method.output_type.name}"


def _field(field: FieldDescriptor) -> str:
    names = {
        value: name.removeprefix("TYPE_").lower()
        for name, value in vars(FieldDescriptor).items()
        if name.startswith("TYPE_")
    }
    kind = field.message_type or field.enum_type
    return f"{'repeated ' * field.is_repeated}{kind.name if kind else names[field.type]} {field.name}"


def settings() -> str:
    """Every setting with its default."""
    return table(
        ("setting", "default", ""),
        [
            (
                f"`{Settings.model_config['env_prefix']}{name.upper()}`",
                f"`{_default(field.default)}`",
                field.description,
            )
            for name, field in Settings.model_fields.items()
        ],
    )


def _default(value: object) -> str:
    """A setting's default; a path is shown relative to the repository."""
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else "" if value is None else str(value)
