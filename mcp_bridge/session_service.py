"""The RPC `McpTransport.Session`: many messages on one stream, each authorized by itself.

Envoy let the stream in; what is in it only we see. So every frame is shown to
authz_service before it is executed, and what it allows goes through the
executor like a call of its own. Answers leave as they are ready, in any order.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, Final

import grpc
import msgspec
from google.protobuf.message import DecodeError

from mcp_bridge import wire
from mcp_bridge.errors import HopError, malformed
from mcp_bridge.exchange import Exchange, Outbox
from mcp_bridge.execute import Executor, caller_of
from mcp_bridge.judging import MAX_BYTES, MAX_FRAMES, Judge, decided, opening, refusal_of, ticket_of
from mcp_bridge.recording import ENDED_BY
from mcp_bridge.serving import Context, Metadata, Routes
from mcp_bridge.standing import Standing
from mcp_bridge.status import error_of
from mcp_bridge.throttle import Throttle
from secure_mcp_grpc import calls
from secure_mcp_grpc.calls import Malformed, McpCall
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb
from secure_mcp_grpc.v1 import policy_query_pb2 as query

__all__ = ["SessionService"]

logger = logging.getLogger(__name__)

_RPC: Final = "Session"
_OPENING: Final = McpCall(calls.SESSION, "", {})
_CANCELLED: Final = "notifications/cancelled"
_STREAMING: Final = frozenset({"subscriptions/listen"})
_UNJUDGED: Final = query.Judgement()
_NOT_OPENED: Final = "this stream was not authorized as a session"
_ID_IN_USE: Final = "a request with this id is being executed on this stream"

_Key = tuple[str, type, Any]
"""What names a request that is being executed: its session, and the type and value of its id."""


class SessionService:
    """`max_in_flight` messages of one stream at a time: a client that sends more waits."""

    def __init__(
        self, executor: Executor, judge: Judge, standing: Standing, throttle: Throttle, *, max_in_flight: int
    ) -> None:
        self.executor = executor
        self.judge = judge
        self.standing = standing
        self.throttle = throttle
        self.max_in_flight = max_in_flight

    def routes(self) -> Routes:
        return Routes(sessions={f"{calls.TRANSPORT}{_RPC}": self.Session})

    async def Session(self, frames: AsyncIterator[bytes], context: Context) -> AsyncGenerator[bytes, None]:
        """`ClientFrame`s in, `Response`s out.

        A refused request is answered with a JSON-RPC error whose
        `data.grpcStatus` names the status that a call of its own would have
        had. The stream as a whole ends with a status when its caller is
        refused whatever it asks, or for a frame that no answer could be given to.
        """
        metadata = context.metadata
        if caller_of(metadata).targets != (_OPENING.target,):
            raise HopError(grpc.StatusCode.PERMISSION_DENIED, _NOT_OPENED)
        self.executor.record(_RPC, metadata, 0, _OPENING, b"")
        stream = _Stream(self, frames, metadata)
        with self.standing.watch(metadata, _RPC, b"", stream.end):
            working = asyncio.create_task(stream.run())
            try:
                while (response := await stream.trunk.get()) is not None:
                    yield response
            finally:
                working.cancel()
                await asyncio.wait([working])
        if stream.error is not None:
            raise stream.error


class _Frame:
    """One message of the client. `call` is None for one that cannot be read, `id_json` empty where none is usable."""

    __slots__ = ("call", "id_json", "message", "parsed", "request_id")

    def __init__(self, message: bytes, request_id: str) -> None:
        self.message = message
        self.request_id = request_id
        self.call: McpCall | None = None
        self.id_json = b""
        try:
            self.parsed = pb.ClientFrame.FromString(message)
        except DecodeError:
            self.parsed = pb.ClientFrame()
        try:
            self.call = calls.call_of_frame(self.parsed)
        except Malformed:
            self.call = None
        if calls.is_request_id(self.parsed.request.id_json):
            self.id_json = self.parsed.request.id_json


class _Running:
    """A request that was allowed. `forsaken`: its sender cancelled it, and expects no answer."""

    __slots__ = ("begun", "forsaken", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.begun = False
        self.forsaken = False


class _Branch(Outbox):
    """One request's part of the trunk: the messages that come before its answer."""

    def __init__(self, trunk: Outbox, running: _Running) -> None:
        super().__init__(0)
        self._trunk = trunk
        self._running = running

    def offer(self, message: bytes) -> bool:
        if self._closed or not self._trunk.offer(_response(message)):
            self.overflowed = self._trunk.overflowed
            return False
        self.taken += 1
        return True

    async def put(self, message: bytes) -> None:
        if not self._closed:
            await self._trunk.put(_response(message))
            self.taken += 1

    def close(self) -> None:
        """The bridge ends what would never end by itself."""
        super().close()
        if self._running.task is not None:
            self._running.task.cancel()


class _Stream:
    """One session: reads, asks, executes. `trunk` takes what is to be sent, and is closed at the end."""

    def __init__(self, service: SessionService, frames: AsyncIterator[bytes], metadata: Metadata) -> None:
        caller = caller_of(metadata)
        self.trunk = service.executor.outbox()
        self.error: HopError | None = None
        self._executor = service.executor
        self._judge = service.judge
        self._throttle = service.throttle
        self._max_in_flight = service.max_in_flight
        self._frames = frames
        self._opening = opening(metadata)
        self._ticket = ticket_of(metadata)
        self._request_id = caller.request_id
        self._subject = caller.subject
        self._in_flight = 0
        self._room = asyncio.Event()
        self._arrived = asyncio.Event()
        self._waiting: deque[_Frame] = deque()
        self._no_more = False
        self._running: dict[_Key, _Running] = {}
        self._told: dict[str, asyncio.Task[None]] = {}
        """Session → its last notification or reply, which later messages of it wait for."""

    def end(self, error: HopError) -> None:
        """Send what waits already, then end with `error`."""
        if self.error is None:
            self.error = error
            self.trunk.close()

    async def run(self) -> None:
        """To the end of the client's frames and of all answers, or until this is cancelled."""
        ENDED_BY.set(lambda: self.error)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read())
                await self._pump(group)
        except Exception:  # top of the servicer: a bug ends the stream
            logger.exception("session_failed")
            self.end(HopError(grpc.StatusCode.INTERNAL, "the bridge failed; its log says more"))
        finally:
            self.trunk.close()

    async def _read(self) -> None:
        """Frames into `_waiting`, no more than may be in flight: the client then has to wait."""
        number = 0
        try:
            async for message in self._frames:
                number += 1
                self._in_flight += 1
                self._waiting.append(_Frame(message, f"{self._request_id}/{number}"))
                self._arrived.set()
                while self._in_flight >= self._max_in_flight:
                    self._room.clear()
                    await self._room.wait()
        finally:
            self._no_more = True
            self._arrived.set()

    async def _pump(self, group: asyncio.TaskGroup) -> None:
        """What waits is one question to authz_service; what comes meanwhile is the next one."""
        while self.error is None:
            if not self._waiting:
                if self._no_more:
                    return
                self._arrived.clear()
                await self._arrived.wait()
                continue
            batch = await self._next_batch()
            if not batch:
                continue
            try:
                judgements = await self._judge.ask(self._question(batch))
            except HopError as error:
                for frame in batch:
                    await self._refuse(frame, error, _UNJUDGED)
                continue
            for frame, judgement in zip(batch, judgements, strict=True):
                await self._act(group, frame, judgement)

    async def _next_batch(self) -> list[_Frame]:
        batch: list[_Frame] = []
        size = 0
        while self._waiting and len(batch) < MAX_FRAMES:
            size += len(self._waiting[0].message)
            if batch and size > MAX_BYTES:
                break
            frame = self._waiting.popleft()
            refusal = self._throttle.arrived(self._subject)
            if refusal is None:
                batch.append(frame)
            else:
                await self._refuse(frame, refusal, _UNJUDGED)
        return batch

    def _question(self, batch: Sequence[_Frame]) -> list[query.Frame]:
        asked = [query.Frame(rpc=_RPC, message=frame.message, request_id=frame.request_id) for frame in batch]
        asked[0].ticket = self._ticket
        return asked

    async def _act(self, group: asyncio.TaskGroup, frame: _Frame, judgement: query.Judgement) -> None:
        """Execute what was allowed; the executor compares it with `x-mcp-target` once more."""
        call = frame.call
        if not judgement.allowed or call is None:
            error = refusal_of(judgement)
            await self._refuse(frame, error, judgement)
            if judgement.ends or not (call or frame.id_json):
                self.end(error)
        elif self.error is not None:
            await self._refuse(frame, self.error, judgement)
        elif (refusal := self._throttle.allowed(self._subject, call)) is not None:
            await self._refuse(frame, refusal, judgement)
        elif frame.id_json:
            self._start(group, frame, call, judgement)
        else:
            self._tell(group, frame, call, judgement)

    def _start(self, group: asyncio.TaskGroup, frame: _Frame, call: McpCall, judgement: query.Judgement) -> None:
        metadata = decided(self._opening, judgement, frame.request_id)
        key = _key(call.session_id, frame.id_json)
        if key in self._running:
            error = malformed(_ID_IN_USE)
            self._executor.record(_RPC, metadata, len(frame.message), call, error)
            self._leave()
            self.end(error)  # an answer under this id would be taken for the other request's
            return
        running = self._running[key] = _Running()
        work = self._execute(frame, call, metadata, running, self._told.get(call.session_id))
        running.task = group.create_task(work)

        def finished(_: object) -> None:
            if self._running.get(key) is running:
                del self._running[key]
            if not running.begun:  # cancelled so soon that nothing was asked
                why = self.error or HopError(grpc.StatusCode.CANCELLED, "the client cancelled this request")
                self._executor.record(_RPC, metadata, len(frame.message), call, why)
            self._leave()

        running.task.add_done_callback(finished)

    async def _execute(
        self,
        frame: _Frame,
        call: McpCall,
        metadata: Metadata,
        running: _Running,
        before: "asyncio.Task[None] | None",
    ) -> None:
        if before is not None:
            await asyncio.wait([before])
        params_json = frame.parsed.request.params_json
        meta = wire.read_meta(params_json)
        wants = call.method in _STREAMING or bytes(meta.progress_token) or bytes(meta.log_level)
        outbox = _Branch(self.trunk, running) if wants else None
        exchange = Exchange(call, frame.id_json, params_json, meta)
        running.begun = True
        answer, _, opened = await self._executor.request(_RPC, metadata, len(frame.message), lambda: exchange, outbox)
        if not running.forsaken:
            message = _error(frame.id_json, answer) if isinstance(answer, HopError) else answer
            await self.trunk.put(_response(message, opened.id if opened else ""))

    def _tell(self, group: asyncio.TaskGroup, frame: _Frame, call: McpCall, judgement: query.Judgement) -> None:
        metadata = decided(self._opening, judgement, frame.request_id)
        if call.method == _CANCELLED and self._forsake(frame.parsed.notification):
            self._executor.record(_RPC, metadata, len(frame.message), call, b"")
            self._leave()
            return
        work = self._deliver(frame, call, metadata, self._told.get(call.session_id))
        task = self._told[call.session_id] = group.create_task(work)
        task.add_done_callback(lambda _: self._delivered(call.session_id, task))

    async def _deliver(
        self, frame: _Frame, call: McpCall, metadata: Metadata, before: "asyncio.Task[None] | None"
    ) -> None:
        """Nobody is told how a notification or a reply fared; the records have it."""
        if before is not None:
            await asyncio.wait([before])
        parsed, size = frame.parsed, len(frame.message)
        if parsed.WhichOneof("frame") == "reply":
            await self._executor.reply(metadata, size, lambda: (call, parsed.reply.message_json), _RPC)
        else:
            await self._executor.notify(metadata, size, lambda: (call, parsed.notification.params_json), _RPC)

    def _delivered(self, session_id: str, task: "asyncio.Task[None]") -> None:
        if self._told.get(session_id) is task:
            del self._told[session_id]
        self._leave()

    def _forsake(self, cancel: pb.Notification) -> bool:
        """Cancel what `cancel` names. Whether that is all: in a session, its server has to hear of it as well."""
        stateless = not cancel.session_id
        try:
            key = _key(cancel.session_id, bytes(wire.object_of(cancel.params_json)["requestId"]))
        except (wire.NotJson, KeyError, msgspec.MsgspecError):
            return stateless
        running = self._running.get(key)
        if running is not None:
            running.forsaken = True
            if stateless and running.task is not None:
                del self._running[key]
                running.task.cancel()
        return stateless

    async def _refuse(self, frame: _Frame, error: HopError, judgement: query.Judgement) -> None:
        """Nothing is executed; a request is answered, if it can be."""
        metadata = decided(self._opening, judgement, frame.request_id)
        self._executor.record(_RPC, metadata, len(frame.message), frame.call, error)
        if frame.id_json:
            await self.trunk.put(_response(_error(frame.id_json, error, judgement.retry_after_s)))
        self._leave()

    def _leave(self) -> None:
        self._in_flight -= 1
        self._room.set()


def _key(session_id: str, id_json: bytes) -> _Key:
    value = msgspec.json.decode(id_json)
    return session_id, type(value), value if isinstance(value, str | int) else None


def _response(message: bytes, session_id: str = "") -> bytes:
    written: bytes = pb.Response(message_json=message, session_id=session_id).SerializeToString()
    return written


def _error(id_json: bytes, error: HopError, retry_after_s: int = 0) -> bytes:
    body = error_of(error.code, error.sentence)
    if retry_after_s:
        body["data"]["retryAfterS"] = retry_after_s
    return b'{"jsonrpc":"2.0","id":' + id_json + b',"error":' + msgspec.json.encode(body) + b"}"
