"""MCP servers started as child processes: one for each identity, and one for each session of the handshake era."""

import asyncio
import contextlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from mcp_bridge.errors import overloaded, session_unknown, unavailable
from mcp_bridge.exchange import Exchange, Note, Session
from mcp_bridge.upstreams.child import Child
from secure_mcp_grpc.errors import UserError

__all__ = ["StdioUpstream"]

_INHERITED = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV")
"""What a child gets of our environment: our own settings may hold passwords."""

_OPENING = frozenset({"initialize", "server/discover"})
"""Requests that a server which has started answers at once."""

_FIRST_BACKOFF_S = 0.2
_LAST_BACKOFF_S = 10.0
_STEADY_S = 10.0
"""A child that ran this long counts as healthy: after it the back-off starts anew."""


@dataclass(slots=True)
class _Place:
    """Where one identity's or session's child is; its lock is held while the child is being started."""

    owner: str
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    child: Child | None = None
    backoff_s: float = 0.0
    not_before: float = 0.0
    used: float = field(default_factory=time.monotonic)


class StdioUpstream:
    """See `mcp_bridge.exchange.Upstream`. `on_children` is told how many run, `on_restart` of each restart."""

    def __init__(
        self,
        name: str,
        command: list[str],
        *,
        env: dict[str, str],
        cwd: str | None,
        max_message_bytes: int,
        max_children: int,
        start_timeout_s: float = 30.0,
        limits: str = "",
        on_children: Callable[[int], None] = lambda _count: None,
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self._command = command
        self._env = {key: os.environ[key] for key in _INHERITED if key in os.environ} | env
        self._cwd = cwd
        self._max_message_bytes = max_message_bytes
        self._max_children = max_children
        self._start_timeout_s = start_timeout_s
        self._limits = limits
        self._on_children = on_children
        self._on_restart = on_restart
        self._places: dict[str, _Place] = {}
        self._starting = 0
        self._closing = False

    async def start(self) -> None:
        if shutil.which(self._command[0], path=self._env.get("PATH")) is None:
            raise UserError(f"upstream {self.name}: no program {self._command[0]!r}; install it or name its full path")

    async def request(self, exchange: Exchange) -> bytes:
        exchange.server = self.name
        child = await self._child(exchange.owner, exchange.session, opens=exchange.opens_session)
        if exchange.call.method not in _OPENING or child.has_spoken:
            await child.drain()
            return await child.peer.request(exchange)
        try:
            async with asyncio.timeout_at(child.deadline(self._start_timeout_s)) as starting:
                await child.drain()
                return await child.peer.request(exchange)
        except TimeoutError:
            if not starting.expired():
                raise
            error = unavailable(f"the MCP server {self.name} did not start within {self._start_timeout_s:g} s")
            child.kill(error)
            raise error from None

    async def notify(self, note: Note) -> None:
        if note.session is None:
            return  # 2026-07-28 has no client notifications but the cancel, which is the end of a gRPC call here
        child = await self._child(note.owner, note.session, opens=False)
        await child.drain()
        child.peer.notify(note.method, note.params_json)

    async def reply(self, session: Session, message: bytes) -> None:
        child = await self._child(session.owner, session, opens=False)
        await child.drain()
        child.peer.reply(message)

    async def end_session(self, session: Session) -> None:
        await self._end(_key(session.owner, session))

    async def reap(self, idle_s: float) -> None:
        now = time.monotonic()
        for key, place in list(self._places.items()):
            peer = place.child.peer if place.child else None
            last = peer.last_used if peer else max(place.used, place.not_before)
            if not place.lock.locked() and not (peer and peer.in_flight) and now - last > idle_s:
                session = place.child.session if place.child else None
                await self._end(key)
                if session is not None:  # whoever listens to it must not wait on
                    session.queue.close()

    async def close(self) -> None:
        self._closing = True
        await asyncio.gather(*(self._end(key) for key in list(self._places)))

    async def _child(self, owner: str, session: Session | None, *, opens: bool) -> Child:
        key = _key(owner, session)
        place = self._places.get(key)
        if place is None:
            if session is not None and not opens:
                raise session_unknown()
            place = self._places[key] = _Place(owner)
        if place.child is not None and not place.child.peer.has_failed:
            return place.child
        async with place.lock:
            if place.child is not None and not place.child.peer.has_failed:
                return place.child  # another request started it meanwhile
            if session is not None and not opens:
                raise session_unknown()
            return await self._start(place, session)

    async def _start(self, place: _Place, session: Session | None) -> Child:
        if self._closing:
            raise unavailable("the sidecar is stopping")
        wait_s = place.not_before - time.monotonic()
        if wait_s > 0:
            raise unavailable(f"the MCP server {self.name} keeps ending; next start in {wait_s:.1f} s")
        await self._make_room(place.owner)
        self._starting += 1
        try:
            if place.backoff_s:
                self._on_restart()
            place.child = await Child.start(
                self.name,
                self._command,
                self._env,
                self._cwd,
                session,
                self._max_message_bytes,
                self._ended,
                limits=self._limits,
            )
        finally:
            self._starting -= 1
        self._on_children(self._count())
        return place.child

    async def _make_room(self, owner: str) -> None:
        """Below the limit of children, by ending the one that was idle longest, or one of an owner that has most."""
        while self._count() >= self._max_children:
            idle = [
                (place.child.peer.last_used, key)
                for key, place in self._places.items()
                if place.child and not place.child.peer.in_flight and key.startswith("identity")
            ]
            key = min(idle)[1] if idle else self._of_the_greediest(owner)
            if key is None:
                raise overloaded(f"the MCP server {self.name} already runs {self._max_children} times, all in use")
            await self._end(key)

    def _of_the_greediest(self, owner: str) -> str | None:
        """Of whoever has more than half of all children: the one that was not used for longest, idle ones first.

        Nobody can so shut the others out; whoever is alone here may have them all.
        """
        having = Counter(place.owner for place in self._places.values() if place.child)
        if not having:
            return None
        greediest, count = having.most_common(1)[0]
        if greediest == owner or count <= max(1, self._max_children // 2):
            return None
        theirs = [
            (place.child.peer.in_flight > 0, place.child.peer.last_used, key)
            for key, place in self._places.items()
            if place.child and place.owner == greediest
        ]
        return min(theirs)[2]

    def _ended(self, child: Child) -> None:
        """A child ended by itself: its session with it; an identity's next request starts another, at first at once."""
        for key, place in list(self._places.items()):
            if place.child is not child or child.closing:
                continue
            if key.startswith("session"):
                del self._places[key]
                continue
            lived_s = time.monotonic() - child.started
            if place.backoff_s and lived_s < _STEADY_S:
                place.not_before = time.monotonic() + place.backoff_s
                place.backoff_s = min(place.backoff_s * 2, _LAST_BACKOFF_S)
            else:
                place.backoff_s = _FIRST_BACKOFF_S
        self._on_children(self._count())

    async def _end(self, key: str) -> None:
        place = self._places.pop(key, None)
        if place is None:
            return
        async with place.lock:
            child, place.child = place.child, None
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                await child.close()
            self._on_children(self._count())

    def _count(self) -> int:
        running = sum(place.child is not None and not place.child.peer.has_failed for place in self._places.values())
        return running + self._starting


def _key(owner: str, session: Session | None) -> str:
    return f"session\n{session.id}" if session is not None else f"identity\n{owner}"
