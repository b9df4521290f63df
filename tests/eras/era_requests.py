"""Requests of 2026-07-28 clients, as tests write them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
from bridge_harness import request, send
from mcp_types.methods import validate_server_result

from secure_mcp_grpc import calls
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

MODERN = "2026-07-28"
SAMPLING = {"io.modelcontextprotocol/clientCapabilities": {"sampling": {}}}
LEVEL = "io.modelcontextprotocol/logLevel"
OLD = str(Path(__file__).parent / "old_server.py")


def asking(name: str, arguments: dict[str, Any] | None = None, meta: dict[str, Any] = SAMPLING, **params: Any) -> Any:
    return request("tools/call", {"name": name, "arguments": arguments or {}, "_meta": meta, **params})


def sampled(key: str, text: str = "yes") -> dict[str, Any]:
    return {key: {"role": "assistant", "content": {"type": "text", "text": text}, "model": "m"}}


async def parked(channel: Any, name: str = "ask", question: str = "q") -> tuple[str, str]:
    """A call that waits for its client: its state, and the key of what is asked."""
    arguments = {"question": question} if name == "ask" else {}
    result = (await send(channel, "Call", asking(name, arguments)))["result"]
    assert result["resultType"] == "input_required"
    validate_server_result("tools/call", MODERN, result)
    return result["requestState"], next(iter(result["inputRequests"]))


async def back(channel: Any, state_: str, responses: dict[str, Any], question: str = "q", name: str = "ask") -> Any:
    arguments = {"question": question} if name == "ask" else {}
    return await send(channel, "Call", asking(name, arguments, requestState=state_, inputResponses=responses))


async def listen(channel: Any, notifications: dict[str, Any], id_json: bytes = b"1") -> AsyncIterator[Any]:
    call = channel.unary_stream(f"{calls.TRANSPORT}Stream", pb.Request.SerializeToString, pb.Response.FromString)
    message = request("subscriptions/listen", {"notifications": notifications}, id_json=id_json)
    stream = call(message, timeout=20)
    try:
        async for one in stream:
            yield msgspec.json.decode(one.message_json)
    finally:
        stream.cancel()


async def raw(channel: Any, message: Any) -> bytes:
    call = channel.unary_unary(f"{calls.TRANSPORT}Call", type(message).SerializeToString, pb.Response.FromString)
    return bytes((await call(message, timeout=20)).message_json)
