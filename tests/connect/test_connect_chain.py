"""`connect` before the whole chain: mutual TLS, Envoy, authz_service, bridge, MCP servers."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mcp
import pytest
from chain_stack import TRUST_DOMAIN, Stack, running
from connect_kit import ROOT, command, connected
from mcp import StdioServerParameters
from mcp.client.stdio import stdio_client


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """In a directory with a path short enough for Unix sockets."""
    root = Path(tempfile.mkdtemp(prefix="smg-"))
    with running(root, without=("dashboard", "store", "sink")) as one:
        yield one
    shutil.rmtree(root)


def who(stack: Stack, name: str = "model-a") -> tuple[str, ...]:
    server = ("--server-id", f"spiffe://{TRUST_DOMAIN}/sidecar", "--server-name", "localhost")
    return ("--as", name, "--dir", str(stack.home.root), *server)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_desktop_client_works_through_the_chain(stack: Stack, mode: Any) -> None:
    """Issue 4: one line in a client's configuration; a client of either era."""
    program, *arguments = command(stack.address, *who(stack))
    server = StdioServerParameters(command=program, args=arguments, cwd=ROOT)
    async with mcp.Client(stdio_client(server), mode=mode) as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        answer = await client.call_tool("echo", {"text": "hello"})
    assert "echo" in tools
    assert "hello" in answer.content[0].text


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_refused_call_says_who_may_not_do_what(stack: Stack, mode: Any) -> None:
    """Issue 4: the local client reads the sidecar's refusal, over HTTP, in either era."""
    async with connected(stack.address, *who(stack, "model-b")) as one, mcp.Client(one.url, mode=mode) as client:
        with pytest.raises(mcp.MCPError) as refused:
            await client.call_tool("echo", {"text": "hello"})
    assert refused.value.error.data == {"grpcStatus": "PERMISSION_DENIED"}
    assert "model-b" in refused.value.error.message


def test_sidecar_that_is_somebody_else_gets_nothing(stack: Stack) -> None:
    """Ours: --server-id stops the start with one line that names both."""

    wrong = [*who(stack)]
    wrong[wrong.index("--server-id") + 1] = f"spiffe://{TRUST_DOMAIN}/other"
    process = subprocess.run(
        command(stack.address, *wrong), input="", capture_output=True, text=True, cwd=ROOT, timeout=30, check=False
    )
    assert process.returncode == 2
    assert f"is spiffe://{TRUST_DOMAIN}/sidecar, not spiffe://{TRUST_DOMAIN}/other" in " ".join(process.stderr.split())
