"""What authz_service reads in an HTTP request, and that mcp_bridge reads the same: a Checker without Envoy."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from envoy.service.auth.v3 import external_auth_pb2
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

sys.path.append(str(Path(__file__).parents[1] / "authz"))

from authz_requests import CERTIFICATES, policy_of

from authz_service.checker import Checker
from authz_service.frames.tickets import Tickets
from authz_service.http_request import PlainHttp, PlainHttpSettings
from authz_service.identity import IdentityReader
from authz_service.journal import Journal
from authz_service.metrics import Metrics
from authz_service.pipeline import Pipeline
from authz_service.steps.identity import IdentityStep
from authz_service.steps.message import MessageStep
from authz_service.steps.policy import PolicyStep
from mcp_bridge.front import messages
from mcp_bridge.front.backend import BackendError, Via
from mcp_bridge.plain_http import TransportBackend
from mcp_bridge.serving import Context, Routes
from secure_mcp_grpc import calls, headers
from secure_mcp_grpc.calls import Malformed, McpCall
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.http_calls import Unfit, id_in, read_http_call
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

POLICY = b"""
p, model-a, tools/call, echo, allow
p, model-a, tools/list, *, allow
p, model-a, grpc:*, *, allow
p, model-a, notifications/*, *, allow
"""
JSON_HEADERS = {"content-type": "application/json"}


@pytest.fixture
async def checker(tmp_path: Path) -> AsyncIterator[Checker]:
    journal = Journal(tmp_path / "journal", "node", rotate_bytes=1_000_000)
    identities = IdentityReader(["mcp.internal"], 16)
    steps = (IdentityStep("mtls", identities, ()), MessageStep(100_000, PlainHttp()), PolicyStep())
    metrics = Metrics(CollectorRegistry())
    pipeline = Pipeline(steps, timeout_s=1)
    yield Checker(policy_of(POLICY), pipeline, journal, metrics, tickets=Tickets(60))
    await journal.close()


def request(body: bytes, *, method: str = "POST", path: str = "/mcp", **changes: str) -> external_auth_pb2.CheckRequest:
    asked = external_auth_pb2.CheckRequest()
    source, http = asked.attributes.source, asked.attributes.request.http
    source.certificate, source.principal = CERTIFICATES["model-a"], "spiffe://mcp.internal/model-a"
    http.method, http.path, http.raw_body, http.size = method, path, body, len(body)
    http.headers.update({**JSON_HEADERS, "x-request-id": "r", **{k.replace("_", "-"): v for k, v in changes.items()}})
    return asked


def answer(checker: Checker, asked: external_auth_pb2.CheckRequest) -> Any:
    written = checker.check(asked.SerializeToString())
    assert isinstance(written, bytes)
    return external_auth_pb2.CheckResponse.FromString(written)


def sent(options: Any) -> dict[str, str]:
    return {one.header.key: one.header.value for one in options}


def call(name: str = "echo", **more: Any) -> bytes:
    params = {"name": name, "arguments": {"text": "x"}}
    return json.dumps({"jsonrpc": "2.0", "id": "a", "method": "tools/call", "params": params, **more}).encode()


async def test_allowed_call_gets_target_and_a_ticket(checker: Checker) -> None:
    """Ours: any request may be answered by a stream, and streams are judged again by their ticket."""
    ok = sent(answer(checker, request(call())).ok_response.headers)
    assert ok[headers.TARGET] == "tools/call echo"
    assert ok[headers.TICKET]


@pytest.mark.parametrize(
    ("body", "method", "target"),
    [
        (b'{"jsonrpc":"2.0","method":"notifications/initialized"}', "POST", "notifications/initialized"),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', "POST", "grpc:reply"),
        (b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"no"}}', "POST", "grpc:reply"),
        (b"", "GET", "grpc:listen"),
        (b"", "DELETE", "grpc:end_session"),
    ],
)
async def test_what_is_no_request_has_its_own_method_in_policy(
    checker: Checker, body: bytes, method: str, target: str
) -> None:
    """Issue 4: as the RPCs of gRPC that carry no MCP method; only what stays open gets a ticket."""
    ok = sent(answer(checker, request(body, method=method, mcp_session_id="s")).ok_response.headers)
    assert ok[headers.TARGET] == target.replace(":", "%3A") or ok[headers.TARGET] == target
    assert (headers.TICKET in ok) is (method == "GET")


async def test_refusal_is_json_under_the_requests_id_and_says_nothing_of_grpc(checker: Checker) -> None:
    """JSON-RPC 2.0, section 5: the id of the request."""
    denied = answer(checker, request(call("forbidden"))).denied_response
    assert denied.status.code == 403
    assert sent(denied.headers) == {"content-type": "application/json"}
    body = json.loads(denied.body)
    assert (body["id"], body["error"]["data"]) == ("a", {"grpcStatus": "PERMISSION_DENIED"})


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({"method": "tools/call", "params": {"name": "echo"}}, True),
        ({"method": "tools/call", "params": {"name": "echo"}, "passthrough_reason": "mcp_body_too_large"}, True),
        ({"method": "tools/call", "params": {"name": "other"}}, False),
        ({"method": "tools/list", "params": {"name": "echo"}}, False),
        ({"method": "__jsonrpc_response"}, False),
        ({"method": "tools/call", "params": {"name": "echo"}, "passthrough_reason": "mcp_duplicate_keys"}, False),
        ({"passthrough_reason": "mcp_not_jsonrpc"}, False),
    ],
)
async def test_what_envoy_reads_differently_is_refused(checker: Checker, fields: dict[str, Any], allowed: bool) -> None:
    """Issue 4: Envoy's native MCP filter feeds the same authz_service."""
    asked = request(call())
    asked.attributes.metadata_context.filter_metadata[headers.MCP_FILTER_NAMESPACE].update(fields)
    response = answer(checker, asked)
    assert response.HasField("ok_response") is allowed
    if not allowed:
        assert "two ways" in json.loads(response.denied_response.body)["error"]["message"]


@pytest.mark.parametrize(
    "change", ["query", "fragment", "size", "content-length", "text body", "cut", "path with query"]
)
async def test_contradicting_envelope_is_refused(checker: Checker, change: str) -> None:
    """Ours: Envoy saw the whole body of a request to the endpoint itself, or nothing is allowed."""
    asked = request(call())
    http = asked.attributes.request.http
    match change:
        case "query" | "fragment":
            setattr(http, change, "a=b")
        case "size":
            http.size += 1
        case "content-length":
            http.headers["content-length"] = "3"
        case "text body":
            http.body = "x"
        case "cut":
            http.headers["x-envoy-auth-partial-body"] = "true"
        case _:
            http.path = "/mcp?a"
    response = answer(checker, asked)
    assert response.denied_response.status.code == (413 if change == "cut" else 400)
    assert response.denied_response.body


def test_endpoint_is_unknown_where_plain_http_is_not_served() -> None:
    """Issue 4: off is off, at authz_service too, whatever Envoy's routes say."""
    from authz_service.request import read_call

    asked = request(call())
    outcome = read_call(asked.attributes.request.http, 100_000)
    assert not isinstance(outcome, McpCall)
    assert outcome.reason == "unknown_path"
    assert PlainHttp.of(PlainHttpSettings.load({})) is None


@pytest.mark.parametrize(
    ("lie", "says"),
    [("mcp-name", "forbidden"), ("mcp-name", "=?base64?Zm9yYmlkZGVu?="), ("mcp-method", "tools/list")],
)
def test_mirror_that_lies_is_refused_in_either_era(lie: str, says: str) -> None:
    """MCP 2026-07-28, Streamable HTTP: -32020; ours: in the handshake era, too, where nobody else looks."""
    for truth in ("echo", "=?base64?ZWNobw==?="):
        assert read_http_call("POST", {**JSON_HEADERS, "mcp-name": truth}, call()).call.name == "echo"
    with pytest.raises(Unfit) as refused:
        read_http_call("POST", {**JSON_HEADERS, lie: says}, call())
    assert refused.value.code == -32020


@pytest.mark.parametrize("value", ["*", "app.example", "https://app.example/", "https://app.example/x", "null"])
def test_origin_that_no_client_sends_stops_the_start(value: str) -> None:
    """Ours: one line that names the variable."""
    with pytest.raises(UserError, match="MCP_AUTHZ_ALLOWED_ORIGINS"):
        PlainHttpSettings.load({"MCP_AUTHZ_ALLOWED_ORIGINS": value})


keys = st.sampled_from(
    ["name", "uri", "arguments", "_meta", "Name", "x", "method", "id", "jsonrpc", "result", "n\u0061me"]
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["echo", "forbidden", "tools/call"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=8,
)
METHODS = ["tools/call", "tools/list", "resources/read", "notifications/initialized", "completion/complete", "ping"]


@st.composite
def bodies(draw: Any) -> bytes:
    """JSON-RPC of a kind, a member exchanged or doubled here and there."""
    members: list[tuple[str, Any]] = [("jsonrpc", "2.0"), ("id", draw(st.integers() | st.text(max_size=4)))]
    members.append(("method", draw(st.sampled_from(METHODS))))
    members.append(("params", draw(st.dictionaries(keys, values, max_size=4))))
    members += draw(st.lists(st.tuples(keys, values), max_size=1))
    members = draw(st.permutations(members))[: draw(st.integers(2, len(members)))]
    ascii_only = draw(st.booleans())
    parts = (f"{json.dumps(key)}:{json.dumps(value, ensure_ascii=ascii_only)}" for key, value in members)
    return ("{" + ",".join(parts) + "}").encode("utf-8", "surrogatepass")


async def _pass(body: bytes) -> McpCall | None:
    """The call that the bridge's handlers would read, after front and backend; None where it gets no further."""
    read: list[McpCall] = []

    def noting(rpc: str) -> Any:
        async def handle(message: bytes, context: Context) -> bytes:
            read.append(calls.read_transport_call(rpc, message))
            return b"\n\x02{}"

        return handle

    routes = Routes(calls={f"{calls.TRANSPORT}{rpc}": noting(rpc) for rpc in ("Call", "Notify", "Reply")})
    backend, via = TransportBackend(routes), Via("s")
    try:
        match messages.read_message(body):
            case messages.Request() as one:
                async for _ in backend.request(one, via, streams=False):
                    pass
            case messages.Notification() as one:
                await backend.notify(one, via)
            case messages.Response() as one:
                await backend.reply(one.message, via)
    except Malformed:
        return None
    return read[0] if read else None


@given(bodies() | st.binary(max_size=60))
async def test_bridge_reads_what_authz_read_or_nothing(body: bytes) -> None:
    """Issue 4: what is executed is what was authorized, whatever the bytes are."""
    executed = await _pass(body)
    try:
        judged = read_http_call("POST", {**JSON_HEADERS, "mcp-session-id": "s"}, body).call
    except Malformed:
        return
    if executed is not None:
        assert (executed.target, executed.arguments) == (judged.target, judged.arguments)


async def test_callers_pile_up_requests_in_their_own_room_only() -> None:
    """Ours: what one client leaves behind does not keep others out."""
    hold = asyncio.Event()

    async def handle(message: bytes, context: Context) -> bytes:
        await hold.wait()
        return pb.Response(message_json=b'{"jsonrpc":"2.0","id":1,"result":{}}').SerializeToString()

    async def ask(subject: str) -> Any:
        one = messages.read_message(b'{"jsonrpc":"2.0","id":1,"method":"ping"}')
        assert isinstance(one, messages.Request)
        via = Via("s", headers=((headers.SUBJECT, subject),))
        return [answer async for answer in backend.request(one, via, streams=False)]

    backend = TransportBackend(Routes(calls={f"{calls.TRANSPORT}Call": handle}), max_in_flight=2)
    async with asyncio.TaskGroup() as group:
        held = [group.create_task(ask(subject)) for subject in ("a", "a", "b")]
        await asyncio.sleep(0)
        with pytest.raises(BackendError) as refused:
            await ask("a")
        hold.set()
    assert (refused.value.http_status, refused.value.code) == (429, -32012)
    assert [len(task.result()) for task in held] == [1, 1, 1]
    assert await ask("a")


@given(st.binary(max_size=80) | bodies())
def test_id_for_a_refusal_is_an_id_or_null(body: bytes) -> None:
    """JSON-RPC 2.0, section 5: a refusal is itself always JSON with an id."""
    found = json.loads(id_in(body))
    assert found is None or (isinstance(found, int | str) and not isinstance(found, bool))
