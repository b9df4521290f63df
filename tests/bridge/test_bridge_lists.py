"""Lists through the bridge: what a caller sees, with a policy service of the test on a Unix socket."""

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import full_server
import grpc
import mcp
import pytest
from bridge_harness import HERE, Bridge, request, send, serving, stdio, tool
from mcp.server.lowlevel.server import Server
from mcp_grpc_transport_proto import mcp_messages_pb2 as typed
from mcp_types import ListToolsResult, Tool
from test_bridge_execute import Spy
from test_bridge_process import running
from test_bridge_typed import ask

from mcp_bridge.exchange import Upstream
from mcp_bridge.listing import HIDDEN, PolicyLists, authz_channel
from mcp_bridge.settings import BridgeSettings
from mcp_bridge.upstreams.inprocess import InProcessUpstream
from mcp_bridge.upstreams.router import Router
from mcp_bridge.wire import EXPLAIN
from secure_mcp_grpc import headers
from secure_mcp_grpc.calls import TRANSPORT
from secure_mcp_grpc.v1 import mcp_transport_pb2, policy_query_pb2

pytestmark = pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")

MAY = {"model-a": {"add", "echo", "note://today", "note://day/{day}", "greet"}, "model-b": {"echo"}}
EXPLAINER = "model-b"
METHODS = ("tools/list", "resources/list", "resources/templates/list", "prompts/list")


class Policy:
    """`PolicyQuery` as authz_service would answer, and as it would not (`answer`)."""

    def __init__(self, may: Mapping[str, set[str]]) -> None:
        self.may = may
        self.asked: list[policy_query_pb2.FilterRequest] = []
        self.answer: bytes | None = None
        self.silent = False
        self.server: grpc.aio.Server | None = None

    async def start(self, address: str) -> None:
        handler = grpc.unary_unary_rpc_method_handler(self._filter)
        self.server = grpc.aio.server()
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("secure_mcp_grpc.v1.PolicyQuery", {"Filter": handler}),)
        )
        self.server.add_insecure_port(address)
        await self.server.start()

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.stop(None)

    async def _filter(self, body: bytes, _context: Any) -> bytes:
        asked = policy_query_pb2.FilterRequest.FromString(body)
        self.asked.append(asked)
        if self.silent:
            await asyncio.Event().wait()
        if self.answer is not None:
            return self.answer
        visible = [name in self.may.get(asked.subject, ()) for name in asked.names]
        response = policy_query_pb2.FilterResponse(visible=visible)
        if asked.explain and asked.subject == EXPLAINER:
            response.explained = True
            for index, bit in enumerate(visible):
                if not bit:
                    response.hidden.add(index=index, reason="denied_by_rule", sentence="a rule", rule="p, …")
        return response.SerializeToString()


@pytest.fixture
async def policy() -> AsyncIterator[tuple[Policy, str]]:
    policy = Policy(MAY)
    with tempfile.TemporaryDirectory() as directory:
        address = f"unix:{directory}/authz.sock"
        await policy.start(address)
        yield policy, address
        await policy.stop()


@contextlib.asynccontextmanager
async def filtered(
    upstream: Upstream, address: str, *, timeout_s: float = 0.5, counts: dict[str, int] | None = None
) -> AsyncIterator[Bridge]:
    counts = {} if counts is None else counts

    def count(result: str, items: int) -> None:
        counts[result] = counts.get(result, 0) + items

    async with authz_channel(address) as channel:
        lists = PolicyLists(channel, timeout_s=timeout_s, count=count)
        async with serving(upstream, guards=[lists]) as bridge:
            yield bridge


@pytest.fixture
async def bridge(policy: tuple[Policy, str]) -> AsyncIterator[Bridge]:
    async with filtered(InProcessUpstream("full", full_server.server), policy[1]) as one:
        yield one


def names_of(answer: Any) -> list[str]:
    (items,) = (value for value in answer["result"].values() if isinstance(value, list))
    return [item.get("uriTemplate") or item.get("uri") or item["name"] for item in items]


async def over_stream(channel: grpc.aio.Channel, message: Any) -> Any:
    call = channel.unary_stream(
        f"{TRANSPORT}Stream", type(message).SerializeToString, mcp_transport_pb2.Response.FromString
    )
    return json.loads([one async for one in call(message, timeout=10)][-1].message_json)


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("tools/list", ["add", "echo"]),
        ("resources/list", ["note://today"]),
        ("resources/templates/list", ["note://day/{day}"]),
        ("prompts/list", ["greet"]),
    ],
)
async def test_caller_sees_what_it_may_use(bridge: Bridge, method: str, names: list[str]) -> None:
    """Issue 3: over Call and Stream."""
    async with bridge.channel("model-a") as mine, bridge.channel("model-b") as theirs, bridge.channel("x") as stranger:
        assert names_of(await send(mine, "Call", request(method))) == names
        assert names_of(await over_stream(mine, request(method))) == names
        assert names_of(await send(theirs, "Call", request(method))) == [name for name in names if name == "echo"]
        assert names_of(await send(stranger, "Call", request(method))) == []


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_both_eras_see_the_same(bridge: Bridge, mode: Any) -> None:
    """Issue 3: SDK clients, stateless and with a session; what is shown works."""
    async with mcp.Client(bridge.transport(), mode=mode) as client:
        assert [one.name for one in (await client.list_tools()).tools] == ["add", "echo"]
        assert [one.name for one in (await client.list_prompts()).prompts] == ["greet"]
        assert [str(one.uri) for one in (await client.list_resources()).resources] == ["note://today"]
        assert (await client.call_tool("add", {"a": 1, "b": 2})).structured_content == {"result": 3}


async def test_typed_lists_are_filtered(bridge: Bridge) -> None:
    """Issue 3: the typed service is no way around."""
    async with bridge.channel("model-b") as channel:
        tools = await ask(channel, "ListTools", typed.ListToolsRequest(), typed.ListToolsResponse)
        prompts = await ask(channel, "ListPrompts", typed.ListPromptsRequest(), typed.ListPromptsResponse)
        resources = await ask(channel, "ListResources", typed.ListResourcesRequest(), typed.ListResourcesResponse)

    assert [one.name for one in tools.tools] == ["echo"]
    assert len(prompts.prompts) == len(resources.resources) == 0


async def test_policy_hears_who_asks(bridge: Bridge, policy: tuple[Policy, str]) -> None:
    """Ours: workload, user and the roles of the user's token, as authz_service itself wrote them."""
    metadata = (
        (headers.USER, headers.encode_value("user:corp:änn%41")),
        (headers.USER_ROLES, headers.encode_list(["role:x", "role:a,b"])),
    )
    async with bridge.channel("model-a") as channel:
        await send(channel, "Call", request("tools/list"), metadata=metadata)

    (asked,) = policy[0].asked
    assert (asked.subject, asked.user, list(asked.user_roles)) == (
        "model-a",
        "user:corp:änn%41",
        ["role:x", "role:a,b"],
    )
    assert (asked.method, asked.explain) == ("tools/list", False)
    assert {"add", "echo", "wait"} <= set(asked.names)


def paged_server(pages: int) -> Any:
    async def list_tools(_context: Any, params: Any) -> ListToolsResult:
        number = int(params.cursor or 0) if params else 0
        tools = [Tool(name=name, input_schema={"type": "object"}) for name in (f"t{number}", f"hidden{number}")]
        return ListToolsResult(tools=tools, next_cursor=str(number + 1) if number + 1 < pages else None)

    return Server("paged", on_list_tools=list_tools)


async def test_every_page_is_filtered_and_cursors_stay(policy: tuple[Policy, str]) -> None:
    """Issue 3: every page; an empty one still leads to the next."""
    policy[0].may = {"model-a": {"t0", "t2"}}
    async with filtered(InProcessUpstream("paged", paged_server(3)), policy[1]) as bridge, bridge.channel() as channel:
        pages = [
            (await send(channel, "Call", request("tools/list", {"cursor": cursor} if cursor else {})))["result"]
            for cursor in ("", "1", "2")
        ]
        listed = await ask(channel, "ListTools", typed.ListToolsRequest(), typed.ListToolsResponse)

    assert [[one["name"] for one in page["tools"]] for page in pages] == [["t0"], [], ["t2"]]
    assert [page.get("nextCursor") for page in pages] == ["1", "2", None]
    assert [one.name for one in listed.tools] == ["t0", "t2"]


async def test_merged_list_is_filtered_and_routes_stay(policy: tuple[Policy, str]) -> None:
    """Ours: the router knows every tool, its callers only theirs."""
    unruly = stdio("unruly", "-S", str(HERE / "unruly_server.py"), "spare", "other")
    policy[0].may = {"model-a": {"spare", "echo"}}
    upstream = Router([InProcessUpstream("full", full_server.server), unruly], max_bytes=1_000_000)
    async with filtered(upstream, policy[1]) as bridge, bridge.channel() as channel:
        assert names_of(await send(channel, "Call", request("tools/list"))) == ["echo", "spare"]
        assert "error" not in await send(channel, "Call", tool("add", {"a": 1, "b": 1}))


async def test_caller_with_the_right_hears_why(bridge: Bridge) -> None:
    """Issue 3: reasons in `_meta`, on request and by right; otherwise not even the key."""
    flag = {"_meta": {EXPLAIN: True}}
    async with bridge.channel(EXPLAINER) as may, bridge.channel("model-a") as may_not:
        told = (await send(may, "Call", request("prompts/list", flag)))["result"]
        unasked = (await send(may, "Call", request("prompts/list")))["result"]
        refused = (await send(may_not, "Call", request("tools/list", flag)))["result"]

    assert told["_meta"][HIDDEN] == [{"name": "greet", "reason": "denied_by_rule", "message": "a rule", "rule": "p, …"}]
    assert told["prompts"] == unasked["prompts"] == []
    assert HIDDEN not in unasked.get("_meta", {})
    assert HIDDEN not in refused.get("_meta", {})


async def test_reasons_of_all_pages_reach_typed_callers(policy: tuple[Policy, str]) -> None:
    """Ours: the typed answer has one `_meta` for all pages."""
    message = typed.ListToolsRequest()
    message.common.metadata.update({EXPLAIN: True})
    upstream = InProcessUpstream("paged", paged_server(2))
    async with filtered(upstream, policy[1]) as bridge, bridge.channel(EXPLAINER) as channel:
        listed = await ask(channel, "ListTools", message, typed.ListToolsResponse)

    told = listed.common.metadata[HIDDEN]
    assert [one["name"] for one in told] == ["t0", "hidden0", "t1", "hidden1"]


async def test_errors_and_other_answers_pass_untouched(policy: tuple[Policy, str]) -> None:
    """Ours: only lists are looked into."""
    spy = Spy()
    async with filtered(spy, policy[1]) as bridge, bridge.channel() as channel:
        spy.answer = b'{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no","data":1.0}}'
        assert await raw(channel, request("tools/list")) == spy.answer
        spy.answer = b'{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"secret"}]}}'
        assert await raw(channel, tool("shell")) == spy.answer
    assert policy[0].asked == []


async def raw(channel: grpc.aio.Channel, message: Any) -> bytes:
    call = channel.unary_unary(
        f"{TRANSPORT}Call", type(message).SerializeToString, mcp_transport_pb2.Response.FromString
    )
    return bytes((await call(message, timeout=10)).message_json)


async def test_list_beside_an_error_does_not_pass(policy: tuple[Policy, str]) -> None:
    """JSON-RPC 2.0, 5: a response has a result or an error; a reader that takes the result must find none."""
    spy = Spy()
    spy.answer = b'{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"secret"}]},"error":{"code":1,"message":"x"}}'
    async with filtered(spy, policy[1]) as bridge, bridge.channel() as channel:
        assert await raw(channel, request("tools/list")) == (
            b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}'
        )


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"tools":{"a":"secret"}}', b'{"Tools":[{"name":"secret"}]}'])
@pytest.mark.parametrize("method", METHODS)
async def test_answer_that_is_no_list_is_refused(policy: tuple[Policy, str], method: str, body: bytes) -> None:
    """Ours: fail closed; the refusal is on record."""
    spy = Spy()
    spy.answer = b'{"jsonrpc":"2.0","id":1,"result":' + body + b"}"
    async with filtered(spy, policy[1]) as bridge, bridge.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="not of MCP's form") as refused:
            await send(channel, "Call", request(method))

    assert refused.value.code() is grpc.StatusCode.INTERNAL
    assert [record.outcome for record in bridge.records] == ["failed"]


async def test_without_authz_there_is_no_list_and_later_there_is(policy: tuple[Policy, str]) -> None:
    """Ours: UNAVAILABLE in bounded time; tools that are asked for by name have their own decision."""
    served, address = policy
    async with (
        filtered(InProcessUpstream("full", full_server.server), address, timeout_s=0.4) as bridge,
        bridge.channel() as channel,
    ):
        assert names_of(await send(channel, "Call", request("tools/list"))) == ["add", "echo"]
        await served.stop()
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await send(channel, "Call", request("tools/list"))
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert time.monotonic() - started < 2
        assert (await send(channel, "Call", tool("add", {"a": 1, "b": 2})))["result"]["structuredContent"][
            "result"
        ] == 3
        await served.start(address)
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    answer = await send(channel, "Call", request("tools/list"))
                    break
    assert names_of(answer) == ["add", "echo"]


async def test_hanging_authz_is_not_waited_for(bridge: Bridge, policy: tuple[Policy, str]) -> None:
    """Issue 3: hang a dependency: a refusal in bounded time."""
    policy[0].silent = True
    started = time.monotonic()
    async with bridge.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await send(channel, "Call", request("tools/list"))

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert 0.3 < time.monotonic() - started < 3


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        policy_query_pb2.FilterResponse(visible=[True]).SerializeToString(),
        policy_query_pb2.FilterResponse(visible=[True] * 100).SerializeToString(),
        b"\xff\xff\xff",
    ],
)
async def test_garbled_judgement_shows_nothing(bridge: Bridge, policy: tuple[Policy, str], answer: bytes) -> None:
    """Issue 3: garble a dependency; a value too few or too many is no judgement."""
    policy[0].answer = answer
    async with bridge.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await send(channel, "Call", request("tools/list"))

    assert refused.value.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE)


async def test_long_list_is_judged_in_portions(policy: tuple[Policy, str]) -> None:
    """Ours: authz_service is never busy with one list for long."""
    spy, counts = Spy(), dict[str, int]()
    names = [f"t{number}" for number in range(1203)]
    items = [{"name": name} for name in (*names, "")]
    spy.answer = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"tools": items}}).encode()
    policy[0].may = {"model-a": set(names[::2])}
    async with filtered(spy, policy[1], counts=counts) as bridge, bridge.channel() as channel:
        assert names_of(await send(channel, "Call", request("tools/list"))) == names[::2]

    assert [len(one.names) for one in policy[0].asked] == [500, 500, 203]
    assert counts == {"shown": 602, "hidden": 601, "unusable": 1}


async def test_page_with_too_many_items_is_refused(policy: tuple[Policy, str]) -> None:
    """Ours: the time that a list takes is bounded."""
    spy = Spy()
    items = b",".join(b'{"name":"t%d"}' % number for number in range(20_001))
    spy.answer = b'{"jsonrpc":"2.0","id":1,"result":{"tools":[' + items + b"]}}"
    async with filtered(spy, policy[1]) as bridge, bridge.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="more than 20000 items") as refused:
            await send(channel, "Call", request("tools/list"))

    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert policy[0].asked == []


async def test_bridge_process_asks_authz_beside_it(tmp_path: Path) -> None:
    """Ours: by default the socket `authz.sock` of the same run directory."""
    policy = Policy({"model-a": {"spare"}})
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory)
        upstreams = {"u": {"command": [sys.executable, "-S", str(HERE / "unruly_server.py"), "spare", "other"]}}
        await policy.start(f"unix:{run_dir}/authz.sock")
        async with (
            running(run_dir, upstreams, list_filter="policy") as (_, announced),
            Bridge(announced["endpoints"]["grpc"], None, None).channel() as channel,
        ):
            assert names_of(await send(channel, "Call", request("tools/list"))) == ["spare"]
        await policy.stop()


async def test_bridge_that_does_not_filter_says_so() -> None:
    """Ours: no list is unfiltered in silence."""
    with tempfile.TemporaryDirectory() as directory:
        upstreams = {"u": {"command": [sys.executable, "-S", str(HERE / "unruly_server.py"), "spare", "other"]}}
        async with running(Path(directory), upstreams) as (process, announced):
            async with Bridge(announced["endpoints"]["grpc"], None, None).channel() as channel:
                assert names_of(await send(channel, "Call", request("tools/list"))) == ["spare", "other"]
            process.terminate()
            _, log = await process.communicate()

    (event,) = (line for line in map(json.loads, log.splitlines()) if line.get("event") == "lists_not_filtered")
    assert event["level"].upper() == "WARNING"


@pytest.mark.parametrize(("written", "meant"), [("policy", "policy"), ("off", "off"), ('"off"', "off")])
def test_filter_is_named_in_yaml(tmp_path: Path, written: str, meant: str) -> None:
    """YAML 1.1: a bare `off` is a boolean, and people will write it bare."""
    path = tmp_path / "sidecar.yaml"
    path.write_text(f"bridge:\n  upstreams: {{u: {{command: [x]}}}}\n  list_filter: {written}\n")
    assert BridgeSettings.load({}, path).list_filter == meant
