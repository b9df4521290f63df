"""A full SDK server, as the official conformance suite wants one: `server` for this process, stdio, streamable HTTP.

python everything_server.py stdio
python everything_server.py http        a free port of 127.0.0.1; the first line of stdout is the URL
"""

import asyncio
import sys
import warnings
from typing import Any

import everything_parts as parts
import everything_rounds as rounds
import mcp_types as types
from everything_parts import Context
from mcp.server.caching import CacheHint
from mcp.server.lowlevel.server import Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.server.subscriptions import ListenHandler
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError

warnings.simplefilter("ignore", MCPDeprecationWarning)  # both eras are served, with what only the older one has

NAME = "everything"
STATE_KEY = "a key that every process of the tests has"
RETRY_MS = 100


async def list_tools(context: Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    return types.ListToolsResult(tools=[one for one, _ in parts.tools.values()])


async def call_tool(context: Context, params: types.CallToolRequestParams) -> parts.Answer:
    found = parts.tools.get(params.name)
    if found is None:
        raise MCPError(types.INVALID_PARAMS, f"unknown tool: {params.name}")
    return await found[1](context, params)


async def list_resources(context: Context, params: types.PaginatedRequestParams | None) -> types.ListResourcesResult:
    return types.ListResourcesResult(resources=parts.RESOURCES)


async def list_templates(
    context: Context, params: types.PaginatedRequestParams | None
) -> types.ListResourceTemplatesResult:
    return types.ListResourceTemplatesResult(resource_templates=[parts.TEMPLATE])


async def read_resource(context: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    return types.ReadResourceResult(contents=[parts.read(str(params.uri))])


async def subscribe(context: Context, params: types.SubscribeRequestParams) -> types.EmptyResult:
    parts.read(str(params.uri))
    return types.EmptyResult()


async def unsubscribe(context: Context, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
    return types.EmptyResult()


async def list_prompts(context: Context, params: types.PaginatedRequestParams | None) -> types.ListPromptsResult:
    return types.ListPromptsResult(prompts=parts.PROMPTS)


async def get_prompt(
    context: Context, params: types.GetPromptRequestParams
) -> types.GetPromptResult | types.InputRequiredResult:
    if params.name == f"{rounds.PREFIX}prompt":
        return rounds.prompt_after_input(params.input_responses)
    blocks = parts.prompt(params.name, params.arguments or {})
    return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=block) for block in blocks])


async def complete(context: Context, params: types.CompleteRequestParams) -> types.CompleteResult:
    values = [word for word in ("paris", "park", "party") if word.startswith(params.argument.value)]
    return types.CompleteResult(completion=types.Completion(values=values, total=len(values), has_more=False))


async def set_level(context: Context, params: types.SetLevelRequestParams) -> types.EmptyResult:
    return types.EmptyResult()


def new_server() -> Server[Any]:
    made: Server[Any] = Server(
        NAME,
        version="1.0.0",
        instructions="Everything, for the conformance suite.",
        cache_hints={"tools/list": CacheHint(ttl_ms=60_000, scope="public")},
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
        on_subscribe_resource=subscribe,
        on_unsubscribe_resource=unsubscribe,
        on_subscriptions_listen=ListenHandler(parts.bus),
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
        on_completion=complete,
    )
    made.add_request_handler("logging/setLevel", types.SetLevelRequestParams, set_level)
    boundary = RequestStateBoundary(RequestStateSecurity(keys=[STATE_KEY]), default_audience=NAME)
    made.middleware.append(boundary)
    return made


server = new_server()


class Events(EventStore):
    """Every event of every stream, so that a client can come back for what it missed."""

    def __init__(self) -> None:
        self._events: list[tuple[str, types.JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: types.JSONRPCMessage | None) -> str:
        self._events.append((stream_id, message))
        return str(len(self._events))

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        number = int(last_event_id) if last_event_id.isdecimal() else 0
        if not 0 < number <= len(self._events):
            return None
        stream = self._events[number - 1][0]
        for later, (of, message) in enumerate(self._events[number:], number + 1):
            if of == stream and message is not None:
                await send_callback(EventMessage(message, str(later)))
        return stream


async def serve_stdio() -> None:
    from mcp.server.stdio import stdio_server

    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


def serve_http() -> None:
    import socket

    import uvicorn

    app = server.streamable_http_app(event_store=Events(), retry_interval=RETRY_MS)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(f"http://127.0.0.1:{listening.getsockname()[1]}/mcp", flush=True)
        config = uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=1)
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    if sys.argv[1:] == ["http"]:
        serve_http()
    else:
        asyncio.run(serve_stdio())
