"""What is on its way to HTTP clients: a stream for each request in flight, and what a session's server says besides."""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Iterator
from contextlib import aclosing
from typing import Final

from mcp_bridge import wire
from mcp_bridge.front.backend import Backend, BackendError, SessionUnknown, Via
from mcp_bridge.front.log import EventLog
from mcp_bridge.front.messages import Request, error
from secure_mcp_grpc import logs

__all__ = ["Conversation", "RequestStream"]

logger = logging.getLogger(__name__)

_BUG: Final = BackendError("the request failed inside; the log says more", http_status=500)
_MAX_FINISHED: Final = 8
_RESUMABLE_SINCE: Final = "2025-11-25"


class RequestStream:
    """One request: the messages before its response in `log`, then `response` or `failure`."""

    def __init__(
        self, max_bytes: int, conversation: "Conversation | None", request: Request, *, resumable: bool
    ) -> None:
        self.id_json = request.id_json
        self.is_modern = conversation is None and request.declared is not None
        self.log = EventLog(max_bytes, keeps=resumable)
        self.resumable = resumable
        self.begins_at_once = resumable
        """As an event stream, before there is anything to say: then whatever becomes of it is said on it."""
        self.number = conversation.next_number() if conversation is not None else 0
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
            self.log.close()

    async def _pass_on(self, message: bytes) -> None:
        """What a client that left without a way back would have been asked goes to its server stream."""
        if not self.is_gone or self.resumable:
            await self.log.put(message)
        elif self._conversation is not None:
            self._conversation.queue.offer(message)


class Conversation:
    """A session of the handshake era, as its HTTP client sees it.

    What the server says outside of requests goes to the client's GET stream.
    A client without one is told on the stream of a request in flight, or once
    it opens one. Since 2025-11-25 clients can come back to a stream by the id
    of the last event they saw, `<stream>-<message>`; stream 0 is the server's.
    """

    def __init__(
        self, key: tuple[str, str], version: str, backend: Backend, max_bytes: int, *, resumes: bool = True
    ) -> None:
        self.key = key
        self.version = version
        self.is_resumable = resumes and version >= _RESUMABLE_SINCE
        self.queue = EventLog(max_bytes, keeps=self.is_resumable)
        self.failure: BackendError | None = None
        self.last_used = time.monotonic()
        self.ended = asyncio.Event()
        self.is_sure = False
        """The backend was seen to know this session."""
        self._backend = backend
        self._max_bytes = max_bytes
        self._carriers: dict[int, RequestStream] = {}
        self._finished: dict[int, RequestStream] = {}
        self._last_number = 0
        self._listener: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        return self.queue.has_reader or bool(self._carriers)

    def next_number(self) -> int:
        self._last_number += 1
        return self._last_number

    @contextlib.contextmanager
    def carrying(self, stream: RequestStream) -> Iterator[None]:
        self._carriers[stream.number] = stream
        try:
            yield
        finally:
            del self._carriers[stream.number]
            self.last_used = time.monotonic()
            if stream.resumable:
                self._keep(stream)

    def find(self, event_id: str) -> tuple[RequestStream, int] | int | None:
        """The stream that an event was of, and its number there; only the number for the server's own stream."""
        found = re.fullmatch(r"([0-9]{1,18})-([0-9]{1,18})", event_id)
        if found is None:
            return None
        number, position = int(found.group(1)), int(found.group(2))
        if number == 0:
            return position
        stream = self._carriers.get(number) or self._finished.get(number)
        return (stream, position) if stream is not None else None

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

    def _keep(self, stream: RequestStream) -> None:
        """The last few finished streams, within one message's bound, for clients that lost their connection."""
        self._finished[stream.number] = stream
        while len(self._finished) > 1 and (
            len(self._finished) > _MAX_FINISHED
            or sum(one.log.bytes_kept + len(one.response) for one in self._finished.values()) > self._max_bytes
        ):
            del self._finished[next(iter(self._finished))]

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
        if self.queue.has_reader:
            await self.queue.put(message)
            return
        carriers = [stream for stream in reversed(self._carriers.values()) if stream.log.has_reader]
        if any(stream.log.offer(message) for stream in carriers) or self.queue.offer(message):
            return
        try:
            asked = bytes(wire.read_envelope(message).id)
            if asked:
                refusal = error(asked, wire.METHOD_NOT_FOUND, "the client is not listening")
                await self._backend.reply(refusal, via)
        except (wire.NotJson, BackendError):
            logs.event(logger, logging.INFO, "message_dropped")
