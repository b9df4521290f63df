"""The one `subscriptions/listen` stream that a handshake session keeps open at a 2026-07-28 server."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from mcp_bridge import wire
from mcp_bridge.eras import words
from mcp_bridge.eras.through import Through
from mcp_bridge.eras.words import Refused
from mcp_bridge.errors import HopError
from mcp_bridge.exchange import Outbox

__all__ = ["Feed"]

_MAX_URIS: Final = 256
_ACKNOWLEDGED_S: Final = 30.0
_FIRST_PAUSE_S: Final = 0.5
_LAST_PAUSE_S: Final = 30.0
_ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
_UPDATED: Final = "notifications/resources/updated"


class _Stream:
    """One request that listens. `agreed` holds the URIs that the server agreed to watch, once it acknowledged."""

    def __init__(self, listen: "Listen", filter_: bytes, tell: Callable[[bytes], bool]) -> None:
        self._tell = tell
        self.agreed: asyncio.Future[frozenset[str]] = asyncio.get_running_loop().create_future()
        self.task = asyncio.ensure_future(self._run(listen, filter_))

    async def _run(self, listen: "Listen", filter_: bytes) -> None:
        failure: Exception = Refused(wire.INTERNAL_ERROR, "the MCP server ended the subscription")
        try:
            envelope = wire.read_envelope(await listen(filter_, Through(self._received)))
            if body := bytes(envelope.error):
                members = wire.object_of(body)
                message = words.decoded(members.get("message"))
                failure = Refused(words.read_error_code(body), str(message or "the MCP server refused"))
        except HopError as error:
            failure = error
        except (wire.NotJson, msgspec.MsgspecError):
            pass
        finally:
            if not self.agreed.done():
                self.agreed.set_exception(failure)
                self.agreed.exception()

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def _received(self, message: bytes) -> tuple[Outbox, bytes] | None:
        with contextlib.suppress(wire.NotJson):
            envelope = wire.read_envelope(message)
            params = bytes(envelope.params)
            if envelope.method == _ACKNOWLEDGED:
                if not self.agreed.done():
                    self.agreed.set_result(_uris_in(params))
            elif envelope.method in words.CHANGES or envelope.method == _UPDATED:
                self._tell(wire.notification(envelope.method, _unstamped(params)))
        return None


Listen = Callable[[bytes, Outbox], Awaitable[bytes]]


class Feed:
    """`tell` takes the notifications for the client. Raises nothing but where a method says so."""

    def __init__(self, listen: Listen, tell: Callable[[bytes], bool], kinds: Sequence[str]) -> None:
        self._listen = listen
        self._tell = tell
        self._kinds = kinds
        self._uris: dict[str, None] = {}
        self._stream: _Stream | None = None
        self._lock = asyncio.Lock()
        self._keeping: asyncio.Task[None] | None = None
        self._closed = False

    def start(self) -> None:
        """Listen as long as the session lives, if there is anything to hear."""
        if self._keeping is None and self._kinds:
            self._keep()

    async def add(self, uri: str) -> None:
        """Raises `Refused` or `HopError` where the server does not agree to watch `uri`."""
        async with self._lock:
            if uri in self._uris:
                return
            if len(self._uris) >= _MAX_URIS:
                raise Refused(wire.INTERNAL_ERROR, "Subscription limit reached")
            self._uris[uri] = None
            try:
                if uri not in await self._renew():
                    raise Refused(wire.INVALID_PARAMS, "the MCP server does not offer to watch this resource")
            except BaseException:
                self._uris.pop(uri, None)
                raise
        self._keep()

    async def remove(self, uri: str) -> None:
        async with self._lock:
            if self._uris.pop(uri, ...) is ...:
                return
            with contextlib.suppress(HopError, Refused, TimeoutError):
                await self._renew()

    async def close(self) -> None:
        self._closed = True
        for task in (self._keeping, self._stream.task if self._stream is not None else None):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def _keep(self) -> None:
        if self._keeping is None and not self._closed:
            self._keeping = asyncio.create_task(self._kept())

    async def _kept(self) -> None:
        """Open the stream again when it ends, and then say that anything may have changed meanwhile."""
        pause_s, missed = _FIRST_PAUSE_S, False
        while self._kinds or self._uris:
            stream = self._stream
            if stream is not None and not stream.task.done():
                since = time.monotonic()
                await asyncio.wait([stream.task])
                if self._stream is stream:
                    missed = True
                    await asyncio.sleep(pause_s)
                    steady = time.monotonic() - since > _LAST_PAUSE_S
                    pause_s = _FIRST_PAUSE_S if steady else min(pause_s * 2, _LAST_PAUSE_S)
                continue
            try:
                async with self._lock:
                    if self._stream is stream:
                        await self._renew()
            except (HopError, Refused) as error:
                if isinstance(error, Refused) and not self._uris:
                    return  # a server that has no subscriptions will not learn them
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LAST_PAUSE_S)
                continue
            if missed:
                missed = False
                self._say_missed()
        self._keeping = None

    def _say_missed(self) -> None:
        for method, kind in words.CHANGES.items():
            if kind in self._kinds:
                self._tell(wire.notification(method, b""))
        for uri in self._uris:
            self._tell(wire.notification(_UPDATED, words.encode({"uri": uri})))

    async def _renew(self) -> frozenset[str]:
        """Another stream for what is wanted now; the one before ends when it stands. Holds the lock."""
        wanted: dict[str, Any] = dict.fromkeys(self._kinds, True)
        if self._uris:
            wanted["resourceSubscriptions"] = list(self._uris)
        before, agreed = self._stream, frozenset[str]()
        if wanted and not self._closed:
            stream = _Stream(self._listen, words.encode(wanted), self._tell)
            try:
                async with asyncio.timeout(_ACKNOWLEDGED_S):
                    agreed = await asyncio.shield(stream.agreed)
            except TimeoutError:
                await stream.stop()
                raise Refused(wire.INTERNAL_ERROR, "the MCP server did not acknowledge the subscription") from None
            except BaseException:
                await asyncio.shield(stream.stop())
                raise
            self._stream = stream
        else:
            self._stream = None
        if before is not None:
            await before.stop()
        return agreed


def _uris_in(params: bytes) -> frozenset[str]:
    notifications = words.decoded(wire.object_of(params).get("notifications"))
    uris = notifications.get("resourceSubscriptions") if isinstance(notifications, dict) else None
    return frozenset(uri for uri in uris or () if isinstance(uri, str))


def _unstamped(params: bytes) -> bytes:
    """Params without the subscription's id, which handshake clients know nothing of."""
    if not params:
        return b""
    members = wire.object_of(params)
    if "_meta" in members:
        meta = wire.object_of(bytes(members["_meta"]))
        meta.pop(wire.SUBSCRIPTION_ID, None)
        del members["_meta"]
        if meta:
            members["_meta"] = msgspec.Raw(words.encode(meta))
    return words.encode(members) if members else b""
