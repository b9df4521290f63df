"""Sessions of the handshake era: who opened them, and what their server says outside of requests."""

import secrets
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager

from mcp_bridge.errors import overloaded, session_unknown
from mcp_bridge.exchange import Outbox, Session

__all__ = ["SessionQueue", "Sessions"]


class SessionQueue(Outbox):
    """What a session's server says outside of requests. Notifications that nobody fetched give way to questions.

    Otherwise a client that never listens, at a server that logs, could not be asked anything.
    """

    _has_notifications = False

    def offer(self, message: bytes) -> bool:
        if self._has_notifications and _may_be_question(message) and not self._has_room(message):
            self._make_room(message)
        return super().offer(message)

    def _make_room(self, message: bytes) -> None:
        """The oldest go first. Where only questions are left nothing is looked for until a notification is added."""
        count, size, dropped = len(self._messages), self._bytes, 0
        kept: list[bytes] = []
        for one in self._messages:
            full = count - dropped >= self._max_messages or size + len(message) > self._max_bytes
            if full and not _may_be_question(one):
                dropped += 1
                size -= len(one)
            else:
                kept.append(one)
        self._messages, self._bytes = deque(kept), size
        self._has_notifications = any(not _may_be_question(one) for one in kept)

    def _add(self, message: bytes) -> None:
        self._has_notifications = self._has_notifications or not _may_be_question(message)
        super()._add(message)


def _may_be_question(message: bytes) -> bool:
    """A notification never has an id; one that speaks of ids is kept, too."""
    return b'"id"' in message


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
        session = Session(secrets.token_urlsafe(24), owner, SessionQueue(self._max_queue_bytes))
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
