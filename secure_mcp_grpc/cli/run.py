"""`secure-mcp-grpc up` and `demo`."""

import asyncio
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console

from secure_mcp_grpc.cli.options import HomeOption
from secure_mcp_grpc.errors import UserError

if TYPE_CHECKING:
    from secure_mcp_grpc.stack.home import Home

__all__ = ["demo", "up"]

_UPSTREAM_HELP = "URL of a streamable HTTP server (http://…/mcp), or an in-process server (package.module:server)."


def up(
    command: Annotated[list[str] | None, typer.Argument(help="Command that starts the MCP server (stdio).")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings, sidecar.yaml.", envvar="MCP_CONFIG")] = None,
    upstream: Annotated[str | None, typer.Option(help=_UPSTREAM_HELP)] = None,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, or NAME to pass ours on, for COMMAND.")] = None,
    home: HomeOption = None,
    without: Annotated[list[str] | None, typer.Option(help="Leave out store, sink or dashboard.")] = None,
) -> None:
    """Protect an MCP server: secure-mcp-grpc up -- python -m mcp_server_time"""
    from secure_mcp_grpc import logs
    from secure_mcp_grpc.settings import read_config
    from secure_mcp_grpc.stack.home import Home

    logs.configure("up")
    document = read_config(config) if config else {}
    bridge = dict(document.get("bridge", {}))
    if served := _upstream(command or [], upstream, env or []):
        if bridge.get("upstreams"):
            raise UserError(f"{config} names upstreams already; drop them or the command")
        document["bridge"] = {**bridge, "upstreams": served}
    elif not bridge.get("upstreams"):
        raise UserError("nothing to protect: give a command after --, or --upstream, or bridge.upstreams in --config")
    asyncio.run(_up(Home.locate(home), document, tuple(without or ())))


def demo(
    once: Annotated[bool, typer.Option("--once", help="Stop after the traffic.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object; implies --once.")] = False,
    home: Annotated[
        Path | None, typer.Option("--dir", help="Keep everything here, not in a temporary directory.")
    ] = None,
) -> None:
    """Run the whole chain in front of two real MCP servers and send real traffic through it.

    Exit code 0 only if every outcome was the expected one and every request is found in the store.
    """
    from secure_mcp_grpc.demo.run import run_demo

    raise typer.Exit(run_demo(home=home, once=once or as_json, as_json=as_json))


def _upstream(command: list[str], upstream: str | None, env: list[str]) -> dict[str, Any]:
    if command and upstream:
        raise UserError("give either a command after -- or --upstream, not both")
    if command:
        return {_server_name(_program(command)): {"command": command, "env": dict(_variable(text) for text in env)}}
    if env:
        raise UserError("--env is for a command after --")
    if upstream is None:
        return {}
    if upstream.startswith(("http://", "https://")):
        return {_server_name(urlsplit(upstream).hostname or ""): {"url": upstream}}
    if ":" in upstream:
        return {_server_name(upstream.partition(":")[0]): {"target": upstream}}
    raise UserError(f"--upstream {upstream}: neither an http(s) URL nor package.module:server")


def _program(command: list[str]) -> str:
    """The word that a person would call the server by: the module after -m, a script, or the program."""
    if "-m" in command[:-1]:
        return command[command.index("-m") + 1]
    scripts = [word for word in command[1:] if word.endswith((".py", ".js", ".mjs", ".ts"))]
    return Path(scripts[0] if scripts else command[0]).stem


def _server_name(text: str) -> str:
    """`text` as the name of an upstream in records and charts."""
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-0123456789")[:32].strip("-")
    return words or "server"


def _variable(text: str) -> tuple[str, str]:
    """A server gets a small environment, so that our secrets stay ours; what it needs besides is named."""
    name, given, value = text.partition("=")
    if not given and name not in os.environ:
        raise UserError(f"--env {name}: there is no such environment variable to pass on")
    return name, value if given else os.environ[name]


async def _up(home: "Home", document: dict[str, Any], without: tuple[str, ...]) -> None:
    from secure_mcp_grpc.lifecycle import stop_event
    from secure_mcp_grpc.stack.running import running

    stopping = stop_event()
    async with running(home, document, without=without, log_dir=None, stopping=stopping):
        if not stopping.is_set():
            _tell(home)
        await stopping.wait()


def _tell(home: "Home") -> None:
    """Where clients connect, and how."""
    from secure_mcp_grpc.stack.probes import endpoint

    console = Console(stderr=True, soft_wrap=True)
    address = endpoint(home.run_dir, "envoy", "mcp")
    console.print(f"\n[bold]Protected MCP server:[/] {address} (gRPC over mutual TLS)")
    if dashboard := endpoint(home.run_dir, "dashboard", "http"):
        console.print(f"[bold]Dashboard:[/] {dashboard}")
    console.print(f"[bold]Policy:[/] {home.policy} (in force within 2 s of a change)")
    console.print(f"[bold]Try:[/] secure-mcp-grpc list --dir {home.root} --as IDENTITY")
    console.print(
        "[bold]Python:[/] async with mcp.Client(grpc_transport("
        f'"{address}", identity=Identity.from_directory("{home.certs}/IDENTITY"))) as client: …\n',
        markup=True,
        highlight=False,
    )
