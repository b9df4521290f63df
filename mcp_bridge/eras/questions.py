"""What a modern server wants to know, asked of a handshake client as requests of its server."""

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Raw

from mcp_bridge import wire
from mcp_bridge.eras import words
from mcp_bridge.eras.capabilities import lacking
from mcp_bridge.eras.words import Refused
from mcp_bridge.errors import timed_out
from mcp_bridge.exchange import Outbox

__all__ = ["Questions"]

_MOST: Final = 32
"""Questions of one round."""


class Questions:
    """Of one session. Their ids start with `prefix`."""

    def __init__(self, prefix: str, capabilities: Mapping[str, Any], wait_s: float) -> None:
        self._prefix = prefix
        self._capabilities = capabilities
        self._wait_s = wait_s
        self._numbers = itertools.count(1)
        self._open: dict[bytes, asyncio.Future[wire.Envelope]] = {}

    async def ask(self, requests: Mapping[str, Raw], outbox: Outbox) -> dict[str, Raw]:
        """`inputRequests` to `inputResponses`; raises `Refused`, also with the client's own error, and `HopError`."""
        if len(requests) > _MOST:
            raise Refused(wire.INTERNAL_ERROR, f"the MCP server asks for more than {_MOST} inputs at once")
        waiting: dict[str, asyncio.Future[wire.Envelope]] = {}
        asked: dict[str, bytes] = {}
        try:
            for key, raw in requests.items():
                asked[key], waiting[key] = self._put(raw, outbox)
            try:
                async with asyncio.timeout(self._wait_s):
                    await asyncio.gather(*waiting.values())
            except TimeoutError:
                raise timed_out("the client did not answer the MCP server's question in time") from None
            return {key: self._result(answer.result()) for key, answer in waiting.items()}
        finally:
            for key, id_json in asked.items():
                self._open.pop(id_json, None)
                if key not in waiting or waiting[key].cancelled() or not waiting[key].done():
                    outbox.offer(wire.notification("notifications/cancelled", b'{"requestId":%b}' % id_json))

    def answered(self, message: bytes) -> None:
        """Take the client's reply; one to no open question is dropped."""
        envelope = wire.read_envelope(message)
        waiting = self._open.get(bytes(envelope.id))
        if waiting is not None and not waiting.done():
            waiting.set_result(envelope)

    def _put(self, raw: Raw, outbox: Outbox) -> tuple[bytes, "asyncio.Future[wire.Envelope]"]:
        request = wire.read_envelope(bytes(raw))
        params = bytes(request.params)
        missing = lacking(request.method, params, self._capabilities)
        if missing is not None:
            if not missing:
                raise Refused(wire.INTERNAL_ERROR, "the MCP server asks for something that no client can answer")
            data = words.encode({"requiredCapabilities": missing})
            raise Refused(words.MISSING_CAPABILITY, "the MCP server needs what this client does not support", data)
        number = next(self._numbers)
        if request.method == "elicitation/create" and words.decoded(wire.object_of(params).get("mode")) == "url":
            params = wire.with_params(params, {"elicitationId": words.encode(f"{self._prefix}-{number}")})
        id_json = words.encode(f"{self._prefix}-{number}")
        answer: asyncio.Future[wire.Envelope] = asyncio.get_running_loop().create_future()
        self._open[id_json] = answer
        if not outbox.offer(wire.request(request.method, id_json, params)):
            del self._open[id_json]
            raise Refused(wire.INTERNAL_ERROR, "the client cannot be asked: it is not listening to its session")
        return id_json, answer

    @staticmethod
    def _result(envelope: wire.Envelope) -> Raw:
        """2026-07-28 has no place for a client's error: it ends the call, as SDK clients end theirs."""
        if body := bytes(envelope.error):
            members = wire.object_of(body)
            message = words.decoded(members.get("message"))
            data = bytes(members.get("data", b""))
            raise Refused(words.read_error_code(body), str(message or "the client refused"), data)
        return Raw(bytes(envelope.result))
