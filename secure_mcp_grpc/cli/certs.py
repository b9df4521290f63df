"""`secure-mcp-grpc certs`: a certificate authority for development, and what is in a certificate."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from secure_mcp_grpc.cli.options import HomeOption

__all__ = ["app"]

app = typer.Typer(help="Make and show certificates (EC P-256, SPIFFE URI SAN).", no_args_is_help=True)
TrustDomainOption = Annotated[str, typer.Option(help="SPIFFE trust domain.", envvar="MCP_TRUST_DOMAINS")]


@app.command()
def init(home: HomeOption = None, trust_domain: TrustDomainOption = "mcp.internal") -> None:
    """Make a certificate authority in DIR/certs/ca."""
    from secure_mcp_grpc import certs
    from secure_mcp_grpc.stack.home import Home

    directory = Home.locate(home)
    directory.prepare()
    made = certs.init_ca(directory.ca, trust_domain)
    Console().print(f"Made {made} for the trust domain {trust_domain}.", highlight=False)


@app.command()
def issue(
    name: Annotated[str, typer.Argument(help="Path of the SPIFFE ID, e.g. model-a; use `sidecar` for Envoy itself.")],
    home: HomeOption = None,
    dns: Annotated[list[str] | None, typer.Option(help="DNS name that clients connect to.")] = None,
    ip: Annotated[list[str] | None, typer.Option(help="IP address that clients connect to.")] = None,
    hours: Annotated[float, typer.Option(help="Lifetime in hours.", min=0.01, max=24 * 365)] = 24.0,
    out: Annotated[Path | None, typer.Option(help="Where to write.", show_default="DIR/certs/NAME")] = None,
) -> None:
    """Issue a certificate; a sidecar that uses it takes the new one without a restart.

    The identity `sidecar` is issued for localhost unless --dns or --ip says otherwise; clients need no names.
    """
    from datetime import timedelta

    from secure_mcp_grpc import certs
    from secure_mcp_grpc.stack.home import Home

    directory = Home.locate(home)
    target = out or directory.certs / name
    local = name == "sidecar" and not dns and not ip
    certs.issue(
        directory.ca,
        target,
        name,
        dns=["localhost"] if local else dns or [],
        ips=["127.0.0.1", "::1"] if local else ip or [],
        lifetime=timedelta(hours=hours),
    )
    spiffe_id = certs.facts(target).uris[0]
    Console().print(f"Issued {spiffe_id} in {target}, valid for {hours:g} hours.", highlight=False)


@app.command()
def show(
    certificate: Annotated[str, typer.Argument(help="A certificate file, or the name of an identity in DIR.")],
    home: HomeOption = None,
) -> None:
    """Show what is in a certificate."""
    from secure_mcp_grpc import certs
    from secure_mcp_grpc.stack.home import Home

    path = Path(certificate)
    if not path.is_file():
        path = Home.locate(home).identity(certificate) / "tls.crt"
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in certs.show(path).items():
        table.add_row(key, value)
    Console().print(table)
