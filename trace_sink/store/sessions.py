"""Sessions of the HTTP interface: connections that outlive a request, each bound to its user."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from trace_sink.store import errors
from trace_sink.store.engine import Connection
from trace_sink.store.errors import StoreError
from trace_sink.store.statements import Role

__all__ = ["Session", "Sessions"]


@dataclass(slots=True)
class Session:
    """A connection and when it may be forgotten (monotonic clock)."""

    connection: Connection
    expires: float
    busy: bool = False


class Sessions:
    """Sessions by user and name; those unused for their timeout are closed at the next look. Event loop only."""

    def __init__(self, *, most: int = 200, clock: Callable[[], float] = time.monotonic) -> None:
        self._sessions: dict[tuple[Role, str], Session] = {}
        self._most = most
        self._clock = clock

    def __len__(self) -> int:
        return len(self._sessions)

    def take(
        self, role: Role, name: str, timeout_s: int, connect: Callable[[], Connection], *, must_exist: bool
    ) -> Session:
        """The session, locked for one request; made when missing. Give it back with `release`."""
        self._expire()
        session = self._sessions.get((role, name))
        if session is None:
            if must_exist:
                raise StoreError.of(errors.SESSION_NOT_FOUND, "Session not found")
            if len(self._sessions) >= self._most:
                raise StoreError.of((202, "TOO_MANY_SIMULTANEOUS_QUERIES"), "Too many sessions")
            session = self._sessions[role, name] = Session(connect(), 0.0)
        elif session.busy:
            raise StoreError.of(errors.SESSION_IS_LOCKED, "Session is locked by a concurrent client")
        session.busy = True
        session.expires = self._clock() + timeout_s
        return session

    def release(self, role: Role, name: str, timeout_s: int, *, close: bool) -> None:
        session = self._sessions.get((role, name))
        if session is None:
            return
        session.busy = False
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
