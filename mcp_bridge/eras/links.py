"""The sessions that the bridge keeps with one handshake server: one for each owner and each kind of client it has."""

import asyncio
import secrets
import time
from dataclasses import dataclass, field

import grpc

from mcp_bridge.eras.capabilities import read_capabilities
from mcp_bridge.eras.link import Link
from mcp_bridge.eras.words import Declared
from mcp_bridge.errors import HopError, overloaded, timed_out, unavailable
from mcp_bridge.exchange import Upstream

__all__ = ["Links"]


@dataclass(slots=True)
class _Slot:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    link: Link | None = None
    wanted: int = 0
    """Requests that wait for the lock: a slot that is wanted is not dropped."""


class Links:
    """At most `most` sessions and `most_per_owner` for one owner; one that is idle makes room for another."""

    def __init__(self, inner: Upstream, *, most: int, most_per_owner: int, open_s: float) -> None:
        self._inner = inner
        self._most = most
        self._most_per_owner = most_per_owner
        self._open_s = open_s
        self._slots: dict[tuple[str, bytes, bytes], _Slot] = {}

    def __len__(self) -> int:
        return sum(slot.link is not None for slot in self._slots.values())

    async def get(self, owner: str, declared: Declared) -> Link:
        """The session for this owner and client, opened if need be. Raises `HopError` and `Refused`."""
        key = owner, declared.client_info, declared.capabilities
        slot = self._slots.get(key)
        if slot is not None and slot.link is not None and slot.link.alive:
            return slot.link
        if slot is None:
            await self._make_room(owner)
            slot = self._slots.setdefault(key, _Slot())
        slot.wanted += 1
        try:
            async with slot.lock:
                if slot.link is None or not slot.link.alive:
                    await self._drop(slot)
                    slot.link = await self._open(owner, declared)
                return slot.link
        finally:
            slot.wanted -= 1
            if slot.link is None and not slot.wanted and self._slots.get(key) is slot:
                del self._slots[key]

    async def reap(self, idle_s: float) -> None:
        """End what is idle. A ping keeps a session alive that only listens, and finds out where it is not."""
        now = time.monotonic()
        for key, slot in list(self._slots.items()):
            link = slot.link
            if link is None or slot.wanted:
                continue
            if not link.alive or (not link.busy and now - link.last_used > idle_s):
                del self._slots[key]
                await self._drop(slot)
            elif link.listeners:
                link.spawn(_ping(link))

    async def close(self) -> None:
        slots = list(self._slots.values())
        self._slots.clear()
        await asyncio.gather(*(self._drop(slot) for slot in slots))

    async def _open(self, owner: str, declared: Declared) -> Link:
        link = Link(self._inner, f"era-{secrets.token_urlsafe(24)}", owner, read_capabilities(declared.capabilities))
        try:
            async with asyncio.timeout(self._open_s):
                await link.open(declared)
        except TimeoutError:
            await link.close()
            raise timed_out(f"the MCP server {self._inner.name} did not answer initialize in time") from None
        except BaseException as error:
            await asyncio.shield(link.close())
            if isinstance(error, HopError) and error.code is grpc.StatusCode.NOT_FOUND:
                raise unavailable(f"the MCP server {self._inner.name} ended the session at once") from None
            raise
        return link

    async def _drop(self, slot: _Slot) -> None:
        link, slot.link = slot.link, None
        if link is not None:
            await link.close()

    async def _make_room(self, owner: str) -> None:
        own = [(key, slot) for key, slot in self._slots.items() if key[0] == owner]
        crowded = own if len(own) >= self._most_per_owner else list(self._slots.items())
        if len(own) < self._most_per_owner and len(crowded) < self._most:
            return
        idle = [
            (slot.link.last_used, key)
            for key, slot in crowded
            if slot.link is not None and not slot.link.busy and not slot.wanted
        ]
        if not idle:
            raise overloaded(f"too many sessions with the MCP server {self._inner.name} are open, all in use")
        await self._drop(self._slots.pop(min(idle)[1]))


async def _ping(link: Link) -> None:
    try:
        await link.check()
    except HopError:
        link.end_listeners()
        link.alive = False
