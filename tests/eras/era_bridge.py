"""A bridge in front of a server of one era, and clients that answer what they are asked."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import mcp
from bridge_harness import Bridge, serving, stdio
from mcp_types import CreateMessageResult, ElicitResult, ListRootsResult, Root, TextContent

from mcp_bridge.eras.bridged import Bridged, Limits

SERVER = str(Path(__file__).parent / "era_server.py")


@contextlib.asynccontextmanager
async def bridge_to(
    *arguments: str, era: Any = "auto", timeout_s: float = 20.0, **limits: Any
) -> AsyncIterator[Bridge]:
    upstream = Bridged(stdio("era", SERVER, *arguments), era=era, limits=Limits(**limits))
    async with serving(upstream, request_timeout_s=timeout_s) as bridge:
        yield bridge


class Answers:
    """Callbacks of a client, and what they were asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.logs: list[str] = []
        self.messages: list[Any] = []

    def client(self, bridge: Bridge, mode: Any, subject: str = "model-a", **options: Any) -> mcp.Client:
        options = {
            "sampling_callback": self.sample,
            "elicitation_callback": self.elicit,
            "list_roots_callback": self.roots,
            "logging_callback": self.log,
            "message_handler": self.message,
        } | options
        return mcp.Client(bridge.transport(subject), mode=mode, cache=None, **options)

    async def sample(self, _context: Any, params: Any) -> CreateMessageResult:
        content = params.messages[0].content
        text = (content[0] if isinstance(content, list) else content).text
        self.asked.append(text)
        answer = TextContent(type="text", text=f"re {text}")
        return CreateMessageResult(role="assistant", content=answer, model="test")

    async def elicit(self, _context: Any, params: Any) -> ElicitResult:
        self.asked.append(params.message)
        if params.mode == "url":
            self.asked.append(params.url)
            return ElicitResult(action="accept")
        return ElicitResult(action="accept", content={"text": f"to {params.message}"})

    async def roots(self, _context: Any) -> ListRootsResult:
        self.asked.append("roots")
        return ListRootsResult(roots=[Root(uri="file:///here")])

    async def log(self, params: Any) -> None:
        self.logs.append(f"{params.level} {params.data}")

    async def message(self, message: Any) -> None:
        self.messages.append(message)


async def state(client: mcp.Client) -> dict[str, Any]:
    result: Any = (await client.call_tool("state", {})).structured_content
    return dict(result.get("result", result))
