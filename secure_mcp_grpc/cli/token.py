"""`secure-mcp-grpc token`: bearer tokens for development, of an issuer that is a key in DIR."""

from typing import TYPE_CHECKING, Annotated

import typer

from secure_mcp_grpc.cli.options import HomeOption

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

__all__ = ["app"]

app = typer.Typer(
    help="Make bearer tokens. DEVELOPMENT ONLY: whoever can read DIR can be anybody.", no_args_is_help=True
)


@app.command()
def issue(
    subject: Annotated[str, typer.Option(help="The user or agent (sub); policy calls it user:dev:SUBJECT.")],
    role: Annotated[list[str] | None, typer.Option(help="A role; policy calls it role:ROLE. Repeatable.")] = None,
    audience: Annotated[str | None, typer.Option(help="Whom the token is for.", show_default="secure-mcp-grpc")] = None,
    valid_for: Annotated[str, typer.Option("--for", help="Lifetime: 90s, 10m, 2h, at most 1d.")] = "10m",
    bound_to: Annotated[
        str | None, typer.Option(help="The only certificate it may come with: a file, or an identity in DIR.")
    ] = None,
    act: Annotated[
        list[str] | None, typer.Option(help="Who acts for SUBJECT; repeat for a chain, the current actor first.")
    ] = None,
    home: HomeOption = None,
) -> None:
    """Print a token, and nothing else, to stdout. DEVELOPMENT ONLY.

    The key is made on first use. `secure-mcp-grpc token keys` says how a sidecar comes to trust it.
    """
    import time

    from authz_service.tokens import development
    from secure_mcp_grpc.errors import UserError

    try:
        valid_s = development.duration_s(valid_for)
    except ValueError as error:
        raise UserError(f"--for {valid_for!r}: {error}") from None
    key, _ = _key(home)
    made = development.issue(
        key,
        subject,
        time.time(),
        valid_s,
        audience=development.AUDIENCE if audience is None else audience,
        roles=role or [],
        actors=act or [],
        fingerprint=_fingerprint(bound_to, home) if bound_to else "",
    )
    typer.echo(made)


@app.command()
def keys(home: HomeOption = None) -> None:
    """Print the configuration (YAML) with which a sidecar trusts these tokens. DEVELOPMENT ONLY."""
    from authz_service.tokens import development

    _, jwks_file = _key(home)
    typer.echo(development.issuer_yaml(str(jwks_file)), nl=False)


def _key(home: "Path | None") -> "tuple[EllipticCurvePrivateKey, Path]":
    """The signing key in DIR/tokens, made if missing, and the file with its public part."""
    from authz_service.tokens import development
    from secure_mcp_grpc.errors import UserError
    from secure_mcp_grpc.lifecycle import private_directory, write_by_rename
    from secure_mcp_grpc.stack.home import Home

    directory = private_directory(private_directory(Home.locate(home).root) / "tokens")
    path, jwks_file = directory / "signing.key", directory / "jwks.json"
    if not path.exists():
        write_by_rename(path, development.new_key(), mode=0o600)
    try:
        key = development.read_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a P-256 key that can be read; remove it to have one made") from error
    content = development.jwks(key)
    if not jwks_file.exists() or jwks_file.read_bytes() != content:
        write_by_rename(jwks_file, content, mode=0o644)
    return key, jwks_file


def _fingerprint(certificate: str, home: "Path | None") -> str:
    """Hex SHA-256 of a certificate: a file, or an identity in DIR."""
    from pathlib import Path

    from secure_mcp_grpc import certs
    from secure_mcp_grpc.stack.home import Home

    path = Path(certificate)
    if not path.is_file():
        path = Home.locate(home).identity(certificate) / "tls.crt"
    return certs.facts(path).fingerprint.replace(":", "").lower()
