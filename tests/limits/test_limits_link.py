"""The link to Redis and the quotas behind it: Redis away, hanging, and talking nonsense."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from limits_harness import RedisServer, ended, linked, until

from authz_service.policy_announcer import PolicyAnnouncer
from authz_service.quotas.local import LocalQuotas
from authz_service.quotas.quota import Exceeded, Quota, Take
from authz_service.quotas.shared import SharedQuotas
from authz_service.redis_link import RedisLink
from authz_service.shared_state import SharedStateLost
from secure_mcp_grpc.errors import UserError

COMMITS = Quota("commits", "identity", 3, 60_000_000)
TAKE = Take(COMMITS, "model-a", "mcp:quota:commits:identity:3000000:model-a")


class Counted:
    """Shared quotas over `link`, and how often they fell back."""

    def __init__(self, link: RedisLink, *, refuse: bool = False) -> None:
        self.fallbacks = 0
        self.quotas = SharedQuotas(link, LocalQuotas(100), self._count, refuse=refuse)

    def _count(self) -> None:
        self.fallbacks += 1

    async def take(self) -> Exceeded | None:
        outcome = self.quotas.take([TAKE])
        return outcome if outcome is None or isinstance(outcome, Exceeded) else await outcome


async def test_sidecars_share_a_quota(redis_server: RedisServer) -> None:
    """Issue 3: shared through Redis."""
    async with linked(redis_server.url) as one, linked(redis_server.url) as two:
        counted = [Counted(one), Counted(two)]
        outcomes = [await counted[number % 2].take() for number in range(5)]

    assert [outcome is None for outcome in outcomes] == [True, True, True, False, False]
    assert outcomes[4] is not None
    assert 0 < outcomes[4].wait_us <= 63_000_000
    assert counted[0].fallbacks == counted[1].fallbacks == 0


async def test_all_quotas_of_a_call_are_one_command(redis_server: RedisServer) -> None:
    """Issue 3, one round trip: by Redis's own count; the first call also teaches it the script."""
    takes = [TAKE, *(Take(Quota(f"q{n}", "identity", 9, 1_000_000), "a", f"mcp:quota:q{n}") for n in range(3))]
    async with linked(redis_server.url) as link:
        shared = SharedQuotas(link, LocalQuotas(100), lambda: None, refuse=True)
        for _ in range(3):
            outcome = shared.take(takes)
            assert not isinstance(outcome, Exceeded | None)
            await outcome
        with redis_server.client() as client:
            stats = client.info("commandstats")

    assert stats["cmdstat_evalsha"]["calls"] == 3
    assert stats["cmdstat_eval"]["calls"] == 1
    assert stats["cmdstat_hincrby"]["calls"] == 12


async def test_a_thousand_at_once_get_exactly_the_limit(redis_server: RedisServer) -> None:
    """Issue 3, atomic: also for calls that travel together."""
    async with linked(redis_server.url, timeout_s=1) as link:
        counted = Counted(link)
        outcomes = await asyncio.gather(*(counted.take() for _ in range(1000)))

    assert sum(outcome is None for outcome in outcomes) == 3
    assert counted.fallbacks == 0


async def test_losing_redis_falls_back_to_what_was_counted(redis_server: RedisServer) -> None:
    """Issue 3: quotas fall back to local ones; what this sidecar let through before counts there too."""
    async with linked(redis_server.url) as link:
        counted = Counted(link)
        first = [await counted.take() for _ in range(2)]
        redis_server.kill()
        then = [await counted.take() for _ in range(2)]
        assert not link.up
        redis_server.start()
        await until(lambda: link.up)
        later = await counted.take()

    assert first == [None, None]
    assert [outcome is None for outcome in then] == [True, False]
    assert later is None
    assert counted.fallbacks == 2


async def test_refuse_does_not_count_here(redis_server: RedisServer) -> None:
    """Issue 3: configurable to refuse instead; also in the middle of a call."""
    async with linked(redis_server.url, timeout_s=0.1) as link:
        counted = Counted(link, refuse=True)
        redis_server.freeze()
        with pytest.raises(SharedStateLost):
            await counted.take()
        with pytest.raises(SharedStateLost):
            await counted.take()
        redis_server.thaw()

    assert counted.fallbacks == 0


async def test_a_hanging_redis_costs_one_timeout(redis_server: RedisServer) -> None:
    """Issue 3, bounded time: those in flight wait for the timeout, those after it not at all."""
    async with linked(redis_server.url, timeout_s=0.1) as link:
        counted = Counted(link)
        redis_server.freeze()
        started = time.perf_counter()
        await asyncio.gather(*(counted.take() for _ in range(50)))
        waited = time.perf_counter() - started
        assert not link.up
        started = time.perf_counter()
        for _ in range(1000):
            await counted.take()
        after = time.perf_counter() - started
        redis_server.thaw()
        await until(lambda: link.up)
        assert isinstance(await counted.take(), Exceeded | None)

    assert waited < 1
    assert after < 1


async def test_a_late_answer_is_nobody_elses(redis_server: RedisServer) -> None:
    """Ours: what Redis says after a timeout is not taken for the answer to the next question."""
    async with linked(redis_server.url, timeout_s=0.3) as link:
        for number in range(5):
            redis_server.freeze()
            with pytest.raises(SharedStateLost):
                await link.command("ECHO", f"late {number}")
            redis_server.thaw()
            await until(lambda: link.up)
            assert await link.command("ECHO", f"next {number}") == f"next {number}".encode()


@asynccontextmanager
async def impostor(path: Path, answer: Callable[[bytes], bytes]) -> AsyncIterator[None]:
    """Something that is not Redis, at Redis's address."""
    handlers = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while request := await reader.read(65536):
                writer.write(answer(request))
                await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield
    finally:
        server.close()
        for handler in handlers:
            handler.cancel()
        await asyncio.sleep(0)
        path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00\xff\xfe" * 100,
        b"+OK\r\n",
        b"+OK\r\n" * 40,
        b"*-1\r\n" * 20,
        b"$9999999999\r\n",
        b"*2\r\n:1\r\n:-5\r\n" * 20,
        b"-ERR no\r\n" * 20,
        b"-LOADING wait\r\n" * 20,
        b"-MOVED 1 other:6379\r\n" * 20,
        b"",
        b":x\r\n" * 20,
        b"*1\r\n" * 100_000,
        b":" + b"9" * 5000 + b"\r\n",
        b"*1\r\n*1\r\n*1\r\n:1\r\n" * 20,
    ],
)
async def test_nonsense_is_not_an_answer(short_dir: Path, nonsense: bytes) -> None:
    """Issue 3, garbled: whatever the other end says, a call is counted here, in bounded time, and nothing crashes."""
    socket = short_dir / "redis.sock"
    async with impostor(socket, lambda _: nonsense), linked(f"unix://{socket}", timeout_s=0.1, wait=False) as link:
        counted = Counted(link)
        started = time.perf_counter()
        outcomes = []
        while time.perf_counter() - started < 0.7:
            before = time.perf_counter()
            outcomes.append(await counted.take())
            assert time.perf_counter() - before < 0.5
            await asyncio.sleep(0.02)

    assert [outcome is None for outcome in outcomes[:4]] == [True, True, True, False]
    assert all(isinstance(outcome, Exceeded) for outcome in outcomes[3:])


async def test_a_key_of_another_kind_does_not_open_the_circuit(redis_server: RedisServer) -> None:
    """Ours: one key that somebody wrote over is counted here, and the rest of Redis is used."""
    with redis_server.client() as client:
        client.set(TAKE.key, "x")
    async with linked(redis_server.url) as link:
        counted = Counted(link)
        outcomes = [await counted.take() for _ in range(4)]
        assert link.up

    assert [outcome is None for outcome in outcomes] == [True, True, True, False]
    assert counted.fallbacks == 4


async def test_redis_that_forgot_its_scripts_is_told_again(redis_server: RedisServer) -> None:
    """Ours: SCRIPT FLUSH or a restart costs one more round trip, not the quota."""
    async with linked(redis_server.url) as link:
        counted = Counted(link)
        await counted.take()
        with redis_server.client() as client:
            client.script_flush()
        outcomes = [await counted.take() for _ in range(3)]

    assert [outcome is None for outcome in outcomes] == [True, True, False]
    assert counted.fallbacks == 0


async def test_a_password_is_used_and_never_told(short_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Ours: neither a right nor a wrong password reaches a log; a wrong one is a loss."""
    caplog.set_level(logging.DEBUG)
    server = RedisServer(short_dir, ("--requirepass", "pa55word"))
    server.start()
    try:
        async with linked(f"unix://:pa55word@{server.socket}") as link:
            assert link.up
        async with linked(f"unix://:wr0ng@{server.socket}", wait=False) as link:
            await until(lambda: any(record.getMessage() == "shared_state_lost" for record in caplog.records))
            assert not link.up
    finally:
        server.kill()
    told = "".join(str(vars(record)) for record in caplog.records)

    assert "pa55word" not in told
    assert "wr0ng" not in told


async def test_a_replica_that_takes_no_writes_is_of_no_use(redis_server: RedisServer) -> None:
    """Ours: a fail-over leaves a node that answers PING and refuses everything else; that is a loss."""
    async with linked(redis_server.url) as link:
        with redis_server.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
            await until(lambda: not link.up)
            client.execute_command("REPLICAOF", "NO", "ONE")
        await until(lambda: link.up)


@pytest.mark.parametrize("url", ["http://x", "localhost:6379", "redis://h:port/0"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    """Ours: one line, at the start, without the URL."""
    with pytest.raises(UserError, match="redis_url") as raised:
        RedisLink(url, timeout_s=0.1, node="n", changed=lambda _: None)
    assert url not in str(raised.value)


async def test_changes_are_told_once(redis_server: RedisServer) -> None:
    """Ours: the metric and the log follow the link, without repeating themselves."""
    told: list[bool] = []
    link = RedisLink(redis_server.url, timeout_s=0.5, node="n", changed=told.append)
    running = asyncio.create_task(link.run())
    await until(lambda: link.up)
    redis_server.kill()
    await until(lambda: not link.up)
    await asyncio.sleep(0.6)
    redis_server.start()
    await until(lambda: link.up)
    await ended(running)
    await link.close()

    assert told == [True, False, True]


async def test_a_policy_is_announced_to_the_others(redis_server: RedisServer) -> None:
    """Issue 3: with Redis, a reload is announced (Casbin watcher); not to oneself, and not what one has."""
    heard: dict[str, list[str]] = {"one": [], "two": []}
    versions = {"one": "v1", "two": "v1"}
    async with (
        linked(redis_server.url, node="one") as first,
        linked(redis_server.url, node="two") as second,
    ):
        one = PolicyAnnouncer(first, lambda: versions["one"])
        two = PolicyAnnouncer(second, lambda: versions["two"])
        one.set_update_callback(lambda: heard["one"].append("look"))
        two.set_update_callback(lambda: heard["two"].append("look"))
        with redis_server.client() as client:
            await until(lambda: client.pubsub_numsub("mcp:policy")[0][1] == 2)
            one.update()
            versions["one"] = "v2"
            for nonsense in (b"", b"\xff", b"[]", b'{"version":1}'):
                client.publish("mcp:policy", nonsense)
        one.update()
        await until(lambda: heard["two"])

    assert heard == {"one": [], "two": ["look"]}
