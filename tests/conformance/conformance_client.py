"""The client that the official suite tests: a small program on the SDK's `Client`, directly or through a sidecar.

    python conformance_client.py URL

The suite says by MCP_CONFORMANCE_SCENARIO, …_CONTEXT and …_PROTOCOL_VERSION
what to do, and starts a server at URL for it. With CONFORMANCE_CHAIN set (JSON:
address, identity, target) the client speaks gRPC to the sidecar at `address`,
whose bridge asks whatever server the file `target` names.
"""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mcp_types as types
from mcp import Client
from mcp.client import ClientRequestContext

HANDSHAKE = {"2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"}

Context = dict[str, Any]
Scenario = Callable[[Client, Context], Awaitable[None]]


async def elicited(
    context: ClientRequestContext, params: types.ElicitRequestParams
) -> types.ElicitResult | types.ErrorData:
    """What a user says who takes every default and agrees to the rest."""
    schema = getattr(params, "requested_schema", None) or {}
    properties = schema.get("properties", {})
    content = {name: one["default"] for name, one in properties.items() if "default" in one}
    agreed = {name: True for name, one in properties.items() if one.get("type") == "boolean" and "default" not in one}
    return types.ElicitResult(action="accept", content={**content, **agreed})


async def only_list(client: Client, context: Context) -> None:
    await client.list_tools()


def call(*names: str, **arguments: Any) -> Scenario:
    async def run(client: Client, context: Context) -> None:
        await client.list_tools()
        for name in names:
            await client.call_tool(name, arguments)

    return run


async def call_everything(client: Client, context: Context) -> None:
    """Lists, then calls, reads and gets all that was offered."""
    for tool in (await client.list_tools()).tools:
        await client.call_tool(tool.name, sample(tool.input_schema))
    for resource in (await client.list_resources()).resources:
        await client.read_resource(str(resource.uri))
    for prompt in (await client.list_prompts()).prompts:
        await client.get_prompt(prompt.name)


def sample(schema: dict[str, Any]) -> dict[str, Any]:
    """Arguments that a schema takes."""
    values: dict[str, Any] = {
        "string": "words",
        "integer": 1,
        "number": 1.5,
        "boolean": True,
        "array": [],
        "object": {},
    }
    properties = schema.get("properties", {})
    return {name: values.get(str(properties.get(name, {}).get("type")), "words") for name in schema.get("required", [])}


async def call_each_tool(client: Client, context: Context) -> None:
    for tool in (await client.list_tools()).tools:
        await client.call_tool(tool.name, sample(tool.input_schema))


async def call_as_told(client: Client, context: Context) -> None:
    await client.list_tools()
    for one in context["toolCalls"]:
        await client.call_tool(one["name"], one["arguments"])


async def give_schema_back(client: Client, context: Context) -> None:
    """The client must not have lost anything of the schema that it saw."""
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    schema = tools.pop("json_schema_2020_12_tool").input_schema
    for name in tools:
        await client.call_tool(name, {"schema": schema})


SCENARIOS: dict[str, Scenario] = {
    "initialize": only_list,
    "tools_call": call("add_numbers", a=5, b=3),
    "elicitation-sep1034-client-defaults": call("test_client_elicitation_defaults"),
    "sse-retry": call("test_reconnection"),
    "request-metadata": only_list,
    "sep-2322-client-request-state": call(
        "test_mrtr_echo_state", "test_mrtr_unrelated", "test_mrtr_no_state", "test_mrtr_no_result_type"
    ),
    "http-standard-headers": call_everything,
    "http-custom-headers": call_as_told,
    "http-invalid-tool-headers": call_each_tool,
    "json-schema-ref-no-deref": only_list,
    "json-schema-2020-12-preservation": give_schema_back,
}


def server_at(url: str) -> Any:
    """What `Client` takes: the URL, or a transport to the sidecar."""
    chain = json.loads(os.environ.get("CONFORMANCE_CHAIN", "null"))
    if chain is None:
        return url
    from mcp_bridge.client import Identity, grpc_transport

    parts = urlsplit(url)
    Path(chain["target"]).write_text(f"{parts.hostname} {parts.port}")
    return grpc_transport(chain["address"], identity=Identity.from_directory(Path(chain["identity"])))


async def main(url: str) -> None:
    scenario = os.environ["MCP_CONFORMANCE_SCENARIO"]
    version = os.environ["MCP_CONFORMANCE_PROTOCOL_VERSION"]
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
    mode = "legacy" if version in HANDSHAKE else "auto"
    async with Client(server_at(url), mode=mode, elicitation_callback=elicited) as client:
        await SCENARIOS[scenario](client, context)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
