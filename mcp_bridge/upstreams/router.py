"""Several MCP servers behind one bridge: lists merged, calls sent to the server that offers the name.

A server that is down: lists, `initialize` and `server/discover` name it and
fail, or leave it out and say so (setting `when_down`); calls to the others go on
as long as it is known, from its prefix or its last list, that they are not its own.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import grpc
import msgspec

from mcp_bridge import wire
from mcp_bridge.errors import HopError, malformed, session_unknown, too_large, unavailable
from mcp_bridge.exchange import Exchange, Note, Session, Upstream
from mcp_bridge.upstreams import listens, merge
from mcp_bridge.upstreams.names import Names
from mcp_bridge.upstreams.rare import Rare
from mcp_bridge.upstreams.routes import Index, Indexes
from mcp_bridge.upstreams.tagged import Tagged, untag
from secure_mcp_grpc.calls import McpCall

__all__ = ["Router"]

logger = logging.getLogger(__name__)

_MAX_PAGES: Final = 100
_LIST_FOR: Final = {
    "tools/call": "tools/list",
    "prompts/get": "prompts/list",
    "resources/read": "resources/list",
    "resources/subscribe": "resources/list",
    "resources/unsubscribe": "resources/list",
}
_TO_ALL: Final = frozenset({"ping", "logging/setLevel"})
_LISTEN: Final = "subscriptions/listen"
RESOURCE_NOT_FOUND: Final = -32002
"""2025-11-25 and before; 2026-07-28 says INVALID_PARAMS."""


class Answered(Exception):
    def __init__(self, answer: bytes) -> None:
        super().__init__()
        self.answer = answer


class Router:
    """See `mcp_bridge.exchange.Upstream`. `prefixes` are by server; each may take `patience_s` for a list."""

    name = ""

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        *,
        max_bytes: int,
        prefixes: Mapping[str, str] | None = None,
        leave_out: bool = False,
        patience_s: float = 30.0,
    ) -> None:
        self._upstreams = {upstream.name: upstream for upstream in upstreams}
        self._max_bytes = max_bytes
        self._names = Names(prefixes or {})
        self._leave_out = leave_out
        self._patience_s = patience_s
        self._sessions: dict[str, dict[str, Session]] = {}
        self._indexes = Indexes()
        self._log = Rare(logger)

    async def start(self) -> None:
        for upstream in self._upstreams.values():
            await upstream.start()

    async def request(self, exchange: Exchange) -> bytes:
        exchange.server = "+".join(self._upstreams)
        try:
            return await self._route(exchange)
        except Answered as done:
            return done.answer
        except (wire.NotJson, msgspec.MsgspecError):
            raise unavailable("an MCP server answered with something that is not of MCP's form") from None

    def owner_of(self, exchange: Exchange, list_method: str, name: str) -> str:
        """The one server that listed `name` for this caller last, without asking; "" where that is not known."""
        index = self._indexes.of(_viewer(exchange), list_method)
        owners = index.owners(name) if index is not None else ()
        return owners[0] if len(owners) == 1 else ""

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
        self._indexes.forget(session.id)
        await asyncio.gather(
            *(self._upstreams[server].end_session(part) for server, part in parts.items()), return_exceptions=True
        )

    async def reap(self, idle_s: float) -> None:
        for upstream in self._upstreams.values():
            await upstream.reap(idle_s)

    async def close(self) -> None:
        await asyncio.gather(*(upstream.close() for upstream in self._upstreams.values()))

    async def _route(self, exchange: Exchange) -> bytes:
        method = exchange.call.method
        if exchange.opens_session:
            return await self._initialize(exchange)
        if method == "server/discover":
            results = await self._all_results(exchange)
            return wire.result(exchange.id_json, msgspec.json.encode(merge.merge_discover(results)))
        if method in merge.LISTS:
            return await self._list(exchange)
        if method in _TO_ALL:
            await self._all_results(exchange, unknown_is_fine=True)
            return wire.result(exchange.id_json, b"{}")
        if method == _LISTEN and exchange.session is None:
            return await self._listen(exchange)
        server = await self._server_for(exchange)
        exchange.server = server
        return await self._ask(server, self._names.as_its_own(self._part(exchange, server), server))

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
                self._sessions[session.id] = {server: self._sessions[session.id][server] for server in results}
                merged = merge.merge_initialize(results, versions.pop())
                return wire.result(exchange.id_json, msgspec.json.encode(merged))
            await self.end_session(session)
            oldest = msgspec.json.encode(min(versions))
            exchange.params_json = wire.with_params(exchange.params_json, {"protocolVersion": oldest})
        return wire.error(exchange.id_json, wire.INTERNAL_ERROR, "the MCP servers do not agree on a protocol version")

    async def _list(self, exchange: Exchange) -> bytes:
        method = exchange.call.method
        listings, down = await self._listings(exchange, method, exchange.params_json)
        self._fail_unless_left_out(down, listings)
        missing = [*down, *self._absent(exchange)]
        try:
            merged = merge.merge_listing(method, listings, modern=exchange.meta.is_modern, missing=missing)
        except merge.Collision as collision:
            self._log.event(logging.ERROR, "upstream_names_collide", servers=list(self._upstreams))
            return wire.error(exchange.id_json, wire.INTERNAL_ERROR, str(collision))
        except wire.NotJson:
            raise unavailable("an MCP server sent a list that is not of MCP's form") from None
        self._indexes.remember(_viewer(exchange), method, listings)
        return wire.result(exchange.id_json, merged)

    async def _listen(self, exchange: Exchange) -> bytes:
        """Each server is asked for the lists' changes, and for the resources that are its own."""
        wanted = msgspec.json.decode(bytes(wire.object_of(exchange.params_json)["notifications"]), type=dict[str, Any])
        uris = wanted.get("resourceSubscriptions") or []
        if not isinstance(uris, list) or not all(isinstance(uri, str) for uri in uris):
            sentence = "resourceSubscriptions must be a list of URIs"
            return wire.error(exchange.id_json, wire.INVALID_PARAMS, sentence)
        owners = {uri: await self._owner_of_resource(exchange, uri) for uri in uris}
        parts = {}
        for server, asked in listens.split_filter(wanted, owners, self._upstreams).items():
            part = self._part(exchange, server)
            part.params_json = wire.with_params(exchange.params_json, {"notifications": msgspec.json.encode(asked)})
            parts[server] = part
        return await listens.merged_listen(exchange, parts, self._ask, leave_out=self._leave_out)

    async def _server_for(self, exchange: Exchange) -> str:
        method, name = exchange.call.method, exchange.call.name
        servers = list(self._upstreams)
        if (server := self._names.server_of(method, name, servers)) is not None:
            return server
        if method == "completion/complete":
            server = await self._owner(exchange, "prompts/list", name)
            server = server or await self._owner(exchange, "resources/templates/list", name)
        elif method not in _LIST_FOR:
            sentence = f"{method} is not served over several MCP servers"
            raise Answered(wire.error(exchange.id_json, wire.METHOD_NOT_FOUND, sentence))
        elif _LIST_FOR[method] == "resources/list":
            server = await self._owner_of_resource(exchange, name)
        elif not self._names.tell_all(method, servers):
            server = await self._owner(exchange, _LIST_FOR[method], name)
        if server is not None:
            return server
        had_its_own = method.startswith("resources/") and not exchange.meta.is_modern
        code = RESOURCE_NOT_FOUND if had_its_own else wire.INVALID_PARAMS
        raise Answered(wire.error(exchange.id_json, code, f"no MCP server here offers {name}"))

    async def _owner(self, exchange: Exchange, list_method: str, name: str) -> str | None:
        """The one server that offers `name`; asks them all when it is not known, or not lately."""
        return _one_of(exchange, (await self._index(exchange, list_method, name)).owners(name), name)

    async def _owner_of_resource(self, exchange: Exchange, uri: str) -> str | None:
        if (server := await self._owner(exchange, "resources/list", uri)) is not None:
            return server
        templates = await self._index(exchange, "resources/templates/list", "")
        return _one_of(exchange, templates.template_owners(uri), uri)

    async def _index(self, exchange: Exchange, list_method: str, name: str) -> Index:
        index = self._indexes.of(_viewer(exchange), list_method)
        if index is not None and index.is_good_for(name):
            return index
        listings, down = await self._listings(exchange, list_method, _meta_only(exchange.params_json))
        known = index.names if index is not None else {}
        # Whose names were never heard of may contest any: which of two servers runs a call must not be chance.
        self._fail_unless_left_out({server: error for server, error in down.items() if server not in known}, listings)
        return self._indexes.remember(_viewer(exchange), list_method, listings)

    async def _listings(
        self, exchange: Exchange, method: str, params: bytes
    ) -> tuple[list[merge.Listing], dict[str, HopError]]:
        """Every server's whole list, none for one that does not know the method; and those that are down."""
        if wire.object_of(params or b"{}").get("cursor") is not None:
            raise Answered(wire.error(exchange.id_json, wire.INVALID_PARAMS, "no such cursor: lists come in one page"))

        async def pages_of(server: str) -> merge.Listing:
            pages: list[Mapping[str, msgspec.Raw]] = []
            page_params, size = params, 0
            while len(pages) < _MAX_PAGES:
                call = McpCall(method, "", {}, exchange.call.protocol_version, exchange.call.session_id)
                part = replace(self._part(exchange, server), call=call, params_json=page_params, outbox=None)
                envelope = wire.read_envelope(await self._ask(server, part))
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
                    return merge.Listing(server, pages, self._names.of(server))
                page_params = wire.with_params(params, {"cursor": cursor})
            raise too_large(f"the list of the MCP server {server}", self._max_bytes)

        results, down = await self._each(pages_of, self._present(exchange))
        return list(results.values()), down

    async def _all_results(self, exchange: Exchange, *, unknown_is_fine: bool = False) -> dict[str, Mapping[str, Any]]:
        """The same request to every server; the first error answers for all."""

        async def ask(server: str) -> Mapping[str, Any]:
            envelope = wire.read_envelope(await self._ask(server, self._part(exchange, server)))
            if bytes(envelope.error):
                if unknown_is_fine and _is_method_not_found(bytes(envelope.error)):
                    return {}
                raise Answered(wire.response_with_id(envelope, exchange.id_json))
            result: Any = msgspec.json.decode(bytes(envelope.result))
            if not isinstance(result, dict):
                raise unavailable(f"the MCP server {server} answered with something that is not of MCP's form")
            return result

        results, down = await self._each(ask, self._present(exchange))
        self._fail_unless_left_out(down, results)
        return results

    async def _each(
        self, ask: Callable[[str], Awaitable[Any]], servers: Iterable[str]
    ) -> tuple[dict[str, Any], dict[str, HopError]]:
        """What each server gave, and the errors of those that are down. Any other failure cancels the rest."""
        down: dict[str, HopError] = {}

        async def one(server: str) -> Any:
            try:
                async with asyncio.timeout(self._patience_s):
                    return await ask(server)
            except HopError as error:
                down[server] = error
            except TimeoutError:
                down[server] = unavailable(f"the MCP server {server} did not answer within {self._patience_s:g} s")

        names = list(servers)
        results = dict(zip(names, await _gather([one(server) for server in names]), strict=True))
        return {server: result for server, result in results.items() if server not in down}, down

    def _fail_unless_left_out(self, down: Mapping[str, HopError], answered: Any) -> None:
        for server, error in down.items():
            if not self._leave_out or not answered:
                raise error
            self._log.event(logging.WARNING, "upstream_left_out", server=server, code=error.code.name)

    async def _ask(self, server: str, part: Exchange) -> bytes:
        """The server's answer; what goes wrong names it."""
        try:
            return await self._upstreams[server].request(part)
        except HopError as error:
            if error.code is grpc.StatusCode.NOT_FOUND or server in error.sentence:
                raise
            raise HopError(error.code, f"the MCP server {server}: {error.sentence}") from None

    def _part(self, exchange: Exchange, server: str) -> Exchange:
        """`exchange` as one server sees it."""
        outbox = Tagged(exchange.outbox, server) if exchange.outbox is not None else None
        if exchange.session is None:
            return replace(exchange, outbox=outbox)
        session = self._parts(exchange.session).get(server)
        if session is None:
            raise unavailable(f"the MCP server {server} did not answer when this session began; initialize again")
        return replace(exchange, session=session, outbox=outbox)

    def _present(self, exchange: Exchange) -> Sequence[str]:
        return list(self._parts(exchange.session) if exchange.session is not None else self._upstreams)

    def _absent(self, exchange: Exchange) -> Sequence[str]:
        present = self._present(exchange)
        return [server for server in self._upstreams if server not in present]

    def _parts(self, session: Session) -> dict[str, Session]:
        parts = self._sessions.get(session.id)
        if parts is None:
            raise session_unknown()
        return parts


def _is_method_not_found(error: bytes) -> bool:
    return bytes(wire.object_of(error).get("code", b"")) == b"%d" % wire.METHOD_NOT_FOUND


def _one_of(exchange: Exchange, owners: Sequence[str], name: str) -> str | None:
    """The only owner; what two servers offer is nobody's."""
    if len(owners) > 1:
        sentence = f"{name!r} is offered by both {owners[0]} and {owners[1]}; rename it in one of them"
        raise Answered(wire.error(exchange.id_json, wire.INTERNAL_ERROR, sentence))
    return owners[0] if owners else None


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
