"""Several MCP servers behind one bridge: lists merged, calls sent to the server that offers the name."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import grpc
import msgspec

from mcp_bridge import wire
from mcp_bridge.errors import HopError, malformed, session_unknown, too_large, unavailable
from mcp_bridge.exchange import Exchange, Note, Session, Upstream
from mcp_bridge.upstreams import merge
from mcp_bridge.upstreams.tagged import Tagged, untag
from secure_mcp_grpc import logs
from secure_mcp_grpc.calls import McpCall

__all__ = ["Router"]

logger = logging.getLogger(__name__)

_MAX_PAGES: Final = 100
_INDEX_S: Final = 30.0
_MAX_INDEXES: Final = 1000
_LIST_FOR: Final = {
    "tools/call": "tools/list",
    "prompts/get": "prompts/list",
    "resources/read": "resources/list",
    "resources/subscribe": "resources/list",
    "resources/unsubscribe": "resources/list",
}
_TO_ALL: Final = frozenset({"logging/setLevel"})
RESOURCE_NOT_FOUND: Final = -32002


@dataclass(slots=True)
class _Index:
    """Which server offers a name, as one identity or session sees it; a name with two servers belongs to none."""

    made: float = field(default_factory=time.monotonic)
    owners: dict[str, list[str]] = field(default_factory=dict)


class Answered(Exception):
    def __init__(self, answer: bytes) -> None:
        super().__init__()
        self.answer = answer


class Router:
    """See `mcp_bridge.exchange.Upstream`."""

    name = ""

    def __init__(self, upstreams: Sequence[Upstream], *, max_bytes: int) -> None:
        self._upstreams = {upstream.name: upstream for upstream in upstreams}
        self._max_bytes = max_bytes
        self._sessions: dict[str, dict[str, Session]] = {}
        self._indexes: dict[tuple[str, str], _Index] = {}

    async def start(self) -> None:
        for upstream in self._upstreams.values():
            await upstream.start()

    async def request(self, exchange: Exchange) -> bytes:
        method = exchange.call.method
        exchange.server = "+".join(self._upstreams)
        try:
            if exchange.opens_session:
                return await self._initialize(exchange)
            if method == "server/discover":
                results = await self._all_results(exchange)
                return wire.result(exchange.id_json, msgspec.json.encode(merge.merge_discover(results)))
            if method in merge.LISTS:
                return await self._list(exchange)
            if method == "ping" or method in _TO_ALL:
                await self._all_results(exchange)
                return wire.result(exchange.id_json, b"{}")
            server = await self._server_for(exchange)
        except Answered as done:
            return done.answer
        except (wire.NotJson, msgspec.MsgspecError):
            raise unavailable("an MCP server answered with something that is not of MCP's form") from None
        exchange.server = server
        return await self._upstreams[server].request(self._part(exchange, server))

    async def notify(self, note: Note) -> None:
        if note.session is None:
            return
        parts = self._parts(note.session)
        await asyncio.gather(
            *(self._upstreams[server].notify(replace(note, session=part)) for server, part in parts.items())
        )

    async def reply(self, session: Session, message: bytes) -> None:
        envelope = wire.read_envelope(message)
        tagged = untag(bytes(envelope.id))
        parts = self._parts(session)
        if tagged is None or tagged[0] not in parts:
            raise malformed("this answers no request of a server")
        server, own_id = tagged
        await self._upstreams[server].reply(parts[server], wire.response_with_id(envelope, own_id))

    async def end_session(self, session: Session) -> None:
        parts = self._sessions.pop(session.id, {})
        for key in [key for key in self._indexes if key[0] == session.id]:
            del self._indexes[key]
        await asyncio.gather(
            *(self._upstreams[server].end_session(part) for server, part in parts.items()), return_exceptions=True
        )

    async def reap(self, idle_s: float) -> None:
        for upstream in self._upstreams.values():
            await upstream.reap(idle_s)

    async def close(self) -> None:
        await asyncio.gather(*(upstream.close() for upstream in self._upstreams.values()))

    async def _initialize(self, exchange: Exchange) -> bytes:
        """All servers must agree on a version: the oldest any of them offers, asked for a second time if need be."""
        session = _required(exchange.session)
        for _ in range(2):
            self._sessions[session.id] = {
                server: Session(session.id, session.owner, Tagged(session.queue, server)) for server in self._upstreams
            }
            results = await self._all_results(exchange)
            versions = {str(result.get("protocolVersion", "")) for result in results.values()}
            if len(versions) == 1:
                merged = merge.merge_initialize(results, versions.pop())
                return wire.result(exchange.id_json, msgspec.json.encode(merged))
            await self.end_session(session)
            oldest = msgspec.json.encode(min(versions))
            exchange.params_json = wire.with_params(exchange.params_json, {"protocolVersion": oldest})
        return wire.error(exchange.id_json, wire.INTERNAL_ERROR, "the MCP servers do not agree on a protocol version")

    async def _list(self, exchange: Exchange) -> bytes:
        listings = await self._listings(exchange, exchange.call.method, exchange.params_json)
        try:
            merged = merge.merge_listing(exchange.call.method, listings, modern=exchange.meta.is_modern)
        except merge.Collision as collision:
            logs.event(logger, logging.ERROR, "upstream_names_collide", servers=list(self._upstreams))
            return wire.error(exchange.id_json, wire.INTERNAL_ERROR, str(collision))
        except wire.NotJson:
            raise unavailable("an MCP server sent a list that is not of MCP's form") from None
        self._remember(exchange, exchange.call.method, listings)
        return wire.result(exchange.id_json, merged)

    async def _server_for(self, exchange: Exchange) -> str:
        method, name = exchange.call.method, exchange.call.name
        if method == "completion/complete":
            return await self._server_for_completion(exchange)
        list_method = _LIST_FOR.get(method)
        if list_method is None:
            sentence = f"{method} is not served over several MCP servers"
            raise Answered(wire.error(exchange.id_json, wire.METHOD_NOT_FOUND, sentence))
        if (server := await self._owner(exchange, list_method, name)) is not None:
            return server
        if list_method == "resources/list" and (server := await self._template_owner(exchange, name)) is not None:
            return server
        code = RESOURCE_NOT_FOUND if list_method == "resources/list" else wire.INVALID_PARAMS
        raise Answered(wire.error(exchange.id_json, code, f"no MCP server here offers {name}"))

    async def _server_for_completion(self, exchange: Exchange) -> str:
        name = exchange.call.name
        for list_method in ("prompts/list", "resources/templates/list"):
            if (server := await self._owner(exchange, list_method, name)) is not None:
                return server
        raise Answered(wire.error(exchange.id_json, wire.INVALID_PARAMS, f"no MCP server here offers {name}"))

    async def _owner(self, exchange: Exchange, list_method: str, name: str) -> str | None:
        """The one server that offers `name`; asks them all when it is not known, or not lately."""
        index = self._indexes.get((_viewer(exchange), list_method))
        if index is None or name not in index.owners or time.monotonic() - index.made > _INDEX_S:
            listings = await self._listings(exchange, list_method, _meta_only(exchange.params_json))
            index = self._remember(exchange, list_method, listings)
        owners = index.owners.get(name, [])
        if len(owners) > 1:
            sentence = f"{name!r} is offered by both {owners[0]} and {owners[1]}; rename it in one of them"
            raise Answered(wire.error(exchange.id_json, wire.INTERNAL_ERROR, sentence))
        return owners[0] if owners else None

    async def _template_owner(self, exchange: Exchange, uri: str) -> str | None:
        """The server whose template starts most like `uri`."""
        await self._owner(exchange, "resources/templates/list", "")
        index = self._indexes[_viewer(exchange), "resources/templates/list"]
        fits = [
            (len(prefix), owners[0])
            for template, owners in index.owners.items()
            if "{" in template and uri.startswith(prefix := template.partition("{")[0])
        ]
        return max(fits)[1] if fits else None

    def _remember(self, exchange: Exchange, list_method: str, listings: Sequence[merge.Listing]) -> _Index:
        index = _Index()
        for listing in listings:
            try:
                for name, _ in merge.names_in(listing, list_method):
                    index.owners.setdefault(name, []).append(listing.server)
            except wire.NotJson:
                raise unavailable(f"the MCP server {listing.server} sent a list that is not of MCP's form") from None
        if len(self._indexes) >= _MAX_INDEXES:
            self._indexes.pop(next(iter(self._indexes)))
        self._indexes[_viewer(exchange), list_method] = index
        return index

    async def _listings(self, exchange: Exchange, method: str, params: bytes) -> list[merge.Listing]:
        """Every server's whole list; a server that does not know the method has none of it."""
        if wire.object_of(params or b"{}").get("cursor") is not None:
            raise Answered(wire.error(exchange.id_json, wire.INVALID_PARAMS, "no such cursor: lists come in one page"))

        async def pages_of(server: str) -> merge.Listing:
            pages: list[Mapping[str, msgspec.Raw]] = []
            page_params, size = params, 0
            while len(pages) < _MAX_PAGES:
                part = replace(
                    self._part(exchange, server), call=McpCall(method, "", {}, exchange.call.protocol_version)
                )
                part.params_json, part.outbox = page_params, None
                envelope = wire.read_envelope(await self._upstreams[server].request(part))
                if bytes(envelope.error):
                    if _is_method_not_found(bytes(envelope.error)):
                        return merge.Listing(server, [])
                    raise Answered(wire.response_with_id(envelope, exchange.id_json))
                page = wire.object_of(bytes(envelope.result))
                size += len(bytes(envelope.result))
                if size > self._max_bytes:
                    raise too_large(f"the list of the MCP server {server}", self._max_bytes)
                pages.append(page)
                cursor = bytes(page.get("nextCursor", b"null"))
                if cursor == b"null":
                    return merge.Listing(server, pages)
                page_params = wire.with_params(params, {"cursor": cursor})
            raise too_large(f"the list of the MCP server {server}", self._max_bytes)

        return await _gather([pages_of(server) for server in self._upstreams])

    async def _all_results(self, exchange: Exchange) -> dict[str, Mapping[str, Any]]:
        """The same request to every server; the first error answers for all."""

        async def ask(server: str) -> Mapping[str, Any]:
            envelope = wire.read_envelope(await self._upstreams[server].request(self._part(exchange, server)))
            if bytes(envelope.error):
                raise Answered(wire.response_with_id(envelope, exchange.id_json))
            result: Any = msgspec.json.decode(bytes(envelope.result))
            if not isinstance(result, dict):
                raise unavailable(f"the MCP server {server} answered with something that is not of MCP's form")
            return result

        return dict(zip(self._upstreams, await _gather([ask(server) for server in self._upstreams]), strict=True))

    def _part(self, exchange: Exchange, server: str) -> Exchange:
        """`exchange` as one server sees it."""
        session = self._parts(exchange.session)[server] if exchange.session is not None else None
        outbox = Tagged(exchange.outbox, server) if exchange.outbox is not None else None
        return replace(exchange, session=session, outbox=outbox)

    def _parts(self, session: Session) -> dict[str, Session]:
        parts = self._sessions.get(session.id)
        if parts is None:
            raise session_unknown()
        return parts


def _is_method_not_found(error: bytes) -> bool:
    return bytes(wire.object_of(error).get("code", b"")) == b"%d" % wire.METHOD_NOT_FOUND


def _viewer(exchange: Exchange) -> str:
    return exchange.session.id if exchange.session is not None else exchange.owner


def _required(session: Session | None) -> Session:
    if session is None:
        raise HopError(grpc.StatusCode.INTERNAL, "initialize without a session")
    return session


def _meta_only(params: bytes) -> bytes:
    """The `_meta` of a request for a request of our own, which nobody follows."""
    members = wire.object_of(params or b"{}")
    return msgspec.json.encode({"_meta": members["_meta"]}) if "_meta" in members else b""


async def _gather(work: Sequence[Awaitable[Any]]) -> list[Any]:
    """All results, or the first failure with the rest cancelled."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
