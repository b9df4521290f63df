"""A real SDK server that speaks one protocol era only, over stdio: `era_server.py handshake|modern [option]`.

Options: `silent` never answers before `initialize`, as some old servers do.
"""

import asyncio
import os
import sys
from typing import Any, Self

import anyio
import mcp_types as types
from mcp.server.lowlevel.server import NotificationOptions
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.runner import _serve_modern_stream, serve_loop
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp_types import InputRequiredResult, SamplingMessage, TextContent
from pydantic import BaseModel

server = MCPServer("era", instructions="One era.", version="7")
low = server._lowlevel_server
cancelled: list[str] = []
watched: list[str] = []
levels: list[str] = []
calls: list[str] = []


class Answer(BaseModel):
    text: str


class Sum(BaseModel):
    total: int


@server.tool()
def add(a: int, b: int) -> Sum:
    """The sum, structured."""
    return Sum(total=a + b)


@server.tool()
def echo(value: str) -> str:
    """What came."""
    return value


@server.tool()
def fail() -> str:
    """Always fails."""
    raise ValueError("on purpose")


@server.tool()
def nowhere() -> str:
    """An error of the protocol."""
    raise MCPError(code=-32050, message="my own", data={"big": 2**70})


@server.tool()
def crash() -> str:
    """Ends the process."""
    os._exit(3)


@server.tool()
async def count(to: int, context: Context) -> int:
    """Counts with progress and logs."""
    for number in range(to):
        await context.report_progress(number, to, f"at {number}")
    await context.log("debug", "details")
    await context.log("warning", "careful")
    return to


@server.tool()
async def wait(label: str) -> str:
    """Never ends by itself."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        cancelled.append(label)
        raise
    return label


@server.tool()
async def change(context: Context) -> None:
    """Says that tools and one resource changed."""
    if MODE == "modern":
        await context.notify_tools_changed()
        await context.notify_resource_updated("note://today")
    else:
        await context.session.send_tool_list_changed()
        await context.session.send_resource_updated("note://today")


@server.tool()
def state(context: Context) -> dict[str, Any]:
    """What this process saw."""
    info = context.session.client_params.client_info if context.session.client_params else None
    capabilities = context.client_capabilities
    return {
        "pid": os.getpid(),
        "cancelled": cancelled,
        "watched": watched,
        "levels": levels,
        "calls": calls,
        "client": info.name if info else None,
        "capabilities": capabilities.model_dump(exclude_none=True) if capabilities else None,
        "meta": dict(context.request_context.meta or {}),
        "version": context.protocol_version,
    }


@server.resource("note://today")
def today() -> str:
    """A resource."""
    return "sunny"


@server.resource("note://day/{day}")
def day(day: str) -> str:
    """A resource template."""
    return f"rain on {day}"


@server.prompt()
def greet(name: str) -> str:
    """A prompt."""
    return f"Say hello to {name}"


@server.completion()
async def complete(ref: Any, argument: Any, context: Any) -> types.Completion:
    return types.Completion(values=[argument.value + "!"])


def text_of(result: Any) -> str:
    content = result.content
    return getattr(content[0] if isinstance(content, list) else content, "text", "")


MODE = sys.argv[1] if len(sys.argv) > 1 else "handshake"

if MODE == "handshake":

    @server.tool()
    async def ask(question: str, context: Context) -> str:
        """Samples."""
        calls.append(question)
        message = SamplingMessage(role="user", content=TextContent(type="text", text=question))
        return text_of(await context.session.create_message([message], max_tokens=10))

    @server.tool()
    async def form(context: Context) -> str:
        """Elicits, twice."""
        first = await context.elicit("first?", Answer)
        if first.action != "accept":
            return first.action
        second = await context.elicit("second?", Answer)
        return f"{first.data.text} {second.data.text if second.action == 'accept' else second.action}"

    @server.tool()
    async def roots(context: Context) -> list[str]:
        """Lists the client's roots."""
        return [str(root.uri) for root in (await context.session.list_roots()).roots]

    @server.tool()
    async def both(context: Context) -> list[str]:
        """Asks two things at once."""
        answers: dict[int, str] = {}

        async def one(number: int) -> None:
            message = SamplingMessage(role="user", content=TextContent(type="text", text=f"q{number}"))
            answers[number] = text_of(await context.session.create_message([message], max_tokens=10))

        async with anyio.create_task_group() as group:
            group.start_soon(one, 1)
            group.start_soon(one, 2)
        return [answers[1], answers[2]]

    @server.tool()
    async def ask_then_crash(context: Context) -> str:
        """Ends the process while the client thinks."""
        message = SamplingMessage(role="user", content=TextContent(type="text", text="?"))
        with anyio.move_on_after(0.3):
            await context.session.create_message([message], max_tokens=10)
        os._exit(3)

    @server.tool()
    async def visit(context: Context) -> str:
        """Wants a URL opened, once."""
        calls.append("visit")
        if calls.count("visit") == 1:
            data = {"elicitations": [{"mode": "url", "elicitationId": "e1", "url": "https://x.test/", "message": "go"}]}
            raise MCPError(code=-32042, message="open it", data=data)
        return "visited"

    async def subscribe(_context: Any, params: Any) -> types.EmptyResult:
        watched.append(str(params.uri))
        return types.EmptyResult()

    async def unsubscribe(_context: Any, params: Any) -> types.EmptyResult:
        watched.remove(str(params.uri))
        return types.EmptyResult()

    async def set_level(_context: Any, params: Any) -> types.EmptyResult:
        levels.append(params.level)
        return types.EmptyResult()

    low.add_request_handler("resources/subscribe", types.SubscribeRequestParams, subscribe)
    low.add_request_handler("resources/unsubscribe", types.UnsubscribeRequestParams, unsubscribe)
    low.add_request_handler("logging/setLevel", types.SetLevelRequestParams, set_level)

else:

    def sampling(question: str) -> types.CreateMessageRequest:
        message = SamplingMessage(role="user", content=TextContent(type="text", text=question))
        return types.CreateMessageRequest(params=types.CreateMessageRequestParams(messages=[message], max_tokens=10))

    def elicitation(question: str) -> types.ElicitRequest:
        schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
        return types.ElicitRequest(params=types.ElicitRequestFormParams(message=question, requested_schema=schema))

    @server.tool()
    async def ask(question: str, context: Context) -> str | InputRequiredResult:
        """Samples."""
        if context.input_responses:
            return text_of(context.input_responses["q"])
        return InputRequiredResult(input_requests={"q": sampling(question)}, request_state="sampled")

    @server.tool()
    async def form(context: Context) -> str | InputRequiredResult:
        """Elicits, twice."""
        state = context.request_state
        if state is None:
            return InputRequiredResult(input_requests={"one": elicitation("first?")}, request_state="first")
        if state == "first":
            answer = context.input_responses["one"]
            if answer.action != "accept":
                return answer.action
            return InputRequiredResult(
                input_requests={"two": elicitation("second?")}, request_state=f"second:{answer.content['text']}"
            )
        return f"{state.removeprefix('second:')} {context.input_responses['two'].content['text']}"

    @server.tool()
    async def roots(context: Context) -> list[str] | InputRequiredResult:
        """Lists the client's roots."""
        if context.input_responses:
            return [str(root.uri) for root in context.input_responses["r"].roots]
        return InputRequiredResult(input_requests={"r": types.ListRootsRequest()})

    @server.tool()
    async def later(context: Context) -> str | InputRequiredResult:
        """Wants to be asked again, twice."""
        state = int(context.request_state or "0")
        return "done" if state == 2 else InputRequiredResult(request_state=str(state + 1))

    @server.tool()
    async def endless() -> str | InputRequiredResult:
        """Never has enough."""
        return InputRequiredResult(request_state="more")

    @server.tool()
    async def visit(context: Context) -> str | InputRequiredResult:
        """Wants a URL opened."""
        if context.input_responses:
            return str(context.input_responses["u"].action)
        params = types.ElicitRequestURLParams(message="go", url="https://x.test/", elicitation_id="")
        return InputRequiredResult(input_requests={"u": types.ElicitRequest(params=params)})


async def main() -> None:
    async with stdio_server() as (read, write), low.lifespan(low) as lifespan:
        if MODE == "modern":
            await _serve_modern_stream(low, read, write, lifespan_state=lifespan, raise_exceptions=False)
        else:
            options = low.create_initialization_options(NotificationOptions(tools_changed=True, resources_changed=True))
            source: Any = _after_initialize(read) if "silent" in sys.argv else read
            await serve_loop(low, source, write, lifespan_state=lifespan, init_options=options)


class _after_initialize:  # noqa: N801 - stands for the stream it wraps
    def __init__(self, read: Any) -> None:
        self._read = read
        self._open = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        while True:
            item = await self._read.__anext__()
            self._open = self._open or getattr(item.message, "method", "") == "initialize"
            if self._open:
                return item

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._read.aclose()

    async def aclose(self) -> None:
        await self._read.aclose()


if __name__ == "__main__":
    anyio.run(main)
