"""Streams that stay open are judged again: one whose caller may no longer do what it does ends.

Between whatever serves a stream and authz_service, which is shown the ticket
and the message that the stream was opened with every few seconds.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Final

from mcp_bridge.errors import HopError, malformed, too_large, unavailable
from mcp_bridge.judging import MAX_BYTES, MAX_FRAMES, Judge, Metadata, refusal_of, ticket_of
from mcp_bridge.recording import ENDED_BY
from mcp_bridge.serving import Context, Routes, Stream
from secure_mcp_grpc import headers, logs
from secure_mcp_grpc.calls import TRANSPORT, Malformed, read_transport_call
from secure_mcp_grpc.v1 import policy_query_pb2 as pb

__all__ = ["LONG", "Standing"]

logger = logging.getLogger(__name__)

LONG: Final = frozenset({"Stream", "Listen"})
End = Callable[[HopError], None]

_LARGE_BYTES: Final = 16 * 1024
"""A message above this is judged again in turn with others of its kind, not at each interval: its client wrote it once,
and authz_service would read it for as long as it stays open. What never ends by itself may not be so large."""
_LARGE_AT_ONCE: Final = MAX_BYTES
"""Of all large ones, at each interval."""
_ENDLESS: Final = "subscriptions/listen"

_NO_TICKET: Final = unavailable("the authorization service gave this stream no ticket, so it cannot stay open")
_FORSAKEN: Final = "authz_service has not answered for a while, so the stream was ended; open it again"
_STOPPING: Final = "the sidecar is stopping"


def _nobody(_why: str) -> None:
    """Hears it."""


@dataclass(slots=True, eq=False)
class _Watched:
    frame: pb.Frame
    end: End
    allowed_at: float
    """When it was last allowed, by the clock."""
    asked_at: float
    """When that was last asked."""

    @property
    def size(self) -> int:
        return len(self.frame.message) + len(self.frame.ticket)

    @property
    def is_large(self) -> bool:
        return len(self.frame.message) > _LARGE_BYTES


class Standing:
    """Asks `judge` for every open stream each `recheck_s` seconds.

    While there is no answer a stream stays open for `grace_s` seconds more.
    `clock` gives seconds; `ended` hears why a stream was ended, `refused` or `forsaken`.
    """

    def __init__(
        self,
        judge: Judge,
        *,
        recheck_s: float,
        grace_s: float,
        clock: Callable[[], float],
        ended: Callable[[str], None] = _nobody,
    ) -> None:
        self._ended = ended
        self._judge = judge
        self._recheck_s = recheck_s
        self._grace_s = grace_s
        self._clock = clock
        self._watched: set[_Watched] = set()

    def __len__(self) -> int:
        return len(self._watched)

    @contextmanager
    def watch(self, metadata: Metadata, rpc: str, message: bytes, end: End) -> Iterator[None]:
        """While inside, `end` may be called, once, with the reason why the stream must end.

        `message` is what the stream was opened with, empty for Session. Raises
        `HopError` for a stream that could not be judged again.
        """
        if len(message) > _LARGE_BYTES and _is_endless(rpc, message):
            raise too_large(f"a request of {_ENDLESS}", _LARGE_BYTES)
        ticket = ticket_of(metadata)
        if not ticket:
            raise _NO_TICKET
        request_id = next((str(value) for key, value in metadata if key == headers.REQUEST_ID), "")
        frame = pb.Frame(ticket=ticket, rpc=rpc, message=message, request_id=request_id, recheck=True)
        now = self._clock()
        watched = _Watched(frame, end, now, now)
        self._watched.add(watched)
        try:
            yield
        finally:
            self._watched.discard(watched)

    def guarded(self, rpc: str, handler: Stream) -> Stream:
        """`handler`, whose streams end when they are refused."""

        async def stream(message: bytes, context: Context) -> AsyncIterator[bytes]:
            relay = _Relay()
            with self.watch(context.metadata, rpc, message, relay.end):
                async with aclosing(relay.messages(handler(message, context))) as messages:
                    async for one in messages:
                        yield one

        return stream

    def over(self, routes: Routes) -> Routes:
        """`routes` of McpTransport, their long-lived streams guarded."""
        streams = {
            path: self.guarded(rpc, handler) if (rpc := path.removeprefix(TRANSPORT)) in LONG else handler
            for path, handler in routes.streams.items()
        }
        return replace(routes, streams=streams)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._recheck_s)
            await self.sweep()

    async def sweep(self) -> None:
        """Ask for all streams once; of large requests, for those that were not asked for longest. Never more than half
        the time: authz_service has others to serve."""
        answers = True
        asked, later = _turn(self._watched)
        for part in _parts(asked):
            began = self._clock()
            answers = answers and await self._recheck(part)
            if not answers:
                self._forsake(part)
            await asyncio.sleep(min(self._clock() - began, self._recheck_s))
        if not answers:
            self._forsake(later)
        else:
            for watched in later:
                watched.allowed_at = self._clock()

    def stop(self) -> None:
        """End every stream, as unavailable."""
        for watched in list(self._watched):
            self._end(watched, unavailable(_STOPPING))

    async def _recheck(self, part: Sequence[_Watched]) -> bool:
        """Whether there was an answer."""
        now = self._clock()
        try:
            judgements = await self._judge.ask([watched.frame for watched in part])
        except HopError:
            return False
        for watched, judgement in zip(part, judgements, strict=True):
            watched.asked_at = now
            if judgement.allowed:
                watched.allowed_at = now
            elif watched in self._watched:
                logs.event(
                    logger,
                    logging.INFO,
                    "stream_ended",
                    rpc=watched.frame.rpc,
                    request_id=watched.frame.request_id,
                    reason=judgement.reason,
                )
                self._ended("refused")
                self._end(watched, refusal_of(judgement))
        return True

    def _forsake(self, part: Sequence[_Watched]) -> None:
        limit = self._clock() - self._recheck_s - self._grace_s
        for watched in part:
            if watched.allowed_at < limit and watched in self._watched:
                self._ended("forsaken")
                self._end(watched, unavailable(_FORSAKEN))

    def _end(self, watched: _Watched, error: HopError) -> None:
        self._watched.discard(watched)
        watched.end(error)


def _is_endless(rpc: str, message: bytes) -> bool:
    """Raises `HopError` for what authz_service would not have let in."""
    try:
        return rpc == "Stream" and read_transport_call(rpc, message).method == _ENDLESS
    except Malformed as error:
        raise malformed(str(error)) from None


def _turn(watched: Collection[_Watched]) -> tuple[list[_Watched], list[_Watched]]:
    """Whom to ask for now, and whom later."""
    now = [one for one in watched if not one.is_large]
    later = sorted((one for one in watched if one.is_large), key=lambda one: one.asked_at)
    sizes = list(accumulate(one.size for one in later))
    count = max(1, sum(size <= _LARGE_AT_ONCE for size in sizes))
    return now + later[:count], later[count:]


def _parts(watched: Sequence[_Watched]) -> Iterator[list[_Watched]]:
    """In portions that one question may hold."""
    part: list[_Watched] = []
    size = 0
    for one in watched:
        if part and (len(part) >= MAX_FRAMES or size + one.size > MAX_BYTES):
            yield part
            part, size = [], 0
        part.append(one)
        size += one.size
    if part:
        yield part


class _Relay:
    """Runs a stream in a task of its own, so that it can be ended wherever it waits. One message is held at most."""

    def __init__(self) -> None:
        self._error: HopError | None = None
        self._held: list[bytes] = []
        self._changed = asyncio.Event()
        self._taken = asyncio.Event()
        self._working: asyncio.Task[None] | None = None

    def end(self, error: HopError) -> None:
        """What is under way ends now, also where the client reads nothing."""
        self._error = error
        self._changed.set()
        if self._working is not None:
            self._working.cancel()

    async def messages(self, source: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        working = self._working = asyncio.create_task(self._work(source))
        try:
            while True:
                await self._changed.wait()
                if self._error is not None:
                    raise self._error
                if not self._held:
                    break
                self._changed.clear()
                message = self._held.pop()
                self._taken.set()
                yield message
            await working
        finally:
            working.cancel()
            await asyncio.wait([working])
            if not working.cancelled():
                working.exception()  # it was raised already, or nobody is there to hear it

    async def _work(self, source: AsyncIterator[bytes]) -> None:
        ENDED_BY.set(lambda: self._error)
        try:
            async for message in source:
                self._taken.clear()
                self._held.append(message)
                self._changed.set()
                await self._taken.wait()
        finally:
            if isinstance(source, AsyncGenerator):
                await source.aclose()
            self._changed.set()
