"""A bridge on a Unix socket, and clients that send what Envoy and authz_service would."""

import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import msgspec
from prometheus_client import CollectorRegistry

from mcp_bridge.capture.build import build_capture
from mcp_bridge.capture.capture import Capture
from mcp_bridge.capture.settings import CaptureSettings
from mcp_bridge.client import grpc_transport
from mcp_bridge.exchange import Upstream
from mcp_bridge.execute import Executor
from mcp_bridge.guards import Guard
from mcp_bridge.metrics import BridgeMetrics
from mcp_bridge.recording import Recorder, Spans
from mcp_bridge.run import routes_of
from mcp_bridge.serving import new_server
from mcp_bridge.sessions import Sessions
from mcp_bridge.upstreams.stdio import StdioUpstream
from secure_mcp_grpc import calls, headers
from secure_mcp_grpc.records import InteractionRecord
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

HERE = Path(__file__).parent
MODERN = "2026-07-28"
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


@dataclass
class Bridge:
    """A served bridge; `records` holds what it would have sent to the sink."""

    address: str
    executor: Executor
    upstream: Any
    records: list[InteractionRecord] = field(default_factory=list)

    def channel(self, subject: str = "model-a", *, trusted: bool = True) -> grpc.aio.Channel:
        """With `trusted`, requests carry the headers of an allowed decision; without, none."""
        interceptors = authorized(subject) if trusted else []
        return grpc.aio.insecure_channel(self.address, interceptors=interceptors)

    def transport(self, subject: str = "model-a") -> Any:
        return grpc_transport(self.address, channel_factory=lambda: self.channel(subject))


@contextlib.asynccontextmanager
async def serving(
    upstream: Upstream,
    *,
    request_timeout_s: float = 20.0,
    max_answer_bytes: int = 4 * 1024 * 1024,
    guards: Sequence[Guard] = (),
    capture: Capture | None = None,
    spans: Spans | None = None,
) -> AsyncIterator[Bridge]:
    records: list[InteractionRecord] = []

    def offer(_time_ns: int, record: bytes) -> bool:
        records.append(msgspec.json.decode(record, type=InteractionRecord))
        return True

    recorder = Recorder(
        offer, BridgeMetrics(CollectorRegistry()), capture or build_capture(CaptureSettings()), spans=spans
    )
    executor = Executor(
        upstream,
        Sessions(100, max_answer_bytes),
        recorder,
        guards,
        request_timeout_s=request_timeout_s,
        max_answer_bytes=max_answer_bytes,
    )
    with tempfile.TemporaryDirectory() as directory:
        address = f"unix:{directory}/bridge.sock"
        server = new_server(routes_of(executor), max_request_bytes=1024 * 1024, max_answer_bytes=max_answer_bytes)
        await upstream.start()
        await server.start(Path(directory) / "bridge.sock")
        try:
            yield Bridge(address, executor, upstream, records)
        finally:
            executor.stop_streams()
            await server.stop(0.2)
            await upstream.close()


def stdio(name: str, *command: str, **options: Any) -> StdioUpstream:
    options = {"env": {}, "cwd": None, "max_message_bytes": 4 * 1024 * 1024, "max_children": 8} | options
    return StdioUpstream(name, [sys.executable, *command], **options)


def request(method: str, params: dict[str, Any] | None = None, *, id_json: bytes = b"1", **fields: Any) -> pb.Request:
    """A stateless request (2026-07-28) unless `session_id` is given."""
    params = dict(params or {})
    if "session_id" not in fields and method != "initialize":
        params["_meta"] = {**ENVELOPE, **params.get("_meta", {})}
        fields.setdefault("protocol_version", MODERN)
    name = calls.name_of(method, params)
    return pb.Request(method=method, name=name, id_json=id_json, params_json=msgspec.json.encode(params), **fields)


def tool(name: str, arguments: dict[str, Any] | None = None, **fields: Any) -> pb.Request:
    return request("tools/call", {"name": name, "arguments": arguments or {}}, **fields)


async def send(
    channel: grpc.aio.Channel, rpc: str, message: Any, answer: Any = pb.Response, metadata: Sequence[Any] = ()
) -> Any:
    """One unary RPC of the full-fidelity service; its JSON, decoded, for a `Response`."""
    call = channel.unary_unary(f"{calls.TRANSPORT}{rpc}", type(message).SerializeToString, answer.FromString)
    response = await call(message, metadata=tuple(metadata), timeout=20)
    return msgspec.json.decode(response.message_json) if answer is pb.Response else response


def authorized(subject: str) -> list[Any]:
    """Interceptors that add what authz_service adds after it allowed the request, read from the message as it does."""
    return [_Unary(subject), _Stream(subject)]


def _with_decision(details: Any, message: Any, subject: str) -> Any:
    rpc = str(details.method if isinstance(details.method, str) else details.method.decode())
    service, _, name = rpc.rpartition("/")
    body = message.SerializeToString()
    if service + "/" == calls.TRANSPORT:
        call = calls.read_transport_call(name, body)
    else:
        from secure_mcp_grpc.typed_calls import read_typed_call

        call = read_typed_call(name, body)
    decision = [
        (headers.TARGET, call.target),
        (headers.SUBJECT, subject),
        (headers.REQUEST_ID, "request-1"),
        (headers.DECISION, "chain-1:7"),
    ]
    return details._replace(metadata=grpc.aio.Metadata(*(details.metadata or ()), *decision))


class _Unary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, subject: str) -> None:
        self._subject = subject

    async def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, message: Any) -> Any:
        return await continuation(_with_decision(details, message, self._subject), message)


class _Stream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, subject: str) -> None:
        self._subject = subject

    async def intercept_unary_stream(self, continuation: Callable[..., Any], details: Any, message: Any) -> Any:
        return await continuation(_with_decision(details, message, self._subject), message)
