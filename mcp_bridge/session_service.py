"""The RPC `McpTransport.Session`: many messages on one stream, each authorized by itself.

Envoy let the stream in; what is in it only we see. So every frame is shown to
authz_service before it is executed, and what it allows goes through the
executor like a call of its own. Answers leave as they are ready, in any order.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from typing import Final

import grpc

from mcp_bridge import wire
from mcp_bridge.errors import HopError, malformed, overloaded
from mcp_bridge.exchange import Exchange
from mcp_bridge.execute import Executor, caller_of
from mcp_bridge.judging import MAX_BYTES, MAX_FRAMES, Judge, decided, opening, refusal_of, ticket_of
from mcp_bridge.recording import ENDED_BY
from mcp_bridge.serving import Context, Metadata, Routes
from mcp_bridge.session_frames import CANCELLED, Frame, Intake, Key, Load, cancelled_by, key_of
from mcp_bridge.session_trunk import Backlog, Branch, Running, Trunk, refused, response
from mcp_bridge.standing import Standing
from mcp_bridge.throttle import Throttle
from secure_mcp_grpc import calls
from secure_mcp_grpc.calls import McpCall
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb
from secure_mcp_grpc.v1 import policy_query_pb2 as query

__all__ = ["SessionService"]

logger = logging.getLogger(__name__)

_RPC: Final = "Session"
_OPENING: Final = McpCall(calls.SESSION, "", {})
_STREAMING: Final = frozenset({"subscriptions/listen"})
_UNJUDGED: Final = query.Judgement()
_NOT_OPENED: Final = "this stream was not authorized as a session"
_ID_IN_USE: Final = "a request with this id is being executed on this stream"
_STALLED: Final = "too many messages of this stream are under way, and none of them ends"
_UNREAD: Final = "the answers on this stream are not read"
_CANCEL: Final = "the client cancelled this request"
_MAX_BYTES_OF_CALLER: Final = 16 * 1024 * 1024
_MIN_WAITING_BYTES: Final = 64 * 1024 * 1024
_WAITING_ANSWERS: Final = 8
"""As many of the largest size may wait for the readers of all sessions, as for those of single calls."""


class SessionService:
    """`max_in_flight` messages of one stream at a time: a client that sends more waits.

    `patience_s`: where none of them ends for so long, those behind are refused,
    so that the client can go on. `good_for_s`: a decision that could not be
    acted upon for so long is made again.
    """

    def __init__(
        self, executor: Executor, judge: Judge, standing: Standing, throttle: Throttle, *, max_in_flight: int
    ) -> None:
        self.executor = executor
        self.judge = judge
        self.standing = standing
        self.throttle = throttle
        self.max_in_flight = max_in_flight
        self.patience_s = 5.0
        self.good_for_s = 2.0
        self.load = Load(_MAX_BYTES_OF_CALLER)
        self.backlog = Backlog(max(_MIN_WAITING_BYTES, _WAITING_ANSWERS * executor.max_answer_bytes))

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
                stream.close()
        if stream.error is not None:
            raise stream.error


class _Stream:
    """One session: reads, asks, executes. `trunk` takes what is to be sent, and is closed at the end."""

    def __init__(self, service: SessionService, frames: AsyncIterator[bytes], metadata: Metadata) -> None:
        caller = caller_of(metadata)
        self.trunk = Trunk(service.executor.max_answer_bytes, service.backlog, self._unread)
        self.error: HopError | None = None
        self._executor = service.executor
        self._judge = service.judge
        self._throttle = service.throttle
        self._patience_s = service.patience_s
        self._good_for_s = service.good_for_s
        self._backlog = service.backlog
        self._frames = frames
        self._opening = opening(metadata)
        self._ticket = ticket_of(metadata)
        self._request_id = caller.request_id
        self._subject = caller.subject
        self._intake = Intake(service.max_in_flight, service.load, caller.subject)
        self._pause_s = 0.0
        self._clock = asyncio.get_running_loop().time
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: dict[Key, Running] = {}
        self._told: dict[str, asyncio.Task[None]] = {}
        """Session → its last notification or reply, which later messages of it wait for."""

    def end(self, error: HopError) -> None:
        """Send what waits already, then end with `error`. What is under way ends now, also where the client reads
        nothing."""
        if self.error is None:
            self.error = error
            self.trunk.close()
            self._intake.arrived.set()
            for task in list(self._tasks):
                task.cancel()

    def close(self) -> None:
        self._intake.close()
        self._backlog.drop(self.trunk)

    def _unread(self) -> None:
        self.end(overloaded(_UNREAD))

    async def run(self) -> None:
        """To the end of the client's frames and of all answers, or until this is cancelled."""
        ENDED_BY.set(lambda: self.error)
        try:
            async with asyncio.TaskGroup() as group:
                self._spawn(group, self._read())
                await self._pump(group)
        except Exception:  # top of the servicer: a bug ends the stream
            logger.exception("session_failed")
            self.end(HopError(grpc.StatusCode.INTERNAL, "the bridge failed; its log says more"))
        finally:
            self.trunk.close()

    def _spawn(self, group: asyncio.TaskGroup, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _read(self) -> None:
        """As fast as frames are dealt with; a client that sends faster has to wait."""
        number = 0
        intake = self._intake
        try:
            async for message in self._frames:
                number += 1
                frame = Frame(message, f"{self._request_id}/{number}")
                if frame.is_urgent and (key := cancelled_by(frame.parsed.notification)) is not None:
                    self._withdraw(key)
                while not intake.has_room(frame):
                    if not await intake.change(self._patience_s):
                        await self._give_up()
                        break
                intake.add(frame)
        finally:
            intake.ended = True
            intake.arrived.set()

    def _withdraw(self, key: Key) -> None:
        """A request that is cancelled before its turn came."""
        for frame in self._intake.withdraw(lambda one: _key(one) == key):
            metadata = decided(self._opening, _UNJUDGED, frame.request_id)
            cancelled = HopError(grpc.StatusCode.CANCELLED, _CANCEL)
            self._executor.record(_RPC, metadata, len(frame.message), frame.call, cancelled)

    async def _give_up(self) -> None:
        """Refuse what is held: its client may otherwise wait for ever, as those under way may wait for it."""
        for frame in self._intake.withdraw(lambda _: True):
            await self._answer_refusal(frame, overloaded(_STALLED), _UNJUDGED)

    async def _pump(self, group: asyncio.TaskGroup) -> None:
        """What waits is one question to authz_service; what comes meanwhile is the next one."""
        intake = self._intake
        while self.error is None:
            if not intake.waiting:
                if intake.is_done:
                    return
                intake.arrived.clear()
                await intake.arrived.wait()
                continue
            batch = await self._next_batch()
            if not batch:
                continue
            asked_at = self._clock()
            try:
                judgements = await self._judge.ask(self._question(batch))
            except HopError as error:
                for frame in batch:
                    await self._refuse(frame, error, _UNJUDGED)
                continue
            for frame, judgement in zip(batch, judgements, strict=True):
                await self._act(group, frame, judgement, asked_at)

    async def _next_batch(self) -> list[Frame]:
        """A caller beyond its limit is refused, and no faster than the limit: refusals cost work, too."""
        await asyncio.sleep(self._pause_s)
        self._pause_s = 0.0
        batch: list[Frame] = []
        size = 0
        waiting = self._intake.waiting
        while waiting and len(batch) < MAX_FRAMES:
            size += len(waiting[0].message)
            if batch and size > MAX_BYTES:
                break
            frame = waiting.popleft()
            refusal = self._throttle.arrived(self._subject)
            if refusal is not None:
                self._pause_s = self._throttle.pause_s(self._subject)
                await self._refuse(frame, refusal, _UNJUDGED)
                break
            batch.append(frame)
        return batch

    def _question(self, batch: Sequence[Frame]) -> list[query.Frame]:
        asked = [query.Frame(rpc=_RPC, message=frame.message, request_id=frame.request_id) for frame in batch]
        asked[0].ticket = self._ticket
        return asked

    async def _act(self, group: asyncio.TaskGroup, frame: Frame, judgement: query.Judgement, at: float) -> None:
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
            self._start(group, frame, call, _Decision(decided(self._opening, judgement, frame.request_id), at))
        else:
            self._tell(group, frame, call, _Decision(decided(self._opening, judgement, frame.request_id), at))

    def _start(self, group: asyncio.TaskGroup, frame: Frame, call: McpCall, decision: "_Decision") -> None:
        metadata = decision.metadata
        key = key_of(call.session_id, frame.id_json)
        if key in self._running:
            error = malformed(_ID_IN_USE)
            self._executor.record(_RPC, metadata, len(frame.message), call, error)
            self._intake.leave(frame)
            self.end(error)  # an answer under this id would be taken for the other request's
            return
        running = self._running[key] = Running()
        work = self._execute(frame, call, decision, running, self._told.get(call.session_id))
        running.task = self._spawn(group, work)

        def finished(_: object) -> None:
            if self._running.get(key) is running:
                del self._running[key]
            if not running.begun:  # cancelled so soon that nothing was asked
                why = self.error or HopError(grpc.StatusCode.CANCELLED, _CANCEL)
                self._executor.record(_RPC, metadata, len(frame.message), call, why)
            self._intake.leave(frame)

        running.task.add_done_callback(finished)

    async def _execute(
        self,
        frame: Frame,
        call: McpCall,
        decision: "_Decision",
        running: Running,
        before: "asyncio.Task[None] | None",
    ) -> None:
        if before is not None:
            await asyncio.wait([before])
        metadata, refusal = await self._in_force(frame, decision)
        if refusal is not None:
            running.begun = True
            self._executor.record(_RPC, metadata, len(frame.message), call, refusal)
            await self.trunk.put(refused(frame.id_json, refusal))
            return
        params_json = frame.parsed.request.params_json
        meta = wire.read_meta(params_json)
        wants = call.method in _STREAMING or bytes(meta.progress_token) or bytes(meta.log_level)
        outbox = Branch(self.trunk, running) if wants else None
        exchange = Exchange(call, frame.id_json, params_json, meta)
        running.begun = True
        answer, _, opened = await self._executor.request(_RPC, metadata, len(frame.message), lambda: exchange, outbox)
        if not running.forsaken:
            if isinstance(answer, HopError):
                await self.trunk.put(refused(frame.id_json, answer))
            else:
                await self.trunk.put(response(answer, opened.id if opened else ""))

    async def _in_force(self, frame: Frame, decision: "_Decision") -> tuple[Metadata, HopError | None]:
        """The headers of a decision that still counts, and the refusal if it is one.

        Whoever can make his own call wait (behind a slow notification, or behind
        answers that he does not read) could otherwise keep decisions for later.
        """
        if self._clock() - decision.at <= self._good_for_s:
            return decision.metadata, None
        try:
            judgement = (await self._judge.ask(self._question([frame])))[0]
        except HopError as error:
            return decided(self._opening, _UNJUDGED, frame.request_id), error
        metadata = decided(self._opening, judgement, frame.request_id)
        if judgement.allowed:
            return metadata, None
        refusal = refusal_of(judgement)
        if judgement.ends:
            self.end(refusal)
        return metadata, refusal

    def _tell(self, group: asyncio.TaskGroup, frame: Frame, call: McpCall, decision: "_Decision") -> None:
        if call.method == CANCELLED and self._forsake(frame.parsed.notification):
            self._executor.record(_RPC, decision.metadata, len(frame.message), call, b"")
            self._intake.leave(frame)
            return
        work = self._deliver(frame, call, decision, self._told.get(call.session_id))
        task = self._told[call.session_id] = self._spawn(group, work)

        def delivered(_: object) -> None:
            if self._told.get(call.session_id) is task:
                del self._told[call.session_id]
            self._intake.leave(frame)

        task.add_done_callback(delivered)

    async def _deliver(
        self, frame: Frame, call: McpCall, decision: "_Decision", before: "asyncio.Task[None] | None"
    ) -> None:
        """Nobody is told how a notification or a reply fared; the records have it."""
        if before is not None:
            await asyncio.wait([before])
        parsed, size = frame.parsed, len(frame.message)
        metadata, refusal = await self._in_force(frame, decision)
        if refusal is not None:
            self._executor.record(_RPC, metadata, size, call, refusal)
            return
        if parsed.WhichOneof("frame") == "reply":
            await self._executor.reply(metadata, size, lambda: (call, parsed.reply.message_json), _RPC)
        else:
            await self._executor.notify(metadata, size, lambda: (call, parsed.notification.params_json), _RPC)

    def _forsake(self, cancel: pb.Notification) -> bool:
        """Cancel what `cancel` names. Whether that is all: in a session, its server has to hear of it as well."""
        stateless = not cancel.session_id
        key = cancelled_by(cancel)
        running = self._running.get(key) if key is not None else None
        if key is not None and running is not None:
            running.forsaken = True
            if stateless and running.task is not None:
                del self._running[key]
                running.task.cancel()
        return stateless

    async def _refuse(self, frame: Frame, error: HopError, judgement: query.Judgement) -> None:
        try:
            await self._answer_refusal(frame, error, judgement)
        finally:
            self._intake.leave(frame)

    async def _answer_refusal(self, frame: Frame, error: HopError, judgement: query.Judgement) -> None:
        """Nothing is executed; a request is answered, if it can be."""
        metadata = decided(self._opening, judgement, frame.request_id)
        self._executor.record(_RPC, metadata, len(frame.message), frame.call, error)
        if frame.id_json:
            await self.trunk.put(refused(frame.id_json, error, judgement.retry_after_s))


@dataclass(frozen=True, slots=True)
class _Decision:
    """To execute a frame, as headers; made `at` this time, by the clock."""

    metadata: Metadata
    at: float


def _key(frame: Frame) -> Key | None:
    return key_of(frame.parsed.request.session_id, frame.id_json) if frame.id_json else None
