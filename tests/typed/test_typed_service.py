"""The typed service from outside: both eras behind it, rounds of input, bounds, errors."""

import json
from typing import Any

import grpc
import pytest
from bridge_harness import serving
from era_bridge import bridge_to
from google.protobuf.json_format import MessageToDict
from google.rpc import error_details_pb2
from mcp_grpc_transport_proto import mcp_messages_pb2 as pb
from typed_caller import Scripted, ask, call_of, call_tool, details_of

from mcp_bridge.errors import unavailable
from mcp_bridge.typed.results import DROPPED

pytestmark = pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")


@pytest.mark.parametrize("era", ["modern", "handshake"])
async def test_all_eight_rpcs_reach_servers_of_both_eras(era: str) -> None:
    """Issue 4: all eight RPCs; a client of the proto's one version reaches a server of any."""
    completion = pb.CompletionRequest(
        prompt_reference=pb.PromptReference(name="greet"),
        argument=pb.CompletionRequest.Argument(name="name", value="A"),
    )
    async with bridge_to(era) as bridge, bridge.channel() as channel:
        tools = await ask(channel, "ListTools")
        resources = await ask(channel, "ListResources")
        templates = await ask(channel, "ListResourceTemplates")
        prompts = await ask(channel, "ListPrompts")
        called = await ask(channel, "CallTool", call_of("add", a=1, b=2))
        read = await ask(channel, "ReadResource", pb.ReadResourceRequest(uri="note://today"))
        prompt = await ask(channel, "GetPrompt", pb.GetPromptRequest(name="greet", arguments={"name": "Ada"}))
        completed = await ask(channel, "Complete", completion)

    assert "add" in {one.name for one in tools.tools}
    assert [one.uri for one in resources.resources] == ["note://today"]
    assert [one.uri_template for one in templates.resource_templates] == ["note://day/{day}"]
    assert [one.name for one in prompts.prompts] == ["greet"]
    assert MessageToDict(called.structured_content) == {"total": 3}
    assert read.resource[0].text
    assert "Ada" in prompt.messages[0].text.text
    assert completed.values


@pytest.mark.parametrize("era", ["modern", "handshake"])
async def test_a_server_gets_the_input_it_asks_for(era: str) -> None:
    """Issue 4: input-required results are carried: sampling, elicitation, roots, through a retry each."""
    asked: list[str] = []
    async with bridge_to(era) as bridge, bridge.channel() as channel:
        sampled = await call_tool(channel, "ask", asked, question="x")
        formed = await call_tool(channel, "form", asked)
        roots = await call_tool(channel, "roots", asked)

    assert sampled.content[0].text.text == "re x"
    assert formed.content[0].text.text == "to first? to second?"
    assert "file:///here" in str(roots)
    assert asked == ["sample x", "elicit first?", "elicit second?", "roots"]


async def test_a_retry_carries_state_and_answers_as_mcp_has_them() -> None:
    """MCP 2026-07-28, "Multi Round-Trip Requests": `inputResponses` and `requestState` in params."""
    upstream = Scripted(lambda _params: {"content": []})
    call = call_of("t")
    call.common.request_state = ""
    sampled = call.common.input_responses["s"].sampling_create_message_result
    sampled.model, sampled.stop_reason, sampled.message.role = "m", "endTurn", pb.Role.Value("ROLE_ASSISTANT")
    sampled.message.image.data, sampled.message.image.mime_type = b"\x01", "image/png"
    sampled.message.image.annotations.priority = 0.7
    call.common.input_responses["d"].elicit_result.type = pb.ElicitResult.TYPE_DECLINE
    call.common.input_responses["r"].root_list_result.roots.add(uri="file:///x", name="x")
    async with serving(upstream) as bridge, bridge.channel() as channel:
        await ask(channel, "CallTool", call)

    (params,) = upstream.params
    image = {"type": "image", "data": "AQ==", "mimeType": "image/png", "annotations": {"priority": 0.7}}
    assert params["requestState"] == ""
    assert params["inputResponses"] == {
        "s": {"role": "assistant", "content": image, "model": "m", "stopReason": "endTurn"},
        "d": {"action": "decline"},
        "r": {"roots": [{"uri": "file:///x", "name": "x"}]},
    }


async def test_pages_are_drained_and_each_is_a_record() -> None:
    """Issue 4: pages are drained; ours: one list of them all, the narrowest word on caching, a record for each."""

    def page(params: dict[str, Any]) -> dict[str, Any]:
        number = int(params.get("cursor", 0))
        tool = {"name": f"t{number}", "inputSchema": {"type": "object"}, "extra": 1}
        common = {
            "ttlMs": 5000 - number,
            "cacheScope": "private" if number == 1 else "public",
            "_meta": {"page": number},
        }
        return {"tools": [tool], **common} | ({"nextCursor": str(number + 1)} if number < 2 else {})

    async with serving(Scripted(page)) as bridge, bridge.channel() as channel:
        listed = await ask(channel, "ListTools")

    assert [one.name for one in listed.tools] == ["t0", "t1", "t2"]
    assert listed.ttl.ToMilliseconds() == 4998
    assert listed.cache_scope == pb.CACHE_SCOPE_PRIVATE
    metadata = MessageToDict(listed.common.metadata)
    assert metadata["page"] == 0
    assert sorted(metadata[DROPPED]) == [
        "/_meta/page",
        "/_meta/page",
        "/tools/0/extra",
        "/tools/1/extra",
        "/tools/2/extra",
    ]
    assert [record.rpc for record in bridge.records] == ["ListTools"] * 3


@pytest.mark.parametrize(
    ("items", "size", "word"), [(1, 10, "100 pages"), (5000, 1, "20000 items"), (1, 100_000, "the list is larger than")]
)
async def test_lists_without_end_are_cut_off(items: int, size: int, word: str) -> None:
    """Ours: pages, items and bytes of a list are bounded; a hostile server costs no more than that."""
    tool = {"name": "t" * size, "inputSchema": {}}
    upstream = Scripted(lambda _params: {"tools": [tool] * items, "nextCursor": "more"})
    async with serving(upstream, max_answer_bytes=1_500_000) as bridge, bridge.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError, match=word) as failed:
            await ask(channel, "ListTools")

    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(upstream.params) <= 100


async def test_a_tool_that_cannot_be_carried_is_left_out_and_named() -> None:
    """Ours: one server's tool with a schema too deep does not take everybody's list away."""
    deep = _nested(40)
    tools = [{"name": name, "inputSchema": {"maximum": 2**64}} for name in "abc"]
    tools[1] = {"name": "b", "title": 5, "inputSchema": deep}
    async with serving(Scripted(lambda _params: {"tools": tools})) as bridge, bridge.channel() as channel:
        listed = await ask(channel, "ListTools")

    assert [one.name for one in listed.tools] == ["a", "c"]
    named = MessageToDict(listed.common.metadata)[DROPPED]
    assert named == ["/tools/0/inputSchema/maximum", "/tools/1", "/tools/2/inputSchema/maximum"]


async def test_no_server_says_what_was_dropped() -> None:
    """Ours: that word in metadata is the bridge's; a server's own is dropped, and named."""
    upstream = Scripted(lambda _params: {"content": [], "_meta": {DROPPED: ["/content"]}})
    async with serving(upstream) as bridge, bridge.channel() as channel:
        answer = await ask(channel, "CallTool", call_of("t"))

    assert MessageToDict(answer.common.metadata) == {DROPPED: ["/_meta/secure-mcp-grpc~1dropped"]}


@pytest.mark.parametrize(
    ("result", "word"),
    [
        ({"content": [], "structuredContent": {"n": 2**53 + 1}}, "an integer is too large"),
        ({"content": [], "structuredContent": [1]}, "structured content that is not an object"),
        ({"content": [{"type": "video", "data": ""}]}, "content of this type"),
        ({"content": [{"type": "image", "data": "?", "mimeType": "x"}]}, "not base64"),
        ({"resultType": "task", "content": []}, "a kind of result"),
        ({"resultType": "input_required"}, "not of MCP's form"),
        ({"resultType": "input_required", "inputRequests": {"x": {"method": "ping"}}}, "asks for something"),
        ({"content": "text"}, "not of MCP's form"),
        (b"[", "not of MCP's form"),
        (b"{}", "not of MCP's form"),
    ],
)
async def test_what_would_become_something_else_is_refused(result: Any, word: str) -> None:
    """Issue 4: refused, never silently changed."""
    async with serving(Scripted(lambda _params: result)) as bridge, bridge.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError, match=word) as failed:
            await ask(channel, "CallTool", call_of("t"))

    assert failed.value.code() is grpc.StatusCode.INTERNAL
    assert details_of(failed.value)[1].reason == "INTERNAL"


async def test_the_deepest_value_that_is_written_can_be_read() -> None:
    """Ours: google.protobuf's parsers stop at 100 messages; so deep a value is not written, at any place."""
    block = {"type": "resource", "resource": {"uri": "u", "text": "", "_meta": _nested(30)}}
    result = {"messages": [{"role": "user", "content": block}]}
    async with serving(Scripted(lambda _params: result)) as bridge, bridge.channel() as channel:
        prompt = await ask(channel, "GetPrompt", pb.GetPromptRequest(name="p"))

    meta = prompt.messages[0].embedded_resource.contents.metadata
    assert MessageToDict(meta) == _nested(30)
    assert DROPPED not in prompt.common.metadata.fields


def _nested(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(levels - 1):
        found = {"k": found}
    return found


async def test_large_answers_arrive() -> None:
    """Ours: what is converted in a thread is the same."""
    numbers = list(range(60_000))
    upstream = Scripted(lambda _params: {"content": [], "structuredContent": {"numbers": numbers}})
    async with serving(upstream) as bridge, bridge.channel() as channel:
        answer = await ask(channel, "CallTool", call_of("t"))

    assert [one.number_value for one in answer.structured_content.fields["numbers"].list_value.values] == numbers


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"code": -32602, "message": "no such thing", "data": {"uri": "x"}}, grpc.StatusCode.INVALID_ARGUMENT),
        (
            {"code": -32021, "message": "capability", "data": {"requiredCapabilities": {}}},
            grpc.StatusCode.FAILED_PRECONDITION,
        ),
        ({"code": -32603, "message": "bug", "data": "x" * 5000}, grpc.StatusCode.UNKNOWN),
        ({"code": 5, "message": "long" * 5000}, grpc.StatusCode.UNKNOWN),
        ({"code": "odd", "message": 5}, grpc.StatusCode.UNKNOWN),
    ],
)
async def test_errors_of_mcp_keep_code_message_and_data(error: dict[str, Any], code: grpc.StatusCode) -> None:
    """Issue 4: errors as google.rpc.Status details; what is too long for a trailer is named as missing."""
    async with serving(Scripted(lambda _params: error)) as bridge, bridge.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await ask(channel, "CallTool", call_of("t"))
        await ask_again(channel, bridge)

    status, info = details_of(failed.value)
    assert failed.value.code() is code
    assert status.code == code.value[0]
    assert status.message == failed.value.details()
    assert (info.reason, info.domain) == ("MCP_ERROR", "modelcontextprotocol.io")
    data = json.dumps(error.get("data"), separators=(",", ":"))
    assert info.metadata.get("data", "null") == (data if len(data) < 1500 else "null")
    assert ("data_dropped" in info.metadata) == (len(data) > 1500)
    assert ("message_cut" in info.metadata) == (len(str(error["message"])) > 1500)


async def ask_again(channel: grpc.aio.Channel, bridge: Any) -> None:
    """The connection that brought an error still works."""
    bridge.upstream.script = lambda _params: {"content": []}
    await ask(channel, "CallTool", call_of("t"))


async def test_errors_of_hops_keep_code_and_sentence() -> None:
    """Issue 4: hop errors keep code and sentence; ours: UNAVAILABLE says when to try again."""

    def gone(_params: Any) -> bytes:
        raise unavailable("the MCP server went away")

    async with serving(Scripted(gone)) as bridge, bridge.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="the MCP server went away") as failed:
            await ask(channel, "ListPrompts")

    status, info = details_of(failed.value)
    retry = error_details_pb2.RetryInfo()
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (info.reason, info.domain) == ("UNAVAILABLE", "secure-mcp-grpc")
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.ToSeconds() == 1
