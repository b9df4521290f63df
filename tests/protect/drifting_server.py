"""A low-level MCP server whose offers stand in a JSON file ($OFFERS), read at each list: it changes while it runs.

Every call is written to $CALLS, a line each, so that a test sees what got through.
"""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server
from mcp_types import (
    CallToolResult,
    CompleteResult,
    Completion,
    GetPromptResult,
    ListPromptsResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    ReadResourceResult,
    TextResourceContents,
)


class Drifting:
    """`offers` has tools, prompts, resourceTemplates, and `results`: tool → what a call answers."""

    def __init__(self) -> None:
        self.offers: dict[str, Any] = {}
        self.called: list[tuple[str, Any]] = []
        self.listed = 0

    def read(self) -> dict[str, Any]:
        return self.offers

    def server(self) -> Server[Any]:
        async def list_tools(_context: Any, _params: Any) -> Any:
            self.listed += 1
            return ListToolsResult.model_validate({"tools": self.read().get("tools", [])}, by_name=False)

        async def list_prompts(_context: Any, _params: Any) -> Any:
            return ListPromptsResult.model_validate({"prompts": self.read().get("prompts", [])}, by_name=False)

        async def list_templates(_context: Any, _params: Any) -> Any:
            templates = self.read().get("resourceTemplates", [])
            return ListResourceTemplatesResult.model_validate({"resourceTemplates": templates}, by_name=False)

        async def call_tool(_context: Any, params: Any) -> Any:
            self.note(params.name, params.arguments)
            result = self.read().get("results", {}).get(params.name)
            return CallToolResult.model_validate(
                result or {"content": [{"type": "text", "text": "done"}]}, by_name=False
            )

        async def get_prompt(_context: Any, params: Any) -> Any:
            self.note(params.name, params.arguments)
            return GetPromptResult(messages=[])

        async def read_resource(_context: Any, params: Any) -> Any:
            self.note(str(params.uri), None)
            return ReadResourceResult(contents=[TextResourceContents(uri=params.uri, text="text")])

        async def complete(_context: Any, _params: Any) -> Any:
            self.note("complete", None)
            return CompleteResult(completion=Completion(values=[]))

        return Server(
            "drifting",
            version="1.0",
            on_list_tools=list_tools,
            on_list_prompts=list_prompts,
            on_list_resource_templates=list_templates,
            on_call_tool=call_tool,
            on_get_prompt=get_prompt,
            on_read_resource=read_resource,
            on_completion=complete,
        )

    def note(self, name: str, arguments: Any) -> None:
        self.called.append((name, arguments))


class FromFile(Drifting):
    def read(self) -> dict[str, Any]:
        return dict(json.loads(Path(os.environ["OFFERS"]).read_text(encoding="utf-8")))

    def note(self, name: str, arguments: Any) -> None:
        with Path(os.environ["CALLS"]).open("a", encoding="utf-8") as file:
            file.write(json.dumps([name, arguments]) + "\n")


async def main() -> None:
    server = FromFile().server()
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


if __name__ == "__main__":
    asyncio.run(main())
