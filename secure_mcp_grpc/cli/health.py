"""`secure-mcp-grpc health`: every part, its state, since when, and why not."""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from secure_mcp_grpc.cli.options import HomeOption
from secure_mcp_grpc.errors import UserError

__all__ = ["health"]

_COLOURS = {"ready": "green", "degraded": "yellow"}


def health(
    home: HomeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show every part: its state, since when, and why not. Exit code 1 unless all are ready.

    A part that is degraded does its work, but not with all that it should have.
    """
    from secure_mcp_grpc.stack.home import Home

    directory = Home.locate(home)
    report = asyncio.run(_report(directory.run_dir))
    if as_json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        Console().print(_table(report))
    if any(part["state"] != "ready" for part in report.values()):
        raise typer.Exit(1)


async def _report(run_dir: Path) -> dict[str, dict[str, Any]]:
    """The supervisor's word, corrected by asking each part now."""
    from secure_mcp_grpc import envoy_config
    from secure_mcp_grpc.stack.probes import ailments, envoy_ready, serving_status
    from secure_mcp_grpc.stack.supervisor import read_state

    parts = read_state(run_dir)
    if not parts:
        raise UserError(f"nothing is running in {run_dir.parent}; start it with: secure-mcp-grpc up")

    async def ask(name: str, part: dict[str, Any]) -> None:
        if part["state"] != "ready":
            return
        if name == "envoy":
            answer = "SERVING" if await envoy_ready(envoy_config.admin_socket(run_dir)) else "NOT_SERVING"
        else:
            answer = await serving_status(run_dir, name)
        if answer != "SERVING":
            part.update(state="not serving", why=f"grpc.health.v1 says {answer}", since=time.time())
        elif name != "envoy" and (unwell := await ailments(run_dir, name)):
            part.update(state="degraded", why="; ".join(unwell), since=time.time())

    await asyncio.gather(*(ask(name, part) for name, part in parts.items()))
    return parts


def _table(report: dict[str, dict[str, Any]]) -> Table:
    table = Table("Part", "State", "Since (UTC)", "Restarts", "Process", "Why")
    for name, part in report.items():
        colour = _COLOURS.get(part["state"], "red")
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(part["since"]))
        table.add_row(
            name, f"[{colour}]{part['state']}[/]", since, str(part["restarts"]), str(part["pid"] or ""), part["why"]
        )
    return table
