"""The link to the Redis that sidecars share quotas, revocations and announcements through.

Every command is bounded by `timeout_s`; one failure opens the circuit: from
then on callers are told at once that Redis is lost, and only a probe in the
background asks again. Keys and channels begin with `mcp:`. Neither the URL nor
an error's text is logged: both may hold the password.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any, Final
from uuid import uuid4

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from authz_service.shared_state import SharedStateLost
from secure_mcp_grpc import logs
from secure_mcp_grpc.errors import UserError

__all__ = ["FAILURES", "POLL_S", "RedisLink", "Script", "connect"]

logger = logging.getLogger(__name__)

POLL_S: Final = 0.25
"""How often Redis is probed, and `on_beat` is called while it answers."""
SLOW_TIMEOUT_S: Final = 3.0
"""For whole transfers, which no request waits for."""

_NODE_TTL_MS: Final = 5000
_MAX_BATCH: Final = 256
_MAX_WAITING: Final = 10_000
# What a connection, a parser or a server that talks nonsense can raise.
FAILURES: Final = (
    RedisError,
    OSError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script; `sha` is what EVALSHA calls it by."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", sha1(self.text.encode(), usedforsecurity=False).hexdigest())


class RedisLink:
    """One Redis. `run` keeps it; `up` says whether it answers.

    `changed` is told when that changes. `on_beat` is awaited about four times
    a second while Redis answers, with a client for transfers of any size.
    """

    def __init__(self, url: str, *, timeout_s: float, node: str, changed: Callable[[bool], None]) -> None:
        self.up = False
        self.node = node
        self.instance = uuid4().hex
        """Tells this process from others with the same name."""
        self.on_beat: list[Callable[[Redis], Awaitable[None]]] = []
        self._timeout_s = timeout_s
        self._changed = changed
        self._client = connect(url, timeout_s)
        self._slow = connect(url, SLOW_TIMEOUT_S)
        self._waiting: deque[tuple[tuple[Any, ...], asyncio.Future[Any] | None]] = deque()
        self._wake = asyncio.Event()
        self._channels: dict[str, Callable[[bytes], None]] = {}
        self._reported = False
        self._poked = asyncio.Event()
        self.tried = asyncio.Event()
        """Set once the first beat is over, well or not."""

    def subscribe(self, channel: str, receive: Callable[[bytes], None]) -> None:
        """Hand messages on `channel` to `receive`, from the next connection on. A message can be lost."""
        self._channels[channel] = receive

    def publish(self, channel: str, message: bytes) -> None:
        """Send a message if Redis answers; nobody is told whether it arrived."""
        if self.up:
            self._enqueue(("PUBLISH", channel, message), None)

    async def command(self, *parts: Any) -> Any:
        """The answer to one command, within about twice `timeout_s`.

        Commands of the same moment travel together. Raises `SharedStateLost`, and `ResponseError` for what Redis
        says about this command alone.
        """
        if not self.up or len(self._waiting) >= _MAX_WAITING:
            raise SharedStateLost
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._enqueue(parts, future)
        return await future

    async def evaluate(self, script: Script, keys: list[str], values: list[Any]) -> Any:
        """The answer of a script, as `command`; in one round trip once Redis knows it."""
        try:
            return await self.command("EVALSHA", script.sha, len(keys), *keys, *values)
        except NoScriptError:
            return await self.command("EVAL", script.text, len(keys), *keys, *values)

    async def run(self) -> None:
        """Probe, send and listen until cancelled."""
        try:
            async with asyncio.TaskGroup() as loops:
                loops.create_task(self._beat())
                loops.create_task(self._send())
                loops.create_task(self._listen())
        finally:
            self._fail_waiting()

    async def close(self) -> None:
        self.up = False
        for client in (self._client, self._slow):
            with contextlib.suppress(*FAILURES):
                await client.aclose()

    def _enqueue(self, parts: tuple[Any, ...], future: asyncio.Future[Any] | None) -> None:
        self._waiting.append((parts, future))
        self._wake.set()

    async def _send(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(_MAX_BATCH, len(self._waiting)))]
                await self._exchange(batch)
                _raise_cancelled()

    async def _exchange(self, batch: list[tuple[tuple[Any, ...], asyncio.Future[Any] | None]]) -> None:
        try:
            answers = await self._ask([parts for parts, _ in batch])
        except FAILURES as error:
            self._waiting.extendleft(reversed(batch))
            self.lost(error)
            self._fail_waiting()
            # What comes late must not be taken for the answer to something else.
            await self._client.connection_pool.disconnect()
            return
        except asyncio.CancelledError:
            self._waiting.extendleft(reversed(batch))
            raise
        for (_, future), answer in zip(batch, answers, strict=True):
            if future is None or future.done():
                continue
            if not isinstance(answer, Exception):
                future.set_result(answer)
            elif isinstance(answer, NoScriptError) or _is_about_the_key(answer):
                future.set_exception(answer)
            else:
                self.lost(answer)
                future.set_exception(SharedStateLost())

    async def _ask(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        async with asyncio.timeout(self._timeout_s), self._client.pipeline(transaction=False) as pipeline:
            for parts in commands:
                pipeline.execute_command(*parts)
            answers = await pipeline.execute(raise_on_error=False)
        if len(answers) != len(commands):
            raise ValueError
        return list(answers)

    def _fail_waiting(self) -> None:
        while self._waiting:
            _, future = self._waiting.popleft()
            if future is not None and not future.done():
                future.set_exception(SharedStateLost())

    def lost(self, error: BaseException) -> None:
        """Open the circuit."""
        if self.up or not self._reported:
            logs.event(logger, logging.WARNING, "shared_state_lost", error=type(error).__name__)
            self._reported = True
            self.up = False
            self._changed(False)

    def poke(self) -> None:
        """Call `on_beat` now rather than at the next beat."""
        self._poked.set()

    async def _beat(self) -> None:
        while True:
            self._poked.clear()
            try:
                await self._probe()
                self._found()
                for beat in self.on_beat:
                    await beat(self._slow)
            except FAILURES as error:
                self.lost(error)
                await self._client.connection_pool.disconnect()
            _raise_cancelled()
            self.tried.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._poked.wait()

    def _found(self) -> None:
        if not self.up:
            self.up = self._reported = True
            logs.event(logger, logging.INFO, "shared_state_up")
            self._changed(True)

    async def _probe(self) -> None:
        """See that Redis answers, and takes writes: a replica or a full one is of no use."""
        me = f"mcp:node:{self.instance}"
        async with asyncio.timeout(self._timeout_s):
            answer = await self._client.set(me, self.node, px=_NODE_TTL_MS)
        if answer is not True:
            raise ValueError

    async def _listen(self) -> None:
        while True:
            try:
                if self.up and self._channels:
                    async with self._slow.pubsub(ignore_subscribe_messages=True) as pubsub:
                        await self._receive(pubsub)
            except FAILURES as error:
                logs.event(logger, logging.DEBUG, "shared_state_unheard", error=type(error).__name__)
            _raise_cancelled()
            await asyncio.sleep(POLL_S)

    async def _receive(self, pubsub: PubSub) -> None:
        await pubsub.subscribe(*self._channels)
        while self.up:
            message = await pubsub.get_message(timeout=1.0)
            _raise_cancelled()
            if message is None or not isinstance(message.get("data"), bytes):
                continue
            receive = self._channels.get(message["channel"].decode())
            if receive is not None:
                receive(message["data"])


def _raise_cancelled() -> None:
    """A cancellation can be lost while redis-py connects (seen with 8.1): a job must end all the same."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def connect(url: str, timeout_s: float) -> Redis:
    """A client that connects when it is used; raises `UserError` for a URL that is none."""
    try:
        client: Redis = Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            decode_responses=False,
        )
    except (ValueError, TypeError):
        raise UserError(
            "redis_url is not a URL of Redis; expected redis://host:port/0, rediss://… or unix:///path"
        ) from None
    return client


def _is_about_the_key(error: Exception) -> bool:
    """A key that holds something else concerns this key, not the link."""
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)
