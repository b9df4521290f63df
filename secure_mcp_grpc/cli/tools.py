"""`secure-mcp-grpc tools`: pin what MCP servers offer, see what changed since, approve it."""

import asyncio
import difflib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from secure_mcp_grpc.cli.options import HomeOption
from secure_mcp_grpc.errors import UserError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    from mcp_bridge.protect.compare import Drift
    from mcp_bridge.protect.lockfile import Lock
    from mcp_bridge.settings import BridgeSettings

__all__ = ["app"]

app = typer.Typer(
    help="Pin tools, prompts and resource templates; see what changed since, and approve it.", no_args_is_help=True
)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Settings, sidecar.yaml: whose servers are asked.",
        envvar="MCP_CONFIG",
        show_default="those of the sidecar in DIR",
    ),
]
LockOption = Annotated[
    Path | None, typer.Option("--lock", help="The lock file.", show_default="bridge.tools_lock, or tools.lock")
]
SignOption = Annotated[
    Path | None,
    typer.Option("--key", help="Private key (PEM, Ed25519) to sign with; `lock` makes it if missing, and FILE.pub."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_COLOURS = {"suspicious": "bold red", "breaking": "red", "added": "yellow", "compatible": "cyan", "cosmetic": "dim"}
_WHAT = "private key of the tools lock"


@app.command()
def lock(
    config: ConfigOption = None,
    lock_file: LockOption = None,
    key: SignOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a lock that is there.")] = False,
    home: HomeOption = None,
) -> None:
    """Write a lock of all that the MCP servers offer now. Look at what it warns of before you rely on it."""
    from mcp_bridge.protect.lockfile import exclusive, write_lock
    from secure_mcp_grpc import signing

    settings = _settings(config, home)
    path = _path(settings, lock_file)
    live = _live(settings)
    signer = signing.read_private_key(key, _WHAT) if key is not None else None
    with exclusive(path):
        if path.exists() and not force:
            raise UserError(f"{path} exists; see tools diff and tools approve, or replace it with --force")
        write_lock(path, live, signer)
    counts = ", ".join(f"{len(named)} {kind}" for kind, named in live.definitions.items())
    signed = f"signed by key {signing.key_id(signer.public_key())}" if signer else "not signed"
    typer.echo(f"{path}: {counts}; {signed}")
    _warn(live)


@app.command()
def diff(
    config: ConfigOption = None,
    lock_file: LockOption = None,
    key: Annotated[Path | None, typer.Option("--key", help="Public key (PEM) that must have signed the lock.")] = None,
    as_json: JsonOption = False,
    full: Annotated[
        bool, typer.Option("--full", help="Also the definitions, line by line, hidden characters escaped.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Compare the lock with what the MCP servers offer now.

    Exit codes as of diff: 0 no difference, 1 differences, 2 trouble.
    """
    from mcp_bridge.protect.compare import compare, document, server_changes
    from mcp_bridge.protect.lockfile import read_lock

    settings = _settings(config, home)
    checked = _public(settings, key)
    pinned = read_lock(_path(settings, lock_file), checked)
    live = _live(settings)
    if pinned.key and checked is None:
        typer.echo(f"note: the lock's signature by key {pinned.key} was not checked; see --key", err=True)
    drifts, servers = compare(pinned, live), list(server_changes(pinned, live))
    if as_json:
        told = {"drift": document(drifts), "servers": [{"name": name, "change": text} for name, text in servers]}
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
    else:
        if drifts:
            Console().print(_table(drifts))
        for drift in drifts if full else ():
            typer.echo("".join(_lines(drift, pinned, live)))
        for name, text in servers:
            typer.echo(f"server {name}: {text}")
        typer.echo(_summary(drifts) if drifts or servers else "no difference")
    if drifts or servers:
        raise typer.Exit(1)


@app.command()
def approve(
    names: Annotated[list[str] | None, typer.Argument(help="What to approve.", metavar="NAME...")] = None,
    config: ConfigOption = None,
    lock_file: LockOption = None,
    key: SignOption = None,
    all_: Annotated[bool, typer.Option("--all", help="Approve everything as it is now.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Take what the MCP servers offer now under these names into the lock; a running bridge follows in a second."""
    from mcp_bridge.protect.compare import approve as approved
    from mcp_bridge.protect.compare import document
    from mcp_bridge.protect.lockfile import exclusive, read_lock, write_lock

    if bool(names) == all_:
        raise UserError("name what to approve, or say --all")
    settings = _settings(config, home)
    path = _path(settings, lock_file)
    signer = _signer(key)
    live = _live(settings)
    with exclusive(path):
        pinned = read_lock(path, signer.public_key() if signer else _public(settings, None))
        if pinned.key and signer is None:
            raise UserError(f"{path} is signed by key {pinned.key}: sign it again with --key")
        try:
            changed, drifts = approved(pinned, live, None if all_ else names)
        except KeyError as missing:
            raise UserError(f"nothing differs for {missing.args[0]!a}; see tools diff") from None
        write_lock(path, changed, signer)
    if as_json:
        sys.stdout.write(json.dumps({"approved": document(drifts)}, indent=2) + "\n")
        return
    if drifts:
        Console().print(_table(drifts))
    typer.echo(f"{path}: {len(drifts)} approved")


def _live(settings: "BridgeSettings") -> "Lock":
    from mcp_bridge.protect.live import read_live

    return asyncio.run(read_live(settings))


def _settings(config: Path | None, home: Path | None) -> "BridgeSettings":
    """Those named, else those that the sidecar in `home` was started with, else the environment's."""
    from mcp_bridge.settings import BridgeSettings
    from secure_mcp_grpc.stack.home import Home

    started = Home.locate(home).run_dir / "sidecar.yaml"
    if config is None and not started.exists() and BridgeSettings.env_names()["upstreams"] not in os.environ:
        raise UserError(
            f"no MCP server to ask: {started} does not exist, so no sidecar was started there; "
            "name the settings: --config sidecar.yaml, or the directory of a sidecar: --dir DIR"
        )
    return BridgeSettings.load(config=config or (started if started.exists() else None))


def _path(settings: "BridgeSettings", named: Path | None) -> Path:
    return named or settings.tools_lock or Path("tools.lock")


def _public(settings: "BridgeSettings", named: Path | None) -> "Ed25519PublicKey | None":
    from secure_mcp_grpc.signing import read_public_key

    path = named or settings.tools_lock_key
    return read_public_key(path, "public key of the tools lock") if path is not None else None


def _signer(key: Path | None) -> "Ed25519PrivateKey | None":
    """An existing one: a new key would not be the one that the lock is signed with."""
    from secure_mcp_grpc.signing import read_private_key

    if key is None:
        return None
    if not key.exists():
        raise UserError(f"{_WHAT} {key} does not exist")
    return read_private_key(key, _WHAT)


def _table(drifts: "list[Drift]") -> Table:
    from mcp_bridge.protect.definitions import LABELS

    table = Table(*(Column(title, overflow="fold") for title in ("Kind", "Name", "Change", "Where", "What")))
    for drift in drifts:
        named = (LABELS[drift.kind], escape(_plain(drift.name)))
        for found in drift.findings:
            word = found.severity.word
            table.add_row(*named, f"[{_COLOURS[word]}]{word}[/]", escape(found.path), escape(found.text))
            named = ("", "")
    return table


def _lines(drift: "Drift", pinned: "Lock", live: "Lock") -> Iterator[str]:
    sides = [json.dumps(one.get(drift.kind, drift.name), indent=2, sort_keys=True) for one in (pinned, live)]
    old, new = ([f"{line}\n" for line in side.splitlines()] for side in sides)
    name = _plain(drift.name)
    return difflib.unified_diff(old, new, f"approved/{name}", f"now/{name}")


def _summary(drifts: "list[Drift]") -> str:
    counts: dict[str, int] = {}
    for drift in sorted(drifts, key=lambda one: -one.severity):
        counts[drift.severity.word] = counts.get(drift.severity.word, 0) + 1
    return ", ".join(f"{count} {word}" for word, count in counts.items()) or "only servers changed"


def _warn(live: "Lock") -> None:
    from mcp_bridge.protect.definitions import LABELS
    from mcp_bridge.protect.drift import warnings_of

    for kind, named in live.definitions.items():
        for name, definition in named.items():
            for found in warnings_of(definition):
                typer.secho(f"warning: {LABELS[kind]} {_plain(name)} {found.text}", err=True, fg=typer.colors.YELLOW)

    for name, said in live.servers.items():
        for found in warnings_of({"instructions": said.get("instructions", "")}):
            typer.secho(f"warning: instructions of server {name} {found.text}", err=True, fg=typer.colors.YELLOW)


def _plain(text: str) -> str:
    """Names come from servers: nothing that a terminal would obey."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
