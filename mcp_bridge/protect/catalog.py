"""What each caller's MCP server offers now: tools, prompts and templates, as its lists said last.

A guard, the innermost: it learns from every list that passes, and asks for a
list itself when a definition is wanted that is not known, or too old to rely
on. What one identity or session sees is kept apart from what others see.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from mcp_bridge import wire
from mcp_bridge.errors import too_large, unavailable
from mcp_bridge.exchange import Caller, Exchange, Session
from mcp_bridge.guards import Ask
from mcp_bridge.listing import Page, read_page
from mcp_bridge.protect.definitions import LIST_METHODS, Kind, Unreadable, read_definition
from mcp_bridge.upstreams.merge import MISSING
from secure_mcp_grpc import logs
from secure_mcp_grpc.calls import McpCall

__all__ = ["Catalog", "Offer"]

logger = logging.getLogger(__name__)

_LIST_OF: Final = {kind: method for method, kind in LIST_METHODS.items()}
_MAX_PAGES: Final = 200
_MAX_ITEMS: Final = 20_000
_MAX_KEPT_BYTES: Final = 16 * 1024 * 1024
"""Of JSON, which is about ten times as much in memory; the last list is kept whatever its size."""
_MAX_VIEWS: Final = 4000
_NEVER: Final = -1e9
_ASK_AGAIN_S: Final = 1.0
"""A name that a list just did not have is not asked for at once."""


@dataclass(slots=True)
class Offer:
    """One definition as the server sent it. Several callers share one; guards keep here what they made of it."""

    kind: Kind
    name: str
    text: bytes
    definition: dict[str, Any] | None
    """None for one that cannot be read in one way only."""
    judged_by: Any = None
    judgement: Any = None
    input: Any = None
    output: Any = None


@dataclass(slots=True)
class _View:
    """One kind of one viewer. `whole_at`: when all pages were last read."""

    offers: dict[str, tuple[Offer, ...]] = field(default_factory=dict)
    learnt_at: dict[str, float] = field(default_factory=dict)
    """Empty once the server says that something changed: names that stand in `offers` only are to be asked for."""
    whole_at: float = _NEVER
    size_bytes: int = 0
    counted_bytes: int = 0
    partial: bool = False
    """One of several servers did not answer, and was left out."""


class Catalog:
    """`lifetime_s`: how long a definition is relied on after its server said it. `clock` counts seconds.

    `owner` tells which server a name on a list belongs to, from exchange, list method and name; "" where that is not
    known.
    """

    def __init__(
        self,
        *,
        lifetime_s: float,
        max_list_bytes: int,
        clock: Callable[[], float],
        owner: Callable[[Exchange, str, str], str] = lambda *_: "",
    ) -> None:
        self._owner = owner
        self._lifetime_s = lifetime_s
        self._max_list_bytes = max_list_bytes
        self._clock = clock
        self._views: OrderedDict[tuple[str, Kind], _View] = OrderedDict()
        self._locks: dict[tuple[str, Kind], asyncio.Lock] = {}
        self._offers: OrderedDict[tuple[Kind, bytes], Offer] = OrderedDict()
        self._offer_bytes = 0
        self._view_bytes = 0
        self._own: set[int] = set()
        self._changed: set[tuple[str, Kind]] = set()
        """Lists that the server called changed while they were being read."""

    async def request(self, exchange: Exchange, caller: Caller, ask: Ask) -> bytes:
        """As a `Guard`: nothing is changed, lists are learnt from."""
        if exchange.opens_session and exchange.session is not None:
            self._watch(exchange.session)
        if exchange.outbox is not None and exchange.outbox.watcher is None:
            viewer = _viewer(exchange)
            exchange.outbox.watcher = lambda message: self._noticed(viewer, message)
        answer = await ask(exchange)
        kind = LIST_METHODS.get(exchange.call.method)
        if kind is not None and id(exchange) not in self._own:
            self._learn(exchange, kind, answer)
        return answer

    async def current(self, exchange: Exchange, kind: Kind, name: str, ask: Ask) -> tuple[Offer, ...]:
        """What the server says of `name` now: one, none, or several that contradict each other.

        The exchange then says which server that is, for those who refuse it before a server is chosen.
        """
        offers = await self._current(exchange, kind, name, ask)
        exchange.server = self.owner(exchange, kind, name)
        return offers

    def owner(self, exchange: Exchange, kind: Kind, name: str) -> str:
        """The server that lists `name`; what the exchange says already where that is not known."""
        return self._owner(exchange, _LIST_OF[kind], name) or exchange.server

    async def _current(self, exchange: Exchange, kind: Kind, name: str, ask: Ask) -> tuple[Offer, ...]:
        key = (_viewer(exchange), kind)
        view = self._views.get(key)
        if view is not None:
            offers = view.offers.get(name)
            if offers and self._clock() - view.learnt_at.get(name, _NEVER) <= self._lifetime_s:
                return offers
        return (await self._fresh(key, exchange, name, ask)).offers.get(name, ())

    def is_partial(self, exchange: Exchange, kind: Kind) -> bool:
        """Whether what is not offered now may be offered by a server that was left out of the list."""
        view = self._views.get((_viewer(exchange), kind))
        return view is not None and view.partial

    async def all(self, exchange: Exchange, kind: Kind, ask: Ask) -> list[Offer]:
        """All that the server offers of a kind now."""
        view = await self._fresh((_viewer(exchange), kind), exchange, None, ask)
        return [one for offers in view.offers.values() for one in offers]

    def offer(self, kind: Kind, name: str, text: bytes) -> Offer:
        """The one object for a text, so that it is read and judged once."""
        known = self._offers.get((kind, text))
        if known is not None:
            self._offers.move_to_end((kind, text))
            return known
        definition: dict[str, Any] | None
        try:
            definition = read_definition(kind, text)
        except Unreadable:
            definition = None
        made = Offer(kind, name, text, definition)
        self._offers[kind, text] = made
        self._offer_bytes += len(text)
        while self._offer_bytes > _MAX_KEPT_BYTES and len(self._offers) > 1:
            (_, gone), _ = self._offers.popitem(last=False)
            self._offer_bytes -= len(gone)
        return made

    def forget(self, viewer: str) -> None:
        """Cheap when repeated: a server may say so without end."""
        for kind in _LIST_OF:
            if (viewer, kind) in self._locks:
                self._changed.add((viewer, kind))
            if view := self._views.get((viewer, kind)):
                view.learnt_at.clear()
                view.whole_at = _NEVER

    async def _fresh(self, key: tuple[str, Kind], exchange: Exchange, name: str | None, ask: Ask) -> _View:
        """The whole list, read again unless that was just done. Callers of one viewer wait for one reading."""
        guard = self._locks.setdefault(key, asyncio.Lock())
        try:
            async with guard:
                view = self._views.get(key)
                if view is not None and self._reliable(view, name):
                    return view
                return await self._drain(key, exchange, ask)
        finally:
            if not guard.locked():
                self._locks.pop(key, None)
                self._changed.discard(key)

    def _reliable(self, view: _View, name: str | None) -> bool:
        now = self._clock()
        if name is None:
            return now - view.whole_at <= self._lifetime_s
        if name in view.offers:
            return now - view.learnt_at.get(name, _NEVER) <= self._lifetime_s
        return now - view.whole_at <= min(_ASK_AGAIN_S, self._lifetime_s)

    async def _drain(self, key: tuple[str, Kind], exchange: Exchange, ask: Ask) -> _View:
        kind = key[1]
        params = _own_params(exchange.params_json)
        found: dict[str, list[Offer]] = {}
        cursor, size, items, partial = b"", 0, 0, False
        began = self._clock()
        self._changed.discard(key)
        for _ in range(_MAX_PAGES):
            answer = await self._ask(_list_exchange(exchange, kind, params, cursor), ask)
            page = _page_of(kind, answer)
            if page is None:
                break
            size += len(answer)
            items += len(page.items)
            if size > self._max_list_bytes or items > _MAX_ITEMS:
                raise too_large(f"the MCP server's list of {kind}", self._max_list_bytes)
            self._collect(kind, page, found)
            partial = partial or _leaves_out(page)
            cursor = bytes(page.members.get("nextCursor", b"null"))
            if cursor in (b"null", b'""'):
                break
        else:
            raise too_large(f"the MCP server's list of {kind}", self._max_list_bytes)
        view = _View()
        view.offers = {name: tuple(offers) for name, offers in found.items()}
        if key not in self._changed:  # else it is good for the call that asked, and for no other
            view.learnt_at = dict.fromkeys(found, began)
            view.whole_at = began
        view.size_bytes = size
        view.partial = partial
        self._keep(key, view)
        return view

    async def _ask(self, own: Exchange, ask: Ask) -> bytes:
        self._own.add(id(own))
        try:
            return await ask(own)
        finally:
            self._own.discard(id(own))

    def _learn(self, exchange: Exchange, kind: Kind, answer: bytes) -> None:
        try:
            page = _page_of(kind, answer)
        except Exception:  # noqa: BLE001 - whoever reads the list says what is wrong with it
            return
        if page is None or len(page.items) > _MAX_ITEMS:
            return
        key = (_viewer(exchange), kind)
        found: dict[str, list[Offer]] = {}
        self._collect(kind, page, found)
        view = self._views.get(key) or _View()
        now = self._clock()
        whole = not _has_cursor(exchange.params_json) and "nextCursor" not in page.members
        if whole or self._outgrows(view, len(answer), len(found)):
            view = _View(whole_at=now if whole else _NEVER, size_bytes=len(answer))
        else:
            view.size_bytes += len(answer)
        view.offers |= {name: tuple(offers) for name, offers in found.items()}
        view.learnt_at |= dict.fromkeys(found, now)
        self._keep(key, view)

    def _outgrows(self, view: _View, more_bytes: int, more_items: int) -> bool:
        """Pages may come without end, for as long as somebody asks: one viewer's must not crowd out the others'."""
        most = min(self._max_list_bytes, _MAX_KEPT_BYTES // 4)
        return view.size_bytes + more_bytes > most or len(view.offers) + more_items > _MAX_ITEMS

    def _collect(self, kind: Kind, page: Page, found: dict[str, list[Offer]]) -> None:
        for name, item in zip(page.names, page.items, strict=True):
            offer = self.offer(kind, name, bytes(item))
            same_name = found.setdefault(name, [])
            if offer not in same_name and len(same_name) < 8:
                same_name.append(offer)

    def _keep(self, key: tuple[str, Kind], view: _View) -> None:
        if (old := self._views.pop(key, None)) is not None:
            self._view_bytes -= old.counted_bytes
        view.counted_bytes = view.size_bytes
        self._views[key] = view
        self._view_bytes += view.size_bytes
        while len(self._views) > 1 and (len(self._views) > _MAX_VIEWS or self._view_bytes > _MAX_KEPT_BYTES):
            _, gone = self._views.popitem(last=False)
            self._view_bytes -= gone.counted_bytes

    def _watch(self, session: Session) -> None:
        session.queue.watcher = lambda message: self._noticed(session.id, message)

    def _noticed(self, viewer: str, message: bytes) -> None:
        if b"list_changed" in message:
            logs.event(logger, logging.DEBUG, "lists_changed")
            self.forget(viewer)


def _viewer(exchange: Exchange) -> str:
    return exchange.session.id if exchange.session is not None else exchange.owner


def _list_exchange(exchange: Exchange, kind: Kind, params: bytes, cursor: bytes) -> Exchange:
    """Our own request for a page, on the caller's behalf; nobody follows its progress."""
    method = _LIST_OF[kind]
    call = McpCall(method, "", {}, exchange.call.protocol_version, exchange.call.session_id)
    params = wire.with_params(params, {"cursor": cursor}) if cursor else params
    return replace(
        exchange, call=call, params_json=params, meta=wire.read_meta(params), outbox=None, opens_session=False
    )


def _own_params(params: bytes) -> bytes:
    """The caller's `_meta`, without what is about its own request only."""
    try:
        meta = wire.object_of(bytes(wire.object_of(params)["_meta"]))
    except (wire.NotJson, KeyError):
        return b""
    for key in (wire.PROGRESS_TOKEN, wire.EXPLAIN):
        meta.pop(key, None)
    return msgspec.json.encode({"_meta": meta})


def _page_of(kind: Kind, answer: bytes) -> Page | None:
    """None where the server has no such lists at all."""
    try:
        envelope = wire.read_envelope(answer)
        if error := bytes(envelope.error):
            code = bytes(wire.object_of(error).get("code", b""))
            if code == b"%d" % wire.METHOD_NOT_FOUND:
                return None
            raise unavailable(f"the MCP server did not say which {kind} it has, so the call cannot be checked")
        return read_page(_LIST_OF[kind], bytes(envelope.result))
    except wire.NotJson:
        raise unavailable(f"the MCP server's list of {kind} is not of MCP's form") from None


def _leaves_out(page: Page) -> bool:
    return MISSING.encode() in bytes(page.members.get("_meta", b""))


def _has_cursor(params: bytes) -> bool:
    try:
        return "cursor" in wire.object_of(params or b"{}")
    except wire.NotJson:
        return True
