"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["HomeOption"]

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        help="Directory of certificates, policy, journal and store.",
        envvar="SECURE_MCP_GRPC_HOME",
        show_default="~/.secure-mcp-grpc",
    ),
]
