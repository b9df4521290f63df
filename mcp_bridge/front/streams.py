"""What is on its way to HTTP clients: a stream for each request in flight, and what a session's server says besides."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from contextlib import aclosing

from mcp_bridge import wire
from mcp_bridge.exchange import Outbox
from mcp_bridge.front.backend import Backend, BackendError, SessionUnknown, Via
from mcp_bridge.front.messages import Request, error
from secure_mcp_grpc import logs

__all__ = ["Conversation", "RequestStream"]

logger = logging.getLogger(__name__)

_BUG = BackendError("the request failed inside; the log says more", http_status=500)


class RequestStream:
    """One request: the messages before its response in `outbox`, then `response` or `failure`."""

    def __init__(self, max_bytes: int, conversation: "Conversation | None") -> None:
        self.outbox = Outbox(max_bytes)
        self.response = b""
        self.session_id = ""
        self.failure: BackendError | None = None
        self.is_gone = False
        self._conversation = conversation

    async def pump(self, backend: Backend, request: Request, via: Via, *, streams: bool) -> None:
        """From the backend to the client, no faster than it reads; to its end even when the client is gone."""
        try:
            with self._conversation.carrying(self) if self._conversation else contextlib.nullcontext():
                async with aclosing(backend.request(request, via, streams=streams)) as answers:
                    async for answer in answers:
                        if answer.is_response:
                            self.response, self.session_id = answer.message, answer.session_id
                            return
                        await self._pass_on(answer.message)
            self.failure = BackendError("the server ended the request without a response", http_status=502)
        except BackendError as failure:
            self.failure = failure
        except Exception:  # noqa: BLE001 - top of the stack: a bug is this request's failure, not everybody's
            logs.event(logger, logging.ERROR, "request_failed", method=request.method)
            self.failure = _BUG
        finally:
            self.outbox.close()

    def leave(self) -> None:
        """The client is gone."""
        self.is_gone = True
        self.outbox.close()

    async def _pass_on(self, message: bytes) -> None:
        if not self.is_gone:
            await self.outbox.put(message)
        elif self._conversation is not None:
            self._conversation.queue.offer(message)


class Conversation:
    """A session of the handshake era, as its HTTP client sees it.

    What the server says outside of requests goes to the client's GET stream.
    A client without one is told on the stream of a request in flight, or once
    it opens one.
    """

    def __init__(self, key: tuple[str, str], version: str, backend: Backend, max_bytes: int) -> None:
        self.key = key
        self.version = version
        self.queue = Outbox(max_bytes)
        self.is_read = False
        self.failure: BackendError | None = None
        self.last_used = time.monotonic()
        self.ended = asyncio.Event()
        self._backend = backend
        self._carriers: dict[RequestStream, None] = {}
        self._listener: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        return self.is_read or bool(self._carriers)

    @contextlib.contextmanager
    def carrying(self, stream: RequestStream) -> Iterator[None]:
        self._carriers[stream] = None
        try:
            yield
        finally:
            del self._carriers[stream]
            self.last_used = time.monotonic()

    def listen(self, group: asyncio.TaskGroup, via: Via) -> bool:
        """Begin to take what the server says; False where that is being done already."""
        if self._listener is not None and not self._listener.done():
            return False
        self._listener = group.create_task(self._listen(via), name="session listener")
        return True

    def close(self) -> None:
        self.queue.close()
        self.ended.set()
        if self._listener is not None:
            self._listener.cancel()

    async def _listen(self, via: Via) -> None:
        try:
            async with aclosing(self._backend.listen(via)) as messages:
                async for message in messages:
                    await self._deliver(message, via)
            self.failure = SessionUnknown()
        except BackendError as failure:
            self.failure = failure
        except Exception:  # noqa: BLE001 - top of the stack: a bug is this session's failure, not everybody's
            logs.event(logger, logging.ERROR, "listen_failed")
            self.failure = _BUG
        self.queue.close()
        self.ended.set()

    async def _deliver(self, message: bytes, via: Via) -> None:
        if self.is_read:
            await self.queue.put(message)
            return
        if any(stream.outbox.offer(message) for stream in reversed(self._carriers)) or self.queue.offer(message):
            return
        try:
            asked = bytes(wire.read_envelope(message).id)
            if asked:
                refusal = error(asked, wire.METHOD_NOT_FOUND, "the client is not listening")
                await self._backend.reply(refusal, via)
        except (wire.NotJson, BackendError):
            logs.event(logger, logging.INFO, "message_dropped")
