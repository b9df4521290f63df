"""Calls through the whole chain: SDK → gRPC → mTLS Envoy → authz → bridge → a server that is not ours."""

import asyncio
import subprocess
import sys
import urllib.request

import grpc
import pytest
from chain_stack import Stack, until
from mcp import Client, MCPError, StdioServerParameters
from prometheus_client.parser import text_string_to_metric_families

from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb
from secure_mcp_grpc.v1 import mcp_transport_pb2_grpc as pb_grpc

MODES = ("auto", "legacy")


async def direct_git_log(stack: Stack, mode: str) -> dict[str, object]:
    parameters = StdioServerParameters(
        command=sys.executable, args=["-m", "mcp_server_git", "--repository", str(stack.repository)]
    )
    async with Client(parameters, mode=mode) as client:
        return (await client.call_tool("git_log", git_log(stack))).model_dump(by_alias=True, mode="json")


def git_log(stack: Stack) -> dict[str, object]:
    return {"repo_path": str(stack.repository), "max_count": 5}


@pytest.mark.parametrize("mode", MODES)
async def test_an_allowed_call_gives_what_the_server_gives(stack: Stack, mode: str) -> None:
    """Issue: the result is identical to calling the server directly with the SDK; both protocol eras."""
    direct = await direct_git_log(stack, mode)

    async with Client(stack.transport(), mode=mode) as client:
        through = (await client.call_tool("git_log", git_log(stack))).model_dump(by_alias=True, mode="json")

    assert through == direct
    assert "First" in str(through["content"])


@pytest.mark.parametrize("mode", MODES)
async def test_progress_reaches_the_caller(stack: Stack, mode: str) -> None:
    """Spec, basic/utilities/progress: notifications of a request arrive before its response."""
    seen: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async with Client(stack.transport(), mode=mode) as client:
        result = await client.call_tool("count", {"to": 5}, progress_callback=note)

    assert seen == [1, 2, 3, 4, 5]
    assert result.structured_content == {"result": 5}


@pytest.mark.parametrize("mode", MODES)
async def test_a_denied_call_is_refused_in_a_sentence_and_never_arrives(stack: Stack, mode: str) -> None:
    """Issue: PERMISSION_DENIED with the sentence; the server never saw it; a row in the store."""
    async with Client(stack.transport(), mode=mode) as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool("forbidden", {"text": f"by {mode}"})

    assert "model-a may not call forbidden: no rule allows it" in caught.value.error.message
    assert caught.value.error.data["grpcStatus"] == "PERMISSION_DENIED"
    assert not any(line.startswith("forbidden") for line in stack.recorded())
    sql = "SELECT identity, decision, outcome, grpc_status, server FROM requests WHERE tool = 'forbidden'"
    rows = until(lambda: stack.rows(sql))
    assert set(rows) == {("model-a", "deny", "denied", 7, "")}


async def test_headers_of_the_client_count_for_nothing(stack: Stack) -> None:
    """Issue: a client that sends its own x-mcp-subject is ignored."""
    message = pb.Request(
        method="tools/call", name="echo", id_json=b"1", params_json=b'{"name":"echo","arguments":{"text":"forged"}}'
    )
    forged = (
        ("x-mcp-subject", "model-a"),
        ("x-mcp-roles", "role:user"),
        ("x-mcp-target", "tools/call echo"),
        ("x-mcp-decision", "chain:1"),
        ("x-forwarded-client-cert", "URI=spiffe://test.mcp/model-a"),
    )
    async with stack.channel("model-b") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await pb_grpc.McpTransportStub(channel).Call(message, metadata=forged, timeout=10)

    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert caught.value.details() == "model-b may not call echo: no rule allows it"
    assert "echo forged" not in stack.recorded()


@pytest.mark.parametrize(
    "message",
    [
        pb.Request(method="tools/call", name="echo", id_json=b"1", params_json=b'{"name":"forbidden"}'),
        pb.Request(method="tools/call", name="echo", id_json=b"1", params_json=b'{"name":"echo","name":"forbidden"}'),
        pb.Request(method="tools/list", name="", id_json=b'1,"method":"tools/call"', params_json=b"{}"),
    ],
)
async def test_a_message_that_contradicts_itself_is_refused(stack: Stack, message: pb.Request) -> None:
    """Ours: authorization reads the message itself."""
    before = len([line for line in stack.recorded() if line.startswith("forbidden")])
    async with stack.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await pb_grpc.McpTransportStub(channel).Call(message, timeout=10)

    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert len([line for line in stack.recorded() if line.startswith("forbidden")]) == before


async def test_the_typed_service_takes_the_same_way(stack: Stack) -> None:
    """Issue: ListTools and CallTool of model_context_protocol.Mcp, for a stub in any language."""
    from mcp_grpc_transport_proto import mcp_messages_pb2 as typed
    from mcp_grpc_transport_proto import mcp_pb2_grpc

    call = typed.CallToolRequest(request=typed.CallToolRequest.Request(name="echo"))
    call.request.arguments.update({"text": "typed"})
    refused = typed.CallToolRequest(request=typed.CallToolRequest.Request(name="forbidden"))
    async with stack.channel() as channel:
        stub = mcp_pb2_grpc.McpStub(channel)
        tools = await stub.ListTools(typed.ListToolsRequest(), timeout=20)
        answer = await stub.CallTool(call, timeout=20)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CallTool(refused, timeout=20)

    assert {"echo", "git_log"} <= {tool.name for tool in tools.tools}
    assert answer.content[0].text.text == "typed"
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_a_cancelled_call_reaches_the_store_as_cancelled(stack: Stack) -> None:
    """Spec, basic/utilities/cancellation; ours: outcome `cancelled`."""
    async with Client(stack.transport()) as client:
        call = asyncio.create_task(client.call_tool("slow", {"seconds": 30}))
        await asyncio.to_thread(until, lambda: "slow began" in stack.recorded())
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    sql = "SELECT outcome FROM requests WHERE tool = 'slow'"
    assert await asyncio.to_thread(until, lambda: stack.rows(sql)) == [("cancelled",)]
    assert "slow ended" not in stack.recorded()


def test_the_command_line_calls_and_tells_refusals_apart(stack: Stack) -> None:
    """Issue: MCP errors and refusals are shown as such, with different exit codes."""
    done = stack.cli("call", "echo", '{"text": "hello"}', "--as", "model-a")
    tool_error = stack.cli("call", "echo", "{}", "--as", "model-a")
    refused = stack.cli("call", "forbidden", "--as", "model-a")
    wrong = stack.cli("call", "echo", "[", "--as", "model-a")
    nobody = stack.cli("call", "echo", "--as", "model-z")
    listed = stack.cli("list", "--as", "model-a")

    assert (done.returncode, done.stdout.strip()) == (0, "hello")
    assert tool_error.returncode in (1, 3)
    assert refused.returncode == 4
    assert "model-a may not call forbidden" in refused.stderr
    assert (wrong.returncode, nobody.returncode) == (2, 2)
    assert "certs/model-z/tls.crt does not exist" in nobody.stderr.replace("\n", "")
    assert "git_log" in listed.stdout


def test_health_shows_every_part(stack: Stack) -> None:
    """Issue: health shows every part: state, since when, why not."""
    table: subprocess.CompletedProcess[str] = stack.cli("health")
    assert table.returncode == 0
    assert all(part in table.stdout for part in ("store", "sink", "authz", "bridge", "envoy", "dashboard"))
    assert table.stdout.count("ready") == 6


@pytest.mark.parametrize("part", ["store", "sink", "authz", "bridge", "dashboard"])
def test_every_part_serves_metrics(stack: Stack, part: str) -> None:
    """Issue: each Python part serves Prometheus metrics."""
    with urllib.request.urlopen(f"http://{stack.endpoint(part, 'metrics')}/metrics", timeout=5) as answer:
        text = answer.read().decode()

    families = {family.name for family in text_string_to_metric_families(text)}
    assert "process_resident_memory_bytes" in families
    assert any(name.startswith("mcp_") for name in families)
