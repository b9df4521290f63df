"""`secure-mcp-grpc list` and `call`: an MCP client over mutual TLS gRPC."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from secure_mcp_grpc.cli.options import HomeOption
from secure_mcp_grpc.errors import UserError

if TYPE_CHECKING:
    from mcp import Client
    from mcp_types import RequestParamsMeta

    from mcp_bridge.client import Identity

__all__ = ["call_tool", "list_tools"]

_EXPLAIN, _HIDDEN = "secure-mcp-grpc/explain", "secure-mcp-grpc/hidden"
"""Keys of `_meta`; see `mcp_bridge.listing`."""
_MISSING_SERVERS = "secure-mcp-grpc/missing"
"""See `mcp_bridge.upstreams.merge`."""
_TOKEN_ENV = "MCP_TOKEN"  # noqa: S105 - a name, not a token
_IDENTITY_HELP = "Who calls: a name under DIR/certs, or a directory with tls.crt, tls.key and ca.crt."
AsOption = Annotated[
    str | None, typer.Option("--as", help=_IDENTITY_HELP, metavar="IDENTITY", show_default="a token alone")
]
TokenOption = Annotated[
    Path | None,
    typer.Option("--token-file", help="File with a bearer token to send along.", show_default=f"${_TOKEN_ENV}"),
]
ServerOption = Annotated[
    str | None, typer.Option("--server", help="HOST:PORT of the sidecar.", show_default="the one running in DIR")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the raw JSON result.")]

_EXIT_CODES = {"PERMISSION_DENIED": 4, "UNAUTHENTICATED": 4, "RESOURCE_EXHAUSTED": 5}
_MCP_ERROR, _UNAVAILABLE = 3, 6


def list_tools(
    as_: AsOption = None,
    server: ServerOption = None,
    token_file: TokenOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
    why: Annotated[
        bool, typer.Option("--why", help="Also what is hidden and why; needs the right policy:explain.")
    ] = False,
) -> None:
    """List the tools of the protected server that the caller may use."""

    async def work(client: "Client") -> int:
        result = await client.list_tools(meta=cast("RequestParamsMeta", {_EXPLAIN: True}) if why else None)
        tools, hidden = result.tools, (result.meta or {}).get(_HIDDEN)
        if as_json:
            shown = [tool.model_dump(by_alias=True, mode="json", exclude_none=True) for tool in tools]
            _print_json({"tools": shown, "hidden": hidden} if why else shown)
            _print_missing(result.meta, stderr=True)
            return 0
        table = Table("Tool", "Arguments", "Description")
        for tool in tools:
            arguments = ", ".join((tool.input_schema or {}).get("properties", {}))
            table.add_row(escape(tool.name), escape(arguments), escape((tool.description or "").strip().split("\n")[0]))
        Console().print(table)
        _print_missing(result.meta)
        if why:
            _print_hidden(hidden)
        return 0

    raise typer.Exit(_run(as_, server, token_file, home, work))


def _print_missing(meta: Any, *, stderr: bool = False) -> None:
    """One line where servers were left out of the list; their names may be a server's own words."""
    told = (meta or {}).get(_MISSING_SERVERS)
    names = [one for one in told if isinstance(one, str)] if isinstance(told, list) else []
    if names:
        shown = ", ".join(name if name.isprintable() else name.encode("unicode_escape").decode() for name in names)
        servers = f"the MCP server {shown} does" if len(names) == 1 else f"the MCP servers {shown} do"
        line = f"incomplete: {servers} not answer"
        Console(stderr=stderr).print(line, markup=False, highlight=False, soft_wrap=True)


def _print_hidden(hidden: Any) -> None:
    if not isinstance(hidden, list):
        Console().print("The policy does not let this caller ask why tools are hidden: policy:explain on tools/list.")
        return
    table = Table("Hidden", "Why", "Rule")
    for one in hidden:
        table.add_row(*(escape(str(one.get(key, ""))) for key in ("name", "message", "rule")))
    Console().print(table)


def call_tool(
    tool: Annotated[str, typer.Argument(help="Name of the tool.")],
    arguments: Annotated[str, typer.Argument(help="Arguments, a JSON object.", metavar="JSON")] = "{}",
    as_: AsOption = None,
    server: ServerOption = None,
    token_file: TokenOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Call a tool.

    Exit codes: 0 done, 1 the tool reports an error, 3 an MCP error, 4 refused, 5 rate limited, 6 unavailable.
    """
    try:
        parsed = json.loads(arguments)
    except json.JSONDecodeError as error:
        raise UserError(f"the arguments are not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise UserError('the arguments must be a JSON object, like {"timezone": "UTC"}')

    async def work(client: "Client") -> int:
        result = await client.call_tool(tool, parsed)
        dumped = result.model_dump(by_alias=True, mode="json", exclude_none=True)
        if as_json:
            _print_json(dumped)
        else:
            for block in dumped.get("content", []):
                Console().print(block.get("text") or json.dumps(block), markup=False, highlight=False)
        return 1 if dumped.get("isError") else 0

    raise typer.Exit(_run(as_, server, token_file, home, work))


def _run(
    as_: str | None,
    server: str | None,
    token_file: Path | None,
    home: Path | None,
    work: Callable[["Client"], Awaitable[int]],
) -> int:
    from mcp_bridge.client import Identity
    from secure_mcp_grpc.certs import load_identity
    from secure_mcp_grpc.stack.home import Home
    from secure_mcp_grpc.stack.probes import endpoint

    directory = Home.locate(home)
    address = server or endpoint(directory.run_dir, "envoy", "mcp")
    if address is None:
        raise UserError(f"nothing is running in {directory.root}; name the sidecar: --server HOST:PORT")
    token = _token(token_file)
    if as_ is not None:
        load_identity(directory.identity(as_))  # says which file is missing, expired or wrong
        identity = Identity.from_directory(directory.identity(as_))
    elif token is None:
        raise UserError(f"say who calls: --as IDENTITY, or a token in --token-file or ${_TOKEN_ENV}")
    else:
        identity = Identity(None, None, directory.certs / "sidecar" / "ca.crt")
    return asyncio.run(_connect(address, identity, token, work))


def _token(file: Path | None) -> str | None:
    """Never an argument of the command line: those are visible to everybody on the machine."""
    if file is None:
        return os.environ.get(_TOKEN_ENV) or None
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError as error:
        raise UserError(f"token file {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"token file {file} does not hold a token") from None


async def _connect(
    address: str, identity: "Identity", token: str | None, work: Callable[["Client"], Awaitable[int]]
) -> int:
    from mcp import Client, MCPError

    from mcp_bridge.client import grpc_transport

    try:
        async with Client(grpc_transport(address, identity=identity, token=token)) as client:
            return await work(client)
    except MCPError as error:
        return _show(error)
    except ExceptionGroup as group:
        # Task groups of the SDK wrap what one request met.
        errors = _leaves(group)
        if len(errors) == 1 and isinstance(errors[0], MCPError):
            return _show(errors[0])
        raise


def _show(error: Any) -> int:
    data = error.error.data if isinstance(error.error.data, dict) else {}
    status = data.get("grpcStatus")
    if status is None:
        kind, code = f"MCP error {error.error.code}", _MCP_ERROR
    else:
        kind, code = status, _EXIT_CODES.get(status, _UNAVAILABLE)
    Console(stderr=True).print(f"[bold red]{kind}[/]: {escape(error.error.message)}", highlight=False, soft_wrap=True)
    return code


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
