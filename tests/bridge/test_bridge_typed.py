"""The typed service, as a stub generated in any language would use it."""

from collections.abc import AsyncIterator
from typing import Any

import full_server
import grpc
import pytest
from bridge_harness import Bridge, serving
from google.rpc import error_details_pb2, status_pb2
from mcp.server.lowlevel.server import Server
from mcp_grpc_transport_proto import mcp_messages_pb2 as messages
from mcp_types import CallToolResult, ListToolsResult, TextContent, Tool

from mcp_bridge.upstreams.inprocess import InProcessUpstream

SERVICE = "/model_context_protocol.Mcp/"


async def ask(channel: grpc.aio.Channel, rpc: str, request: Any, answer: Any) -> Any:
    call = channel.unary_unary(f"{SERVICE}{rpc}", type(request).SerializeToString, answer.FromString)
    return await call(request, timeout=10)


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    async with serving(InProcessUpstream("full", full_server.server)) as one:
        yield one


async def test_tools_resources_and_prompts(bridge: Bridge) -> None:
    """Issue 2: ListTools, CallTool, ListResources, ReadResource, ListPrompts, GetPrompt."""
    call = messages.CallToolRequest()
    call.request.name = "add"
    call.request.arguments.update({"a": 1, "b": 2})
    async with bridge.channel() as channel:
        tools = await ask(channel, "ListTools", messages.ListToolsRequest(), messages.ListToolsResponse)
        called = await ask(channel, "CallTool", call, messages.CallToolResponse)
        resources = await ask(channel, "ListResources", messages.ListResourcesRequest(), messages.ListResourcesResponse)
        read = await ask(
            channel, "ReadResource", messages.ReadResourceRequest(uri="note://today"), messages.ReadResourceResponse
        )
        prompts = await ask(channel, "ListPrompts", messages.ListPromptsRequest(), messages.ListPromptsResponse)
        prompt = await ask(
            channel,
            "GetPrompt",
            messages.GetPromptRequest(name="greet", arguments={"name": "Ada"}),
            messages.GetPromptResponse,
        )

    add = next(tool for tool in tools.tools if tool.name == "add")
    assert add.description == "The sum."
    assert add.input_schema["properties"]["a"]["type"] == "integer"
    assert add.annotations.destructive_hint is True  # MCP's default for an absent hint
    assert called.content[0].text.text == "3"
    assert called.structured_content["result"] == 3
    assert not called.is_error
    assert [resource.uri for resource in resources.resources] == ["note://today"]
    assert read.resource[0].text == "sunny"
    assert prompts.prompts[0].arguments[0].name == "name"
    assert prompt.messages[0].text.text == "Say hello to Ada"
    assert [record.rpc for record in bridge.records][:2] == ["ListTools", "CallTool"]


async def test_call_that_was_not_authorized_is_refused(bridge: Bridge) -> None:
    """Design: both services run what was authorized, nothing else."""
    call = messages.CallToolRequest()
    call.request.name = "add"
    async with bridge.channel(trusted=False) as channel:
        rpc = channel.unary_unary(f"{SERVICE}CallTool", messages.CallToolRequest.SerializeToString)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await rpc(call, metadata=(("x-mcp-target", "tools/call echo"), ("x-mcp-subject", "model-a")))

    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert [record.outcome for record in bridge.records] == ["refused"]


async def test_mcp_error_is_a_status_with_details(bridge: Bridge) -> None:
    """Ours: the JSON-RPC code and data survive in `google.rpc.ErrorInfo`."""
    async with bridge.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await ask(
                channel, "ReadResource", messages.ReadResourceRequest(uri="note://none"), messages.ReadResourceResponse
            )

    trailers = dict(failed.value.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.reason == "MCP_ERROR"
    assert info.metadata["code"].lstrip("-").isdigit()
    assert status.message == failed.value.details()


async def test_templates_and_completion(bridge: Bridge) -> None:
    """Issue 4: ListResourceTemplates and Complete, the last of all eight RPCs."""
    completion = messages.CompletionRequest(
        prompt_reference=messages.PromptReference(name="greet"),
        argument=messages.CompletionRequest.Argument(name="name", value="A"),
    )
    async with bridge.channel() as channel:
        templates = await ask(
            channel,
            "ListResourceTemplates",
            messages.ListResourceTemplatesRequest(),
            messages.ListResourceTemplatesResponse,
        )
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await ask(channel, "Complete", completion, messages.CompletionResponse)

    assert [one.uri_template for one in templates.resource_templates] == ["note://day/{day}"]
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED  # this server has no completions


async def test_what_the_proto_cannot_carry_is_refused() -> None:
    """Design: never lose silently; an integer above 2^53 would arrive as another number."""

    async def list_tools(_context: Any, _params: Any) -> ListToolsResult:
        return ListToolsResult(tools=[Tool(name="big", input_schema={"type": "object"})])

    async def call_tool(_context: Any, _params: Any) -> CallToolResult:
        return CallToolResult(content=[TextContent(type="text", text="")], structured_content={"n": 2**53 + 1})

    server: Any = Server("big", on_list_tools=list_tools, on_call_tool=call_tool)
    call = messages.CallToolRequest()
    call.request.name = "big"
    async with serving(InProcessUpstream("big", server)) as bridge, bridge.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="an integer is too large for this service"):
            await ask(channel, "CallTool", call, messages.CallToolResponse)
