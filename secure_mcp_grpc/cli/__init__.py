"""The command line `secure-mcp-grpc`.

Exit codes: 0 done; 1 the tool reported an error, or something is not as it
should be; 2 something the person at the keyboard can mend, said in one line;
3 an MCP (JSON-RPC) error; 4 refused; 5 rate limited; 6 unavailable.
"""

import sys

import typer

from secure_mcp_grpc.errors import UserError

__all__ = ["main"]


def main() -> None:
    """Entry point of the console script; always ends the process."""
    from secure_mcp_grpc.cli.app import app

    try:
        app()
    except UserError as error:
        typer.secho(f"secure-mcp-grpc: {error}", err=True, fg=typer.colors.RED)
        sys.exit(2)
