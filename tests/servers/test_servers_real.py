"""MCP servers of others through the whole chain: what they list and answer is what they say when asked directly."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from chain_stack import make_home, make_repository, running
from mcp import Client, MCPError, StdioServerParameters
from real_servers import RealServer, reset, servers, website

pytestmark = pytest.mark.timeout(300)

NAMES = ("time", "git", "fetch", "everything", "filesystem", "memory")
MODES = ("legacy", "auto")
LISTS = {
    "list_tools": "tools",
    "list_prompts": "prompts",
    "list_resources": "resources",
    "list_resource_templates": "resourceTemplates",
}
SERVER_INFO = "io.modelcontextprotocol/serverInfo"
ENVELOPE = {"resultType", "ttlMs", "cacheScope"}

Lists = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Seen:
    """What one server said: directly, and through a sidecar that stands before all six."""

    direct: list[Any]
    through: list[Any]
    listed: Lists
    offered: Lists


@pytest.fixture(scope="module")
def seen(root: Path) -> Iterator[dict[tuple[str, str], Seen]]:
    """By mode and server. All are asked once for each mode: six children start at a time, not six for each test."""
    repository, work = make_repository(root / "real-repository"), root / "work"
    with website() as address:
        reset(work)
        found = servers(work, repository, address)
        home = make_home(root)
        home.policy.write_text("p, model-a, *, *, allow\n")
        upstreams = {one.name: {"command": list(one.command), "env": one.env} for one in found}
        with running(root, {"bridge": {"upstreams": upstreams}}, home, without=("dashboard",)) as stack:
            yield {
                (mode, name): one
                for mode in MODES
                for name, one in asyncio.run(compare(found, stack.transport, mode, work)).items()
            }


async def compare(found: list[RealServer], transport: Any, mode: str, work: Path) -> dict[str, Seen]:
    reset(work)
    direct = dict(zip(NAMES, await asyncio.gather(*(directly(one, mode) for one in found)), strict=True))
    reset(work)
    async with Client(transport(), mode=mode) as client:
        offered = await lists(client)
        return {
            one.name: Seen(direct[one.name][1], await answers(client, one), direct[one.name][0], offered)
            for one in found
        }


async def directly(server: RealServer, mode: str) -> tuple[Lists, list[Any]]:
    command, *words = server.command
    async with Client(StdioServerParameters(command=command, args=words, env=server.env), mode=mode) as client:
        return await lists(client), await answers(client, server)


async def ask(client: Client, method: str, *arguments: Any) -> Any:
    """The answer as plain data; an error as its code and message."""
    try:
        answer = await getattr(client, method)(*arguments)
    except MCPError as error:
        return {"code": error.error.code, "message": error.error.message, "data": error.error.data}
    return without_envelope(answer.model_dump(by_alias=True, mode="json", exclude_none=True))


def without_envelope(answer: dict[str, Any]) -> dict[str, Any]:
    """The result itself: what an era adds around it is the chain's, where chain and server speak different ones."""
    meta = {key: value for key, value in answer.pop("_meta", {}).items() if key != SERVER_INFO}
    return {**{key: value for key, value in answer.items() if key not in ENVELOPE}, **({"_meta": meta} if meta else {})}


async def answers(client: Client, server: RealServer) -> list[Any]:
    return [await ask(client, one.method, *one.arguments) for one in server.asked]


async def lists(client: Client) -> Lists:
    return {method: list((await ask(client, method)).get(member, [])) for method, member in LISTS.items()}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_a_real_server_answers_as_it_does_directly(seen: dict[tuple[str, str], Seen], name: str, mode: str) -> None:
    """Issue 4: PyPI servers time, git, fetch; npm servers everything, filesystem, memory: results equal direct ones."""
    one = seen[mode, name]

    assert one.through == one.direct
    assert any(answer.get("isError") is False for answer in one.direct), "a server that fails at all is no proof"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_a_real_server_offers_what_it_does_directly(seen: dict[tuple[str, str], Seen], name: str, mode: str) -> None:
    """Issue 4: list works; every item of every list, schemas and annotations included, in the server's order."""
    one = seen[mode, name]

    for method, items in one.listed.items():
        assert [item for item in one.offered[method] if item in items] == items
    assert one.listed["list_tools"]
