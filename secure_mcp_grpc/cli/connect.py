"""`secure-mcp-grpc connect`: a local MCP server for clients that know nothing of gRPC."""

import asyncio
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secure_mcp_grpc.cli.options import HomeOption
from secure_mcp_grpc.errors import UserError

if TYPE_CHECKING:
    from mcp_bridge.client import Identity
    from mcp_bridge.connect.tokens import TokenSource

__all__ = ["connect"]

_TOKEN_ENV = "MCP_TOKEN"  # noqa: S105 - a name, not a token
_SECRET_ENV = "MCP_OAUTH_CLIENT_SECRET"  # noqa: S105 - a name, not a secret
_IDENTITY, _TOKEN, _HTTP = "Identity", "Token", "Local HTTP server"

PathOption = Path | None


def connect(
    address: Annotated[
        str, typer.Argument(help="The sidecar; several with commas between them share the load.", metavar="HOST:PORT")
    ],
    as_: Annotated[
        str | None,
        typer.Option(
            "--as",
            help="A name under DIR/certs, or a directory with tls.crt, tls.key and ca.crt.",
            metavar="IDENTITY",
            rich_help_panel=_IDENTITY,
        ),
    ] = None,
    cert: Annotated[PathOption, typer.Option(help="Certificate, PEM.", rich_help_panel=_IDENTITY)] = None,
    key: Annotated[PathOption, typer.Option(help="Its key, PEM.", rich_help_panel=_IDENTITY)] = None,
    ca: Annotated[
        PathOption, typer.Option(help="CA that the sidecar's certificate comes from.", rich_help_panel=_IDENTITY)
    ] = None,
    server_id: Annotated[
        str | None,
        typer.Option(help="SPIFFE ID that the sidecar must have.", metavar="SPIFFE_ID", rich_help_panel=_IDENTITY),
    ] = None,
    server_name: Annotated[
        str | None,
        typer.Option(help="DNS name to look for in its certificate.", show_default="HOST", rich_help_panel=_IDENTITY),
    ] = None,
    token_file: Annotated[
        PathOption,
        typer.Option(help="File with a bearer token; read again when it changes.", rich_help_panel=_TOKEN),
    ] = None,
    token_env: Annotated[
        str,
        typer.Option(help="Environment variable with a bearer token.", metavar="NAME", rich_help_panel=_TOKEN),
    ] = _TOKEN_ENV,
    oauth_issuer: Annotated[
        str | None,
        typer.Option(help="Issuer to ask for tokens; its token endpoint is discovered.", rich_help_panel=_TOKEN),
    ] = None,
    oauth_token_url: Annotated[
        str | None, typer.Option(help="Token endpoint, instead of --oauth-issuer.", rich_help_panel=_TOKEN)
    ] = None,
    oauth_client_id: Annotated[str | None, typer.Option(help="Who asks.", rich_help_panel=_TOKEN)] = None,
    oauth_client_secret_file: Annotated[
        PathOption,
        typer.Option(help="File with the client's secret.", show_default=f"${_SECRET_ENV}", rich_help_panel=_TOKEN),
    ] = None,
    oauth_scope: Annotated[
        str | None, typer.Option(help="Scopes, with spaces between them.", rich_help_panel=_TOKEN)
    ] = None,
    oauth_audience: Annotated[
        str | None, typer.Option(help="Audience to ask for, where the issuer wants one.", rich_help_panel=_TOKEN)
    ] = None,
    http: Annotated[
        str | None,
        typer.Option(help="Serve streamable HTTP there, not stdio.", metavar="HOST:PORT", rich_help_panel=_HTTP),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Further Host header to accept; repeatable.", metavar="NAME[:PORT]", rich_help_panel=_HTTP),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="Web origin whose pages may connect; repeatable.", metavar="URL", rich_help_panel=_HTTP),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(help="Seconds that a request may take.", min=0.001, show_default="the sidecar's limit"),
    ] = None,
    max_request_bytes: Annotated[int, typer.Option(help="Largest message from the client.", min=1024)] = 1024 * 1024,
    max_answer_bytes: Annotated[int, typer.Option(help="Largest message from the server.", min=1024)] = 16
    * 1024
    * 1024,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO, WARNING or ERROR; logs go to stderr.")] = "INFO",
    home: HomeOption = None,
) -> None:
    """Be a local MCP server whose tools are behind a sidecar.

    For any MCP client, as it is. In a desktop client's configuration:

    {"mcpServers": {"tools": {"command": "secure-mcp-grpc", "args": ["connect", "HOST:8443", "--as", "model-a"]}}}

    Over HTTP: connect HOST:8443 --as model-a --http 127.0.0.1:8080, then http://127.0.0.1:8080/mcp.
    """
    from mcp_bridge.client.channel import Address
    from mcp_bridge.connect.run import Endpoint, Options, serve
    from secure_mcp_grpc import logs

    if log_level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise UserError(f"--log-level expects DEBUG, INFO, WARNING or ERROR, not {log_level}")
    endpoint = Endpoint.parse(http, allow_host or (), allow_origin or ()) if http is not None else None
    if endpoint is None and (allow_host or allow_origin):
        raise UserError("--allow-host and --allow-origin belong to --http")
    token = _oauth(
        oauth_issuer, oauth_token_url, oauth_client_id, oauth_client_secret_file, oauth_scope, oauth_audience
    ) or _token(token_file, token_env)
    identity = _identity(as_, (cert, key, ca), home, has_token=token is not None)
    where = Address(address, identity, server_id, server_name, max_answer_bytes=max_answer_bytes)
    logs.configure("connect", level=log_level.upper())
    asyncio.run(serve(where, token, Options(endpoint, timeout, max_request_bytes, max_answer_bytes)))


def _identity(
    as_: str | None,
    files: tuple[PathOption, PathOption, PathOption],
    home: Path | None,
    *,
    has_token: bool,
) -> "Identity | None":
    from mcp_bridge.client import Identity
    from secure_mcp_grpc.certs import load_identity
    from secure_mcp_grpc.stack.home import Home

    cert, key, ca = files
    if as_ is not None:
        if any(files):
            raise UserError("say who calls once: --as, or --cert, --key and --ca")
        directory = Home.locate(home).identity(as_)
        load_identity(directory)  # says which file is missing, expired or wrong
        return Identity.from_directory(directory)
    if ca is not None:
        if (cert is None) != (key is None):
            raise UserError("--cert needs --key, and --key --cert")
        if cert is None and not has_token:
            raise UserError("say who calls: --cert and --key, or a token")
        return Identity(cert, key, ca)
    if cert is not None or key is not None:
        raise UserError("--cert and --key need --ca, the CA that the sidecar's certificate comes from")
    own_ca = Home.locate(home).certs / "sidecar" / "ca.crt"
    return Identity(None, None, own_ca) if has_token and own_ca.is_file() else None


def _token(file: Path | None, variable: str) -> "TokenSource | None":
    """Never an argument of the command line: those are visible to everybody on the machine."""
    from mcp_bridge.connect.tokens import FileToken, FixedToken

    if file is not None:
        return FileToken(file)
    value = os.environ.get(variable)
    if value is None and variable != _TOKEN_ENV:
        raise UserError(f"${variable} is not set")
    return FixedToken(value, variable) if value else None


def _oauth(
    issuer: str | None,
    token_url: str | None,
    client_id: str | None,
    secret_file: Path | None,
    scope: str | None,
    audience: str | None,
) -> "TokenSource | None":
    if issuer is None and token_url is None:
        if client_id or secret_file or scope or audience:
            raise UserError("name who issues tokens: --oauth-issuer URL or --oauth-token-url URL")
        return None
    if client_id is None:
        raise UserError("say who asks for tokens: --oauth-client-id ID")
    if find_spec("httpx2") is None:
        raise UserError("OAuth needs httpx2: pip install 'secure-mcp-grpc[connect]'")
    from mcp_bridge.connect.oauth import ClientCredentials, Grant

    grant = Grant(client_id, _secret(secret_file), scope or "", audience or "", issuer or "", token_url or "")
    return ClientCredentials(grant)


def _secret(file: Path | None) -> str:
    try:
        secret = os.environ.get(_SECRET_ENV, "") if file is None else file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UserError(f"secret file {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"secret file {file} does not hold text") from None
    if not secret:
        raise UserError(f"the client's secret is missing: --oauth-client-secret-file FILE, or ${_SECRET_ENV}")
    return secret
