"""`subscriptions/listen` of a 2026-07-28 client, over a session with a handshake server."""

import asyncio
import contextlib
from typing import Any, Final

from msgspec import Raw

from mcp_bridge import wire
from mcp_bridge.eras import words
from mcp_bridge.eras.link import Link
from mcp_bridge.eras.listener import Listener, stamped
from mcp_bridge.eras.words import Refused
from mcp_bridge.errors import HopError, unavailable
from mcp_bridge.exchange import Exchange

__all__ = ["listen"]

_MAX_LISTENERS: Final = 64
_MAX_URIS: Final = 256
_CAPABILITY: Final = {
    "promptsListChanged": "prompts",
    "resourcesListChanged": "resources",
    "toolsListChanged": "tools",
}
_TELL_S: Final = 5.0


async def listen(link: Link, exchange: Exchange, members: dict[str, Raw]) -> bytes:
    """Acknowledge first, then events until the client leaves or the session ends. Raises `HopError` and `Refused`."""
    if exchange.outbox is None:
        raise Refused(wire.INVALID_REQUEST, "subscriptions/listen needs a stream: its events have nowhere to go")
    if len(link.listeners) >= _MAX_LISTENERS:
        raise Refused(wire.INTERNAL_ERROR, "Subscription limit reached")
    kinds, uris = _wanted(words.decoded(members.get("notifications")))
    kinds = frozenset(kind for kind in kinds if link.has(_CAPABILITY[kind], "listChanged"))
    listener = Listener(kinds, frozenset(uris), exchange.id_json)
    link.listeners.append(listener)
    watched: list[str] = []
    try:
        for uri in uris:
            if await _watch(link, uri):
                watched.append(uri)  # noqa: PERF401 - those watched so far are let go if a later one fails
        listener.uris = frozenset(watched)
        honoured: dict[str, Any] = dict.fromkeys(sorted(kinds), True)
        if watched:
            honoured["resourceSubscriptions"] = watched
        params = words.encode({"notifications": honoured})
        await exchange.outbox.put(stamped("notifications/subscriptions/acknowledged", params, exchange.id_json))
        while (message := await listener.next()) is not None:
            await exchange.outbox.put(message)
    finally:
        link.listeners.remove(listener)
        link.spawn(_unwatch(link, watched))
    if not link.alive:
        raise unavailable("the session with the MCP server ended; listen again")
    meta = {wire.SUBSCRIPTION_ID: Raw(exchange.id_json), words.SERVER_KEY: Raw(link.server_info)}
    return wire.result(exchange.id_json, words.encode({"resultType": "complete", "_meta": meta}))


def _wanted(notifications: Any) -> tuple[frozenset[str], list[str]]:
    if not isinstance(notifications, dict):
        raise Refused(wire.INVALID_PARAMS, "params.notifications must be an object")
    kinds = frozenset(kind for kind in _CAPABILITY if notifications.get(kind) is True)
    uris = notifications.get("resourceSubscriptions") or []
    if not isinstance(uris, list) or not all(isinstance(uri, str) for uri in uris):
        raise Refused(wire.INVALID_PARAMS, "resourceSubscriptions must be a list of URIs")
    if len(uris) > _MAX_URIS:
        raise Refused(wire.INVALID_PARAMS, f"resourceSubscriptions may name {_MAX_URIS} resources")
    return kinds, list(dict.fromkeys(uris))


async def _watch(link: Link, uri: str) -> bool:
    """Subscribe where nobody has yet; False where the server does not agree."""
    if not link.has("resources", "subscribe"):
        return False
    link.watched[uri] = link.watched.get(uri, 0) + 1
    if link.watched[uri] > 1:
        return True
    try:
        envelope = await link.request("resources/subscribe", words.encode({"uri": uri}))
        agreed = not bytes(envelope.error)
    except BaseException:
        _release(link, uri)
        raise
    if not agreed:
        _release(link, uri)
    return agreed


async def _unwatch(link: Link, uris: list[str]) -> None:
    for uri in uris:
        if _release(link, uri) and link.alive:
            with contextlib.suppress(HopError, TimeoutError, wire.NotJson):
                async with asyncio.timeout(_TELL_S):
                    await link.request("resources/unsubscribe", words.encode({"uri": uri}))


def _release(link: Link, uri: str) -> bool:
    """True where that was the last who watches."""
    left = link.watched.get(uri, 1) - 1
    if left:
        link.watched[uri] = left
    else:
        link.watched.pop(uri, None)
    return not left
