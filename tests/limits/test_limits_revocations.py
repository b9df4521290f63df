"""What a sidecar holds for revoked, through losses of Redis, of the file, and of both."""

import asyncio
import json
import time
from pathlib import Path

import pytest
from limits_harness import RedisServer, Sidecar, cli, sidecar, until

from authz_service import redis_link
from authz_service.revocations import shared
from authz_service.revocations.desk import Desk
from secure_mcp_grpc.errors import UserError


async def revoke(path: Path, url: str = "", value: str = "model-a", **what: object) -> None:
    await Desk(path, url).write(**{"kind": "identity", "value": value, **what})


async def test_without_redis_the_file_is_watched(tmp_path: Path) -> None:
    """Issue 3: without Redis a file, in force within a second and noted in the journal."""
    async with sidecar(tmp_path) as one:
        await revoke(one.path)
        await until(lambda: one.revoked == {"identity::model-a"}, timeout_s=1)
        await revoke(one.path, lifted=True)
        await until(lambda: one.revoked == set(), timeout_s=1)

    assert one.changes == [("revoked", "model-a"), ("unrevoked", "model-a")]
    assert one.path.stat().st_mode & 0o777 == 0o600


async def test_every_sidecar_hears_within_a_second(redis_server: RedisServer, short_dir: Path) -> None:
    """Issue 3: in force on every sidecar within 1 s through Redis, and lifted as quickly."""
    async with (
        sidecar(short_dir / "one", redis_server.url) as one,
        sidecar(short_dir / "two", redis_server.url) as two,
    ):
        await until(lambda: one.revocations.usable and two.revocations.usable)
        await revoke(short_dir / "none", redis_server.url)
        await until(lambda: one.revoked == two.revoked == {"identity::model-a"}, timeout_s=1)
        await revoke(short_dir / "none", redis_server.url, lifted=True)
        await until(lambda: one.revoked == two.revoked == set(), timeout_s=1)


async def test_a_lost_message_costs_less_than_a_second(redis_server: RedisServer, short_dir: Path) -> None:
    """Ours: pub/sub promises nothing, so the version is polled."""
    async with sidecar(short_dir / "one", redis_server.url) as one:
        assert one.link is not None
        one.link._channels[shared.CHANNEL] = lambda _: None
        await until(lambda: one.revocations.usable)
        await revoke(short_dir / "none", redis_server.url)
        await until(lambda: one.revoked, timeout_s=1)


async def test_a_message_is_heard_at_once(
    redis_server: RedisServer, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: pub/sub, so that a revocation does not wait for the next poll."""
    async with sidecar(short_dir / "one", redis_server.url) as one:
        with redis_server.client() as client:
            await until(lambda: client.pubsub_numsub(shared.CHANNEL)[0][1] == 1)
        monkeypatch.setattr(redis_link, "POLL_S", 60)
        await asyncio.sleep(0.5)  # the wait that has begun is of the old length
        await revoke(short_dir / "none", redis_server.url)
        await until(lambda: one.revoked, timeout_s=1)


async def test_a_word_in_one_file_reaches_all(redis_server: RedisServer, short_dir: Path) -> None:
    """Ours: a command line that knows nothing of Redis tells its sidecar, and that the others."""
    async with (
        sidecar(short_dir / "one", redis_server.url) as one,
        sidecar(short_dir / "two", redis_server.url) as two,
    ):
        await until(lambda: one.revocations.usable and two.revocations.usable)
        await revoke(short_dir / "none", redis_server.url, value="model-b")
        await until(lambda: one.revoked and two.revoked)
        await asyncio.sleep(0.6)  # until Redis is known to hold what we hold
        await revoke(one.path)
        await until(lambda: len(two.revoked) == 2, timeout_s=2)


async def test_losing_redis_revives_nobody(redis_server: RedisServer, short_dir: Path) -> None:
    """Issue 3: not while it is away, not over a restart, not when it comes back empty."""
    async with sidecar(short_dir / "one", redis_server.url) as one:
        await revoke(short_dir / "none", redis_server.url)
        await until(lambda: one.revoked)
        redis_server.kill()
        await until(lambda: one.link is not None and not one.link.up)
        assert one.revoked
    async with sidecar(short_dir / "one", redis_server.url) as one:
        assert one.revoked
        assert one.revocations.usable
        redis_server.start()
        with redis_server.client() as client:
            await until(lambda: client.hgetall(shared.HASH))
        assert one.revoked
    async with sidecar(short_dir / "two", redis_server.url) as two:
        await until(lambda: two.revoked)


async def test_lifting_survives_the_loss_as_well(redis_server: RedisServer, short_dir: Path) -> None:
    """Ours: a sidecar that was away when something was lifted does not bring it back."""
    async with sidecar(short_dir / "away", redis_server.url) as away:
        await revoke(short_dir / "none", redis_server.url)
        await until(lambda: away.revoked)
    async with sidecar(short_dir / "one", redis_server.url) as one:
        await until(lambda: one.revoked)
        await revoke(short_dir / "none", redis_server.url, lifted=True)
        await until(lambda: not one.revoked)
        redis_server.kill()
        redis_server.start()
        async with sidecar(short_dir / "away", redis_server.url) as away:
            assert away.revoked
            await until(lambda: not away.revoked)
            await asyncio.sleep(0.6)
            assert not one.revoked


async def test_a_sidecar_that_knows_nothing_waits_for_redis(short_dir: Path, redis_server: RedisServer) -> None:
    """Ours: knowing nothing is not the same as nothing revoked; after one look it needs Redis no more."""
    redis_server.kill()
    async with sidecar(short_dir / "new", redis_server.url) as new:
        await asyncio.sleep(0.4)
        assert not new.revocations.usable
        redis_server.start()
        await until(lambda: new.revocations.usable)
        redis_server.kill()
    async with sidecar(short_dir / "new", redis_server.url) as new:
        assert new.revocations.usable


async def test_refuse_means_refuse(short_dir: Path, redis_server: RedisServer) -> None:
    """Issue 3: configurable to refuse instead."""
    async with sidecar(short_dir / "one", redis_server.url, refuse=True) as one:
        await until(lambda: one.revocations.usable)
        redis_server.kill()
        await until(lambda: not one.revocations.usable)
        redis_server.start()
        await until(lambda: one.revocations.usable)


async def test_a_file_that_is_removed_comes_back(tmp_path: Path) -> None:
    """Ours: an entry never disappears by absence."""
    async with sidecar(tmp_path) as one:
        await revoke(one.path)
        await until(lambda: one.revoked)
        one.path.unlink()
        await until(lambda: one.path.exists() and b"model-a" in one.path.read_bytes())
        one.path.write_bytes(b'{"format":1,"entries":[]}')
        one.path.chmod(0o600)
        await until(lambda: b"model-a" in one.path.read_bytes())
        assert one.revoked


@pytest.mark.parametrize("text", [b"", b"{", b'{"format":1,"entries":[{"kind":"identity"}]}', b"\xff\xfe"])
async def test_a_damaged_file_changes_nothing_but_health(tmp_path: Path, text: bytes) -> None:
    """Ours: last known stays in force; the next good content counts; a start on a damaged file is refused."""
    async with sidecar(tmp_path) as one:
        await revoke(one.path)
        await until(lambda: one.revoked)
        good = one.path.read_bytes()
        one.path.write_bytes(text)
        await until(lambda: not one.revocations.well)
        assert one.revoked
        assert one.registry.get_sample_value("mcp_authz_revocations_damaged") == 1
        with pytest.raises(UserError, match=r"revocations\.json"):
            Sidecar(tmp_path)
        one.path.write_bytes(good)
        await until(lambda: one.revocations.well)
        assert one.revoked


async def test_a_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    """Ours: who can write it could unrevoke."""
    await revoke(tmp_path / "revocations.json")
    (tmp_path / "revocations.json").chmod(0o666)
    with pytest.raises(UserError, match="chmod 600"):
        Sidecar(tmp_path)


async def test_damaged_contents_of_redis_change_nothing_but_health(redis_server: RedisServer, short_dir: Path) -> None:
    """Ours: what is known is written over what cannot be read; what nobody knows is named until somebody mends it."""
    async with sidecar(short_dir / "one", redis_server.url) as one:
        await revoke(short_dir / "none", redis_server.url)
        await until(lambda: one.revoked)
        with redis_server.client() as client:
            client.hset(shared.HASH, "identity::model-a", "{")
            client.hset(shared.HASH, "identity::model-b", '{"kind":"identity","value":"model-c","at_us":1}')
            client.set(shared.VERSION, "changed")
            await until(lambda: not one.revocations.well)
            assert one.revoked == {"identity::model-a"}
            await until(lambda: b"model-a" in client.hget(shared.HASH, "identity::model-a"))
            client.delete(shared.HASH)
            client.set(shared.HASH, "garbage")
            client.set(shared.VERSION, "again")
            await until(lambda: shared.HASH in one.revocations._problems.get("redis", ""))
            assert one.revoked == {"identity::model-a"}
            client.delete(shared.HASH)
            await until(lambda: one.revocations.well and client.hgetall(shared.HASH))


async def test_an_end_is_noted_and_forgotten(tmp_path: Path) -> None:
    """Issue 3: quarantine ends by itself; the journal says when."""
    now = [time.time()]
    async with sidecar(tmp_path, clock=lambda: now[0]) as one:
        await revoke(one.path, quarantine=True, until_us=int(now[0] * 1e6) + 60_000_000)
        await until(lambda: one.revoked)
        now[0] += 61
        await until(lambda: ("ended", "model-a") in one.changes)
        assert not one.revoked
        now[0] += 120
        await until(lambda: b"model-a" not in one.path.read_bytes())


async def test_a_full_disk_keeps_them_in_force(tmp_path: Path, redis_server: RedisServer) -> None:
    """Ours: what cannot be kept is still in force, and health says that it is not kept."""
    async with sidecar(tmp_path / "one", redis_server.url) as one:
        await until(lambda: one.revocations.usable)
        one.path.unlink()
        one.path.mkdir()
        await revoke(tmp_path / "none", redis_server.url)
        await until(lambda: one.revoked and not one.revocations.well)
        one.path.rmdir()
        await until(lambda: one.revocations.well and b"model-a" in one.path.read_bytes())


def test_writers_do_not_undo_each_other(tmp_path: Path) -> None:
    """Ours: eight command lines at once, all of them count."""
    from concurrent.futures import ThreadPoolExecutor

    path = tmp_path / "revocations.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: asyncio.run(revoke(path, value=f"model-{number}")), range(24)))

    assert len(asyncio.run(Desk(path, "").read())) == 24


async def test_a_clock_that_is_behind_can_still_lift(tmp_path: Path) -> None:
    """Ours: the newest word counts, whatever the clocks of those who spoke."""
    path = tmp_path / "revocations.json"
    await revoke(path)
    text = json.loads(path.read_bytes())
    text["entries"][0]["at_us"] += int(3600e6)
    path.write_text(json.dumps(text))
    await revoke(path, lifted=True)
    found = await Desk(path, "").read()

    assert [entry.lifted for entry in found.values()] == [True]


def test_the_commands(tmp_path: Path, redis_server: RedisServer) -> None:
    """Issue 3: revoke, unrevoke, revocations, quarantine and release, as typed."""
    for url in ("", redis_server.url):
        home = tmp_path / ("redis" if url else "file")
        assert "Nothing is revoked" in cli("revocations", home=home, url=url)
        revoked = cli("revoke", "certificate", "0A:BC", "--for", "1h", home=home, url=url)
        assert "Revoked certificate abc" in revoked
        assert ("Nothing runs in" in revoked) == (not url)
        cli("revoke", "token", "t1", "--issuer", "corp", "--reason", "leaked [red]", home=home, url=url)
        assert "until" in cli("quarantine", "model-a", "--for", "30m", "--reason", "burst", home=home, url=url)
        table = cli("revocations", home=home, url=url)
        assert "leaked [red]" in table
        assert "(issuer corp)" in table
        listed = json.loads(cli("revocations", "--json", home=home, url=url))
        assert [(one["what"], one["kind"], one["value"]) for one in listed] == [
            ("revoked", "certificate", "abc"),
            ("quarantined", "identity", "model-a"),
            ("revoked", "token", "t1"),
        ]
        cli("unrevoke", "certificate", "abc", home=home, url=url)
        cli("release", "model-a", home=home, url=url)
        assert "not in force" in cli("release", "model-a", home=home, url=url, code=1)
        assert len(json.loads(cli("revocations", "--json", home=home, url=url))) == 1


def test_the_commands_say_what_is_wrong(tmp_path: Path, redis_server: RedisServer) -> None:
    """Ours: one line, exit code 2 for what can be mended, 6 for Redis that is lost."""
    assert "such as 1h" in cli("revoke", "identity", "a", "--for", "soon", home=tmp_path, code=2)
    assert "expected" in cli("revoke", "certificate", "xyz", home=tmp_path, code=2)
    secret = "redis://:pa55word@127.0.0.1:1/0"
    lost = cli("revoke", "identity", "a", home=tmp_path, url=secret, code=2)
    assert "Redis does not answer" in lost
    assert "Nothing runs in" in cli("revoke", "identity", "b", home=tmp_path)
    here = cli("revoke", "identity", "a", home=tmp_path, url=secret, code=6)
    assert "this sidecar only" in here
    assert "pa55word" not in lost + here
    assert "redis_url" in cli("revocations", home=tmp_path, url="http://:pa55word@x", code=2)


async def test_what_was_revoked_here_only_goes_out_later(redis_server: RedisServer, short_dir: Path) -> None:
    """Ours: a revocation made while Redis was away reaches the others when it is back."""
    async with (
        sidecar(short_dir / "one", redis_server.url) as one,
        sidecar(short_dir / "two", redis_server.url) as two,
    ):
        await until(lambda: one.revocations.usable and two.revocations.usable)
        redis_server.kill()
        await asyncio.to_thread(cli, "revoke", "identity", "x", home=short_dir / "one", url=redis_server.url, code=6)
        await until(lambda: one.revoked, timeout_s=1)
        redis_server.start()
        await until(lambda: two.revoked)


async def test_ten_thousand_are_no_burden(redis_server: RedisServer, short_dir: Path) -> None:
    """Ours: a large list arrives in a few seconds and costs a look-up nothing."""
    from authz_service.redis_link import connect
    from authz_service.revocations.entry import Entry

    client = connect(redis_server.url, 5)
    await shared.push(client, [Entry(kind="token", value=f"t{n}", at_us=time.time_ns() // 1000) for n in range(10_000)])
    await client.aclose()
    async with sidecar(short_dir / "one", redis_server.url) as one:
        await until(lambda: len(one.revoked) == 10_000)
        assert one.link is not None
        assert one.link.up
