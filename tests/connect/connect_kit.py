"""A sidecar of the tests, without Envoy and authz_service, and `secure-mcp-grpc connect` processes in front of it."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx2
from bridge_harness import Bridge

from secure_mcp_grpc.calls import TRANSPORT

ROOT = Path(__file__).parents[2]
UNARY = ("Call", "Notify", "Reply", "EndSession")
STREAMS = ("Stream", "Listen")


@dataclass
class Sidecar:
    """Forwards to a bridge, with the headers of an allowed decision. `seen` holds what came, by RPC."""

    address: str
    refuses: set[str] = field(default_factory=set)
    """RPCs that are UNAVAILABLE here."""
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)


@contextlib.asynccontextmanager
async def sidecar(bridge: Bridge, directory: Path, subject: str = "model-a") -> AsyncIterator[Sidecar]:
    """On a Unix socket, for clients in other processes."""
    channel = bridge.channel(subject)
    address = f"unix:{directory}/sidecar.sock"
    one = Sidecar(address)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(TRANSPORT.strip("/"), _handlers(channel, one)),)
    )
    server.add_insecure_port(address)
    await server.start()
    try:
        yield one
    finally:
        await server.stop(None)
        await channel.close(None)


def _handlers(channel: grpc.aio.Channel, one: Sidecar) -> dict[str, Any]:
    from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

    messages: dict[str, Any] = {
        "Call": (pb.Request, pb.Response),
        "Stream": (pb.Request, pb.Response),
        "Notify": (pb.Notification, pb.Ack),
        "Listen": (pb.ListenRequest, pb.Response),
        "Reply": (pb.ReplyRequest, pb.Ack),
        "EndSession": (pb.EndSessionRequest, pb.Ack),
    }

    def note(rpc: str, context: Any) -> None:
        one.seen.append((rpc, {key: str(value) for key, value in context.invocation_metadata()}))

    def unary(rpc: str) -> Any:
        asks, answers = messages[rpc]
        forward = channel.unary_unary(f"{TRANSPORT}{rpc}", asks.SerializeToString, answers.FromString)

        async def handle(request: Any, context: Any) -> Any:
            note(rpc, context)
            if rpc in one.refuses:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
            try:
                return await forward(request)
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "")

        return grpc.unary_unary_rpc_method_handler(handle, asks.FromString, answers.SerializeToString)

    def stream(rpc: str) -> Any:
        asks, answers = messages[rpc]
        forward = channel.unary_stream(f"{TRANSPORT}{rpc}", asks.SerializeToString, answers.FromString)

        async def handle(request: Any, context: Any) -> AsyncIterator[Any]:
            note(rpc, context)
            call = forward(request)
            try:
                async for answer in call:
                    yield answer
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "")
            finally:
                call.cancel()

        return grpc.unary_stream_rpc_method_handler(handle, asks.FromString, answers.SerializeToString)

    return {rpc: unary(rpc) for rpc in UNARY} | {rpc: stream(rpc) for rpc in STREAMS}


@dataclass
class Connected:
    """A running `connect`; `url` only with --http. `log` holds its events."""

    process: asyncio.subprocess.Process
    url: str = ""
    log: list[dict[str, Any]] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2].partition("/")[0])


def command(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "secure_mcp_grpc", "connect", *arguments)


@contextlib.asynccontextmanager
async def connected(
    address: str, *arguments: str, env: dict[str, str] | None = None, http: str | None = "127.0.0.1:0"
) -> AsyncIterator[Connected]:
    """`connect` in a process of its own, ready; it must end in peace when asked to."""
    options = ("--http", http) if http else ()
    process = await asyncio.create_subprocess_exec(
        *command(address, *options, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(env or {})},
        cwd=ROOT,
        limit=64 * 1024 * 1024,
    )
    one = Connected(process)
    ready = asyncio.Event()
    reading = asyncio.create_task(_read_log(one, ready))
    try:
        if http:
            async with asyncio.timeout(20):
                await ready.wait()
            assert one.url, one.log
        yield one
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(5):
            assert await process.wait() == 0, one.log
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading
        process._transport.close()  # type: ignore[attr-defined]


async def _read_log(one: Connected, ready: asyncio.Event) -> None:
    assert one.process.stderr is not None
    async for line in one.process.stderr:
        try:
            event = json.loads(line)
        except ValueError:
            event = {"event": line.decode()}
        one.log.append(event)
        if event["event"] == "connect_ready":
            one.url = event["url"]
            ready.set()
    ready.set()


BOTH = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


def envelope(version: str = "2026-07-28") -> dict[str, Any]:
    return {
        "io.modelcontextprotocol/protocolVersion": version,
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }


def modern(method: str, params: dict[str, Any] | None = None, request_id: Any = 1) -> dict[str, Any]:
    params = dict(params or {})
    params["_meta"] = {**envelope(), **params.get("_meta", {})}
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


def mirrors(message: dict[str, Any]) -> dict[str, str]:
    """The headers of a 2026-07-28 request."""
    headers = {**BOTH, "mcp-protocol-version": "2026-07-28", "mcp-method": message["method"]}
    name = message["params"].get("name", message["params"].get("uri"))
    return headers | ({"mcp-name": name} if name else {})


def legacy(method: str, params: dict[str, Any] | None = None, request_id: Any = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params or {}}


INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"sampling": {}},
    "clientInfo": {"name": "test", "version": "1"},
}


def events(text: str) -> list[dict[str, Any]]:
    """The messages of an event stream."""
    lines = text.replace("\r\n", "\n").split("\n")
    return [found for line in lines if (found := event(line)) is not None]


def event(line: str) -> dict[str, Any] | None:
    """The message in a line of an event stream."""
    data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
    return dict(json.loads(data)) if data else None


def answered(response: httpx2.Response) -> dict[str, Any]:
    """The response, as JSON or at the end of an event stream."""
    if response.headers["content-type"] == "application/json":
        return dict(response.json())
    return events(response.text)[-1]


async def open_session(client: httpx2.AsyncClient, url: str) -> dict[str, str]:
    """Headers of a session that was initialized."""
    answer = await client.post(url, json=legacy("initialize", INITIALIZE), headers=BOTH)
    assert answer.status_code == 200, answer.text
    session = {**BOTH, "mcp-session-id": answer.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}
    told = await client.post(url, json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=session)
    assert told.status_code == 202
    return session


def seen_rpcs(one: Sidecar) -> Sequence[str]:
    return [rpc for rpc, _ in one.seen]
