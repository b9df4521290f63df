"""Sessions of the handshake era: who opened them, and what their server says outside of requests."""

import secrets
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from mcp_bridge.errors import overloaded, session_unknown
from mcp_bridge.exchange import Outbox, Session

__all__ = ["Sessions"]


class Sessions:
    """At most `max_sessions`, each usable by its opener only; `max_queue_bytes` bounds what waits for a listener.

    Where there is no room, an owner that has more than half of all loses the
    session that it used least recently: nobody shuts the others out.
    """

    def __init__(self, max_sessions: int, max_queue_bytes: int) -> None:
        self._max_sessions = max_sessions
        self._max_queue_bytes = max_queue_bytes
        self._sessions: dict[str, Session] = {}
        self.crowded_out: list[Session] = []
        """Dropped, and not yet ended at their server; whoever ends them empties it."""

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, owner: str) -> Session:
        if len(self._sessions) >= self._max_sessions and not self._make_room(owner):
            raise overloaded(f"{self._max_sessions} sessions are open; end some or wait until idle ones are ended")
        session = Session(secrets.token_urlsafe(24), owner, Outbox(self._max_queue_bytes))
        self._sessions[session.id] = session
        return session

    def _make_room(self, owner: str) -> bool:
        greediest, count = Counter(one.owner for one in self._sessions.values()).most_common(1)[0]
        if greediest == owner or count <= max(1, self._max_sessions // 2):
            return False
        theirs = (one for one in self._sessions.values() if one.owner == greediest)
        least = min(theirs, key=lambda one: (one.in_use > 0, one.last_used))
        self.drop(least)
        self.crowded_out.append(least)
        return True

    def find(self, session_id: str, owner: str) -> Session:
        """Raises `HopError` NOT_FOUND, for another's session as for none."""
        session = self._sessions.get(session_id)
        if session is None or session.owner != owner:
            raise session_unknown()
        session.last_used = time.monotonic()
        return session

    def drop(self, session: Session) -> None:
        self._sessions.pop(session.id, None)
        session.queue.close()

    def idle(self, idle_s: float) -> list[Session]:
        now = time.monotonic()
        return [one for one in self._sessions.values() if not one.in_use and now - one.last_used > idle_s]

    def all(self) -> list[Session]:
        return list(self._sessions.values())


@contextmanager
def using(session: Session | None) -> Iterator[None]:
    """A session in use is not idle."""
    if session is None:
        yield
        return
    session.in_use += 1
    try:
        yield
    finally:
        session.in_use -= 1
        session.last_used = time.monotonic()
