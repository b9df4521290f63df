"""Server reflection, asked as grpcurl asks, over the socket."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2 as pb

from mcp_bridge.reflection import reflection_routes
from mcp_bridge.serving import Call, Routes, new_server
from secure_mcp_grpc.calls import TRANSPORT
from secure_mcp_grpc.typed_calls import TYPED

VERSIONS = ("v1", "v1alpha")


async def nothing(message: bytes, _context: Any) -> bytes:
    return message


def services() -> list[Routes]:
    handlers: dict[str, Call] = {f"{TRANSPORT}Call": nothing}
    return [Routes(calls=handlers), Routes(calls={f"{TYPED}ListTools": nothing})]


async def ask(directory: Path, version: str, *questions: bytes) -> list[Any]:
    routes = services()
    server = new_server([*routes, reflection_routes(routes)], max_request_bytes=65_536, max_answer_bytes=65_536)
    await server.start(directory / "s.sock")

    async def asking() -> AsyncIterator[bytes]:
        for question in questions:
            yield question

    try:
        async with grpc.aio.insecure_channel(f"unix:{directory}/s.sock") as channel:
            call = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
            return [pb.ServerReflectionResponse.FromString(answer) async for answer in call(asking(), timeout=5)]
    finally:
        await server.stop(0)


def question(**fields: Any) -> bytes:
    return bytes(pb.ServerReflectionRequest(**fields).SerializeToString())


@pytest.mark.parametrize("version", VERSIONS)
async def test_every_service_is_listed(tmp_path: Path, version: str) -> None:
    """Issue 4: reflection in development, in both versions of its protocol."""
    (answer,) = await ask(tmp_path, version, question(list_services="*"))

    names = {service.name for service in answer.list_services_response.service}
    assert names == {
        *("secure_mcp_grpc.v1.McpTransport", "model_context_protocol.Mcp"),
        *(f"grpc.reflection.{version}.ServerReflection" for version in VERSIONS),
    }


@pytest.mark.parametrize("symbol", ["secure_mcp_grpc.v1.McpTransport", "model_context_protocol.Mcp"])
async def test_descriptors_come_with_what_they_import(tmp_path: Path, symbol: str) -> None:
    """Ours: a client can build every message from the answer alone; what is unknown is said to be."""
    known, unknown = await ask(
        tmp_path, "v1", question(file_containing_symbol=symbol), question(file_containing_symbol="no.Such")
    )

    files = [
        descriptor_pb2.FileDescriptorProto.FromString(file)
        for file in known.file_descriptor_response.file_descriptor_proto
    ]
    assert {needed for file in files for needed in file.dependency} <= {file.name for file in files}
    assert symbol.rpartition(".")[2] in {service.name for file in files for service in file.service}
    assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_garbage_is_refused(tmp_path: Path) -> None:
    """Ours: a message that is no question ends the stream, and is nobody's fault but the client's."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(tmp_path, "v1", b"\xff")

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
