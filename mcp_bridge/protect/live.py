"""What the MCP servers of a bridge's settings offer now, asked directly: for the lock, which guards hold them to.

Through a sidecar one sees what its policy shows, and nothing that its lock
hides; the guards compare what the same upstream says, built from the same
settings, name prefixes included.
"""

import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from mcp_bridge import wire
from mcp_bridge.errors import HopError
from mcp_bridge.exchange import Exchange, Note, Outbox, Session, Upstream
from mcp_bridge.listing import read_page
from mcp_bridge.protect.definitions import KINDS, LABELS, LIST_METHODS, Kind, Unreadable, read_definition
from mcp_bridge.protect.lockfile import Lock
from secure_mcp_grpc.calls import McpCall
from secure_mcp_grpc.errors import UserError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mcp_bridge.settings import BridgeSettings

__all__ = ["collect", "read_live"]

Request = Callable[[str, dict[str, Any]], Awaitable[bytes]]
"""Method and params to the JSON-RPC response."""

_MODERN: Final = "2026-07-28"
_HANDSHAKE: Final = "2025-11-25"
_CLIENT: Final = {"name": "secure-mcp-grpc tools", "version": "1"}
_SERVER_INFO: Final = "io.modelcontextprotocol/serverInfo"
_META: Final = {
    "io.modelcontextprotocol/protocolVersion": _MODERN,
    "io.modelcontextprotocol/clientInfo": _CLIENT,
    "io.modelcontextprotocol/clientCapabilities": {},
}
_OWNER: Final = "10 tools-lock "
_MAX_PAGES: Final = 500


async def read_live(settings: "BridgeSettings") -> Lock:
    """An unsigned lock of all that is offered now. Raises `UserError` for a server that does not answer as asked."""
    settings = settings.model_copy(update={"when_down": "refuse"})
    servers = {name: await _info(settings, name) for name in settings.upstreams}
    async with _asking(settings) as (request, _):
        return Lock(await collect(request), servers)


async def collect(request: Request) -> dict[Kind, dict[str, dict[str, Any]]]:
    """Every definition, all pages of all lists. Raises `UserError` for one that cannot be pinned."""
    found: dict[Kind, dict[str, dict[str, Any]]] = {kind: {} for kind in KINDS}
    for method, kind in LIST_METHODS.items():
        params: dict[str, Any] = {}
        for _ in range(_MAX_PAGES):
            answer = await request(method, params)
            try:
                envelope = wire.read_envelope(answer)
                if bytes(envelope.error):
                    _check_error(method, bytes(envelope.error))
                    break
                page = read_page(method, bytes(envelope.result))
            except wire.NotJson:
                raise UserError(f"the answer to {method} is not of MCP's form") from None
            if page.unusable:
                raise UserError(f"{method} holds {page.unusable} items that no call could name")
            for name, item in zip(page.names, page.items, strict=True):
                _take(found[kind], kind, name, bytes(item))
            cursor = page.members.get("nextCursor")
            if cursor is None or bytes(cursor) in (b"null", b'""'):
                break
            params = {"cursor": json.loads(bytes(cursor))}
        else:
            raise UserError(f"{method} has more than {_MAX_PAGES} pages")
    return found


def _take(found: dict[str, dict[str, Any]], kind: Kind, name: str, text: bytes) -> None:
    try:
        definition = read_definition(kind, text)
    except Unreadable:
        raise UserError(
            f"{LABELS[kind]} {name[:80]!a} cannot be pinned: a key stands twice in it, or it is too large or deep"
        ) from None
    if found.setdefault(name, definition) != definition:
        raise UserError(f"{LABELS[kind]} {name[:80]!a} is offered twice, and the two differ")


def _check_error(method: str, error: bytes) -> None:
    """A server that does not know the method has none of it."""
    if bytes(wire.object_of(error).get("code", b"")) != b"%d" % wire.METHOD_NOT_FOUND:
        raise UserError(f"the server refused {method}")


async def _info(settings: "BridgeSettings", name: str) -> dict[str, Any]:
    """Name, version and instructions, as one server states them: with a prefix a router would speak for it."""
    itself = settings.upstreams[name].model_copy(update={"prefix": ""})
    alone = settings.model_copy(update={"upstreams": {name: itself}, "names": "plain"})
    async with _asking(alone) as (_, told):
        info = told.get("serverInfo") or (told.get("_meta") or {}).get(_SERVER_INFO)
        info = info if isinstance(info, dict) else {}
        said = {key: info[key] for key in ("name", "version") if isinstance(info.get(key), str)}
        text = told.get("instructions")
        return said | ({"instructions": text} if isinstance(text, str) and text else {})


@asynccontextmanager
async def _asking(settings: "BridgeSettings") -> "AsyncIterator[tuple[Request, dict[str, Any]]]":
    """How to ask, and what the server told of itself."""
    from prometheus_client import CollectorRegistry

    from mcp_bridge.assemble import build_upstream
    from mcp_bridge.metrics import BridgeMetrics

    upstream = build_upstream(settings, BridgeMetrics(CollectorRegistry()))
    try:
        await upstream.start()
        try:
            yield await _open(upstream, settings.max_answer_bytes)
        except HopError as error:
            raise UserError(f"the MCP server {upstream.name} cannot be asked: {error.sentence}") from None
    finally:
        await upstream.close()


async def _open(upstream: Upstream, max_bytes: int) -> tuple[Request, dict[str, Any]]:
    async def modern(method: str, params: dict[str, Any]) -> bytes:
        text = msgspec.json.encode({**params, "_meta": _META})
        call = McpCall(method, "", {}, _MODERN)
        return await upstream.request(Exchange(call, b"1", text, wire.read_meta(text), _OWNER))

    told = _result(await modern("server/discover", {}))
    if told is not None:
        return modern, told
    session = Session("tools-lock", _OWNER, Outbox(max_bytes))

    async def in_session(method: str, params: dict[str, Any], opens: bool = False) -> bytes:
        text = msgspec.json.encode(params)
        call = McpCall(method, "", {}, "" if opens else _HANDSHAKE, "" if opens else session.id)
        exchange = Exchange(call, b"1", text, wire.read_meta(b""), _OWNER, session, opens)
        return await upstream.request(exchange)

    hello = {"protocolVersion": _HANDSHAKE, "capabilities": {}, "clientInfo": _CLIENT}
    told = _result(await in_session("initialize", hello, True))
    if told is None:
        raise UserError(f"the MCP server {upstream.name} answered neither server/discover nor initialize")
    await upstream.notify(Note("notifications/initialized", b"", _OWNER, session))
    return in_session, told


def _result(answer: bytes) -> dict[str, Any] | None:
    try:
        envelope = wire.read_envelope(answer)
        told = msgspec.json.decode(bytes(envelope.result)) if bytes(envelope.result) else None
    except (wire.NotJson, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return told if isinstance(told, dict) else None
