"""`secure-mcp-grpc proto`: the bridge's gRPC contracts, for clients in other languages.

Written from the descriptors that the bridge itself serves, so that they are
there wherever the package is installed, and are the ones it speaks.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secure_mcp_grpc.errors import UserError

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor

__all__ = ["descriptor_set", "proto", "source"]

_TYPES = {1: "double", 2: "float", 3: "int64", 4: "uint64", 5: "int32", 6: "fixed64", 7: "fixed32", 8: "bool"} | {
    9: "string",
    12: "bytes",
    13: "uint32",
    15: "sfixed32",
    16: "sfixed64",
    17: "sint32",
    18: "sint64",
}
_MESSAGE, _ENUM, _REPEATED = 11, 14, 3


def proto(
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Write .proto files below this directory.")
    ] = None,
    descriptors: Annotated[
        Path | None,
        typer.Option("--descriptor-set", help="Write one FileDescriptorSet, all imports included, to this file."),
    ] = None,
) -> None:
    """Write the gRPC contracts for clients in other languages: model_context_protocol.Mcp and McpTransport.

    For protoc, buf, grpcurl (-protoset) and the loaders of Node.js and others.
    """
    if directory is None and descriptors is None:
        raise UserError("say where to: a directory for .proto files, or --descriptor-set FILE")
    files = _files()
    try:
        if descriptors is not None:
            descriptors.parent.mkdir(parents=True, exist_ok=True)
            descriptors.write_bytes(descriptor_set(files))
            typer.echo(str(descriptors))
        for file in files if directory is not None else ():
            if file.name.startswith("google/protobuf/"):  # every protobuf compiler has these
                continue
            path = Path(directory or "") / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source(file), encoding="utf-8")
            typer.echo(str(path))
    except OSError as error:
        raise UserError(f"cannot write {error.filename}: {error.strerror}") from None


def descriptor_set(files: "list[FileDescriptor]") -> bytes:
    """A serialized `FileDescriptorSet`, in which imports come before their users."""
    from google.protobuf import descriptor_pb2

    found = descriptor_pb2.FileDescriptorSet()
    for file in files:
        file.CopyToProto(found.file.add())
    body: bytes = found.SerializeToString()
    return body


def source(file: "FileDescriptor") -> str:
    """The file as .proto source (proto3), without comments, which descriptors do not hold."""
    from google.protobuf import descriptor_pb2

    given = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(given)
    blocks = [['syntax = "proto3";'], [f"package {given.package};"]]
    blocks.append([f'import "{name}";' for name in given.dependency])
    blocks.append([f"option {one};" for one in _options(given.options)])
    blocks += [list(_enum(one, "")) for one in given.enum_type]
    blocks += [list(_message(one, "", f".{given.package}.{one.name}")) for one in given.message_type]
    blocks += [list(_service(one)) for one in given.service]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _files() -> "list[FileDescriptor]":
    """Of both services, imports first."""
    from mcp_grpc_transport_proto import mcp_pb2

    from secure_mcp_grpc.v1 import mcp_transport_pb2

    found: dict[str, FileDescriptor] = {}

    def add(file: "FileDescriptor") -> None:
        for one in file.dependencies:
            add(one)
        found[file.name] = file

    add(mcp_pb2.DESCRIPTOR)
    add(mcp_transport_pb2.DESCRIPTOR)
    return list(found.values())


def _message(given: Any, indent: str, full_name: str) -> Iterator[str]:
    maps = {f"{full_name}.{one.name}": one for one in given.nested_type if one.options.map_entry}
    inner = f"{indent}  "
    yield f"{indent}message {given.name} {{"
    for enum in given.enum_type:
        yield from _enum(enum, inner)
    for nested in given.nested_type:
        if not nested.options.map_entry:
            yield from _message(nested, inner, f"{full_name}.{nested.name}")
    for field in given.field:
        if not field.HasField("oneof_index") or field.proto3_optional:
            yield f"{inner}{_field(field, maps)}"
    for number, choice in enumerate(given.oneof_decl):
        of_choice = [one for one in given.field if one.HasField("oneof_index") and one.oneof_index == number]
        if any(one.proto3_optional for one in of_choice):
            continue
        yield f"{inner}oneof {choice.name} {{"
        yield from (f"{inner}  {_field(one, maps)}" for one in of_choice)
        yield f"{inner}}}"
    yield f"{indent}}}"


def _field(field: Any, maps: dict[str, Any]) -> str:
    options = ", ".join(_options(field.options))
    end = f"{field.name} = {field.number}{f' [{options}]' if options else ''};"
    if field.type_name in maps:
        key, value = maps[field.type_name].field
        return f"map<{_type(key)}, {_type(value)}> {end}"
    label = "repeated " if field.label == _REPEATED else "optional " if field.proto3_optional else ""
    return f"{label}{_type(field)} {end}"


def _options(options: Any) -> list[str]:
    return [f"{one.name} = {json.dumps(value)}" for one, value in options.ListFields()]


def _type(field: Any) -> str:
    return str(field.type_name) if field.type in (_MESSAGE, _ENUM) else _TYPES[field.type]


def _enum(given: Any, indent: str) -> Iterator[str]:
    yield f"{indent}enum {given.name} {{"
    yield from (f"{indent}  {one.name} = {one.number};" for one in given.value)
    yield f"{indent}}}"


def _service(given: Any) -> Iterator[str]:
    yield f"service {given.name} {{"
    for one in given.method:
        asked = f"{'stream ' if one.client_streaming else ''}{one.input_type}"
        given_back = f"{'stream ' if one.server_streaming else ''}{one.output_type}"
        yield f"  rpc {one.name}({asked}) returns ({given_back});"
    yield "}"
