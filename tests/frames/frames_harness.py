"""A real authz_service on a socket and the bridge's session service in front of a server that counts; no Envoy."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry

sys.path.append(str(Path(__file__).parents[1] / "authz"))

from authz_requests import answered, check_request, policy_of, records

from authz_service.assemble import Service, assemble
from authz_service.journal import Journal
from authz_service.metrics import Metrics
from authz_service.revocations.desk import Desk
from authz_service.server import PartHealth, new_server
from authz_service.settings import AuthzSettings
from mcp_bridge import wire
from mcp_bridge.capture.build import build_capture
from mcp_bridge.capture.settings import CaptureSettings
from mcp_bridge.exchange import Exchange, Note, Session
from mcp_bridge.execute import Executor
from mcp_bridge.judging import Judge
from mcp_bridge.listing import authz_channel
from mcp_bridge.metrics import BridgeMetrics
from mcp_bridge.recording import Recorder
from mcp_bridge.session_service import SessionService
from mcp_bridge.sessions import Sessions
from mcp_bridge.standing import Standing
from mcp_bridge.throttle import Throttle
from secure_mcp_grpc import calls, headers
from secure_mcp_grpc.limit_settings import LimitSettings
from secure_mcp_grpc.records import InteractionRecord
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

MODERN = "2026-07-28"
ENVELOPE = {
    calls.PROTOCOL_VERSION_META_KEY: MODERN,
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
POLICY = """\
p, role:user, grpc:*, *, allow
p, role:user, initialize, *, allow
p, role:user, notifications/*, *, allow
p, role:user, tools/list, *, allow
p, role:user, subscriptions/listen, *, allow
p, role:user, tools/call, echo, allow
p, role:user, tools/call, slow, allow
p, role:user, tools/call, bounded, allow, args.n < 10
g, model-a, role:user
g, model-b, role:user
"""
ANYTHING_LARGE = 100_000


async def until(condition: Callable[[], Any], timeout_s: float = 10) -> Any:
    """Wait for what another task does, where there is nothing to subscribe to."""
    async with asyncio.timeout(timeout_s):
        while not (value := condition()):
            await asyncio.sleep(0.01)
    return value


class CountingServer:
    """An upstream that answers `echo` at once and `slow` when `release` is set; `executed` names what it was asked."""

    name = "counting"

    def __init__(self) -> None:
        self.executed: list[str] = []
        self.noted: list[str] = []
        self.cancelled: list[str] = []
        self.release = asyncio.Event()
        self.most_at_once = 0
        self._at_once = 0

    async def start(self) -> None: ...

    async def request(self, exchange: Exchange) -> bytes:
        exchange.server = self.name
        self.executed.append(exchange.call.name or exchange.call.method)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if exchange.outbox is not None:
                for number in range(3):
                    exchange.outbox.offer(wire.notification("notifications/progress", b'{"progress":%d}' % number))
            if exchange.call.name == "slow" or exchange.call.method == "subscriptions/listen":
                await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.append(exchange.id_json.decode())
            raise
        finally:
            self._at_once -= 1
        return wire.result(exchange.id_json, b'{"content":[]}')

    async def notify(self, note: Note) -> None:
        self.noted.append(note.method)

    async def reply(self, session: Session, message: bytes) -> None:
        self.noted.append("reply")

    async def end_session(self, session: Session) -> None: ...

    async def reap(self, idle_s: float) -> None: ...

    async def close(self) -> None: ...


def request(
    method: str, params: dict[str, Any] | None = None, *, number: int | str = 1, **fields: Any
) -> pb.ClientFrame:
    """A stateless request unless `session_id` is given."""
    params = dict(params or {})
    if "session_id" not in fields and method != "initialize":
        params["_meta"] = {**ENVELOPE, **params.get("_meta", {})}
        fields.setdefault("protocol_version", MODERN)
    content = pb.Request(
        method=method,
        name=calls.name_of(method, params),
        id_json=msgspec.json.encode(number),
        params_json=msgspec.json.encode(params),
        **fields,
    )
    return pb.ClientFrame(request=content)


def tool(name: str, number: int | str = 1, arguments: dict[str, Any] | None = None, **params: Any) -> pb.ClientFrame:
    return request("tools/call", {"name": name, "arguments": arguments or {}, **params}, number=number)


def notification(method: str, params: dict[str, Any] | None = None, session_id: str = "") -> pb.ClientFrame:
    content = pb.Notification(method=method, session_id=session_id, params_json=msgspec.json.encode(params or {}))
    return pb.ClientFrame(notification=content)


@dataclass
class Opening:
    """A handler's context, with the headers of an allowed opening."""

    metadata: Sequence[tuple[str, str | bytes]]

    def name_server(self, name: str) -> None: ...


class Client:
    """The other end of one session."""

    def __init__(self, service: SessionService, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        self._frames: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._responses: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.read = 0
        self.session_ids: list[str] = []
        self.error: BaseException | None = None
        self.task = asyncio.create_task(self._run(service, metadata))

    async def _given(self) -> AsyncIterator[bytes]:
        while (frame := await self._frames.get()) is not None:
            self.read += 1
            yield frame

    async def _run(self, service: SessionService, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        try:
            async for response in service.Session(self._given(), Opening(metadata)):
                self._responses.put_nowait(response)
        except Exception as error:  # noqa: BLE001 - what a server would turn into a status
            self.error = error
        finally:
            self._responses.put_nowait(None)

    def send(self, *frames: pb.ClientFrame | bytes) -> None:
        for frame in frames:
            self._frames.put_nowait(frame if isinstance(frame, bytes) else frame.SerializeToString())

    def half_close(self) -> None:
        self._frames.put_nowait(None)

    async def message(self) -> dict[str, Any] | None:
        """The next; None at the end of the stream."""
        async with asyncio.timeout(10):
            content = await self._responses.get()
        if content is None:
            self._responses.put_nowait(None)
            return None
        response = pb.Response.FromString(content)
        self.session_ids.append(response.session_id)
        return dict(json.loads(response.message_json))

    async def messages(self, count: int) -> dict[Any, dict[str, Any]]:
        """So many responses, by id."""
        found: dict[Any, dict[str, Any]] = {}
        for _ in range(count):
            message = await self.message()
            assert message is not None, self.error
            found[message["id"]] = message
        return found

    async def ask(self, frame: pb.ClientFrame) -> dict[str, Any]:
        self.send(frame)
        message = await self.message()
        assert message is not None, self.error
        return message

    async def ended(self) -> BaseException | None:
        """What the stream ended with."""
        while await self.message() is not None:
            pass
        return self.error

    async def close(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


def status(message: dict[str, Any]) -> str:
    """`OK`, or the gRPC status that a refused request names."""
    return str(message["error"]["data"]["grpcStatus"]) if "error" in message else "OK"


@dataclass
class Pod:
    directory: Path
    service: Service
    sessions: SessionService
    standing: Standing
    upstream: CountingServer
    executor: Executor
    stop_authz: Callable[[], Any]
    clients: list[Client] = field(default_factory=list)
    interactions: list[InteractionRecord] = field(default_factory=list)

    def set_policy(self, text: str) -> None:
        self.service.checker.policy = policy_of(text.encode())

    async def revoke(self, value: str = "model-a", **what: Any) -> None:
        """And wait until authz_service has heard of it."""
        await Desk(self.directory / "revocations.json", "").write(kind="identity", value=value, **what)
        await until(lambda: self.opening(value, quiet=True) is None)

    def opening(self, subject: str = "model-a", rpc: str = "Session", body: bytes = b"", quiet: bool = False) -> Any:
        """The headers that authz_service gives to an opening it allows; None for another."""
        path = f"{calls.TRANSPORT}{rpc}"
        content = check_request(subject, path=path, body=body).SerializeToString()
        answer = self.service.checker.check(content)
        assert isinstance(answer, bytes)
        found = answered(answer)
        if found.metadata["decision"] != "allow":
            assert quiet, found.metadata
            return None
        return [*found.headers.items(), (headers.REQUEST_ID, "request-1")]

    def open(self, subject: str = "model-a", metadata: Any = None) -> Client:
        client = Client(self.sessions, metadata if metadata is not None else self.opening(subject))
        self.clients.append(client)
        return client

    def journal(self) -> list[dict[str, Any]]:
        return [one for one in records(self.directory / "journal") if one["kind"] == "decision"]

    def decisions(self) -> list[dict[str, Any]]:
        """Of frames."""
        return [one for one in self.journal() if "/" in one["request_id"]]


@asynccontextmanager
async def pod(
    directory: Path,
    *,
    recheck_s: float = 100,
    grace_s: float = 100,
    max_in_flight: int = 64,
    limits: dict[str, int] | None = None,
    policy: str = POLICY,
    **authz: Any,
) -> AsyncIterator[Pod]:
    """`authz`: settings of authz_service; `limits`: section `limits`, all large unless named."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    journal = Journal(directory / "journal", "node", rotate_bytes=100_000_000)
    settings = AuthzSettings(trust_domains=["mcp.internal"], revocations_file=directory / "revocations.json", **authz)
    upstream = CountingServer()
    interactions: list[InteractionRecord] = []

    def offer(_time_ns: int, record: bytes) -> bool:
        interactions.append(msgspec.json.decode(record, type=InteractionRecord))
        return True

    async with AsyncExitStack() as closing:
        service = assemble(settings, policy_of(policy.encode()), journal, metrics, registry, closing)
        jobs = [asyncio.create_task(job) for job in service.jobs]
        socket = directory / "authz.sock"
        server = new_server("http2", service.routes, PartHealth(), socket)
        await server.start()
        channel = await closing.enter_async_context(authz_channel(f"unix:{socket}"))
        judge = Judge(channel, timeout_s=2, address=f"unix:{socket}")
        bridge_metrics = BridgeMetrics(CollectorRegistry())
        executor = Executor(
            upstream,
            Sessions(100, 1_000_000),
            Recorder(offer, bridge_metrics, build_capture(CaptureSettings())),
            (),
            request_timeout_s=30,
            max_answer_bytes=1_000_000,
        )
        loop = asyncio.get_running_loop()
        standing = Standing(judge, recheck_s=recheck_s, grace_s=grace_s, clock=loop.time)
        large = dict.fromkeys(
            ("per_client_per_second", "per_client_burst", "per_tool_per_second", "per_tool_burst"), ANYTHING_LARGE
        )
        throttle = Throttle(LimitSettings(**{**large, **(limits or {})}), loop.time)
        sessions = SessionService(executor, judge, standing, throttle, max_in_flight=max_in_flight)
        sweeping = asyncio.create_task(standing.run())

        async def stop_authz() -> None:
            await server.stop(0)

        one = Pod(directory, service, sessions, standing, upstream, executor, stop_authz, interactions=interactions)
        try:
            yield one
        finally:
            for client in one.clients:
                await client.close()
            for job in (sweeping, *jobs):
                job.cancel()
            await asyncio.wait([sweeping, *jobs])
            judge.close()
            await server.stop(0)
            await journal.close()
