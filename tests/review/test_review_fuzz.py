"""Issue 4: whatever local clients write, on stdio and over HTTP: no crash, and nothing executed that was not decided.

The real fronts, the real backend of `connect`, a real authz_service and the
bridge's own executor; Envoy and gRPC between them are played by `Wire`.
Frames of pipelined sessions: tests/frames/test_frames_fuzz.py.
"""

import asyncio
import json
import logging
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from frames_harness import Opening, Pod, pod
from fuzz_inputs import LINES, REQUESTS
from hypothesis import HealthCheck, given, settings

from mcp_bridge.connect.backend import GrpcBackend
from mcp_bridge.errors import HopError
from mcp_bridge.front.access import Access
from mcp_bridge.front.http import HttpFront
from mcp_bridge.front.stdio import StdioFront
from mcp_bridge.transport_service import TransportService
from secure_mcp_grpc.calls import TRANSPORT
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

STAY_S = 0.02
STATUSES = {0, 200, 202, 204, 400, 401, 403, 404, 405, 406, 409, 413, 415, 429, 502, 503, 504}
SETTINGS = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


class Wire:
    """In place of a channel: shows the message to authz_service as Envoy would, and the bridge what was allowed."""

    def __init__(self, one: Pod) -> None:
        self._one = one
        self._routes = TransportService(one.executor).routes()
        unary = {"call": "Call", "notify": "Notify", "reply": "Reply", "end_session": "EndSession"}
        self.stubs = SimpleNamespace(
            **{name: self._unary(rpc) for name, rpc in unary.items()},
            stream=lambda message, **_: _Answers(self._streamed("Stream", message)),
            listen=lambda message, **_: _Answers(self._streamed("Listen", message)),
        )

    async def pick(self, _session_id: str = "") -> "Wire":
        return self

    def bind(self, _session_id: str, _endpoint: "Wire") -> None: ...

    def release(self, _session_id: str) -> None: ...

    async def failed(self, _endpoint: "Wire") -> None: ...

    def _allowed(self, rpc: str, message: Any) -> tuple[bytes, Opening]:
        content = message.SerializeToString()
        body = b"\0" + len(content).to_bytes(4, "big") + content
        metadata = self._one.opening(rpc=rpc, body=body, quiet=True)
        if metadata is None:
            raise _failed(grpc.StatusCode.PERMISSION_DENIED, "refused")
        return content, Opening(metadata)

    def _unary(self, rpc: str) -> Any:
        async def call(message: Any, **_: Any) -> Any:
            try:
                answer = await self._routes.calls[f"{TRANSPORT}{rpc}"](*self._allowed(rpc, message))
            except HopError as error:
                raise _failed(error.code, error.sentence) from None
            return pb.Response.FromString(answer) if rpc == "Call" else answer

        return call

    async def _streamed(self, rpc: str, message: Any) -> AsyncIterator[Any]:
        try:
            async for answer in self._routes.streams[f"{TRANSPORT}{rpc}"](*self._allowed(rpc, message)):
                yield pb.Response.FromString(answer)
        except HopError as error:
            raise _failed(error.code, error.sentence) from None


class _Answers:
    def __init__(self, answers: AsyncIterator[Any]) -> None:
        self._answers = answers

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._answers

    def cancel(self) -> None: ...


def _failed(code: grpc.StatusCode, sentence: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), sentence)


class Stage:
    """One authz_service, one bridge and one front, for all examples."""

    def __init__(self, one: Pod, front: HttpFront) -> None:
        self.one = one
        self.front = front
        self.session = ""

    def check(self) -> None:
        """What the server was asked, the journal allowed, as often and no more."""
        decisions = self.one.journal()
        allowed = Counter(one["tool"] or one["method"] for one in decisions if one["decision"] == "allow")
        allowed["reply"] = allowed.pop("grpc:reply", 0)
        executed = Counter([*self.one.upstream.executed, *self.one.upstream.noted])
        assert executed <= allowed
        assert "shell" not in executed
        assert self.one.executor.in_flight == 0


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def stage(runner: asyncio.Runner) -> Iterator[Stage]:
    async def build() -> Stage:
        path = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="fuzz-")))
        one = await opened.enter_async_context(pod(path))
        one.upstream.release.set()
        access = Access.bound_to("127.0.0.1", 8080)
        front = HttpFront(_backend(one), access, max_request_bytes=20_000, max_answer_bytes=100_000)
        await opened.enter_async_context(front.running())
        return Stage(one, front)

    opened = AsyncExitStack()
    yield runner.run(build())
    runner.run(opened.aclose())


def _backend(one: Pod) -> GrpcBackend:
    return GrpcBackend(Wire(one))  # type: ignore[arg-type]


async def _post(stage: Stage, request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    """One request; its client stays for a moment. Fails unless there is exactly one response."""
    mirrored = _mirrored(request["body"])
    headers = [
        (name, mirrored.get(name, "") if value == "mirror" else stage.session if value == "known" else value)
        for name, value in request["headers"]
    ]
    sent: list[dict[str, Any]] = []
    body = [{"type": "http.request", "body": request["body"], "more_body": False}]
    leaving = asyncio.Event()

    async def receive() -> Any:
        if body:
            return body.pop()
        await leaving.wait()
        return {"type": "http.disconnect"}

    async def send(event: Any) -> None:
        sent.append(event)

    scope = {"type": "http", "method": request["method"], "path": request["path"],
             "headers": [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers]}  # fmt: skip
    asyncio.get_running_loop().call_later(STAY_S, leaving.set)
    async with asyncio.timeout(10):
        await stage.front(scope, receive, send)
    starts = [event for event in sent if event["type"] == "http.response.start"]
    assert len(starts) <= 1
    if not starts:
        return 0, {}, b""  # the client had left
    answered = {name.decode(): value.decode("latin-1") for name, value in starts[0]["headers"]}
    stage.session = answered.get("mcp-session-id", stage.session)
    return starts[0]["status"], answered, b"".join(event["body"] for event in sent if "body" in event)


def _mirrored(body: bytes) -> dict[str, str]:
    try:
        message = json.loads(body)
        return {"mcp-method": str(message["method"]), "mcp-name": str(message["params"]["name"])}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def test_nothing_that_comes_over_http_is_executed_without_a_decision(
    runner: asyncio.Runner, stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Issue 4: fuzz of JSON; strangers' pages execute nothing, answers are JSON or events, and bugs none."""

    @SETTINGS
    @given(REQUESTS)
    def play(requests: list[dict[str, Any]]) -> None:
        async def scenario() -> None:
            for request in requests:
                before = len(stage.one.upstream.executed) + len(stage.one.upstream.noted)
                status, headers, body = await _post(stage, request)
                assert status in STATUSES
                if headers.get("content-type") == "application/json":
                    json.loads(body)
                names = Counter(name for name, _ in request["headers"])
                stranger = ("host", "evil.example") in request["headers"] or names["host"] != 1 or names["origin"] > 1
                if stranger:
                    assert (status, len(stage.one.upstream.executed) + len(stage.one.upstream.noted)) == (403, before)

        runner.run(scenario())

    with caplog.at_level(logging.ERROR):
        play()
    runner.run(asyncio.sleep(2 * STAY_S))
    stage.check()
    assert stage.one.upstream.executed  # some of it was good
    assert [record.getMessage() for record in caplog.records] == []


def test_nothing_that_comes_on_stdio_is_executed_without_a_decision(
    runner: asyncio.Runner, stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Issue 4: fuzz of JSON; every line is survived and every answer is one line of JSON."""

    @SETTINGS
    @given(LINES)
    def play(lines: list[bytes]) -> None:
        async def scenario() -> None:
            chunks, written = iter(lines), []

            async def read() -> bytes:
                await asyncio.sleep(0)
                if (chunk := next(chunks, None)) is not None:
                    return chunk
                await asyncio.sleep(STAY_S)
                return b""

            async def write(data: bytes) -> None:
                written.append(data)

            front = StdioFront(_backend(stage.one), read, write, max_line_bytes=20_000)
            async with asyncio.timeout(10):
                await front.run(asyncio.Event())
            for line in written:
                assert line.endswith(b"\n")
                assert line.count(b"\n") == 1
                assert json.loads(line)["jsonrpc"] == "2.0"

        runner.run(scenario())

    with caplog.at_level(logging.ERROR):
        play()
    stage.check()
    assert stage.one.upstream.executed
    assert [record.getMessage() for record in caplog.records] == []
