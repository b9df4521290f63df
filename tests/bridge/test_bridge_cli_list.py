"""`secure-mcp-grpc list`, its part after the connection: what it prints of a list that several servers make."""

from typing import Any

import full_server
import mcp
import pytest
import typer
from bridge_harness import serving, stdio

from mcp_bridge.upstreams.inprocess import InProcessUpstream
from mcp_bridge.upstreams.router import Router
from secure_mcp_grpc.cli import client as command

MISSING = "incomplete: the MCP server down does not answer"


def printed(meta: Any, capsys: pytest.CaptureFixture[str]) -> str:
    command._print_missing(meta)
    return capsys.readouterr().out


@pytest.mark.parametrize("as_json", [False, True])
async def test_an_incomplete_list_says_who_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    """Ours: nobody takes a list for whole that is not; with --json it is said beside the JSON."""
    servers: list[Any] = [InProcessUpstream("full", full_server.server), stdio("down", "-c", "pass")]
    works: list[Any] = []
    monkeypatch.setattr(command, "_run", lambda *arguments: works.append(arguments[-1]) or 0)
    with pytest.raises(typer.Exit):
        command.list_tools(as_json=as_json, why=False)
    async with serving(Router(servers, max_bytes=1 << 22, leave_out=True)) as bridge:
        servers[1]._command[:] = ["/nowhere/to/be/found"]
        async with mcp.Client(bridge.transport()) as client:
            assert await works[0](client) == 0
    out, err = capsys.readouterr()
    assert MISSING in (err if as_json else out)
    assert "echo" in out
    assert out.startswith("[") is as_json


@pytest.mark.parametrize("said", [None, [], "down", {"a": 1}, [1, None]])
def test_a_list_that_is_whole_says_nothing(said: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Ours: nor what is not a list of names."""
    assert printed({"secure-mcp-grpc/missing": said}, capsys) == ""


def test_names_of_missing_servers_are_no_markup_and_move_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    """Ours: a server alone behind a bridge may write the key itself."""
    said = printed({"secure-mcp-grpc/missing": ["[bold]a", "b\x1b[2J"]}, capsys)
    assert "[bold]a, b\\x1b[2J do not answer" in said
