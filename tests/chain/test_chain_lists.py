"""Lists through the whole chain: two identities, every way to ask, and no policy service."""

import json
import os
import signal
import time

import grpc
import pytest
from chain_stack import POLICY, Stack, until
from mcp import Client
from mcp_grpc_transport_proto import mcp_messages_pb2 as typed
from mcp_grpc_transport_proto import mcp_pb2_grpc

from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb
from secure_mcp_grpc.v1 import mcp_transport_pb2_grpc as pb_grpc
from secure_mcp_grpc.v1 import policy_query_pb2, policy_query_pb2_grpc

SEES = {"model-a": {"echo", "count", "slow", "git_log"}, "model-b": {"git_status"}}
RULE = "p, model-b, tools/call, git_status, allow\np, model-b, policy:explain, tools/list, allow\n"
LIST = pb.Request(
    method="tools/list",
    protocol_version="2026-07-28",
    id_json=b"1",
    params_json=json.dumps(
        {
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
                "io.modelcontextprotocol/clientCapabilities": {},
                "secure-mcp-grpc/explain": True,
            }
        }
    ).encode(),
)


@pytest.fixture(scope="module")
def stack_with_rule(stack: Stack) -> Stack:
    """model-b may use one tool, and hear why it does not see the others; model-a may not, for all its `grpc:*`."""
    stack.set_policy(POLICY + RULE)
    until(lambda: "git_status" in stack.cli("list", "--as", "model-b").stdout)
    return stack


def result_of(response: pb.Response) -> dict[str, object]:
    return dict(json.loads(response.message_json)["result"])


@pytest.mark.parametrize("identity", SEES)
async def test_each_identity_sees_what_it_may_use(stack_with_rule: Stack, identity: str) -> None:
    """Issue 3: over Call, Stream and the typed ListTools, and in both eras of the SDK."""
    async with stack_with_rule.channel(identity) as channel:
        stub = pb_grpc.McpTransportStub(channel)
        called = result_of(await stub.Call(LIST, timeout=20))
        streamed = result_of([one async for one in stub.Stream(LIST, timeout=20)][-1])
        listed = await mcp_pb2_grpc.McpStub(channel).ListTools(typed.ListToolsRequest(), timeout=20)
    seen = [{tool["name"] for tool in one["tools"]} for one in (called, streamed)]
    seen.append({tool.name for tool in listed.tools})
    for mode in ("auto", "legacy"):
        async with Client(stack_with_rule.transport(identity), mode=mode) as client:
            seen.append({tool.name for tool in (await client.list_tools()).tools})

    assert seen == [SEES[identity]] * 5


async def test_reasons_are_told_by_right(stack_with_rule: Stack) -> None:
    """Issue 3: a caller with the right to it can ask why something is hidden."""
    async with stack_with_rule.channel("model-b") as channel:
        told = result_of(await pb_grpc.McpTransportStub(channel).Call(LIST, timeout=20))

    reasons = {one["name"]: one for one in told["_meta"]["secure-mcp-grpc/hidden"]}  # type: ignore[index]
    assert reasons["forbidden"] == {
        "name": "forbidden",
        "reason": "not_permitted",
        "message": "model-b may not call forbidden: no rule allows it",
    }


def test_the_command_line_shows_reasons_by_right(stack_with_rule: Stack) -> None:
    """Ours: `list --why`."""
    may = stack_with_rule.cli("list", "--why", "--json", "--as", "model-b")
    may_not = stack_with_rule.cli("list", "--why", "--as", "model-a")
    shown = json.loads(may.stdout)

    assert {tool["name"] for tool in shown["tools"]} == SEES["model-b"]
    assert "forbidden" in {one["name"] for one in shown["hidden"]}
    assert may_not.returncode == 0
    assert "does not let this caller ask" in may_not.stdout
    assert "forbidden" not in may_not.stdout


async def test_no_client_reaches_the_policy_itself(stack_with_rule: Stack) -> None:
    """Ours: PolicyQuery is between authz_service and the bridge."""
    question = policy_query_pb2.FilterRequest(subject="model-a", method="tools/list", names=["echo"])
    async with stack_with_rule.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await policy_query_pb2_grpc.PolicyQueryStub(channel).Filter(question, timeout=10)

    assert refused.value.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED)


def test_without_authz_there_is_no_list(stack_with_rule: Stack) -> None:
    """Issue 3: kill the dependency: UNAVAILABLE in bounded time and no list, also from the bridge itself."""
    stack = stack_with_rule
    decision = (("x-mcp-target", "tools/list"), ("x-mcp-subject", "model-a"), ("x-mcp-decision", "c:1"))
    bridge = grpc.insecure_channel(stack.endpoint("bridge", "grpc"))
    os.kill(stack.pid("authz"), signal.SIGSTOP)
    try:
        started = time.monotonic()
        with bridge, pytest.raises(grpc.RpcError) as refused:
            pb_grpc.McpTransportStub(bridge).Call(LIST, metadata=decision, timeout=20)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert time.monotonic() - started < 5
        assert stack.cli("list", "--as", "model-a").returncode != 0
    finally:
        killed = stack.pid("authz")
        os.kill(killed, signal.SIGKILL)
    until(lambda: stack.pid("authz") != killed)
    assert until(lambda: "echo" in stack.cli("list", "--as", "model-a").stdout)
