"""Clients of 2026-07-28 at a handshake server: their requests, served over sessions that the bridge keeps."""

import asyncio
import contextlib
from typing import Final

import grpc
import msgspec
from msgspec import Raw

from mcp_bridge import wire
from mcp_bridge.eras import words
from mcp_bridge.eras.calls import Ask, Call
from mcp_bridge.eras.capabilities import read_capabilities
from mcp_bridge.eras.link import Link
from mcp_bridge.eras.links import Links
from mcp_bridge.eras.listening import listen
from mcp_bridge.eras.parked import Parked, Parking, fingerprint
from mcp_bridge.eras.words import Declared, Refused
from mcp_bridge.errors import HopError, unavailable
from mcp_bridge.exchange import Exchange, Upstream

__all__ = ["ModernCallers"]

_TOGETHER_S: Final = 0.002
"""Servers may ask several things at once: what comes within this time travels together."""
_MAX_STATE_CHARS: Final = 256


class ModernCallers:
    """`links` belongs to the caller; `wait_s` bounds how long a call waits for its client's input."""

    def __init__(self, inner: Upstream, links: Links, *, most_parked: int, wait_s: float) -> None:
        self._inner = inner
        self._links = links
        self._parking = Parking(most_parked, wait_s, self._expired)
        self.refused_handshake = False
        """The server did not take the handshake: it may have been replaced by a modern one."""

    @property
    def parked(self) -> int:
        return len(self._parking)

    async def request(self, exchange: Exchange) -> bytes:
        """The response as a 2026-07-28 server would give it."""
        exchange.server = self._inner.name
        try:
            members = wire.object_of(exchange.params_json or b"{}")
            declared = words.read_declared(members, [words.MODERN])
            return await self._serve(exchange, declared, members)
        except Refused as refused:
            self.refused_handshake = self.refused_handshake or refused.of_server
            return refused.answer(exchange.id_json)
        except (wire.NotJson, msgspec.MsgspecError, UnicodeDecodeError):
            raise unavailable(
                f"the MCP server {self._inner.name} answered with something that is not of MCP's form"
            ) from None

    async def greet(self, exchange: Exchange) -> None:
        """Open the session that `exchange` needs, to see whether the server knows the handshake."""
        members = wire.object_of(exchange.params_json or b"{}")
        try:
            declared = words.read_declared(members, [words.MODERN])
        except Refused:
            declared = Declared(words.CLIENT_INFO, b"{}", "")
        await self._links.get(exchange.owner, declared)

    def close(self) -> None:
        self._parking.clear()

    async def _serve(self, exchange: Exchange, declared: Declared, members: dict[str, Raw]) -> bytes:
        method = exchange.call.method
        if words.gone_in_modern(method):
            raise Refused(wire.METHOD_NOT_FOUND, f"{words.MODERN} has no {method}")
        if method in words.ASKING and "requestState" in members:
            return await self._resume(exchange, declared, members)
        for last in (False, True):
            link = await self._links.get(exchange.owner, declared)
            try:
                return await self._over(link, exchange, declared, members)
            except HopError as error:
                # The server no longer knows the session, and so did nothing: once more over a new one.
                if error.code is not grpc.StatusCode.NOT_FOUND or last:
                    raise
                await link.close()
        raise AssertionError("the loop returns or raises")

    async def _over(self, link: Link, exchange: Exchange, declared: Declared, members: dict[str, Raw]) -> bytes:
        method = exchange.call.method
        if method == "server/discover":
            await link.check()  # the answer is the handshake's: it must still hold
            body = words.discover_result(link.initialized, link.version, link.server_info)
            return wire.result(exchange.id_json, body)
        if method == "subscriptions/listen":
            return await listen(link, exchange, members)
        call = link.new_call(method)
        return await self._follow(link, call, exchange, declared, members)

    async def _follow(
        self, link: Link, call: Call, exchange: Exchange, declared: Declared, members: dict[str, Raw]
    ) -> bytes:
        """Until the server answers, or asks for input. A cancel of this cancels the call."""
        keep = False
        try:
            call.follow(exchange.outbox, bytes(exchange.meta.progress_token), declared.level)
            if call.work is None and not call.asks:
                if declared.level:
                    await link.log_at(declared.level)
                link.run(call, exchange, words.plain_params(members))
            if await call.turn():
                return self._answer(link, call, exchange, members)
            await asyncio.sleep(_TOGETHER_S)
            asked = {ask.key: (ask.method, ask.params) for ask in call.asks.values()}
            parked = Parked(exchange.owner, fingerprint(call.method, members), link, call)
            state = self._parking.put(parked)
            keep = True
            body = words.input_required(asked, state, link.server_info)
            return wire.result(exchange.id_json, body)
        finally:
            call.unfollow()
            if not keep:
                link.finish(call)

    async def _resume(self, exchange: Exchange, declared: Declared, members: dict[str, Raw]) -> bytes:
        state = words.decoded(members["requestState"])
        responses = _responses(members)
        parked = None
        if isinstance(state, str) and len(state) <= _MAX_STATE_CHARS:
            print_ = fingerprint(exchange.call.method, members)
            parked = self._parking.find(state, exchange.owner, print_)
        if parked is None or not isinstance(state, str):
            raise Refused(wire.INVALID_PARAMS, "requestState is of no waiting call: unknown, used, expired or changed")
        self._parking.take(state)
        if parked.call is None:
            return await self._again(parked, exchange, declared, members, responses)
        call = parked.call
        if call.work is None and not parked.link.alive:  # it never reached the server that is gone
            del members["requestState"]
            return await self._serve(exchange, declared, members)
        for key in [key for key in call.asks if key in responses]:
            ask: Ask = call.asks.pop(key)
            await parked.link.reply(ask, bytes(responses[key]))
        try:
            return await self._follow(parked.link, call, exchange, declared, members)
        except HopError as error:
            if error.code is grpc.StatusCode.NOT_FOUND:
                raise unavailable("the session with the MCP server ended while the call waited") from None
            raise

    async def _again(
        self,
        parked: Parked,
        exchange: Exchange,
        declared: Declared,
        members: dict[str, Raw],
        responses: dict[str, Raw],
    ) -> bytes:
        """The user has been, or not, where the server wanted it (URL_ELICITATION_REQUIRED): ask the server again."""
        for key in parked.urls:
            result = words.decoded(responses.get(key))
            if not isinstance(result, dict) or result.get("action") != "accept":
                raise Refused(wire.INVALID_PARAMS, "the server needs the user to open a URL, which was not accepted")
        del members["requestState"]
        return await self._serve(exchange, declared, members)

    def _answer(self, link: Link, call: Call, exchange: Exchange, members: dict[str, Raw]) -> bytes:
        envelope = wire.read_envelope(_response_of(call))
        method = exchange.call.method
        if body := bytes(envelope.error):
            code = words.read_error_code(body)
            if code == words.URL_ELICITATION_REQUIRED and method in words.ASKING:
                return self._wants_urls(link, exchange, members, body)
            if call.lacking and code in (wire.METHOD_NOT_FOUND, wire.INVALID_PARAMS):
                # The server passes on that its client cannot be asked, which has a code of its own now.
                data = words.encode({"requiredCapabilities": call.lacking})
                raise Refused(words.MISSING_CAPABILITY, "the server needs what the client did not declare", data)
            body = words.modern_error(method, body)
            return b'{"jsonrpc":"2.0","id":' + exchange.id_json + b',"error":' + body + b"}"
        return wire.result(exchange.id_json, words.modern_result(method, bytes(envelope.result), link.server_info))

    def _wants_urls(self, link: Link, exchange: Exchange, members: dict[str, Raw], body: bytes) -> bytes:
        """2025-11-25, "URL Elicitation Required Error": the request may be sent again once the user has been there."""
        capabilities = read_capabilities(
            bytes(wire.object_of(bytes(members["_meta"])).get(words.CAPABILITIES_KEY, b"{}"))
        )
        elicitation = capabilities.get("elicitation")
        if not isinstance(elicitation, dict) or "url" not in elicitation:
            data = words.encode({"requiredCapabilities": {"elicitation": {"url": {}}}})
            raise Refused(words.MISSING_CAPABILITY, "the server needs the client to open a URL", data)
        data = words.decoded(wire.object_of(body).get("data"))
        wanted = data.get("elicitations") if isinstance(data, dict) else None
        asked: dict[str, tuple[str, bytes]] = {}
        for number, one in enumerate(wanted if isinstance(wanted, list) else []):
            if isinstance(one, dict):
                params = {key: value for key, value in one.items() if key != "elicitationId"} | {"mode": "url"}
                asked[f"url-{number}"] = "elicitation/create", words.encode(params)
        if not asked:
            raise Refused(wire.INTERNAL_ERROR, "the MCP server wants a URL opened and does not say which")
        print_ = fingerprint(exchange.call.method, members)
        state = self._parking.put(Parked(exchange.owner, print_, link, None, frozenset(asked)))
        return wire.result(exchange.id_json, words.input_required(asked, state, link.server_info))

    def _expired(self, parked: Parked) -> None:
        if parked.call is not None:
            parked.link.give_up(parked.call)


def _response_of(call: Call) -> bytes:
    """The server's response; raises what the hop raised. A call that somebody else ended is a lost one."""
    work = call.work
    if work is None or work.cancelled():
        raise unavailable("the session with the MCP server ended while the call waited")
    return work.result()


def _responses(members: dict[str, Raw]) -> dict[str, Raw]:
    """`inputResponses`, each of them an object; what nobody asked for is left to be ignored."""
    if "inputResponses" not in members:
        return {}
    responses: dict[str, Raw] = {}
    with contextlib.suppress(wire.NotJson):
        responses = wire.object_of(bytes(members["inputResponses"]))
        if all(bytes(value).lstrip()[:1] == b"{" for value in responses.values()):
            return responses
    raise Refused(wire.INVALID_PARAMS, "inputResponses must be an object of result objects")
