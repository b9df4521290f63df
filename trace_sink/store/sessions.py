"""Sessions of the HTTP interface: connections that outlive a request, each bound to its user."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from trace_sink.store import errors
from trace_sink.store.engine import Connection
from trace_sink.store.errors import StoreError
from trace_sink.store.statements import Role

__all__ = ["Session", "Sessions"]


_PATIENCE_S = 0.5


@dataclass(slots=True)
class Session:
    """A connection and when it may be forgotten (monotonic clock)."""

    connection: Connection
    expires: float
    busy: bool = False
    freed: asyncio.Event = field(default_factory=asyncio.Event)


class Sessions:
    """Sessions by user and name; those unused for their timeout are closed at the next look. Event loop only."""

    def __init__(self, *, most: int = 200, clock: Callable[[], float] = time.monotonic) -> None:
        self._sessions: dict[tuple[Role, str], Session] = {}
        self._most = most
        self._clock = clock

    def __len__(self) -> int:
        return len(self._sessions)

    async def take(
        self, role: Role, name: str, timeout_s: int, connect: Callable[[], Connection], *, must_exist: bool
    ) -> Session:
        """The session, locked for one request; made when missing. Give it back with `release`.

        Waits a moment for the request before: its client may have the answer before we are done with the session.
        """
        self._expire()
        session = self._sessions.get((role, name))
        if session is None:
            if must_exist:
                raise StoreError.of(errors.SESSION_NOT_FOUND, "Session not found")
            if len(self._sessions) >= self._most:
                raise StoreError.of((202, "TOO_MANY_SIMULTANEOUS_QUERIES"), "Too many sessions")
            session = self._sessions[role, name] = Session(connect(), 0.0)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while session.busy:
                    session.freed.clear()
                    await session.freed.wait()
        except TimeoutError:
            raise StoreError.of(errors.SESSION_IS_LOCKED, "Session is locked by a concurrent client") from None
        session.busy = True
        session.expires = self._clock() + timeout_s
        return session

    def release(self, role: Role, name: str, timeout_s: int, *, close: bool) -> None:
        session = self._sessions.get((role, name))
        if session is None:
            return
        session.busy = False
        session.freed.set()
        session.expires = self._clock() + timeout_s
        if close:
            self._sessions.pop((role, name)).connection.close()

    def close(self) -> None:
        for session in self._sessions.values():
            session.connection.close()
        self._sessions.clear()

    def _expire(self) -> None:
        now = self._clock()
        for key in [key for key, session in self._sessions.items() if not session.busy and session.expires < now]:
            self._sessions.pop(key).connection.close()
