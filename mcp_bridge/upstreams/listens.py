"""One `subscriptions/listen` over several MCP servers (2026-07-28, "Subscriptions").

The caller sees one stream: acknowledged once, with what the servers together
agreed to, then the events of all. When one server's part ends, the stream
ends, since its events would be missed in silence.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Final

import grpc
import msgspec
from msgspec import Raw

from mcp_bridge import wire
from mcp_bridge.errors import HopError
from mcp_bridge.exchange import Exchange, Outbox

__all__ = ["merged_filter", "merged_listen", "split_filter"]

_ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
_ACK_S: Final = 5.0
_MAX_HELD: Final = 256
_URIS: Final = "resourceSubscriptions"

Filter = Mapping[str, Any]


def merged_filter(filters: Iterable[Filter]) -> dict[str, Any]:
    """What servers agreed to, taken together: true where any says so, lists joined."""
    merged: dict[str, Any] = {}
    for one in filters:
        for key, value in one.items():
            if isinstance(value, list) and isinstance(known := merged.get(key), list):
                merged[key] = known + [item for item in value if item not in known]
            elif key not in merged or value is True:
                merged[key] = value
    return merged


def split_filter(
    wanted: Filter, owner_of: Mapping[str, str | None], servers: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """Server → what to ask it for: everything but resources of others; a server with nothing to ask for is left out."""
    common = {key: value for key, value in wanted.items() if key != _URIS}
    asked: dict[str, dict[str, Any]] = {}
    for server in servers:
        uris = [uri for uri, owner in owner_of.items() if owner == server]
        part = common | ({_URIS: uris} if uris else {})
        if any(value not in (False, None) for value in part.values()):
            asked[server] = part
    return asked


class _Joint:
    """The caller's one stream; holds back events until the acknowledgement is out."""

    def __init__(self, outbox: Outbox, id_json: bytes, servers: Iterable[str]) -> None:
        self._outbox = outbox
        self._id_json = id_json
        self.waiting = set(servers)
        self._agreed: list[Filter] = []
        self._held: list[bytes] = []
        self.acknowledged = False

    async def take(self, server: str, message: bytes) -> None:
        if self.acknowledged and server not in self.waiting:
            await self._outbox.put(message)
        elif server in self.waiting:
            if (agreed := _agreed_in(message)) is not None:
                self._agreed.append(agreed)
                await self.settle(server)
        elif len(self._held) < _MAX_HELD:
            self._held.append(message)

    async def settle(self, server: str) -> None:
        """`server` acknowledged, or never will."""
        self.waiting.discard(server)
        if self.waiting or self.acknowledged or not self._agreed:
            return
        self.acknowledged = True
        params = {
            "notifications": merged_filter(self._agreed),
            "_meta": {wire.SUBSCRIPTION_ID: Raw(self._id_json)},
        }
        await self._outbox.put(wire.notification(_ACKNOWLEDGED, msgspec.json.encode(params)))
        for message in self._held:
            await self._outbox.put(message)
        self._held.clear()


class _Part(Outbox):
    """One server's side of the joint stream."""

    def __init__(self, joint: _Joint, server: str) -> None:
        super().__init__(0)
        self._joint = joint
        self._server = server

    def offer(self, message: bytes) -> bool:
        """2026-07-28 servers ask nothing of clients on a stream."""
        return False

    async def put(self, message: bytes) -> None:
        await self._joint.take(self._server, message)

    def close(self) -> None:
        """The others go on."""


async def merged_listen(
    exchange: Exchange,
    parts: Mapping[str, Exchange],
    ask: Callable[[str, Exchange], Coroutine[Any, Any, bytes]],
    *,
    leave_out: bool,
) -> bytes:
    """Ask each server for its part and answer when the first part ends; a server that knows no `listen` is left out."""
    outbox = exchange.outbox
    if outbox is None or not parts:
        return wire.error(exchange.id_json, wire.METHOD_NOT_FOUND, "no MCP server here has events of this kind")
    joint = _Joint(outbox, exchange.id_json, parts)
    asking = {}
    for server, part in parts.items():
        part.outbox = _Part(joint, server)
        asking[asyncio.create_task(ask(server, part))] = server
    try:
        return await _until_one_ends(exchange, asking, joint, leave_out=leave_out)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def _until_one_ends(
    exchange: Exchange, asking: Mapping["asyncio.Task[bytes]", str], joint: _Joint, *, leave_out: bool
) -> bytes:
    until = asyncio.get_running_loop().time() + _ACK_S
    running = set(asking)
    while running:
        wait_s = None if not joint.waiting else max(0.0, until - asyncio.get_running_loop().time())
        done, running = await asyncio.wait(running, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            late = {task for task in running if asking[task] in joint.waiting}
            for task in late:
                if not leave_out:
                    sentence = f"the MCP server {asking[task]} did not acknowledge the subscription"
                    raise HopError(grpc.StatusCode.UNAVAILABLE, sentence)
                task.cancel()
                await joint.settle(asking[task])
            running -= late
        for task in done:
            server = asking[task]
            if server not in joint.waiting:
                return task.result()
            if not _may_be_left_out(task, leave_out=leave_out):
                return task.result()
            await joint.settle(server)
    return wire.error(exchange.id_json, wire.METHOD_NOT_FOUND, "no MCP server here serves subscriptions/listen")


def _may_be_left_out(task: "asyncio.Task[bytes]", *, leave_out: bool) -> bool:
    """Ended before it acknowledged: it does not know the method, or is down and that is let pass."""
    if isinstance(task.exception(), HopError):
        return leave_out
    if task.exception() is not None:
        return False
    return leave_out or wire.outcome_of("", task.result()).error_code == wire.METHOD_NOT_FOUND


def _agreed_in(message: bytes) -> Filter | None:
    try:
        envelope = wire.read_envelope(message)
        if envelope.method != _ACKNOWLEDGED:
            return None
        return msgspec.json.decode(bytes(wire.object_of(bytes(envelope.params))["notifications"]), type=dict[str, Any])
    except (wire.NotJson, KeyError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
