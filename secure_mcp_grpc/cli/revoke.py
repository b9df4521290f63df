"""`secure-mcp-grpc revoke`, `unrevoke`, `revocations`, `quarantine`, `release`: who and what counts no longer."""

import asyncio
import getpass
import json
import re
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from secure_mcp_grpc.cli.options import HomeOption
from secure_mcp_grpc.errors import UserError

if TYPE_CHECKING:
    from authz_service.revocations.desk import Desk
    from authz_service.revocations.entry import Entry

__all__ = ["add_to"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_UNAVAILABLE = 6
_KINDS = "token (jti), user (user:<issuer>:<sub>), certificate (fingerprint or serial number) or identity"

KindArgument = Annotated[Literal["token", "user", "certificate", "identity"], typer.Argument(help=_KINDS)]
ValueArgument = Annotated[str, typer.Argument(help="What is revoked, e.g. model-a.")]
WhoArgument = Annotated[str, typer.Argument(help="An identity, e.g. model-a, or a user, e.g. user:corp:alice.")]
ForOption = Annotated[
    str | None, typer.Option("--for", help="How long, e.g. 30m, 1h, 7d; for ever without it.", metavar="DURATION")
]
ReasonOption = Annotated[str, typer.Option(help="For operators and records; the one it concerns is not told.")]
IssuerOption = Annotated[str, typer.Option(help="Of a token: the issuer it is from; all of them without it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (revoke, unrevoke, revocations, quarantine, release):
        app.command(command.__name__)(command)


def revoke(
    kind: KindArgument,
    value: ValueArgument,
    lasting: ForOption = None,
    reason: ReasonOption = "",
    issuer: IssuerOption = "",
    home: HomeOption = None,
) -> None:
    """Refuse a token, user, certificate or identity from now on, on every sidecar that shares this Redis."""
    what = {"kind": kind, "value": value, "issuer": issuer, "until_us": _until_us(lasting), "reason": reason}
    _write(home, "revoked", what)


def unrevoke(kind: KindArgument, value: ValueArgument, issuer: IssuerOption = "", home: HomeOption = None) -> None:
    """Lift a revocation. Exit code 1 if there is none."""
    _write(home, "unrevoked", {"kind": kind, "value": value, "issuer": issuer, "lifted": True})


def quarantine(
    who: WhoArgument,
    lasting: Annotated[str, typer.Option("--for", help="How long, e.g. 30m, 1h.", metavar="DURATION")] = "1h",
    reason: ReasonOption = "",
    home: HomeOption = None,
) -> None:
    """Keep an identity or a user out for a while; it ends by itself."""
    what = {"kind": _kind_of(who), "value": who, "until_us": _until_us(lasting), "reason": reason}
    _write(home, "quarantined", {**what, "quarantine": True})


def release(who: WhoArgument, home: HomeOption = None) -> None:
    """End a quarantine. Exit code 1 if there is none."""
    _write(home, "released", {"kind": _kind_of(who), "value": who, "quarantine": True, "lifted": True})


def revocations(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show what is revoked and who is quarantined."""
    now_us = time.time_ns() // 1000
    found = asyncio.run(_desk(home).read())
    entries = sorted((entry for entry in found.values() if entry.in_force(now_us)), key=lambda entry: entry.id)
    if as_json:
        sys.stdout.write(json.dumps([_shown(entry) for entry in entries], indent=2) + "\n")
        return
    if not entries:
        Console().print("Nothing is revoked, and nobody is quarantined.")
        return
    table = Table("What", "Kind", "Value", "Since (UTC)", "Until (UTC)", "By", "Reason")
    for entry in entries:
        value = entry.value + (f" (issuer {entry.issuer})" if entry.issuer else "")
        row = ["quarantined" if entry.quarantine else "revoked", entry.kind, value, _time(entry.at_us)]
        table.add_row(*map(_plain, [*row, _time(entry.until_us) or "for ever", entry.by, entry.reason]))
    Console().print(table)


def _write(home: Path | None, change: str, what: dict[str, Any]) -> None:
    desk = _desk(home)
    from authz_service.revocations.desk import HereOnly, NothingToLift
    from authz_service.revocations.entry import Damaged

    try:
        entry = asyncio.run(desk.write(by=f"{getpass.getuser()}@{socket.gethostname()}", **what))
    except NothingToLift as nothing:
        typer.echo(f"{nothing} is not in force, so nothing was {change}.", err=True)
        raise typer.Exit(1) from None
    except HereOnly as only:
        typer.echo(
            f"{change.capitalize()} {only} on this sidecar only: Redis does not answer. The others will hear of "
            "it once it does and this sidecar runs.",
            err=True,
        )
        raise typer.Exit(_UNAVAILABLE) from None
    except Damaged as error:
        raise UserError(f"{error}; nothing was {change}") from None
    until = f" until {_time(entry.until_us)} UTC" if entry.until_us and not entry.lifted else ""
    said = _plain(f"{change.capitalize()} {entry}{until} {desk.place}.")
    Console().print(said, highlight=False, soft_wrap=True)
    _say_if_nobody_listens(home, desk)


def _say_if_nobody_listens(home: Path | None, desk: "Desk") -> None:
    """In an incident, a revocation in the wrong directory must not look like one in force."""
    from secure_mcp_grpc.stack.home import Home
    from secure_mcp_grpc.stack.supervisor import read_state

    directory = Home.locate(home)
    if not desk.shared and not read_state(directory.run_dir):
        typer.echo(
            f"Nothing runs in {directory.root}: this counts once a sidecar with that directory starts.", err=True
        )


def _desk(home: Path | None) -> "Desk":
    """Where `home`'s sidecar looks: its running configuration, else the environment."""
    try:
        from authz_service.revocations.desk import Desk
        from authz_service.settings import AuthzSettings
    except ModuleNotFoundError as error:
        raise UserError(f"revocations need an extra ({error.name}): pip install 'secure-mcp-grpc[sidecar]'") from None
    from secure_mcp_grpc.stack.home import Home

    directory = Home.locate(home)
    running = directory.run_dir / "sidecar.yaml"
    settings = AuthzSettings.load(config=running if running.exists() else None)
    path = settings.revocations_file
    if "revocations_file" not in settings.model_fields_set:
        path = directory.root / "revocations.json"
    return Desk(path, settings.redis_location())


def _until_us(lasting: str | None) -> int:
    if lasting is None:
        return 0
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", lasting.strip())
    if found is None or float(found[1]) <= 0:
        raise UserError(f"--for {lasting}: expected a number and s, m, h, d or w, such as 1h")
    length_s = float(found[1]) * _UNITS[found[2]]
    if length_s > 100 * 366 * 86400:
        raise UserError(f"--for {lasting}: that is more than 100 years; leave --for out for ever")
    return time.time_ns() // 1000 + int(length_s * 1e6)


def _kind_of(who: str) -> str:
    return "user" if who.strip().lower().startswith("user:") or "#" in who else "identity"


def _shown(entry: "Entry") -> dict[str, Any]:
    from secure_mcp_grpc.records import timestamp

    return {
        "what": "quarantined" if entry.quarantine else "revoked",
        "kind": entry.kind,
        "value": entry.value,
        "issuer": entry.issuer,
        "at": timestamp(entry.at_us),
        "until": timestamp(entry.until_us) if entry.until_us else None,
        "reason": entry.reason,
        "by": entry.by,
    }


def _time(time_us: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time_us / 1e6)) if time_us else ""


def _plain(text: str) -> str:
    """Text of others must not be markup, nor move the cursor."""
    from rich.markup import escape

    return escape(text if text.isprintable() else text.encode("unicode_escape").decode("ascii"))
