"""The sessions that a front knows of: found, forgotten when idle, ended when it stops."""

import asyncio
import contextlib
import time
from typing import Final

from mcp_bridge.front.backend import Backend, BackendError, Via
from mcp_bridge.front.streams import Conversation

__all__ = ["Conversations"]

_END_SESSIONS_S: Final = 1.0


class Conversations:
    """At most `max_sessions`; one that nobody used for `idle_s` seconds is no longer listened to."""

    def __init__(
        self, backend: Backend, max_sessions: int, idle_s: float, max_bytes: int, *, resumes: bool = True
    ) -> None:
        self._resumes = resumes
        self._backend = backend
        self._max_sessions = max_sessions
        self._idle_s = idle_s
        self._max_bytes = max_bytes
        self._known: dict[tuple[str, str], Conversation] = {}

    def of(self, via: Via) -> Conversation:
        """What is known here of the session; whether it exists is the backend's to say. Raises `BackendError`."""
        key = (self._backend.owner(via), via.session_id)
        found = self._known.get(key)
        if found is None or found.ended.is_set():
            if found is None and len(self._known) >= self._max_sessions:
                raise BackendError(f"{self._max_sessions} sessions are open")
            found = self._known[key] = Conversation(
                key, via.version, self._backend, self._max_bytes, resumes=self._resumes
            )
        found.last_used = time.monotonic()
        return found

    def forget(self, conversation: Conversation) -> None:
        conversation.close()
        if self._known.get(conversation.key) is conversation:
            del self._known[conversation.key]

    def close(self) -> None:
        """End every server stream."""
        for conversation in self._known.values():
            conversation.close()

    async def end(self) -> None:
        """Nobody can come back to these sessions, and they hold something at their servers."""
        known = [one for one in self._known.values() if one.is_sure]
        ending = (self._backend.end_session(Via(one.key[1], one.version)) for one in known)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_SESSIONS_S):
                await asyncio.gather(*ending, return_exceptions=True)

    async def reap(self) -> None:
        """Without a listener its server may end an idle session; a client that comes back is listened to again."""
        while True:
            await asyncio.sleep(max(0.05, self._idle_s / 4))
            now = time.monotonic()
            for one in list(self._known.values()):
                if not one.is_busy and now - one.last_used > self._idle_s:
                    self.forget(one)
