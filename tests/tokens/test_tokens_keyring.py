"""Keys in force: rotation, floods of invented names of keys, and an issuer that is away."""

import asyncio
import logging
import secrets

import pytest
from token_kit import (
    EC_KEY,
    KEYS,
    RSA_KEY,
    STRANGER,
    Clock,
    Keys,
    authenticator,
    claims,
    jwk,
    jwks,
    later,
    now,
    reason,
    ring,
    show,
    token,
)

from authz_service.tokens.fetch import FetchError
from authz_service.tokens.keyring import KeyRing
from authz_service.tokens.keys import KeysError, read_jwks
from secure_mcp_grpc.authenticators import Principal

NEW = token(key=STRANGER, kid="new")


async def test_rotated_key_is_fetched_when_it_is_first_seen() -> None:
    """Issue 3: keys are rotated, an unknown kid is fetched."""
    source = Keys()
    held = ring(source)
    judged = authenticator(keys=held)
    assert isinstance(await later(judged.authenticate(show(token()))), Principal)

    source.content = jwks(jwk(EC_KEY, "ec"), jwk(STRANGER, "new"))
    held_clock(held).now_s += 11
    assert isinstance(await later(judged.authenticate(show(NEW))), Principal)
    assert source.reads == 2


async def test_withdrawn_key_verifies_nothing_even_from_the_cache() -> None:
    """Ours: what was verified with keys that have changed is verified again."""
    source = Keys()
    held = ring(source)
    judged, text = authenticator(keys=held), token()
    assert isinstance(await later(judged.authenticate(show(text))), Principal)
    assert isinstance(now(judged.authenticate(show(text))), Principal)

    held.put(read_jwks(jwks(jwk(RSA_KEY, "rsa"))))

    assert reason(await later(judged.authenticate(show(text)))) == "token_signature"


async def test_flood_of_invented_keys_costs_one_fetch() -> None:
    """Issue 3: an unknown kid is refetched at a bounded rate, in single flight."""
    clock, source = Clock(), Keys(gate=asyncio.Event())
    judged = authenticator(keys=ring(source, clock))
    flood = [asyncio.ensure_future(later(judged.authenticate(show(invented())))) for _ in range(50)]
    await asyncio.sleep(0)
    source.gate.set()

    assert {reason(outcome) for outcome in await asyncio.gather(*flood)} == {"token_signature"}
    assert source.reads == 1
    for _ in range(200):
        assert reason(now(judged.authenticate(show(invented())))) == "token_signature"
    assert source.reads == 1

    clock.now_s += 11
    await later(judged.authenticate(show(invented())))
    assert source.reads == 2


async def test_kid_known_to_be_absent_causes_no_fetch_for_a_minute() -> None:
    """Ours: one stale client must not have keys fetched every ten seconds."""
    clock, source = Clock(), Keys()
    judged, stale = authenticator(keys=ring(source, clock)), invented()
    await later(judged.authenticate(show(stale)))

    for _ in range(5):
        clock.now_s += 11
        assert reason(now(judged.authenticate(show(stale)))) == "token_signature"
    assert source.reads == 1
    clock.now_s += 11
    await later(judged.authenticate(show(stale)))
    assert source.reads == 2


async def test_kid_is_not_called_absent_because_a_fetch_failed() -> None:
    """Ours: a new key that was asked for while the issuer was away is found as soon as another fetch is allowed."""
    clock, source = Clock(), Keys()
    held = ring(source, clock)
    judged = authenticator(keys=held)
    await later(judged.authenticate(show(token())))
    clock.now_s += 11
    source.error = FetchError("status 500")
    assert reason(await later(judged.authenticate(show(NEW)))) == "token_unverifiable"
    assert reason(now(judged.authenticate(show(NEW)))) == "token_unverifiable"

    clock.now_s += 11
    source.error, source.content = None, jwks(jwk(STRANGER, "new"))
    assert isinstance(await later(judged.authenticate(show(NEW))), Principal)


async def test_few_wait_for_a_fetch_that_hangs() -> None:
    """Issue 3: bounded time; ours: and a bounded number of those who wait, the others are refused at once."""
    source = Keys(gate=asyncio.Event())
    held = ring(source)
    judged = authenticator(keys=held, wait_s=0.05)
    waiting = [asyncio.ensure_future(later(judged.authenticate(show(invented())))) for _ in range(64)]
    await asyncio.sleep(0)

    assert reason(now(judged.authenticate(show(invented())))) == "token_unverifiable"
    assert {reason(outcome) for outcome in await asyncio.gather(*waiting)} == {"token_unverifiable"}
    assert source.reads == 1
    await held.close()


@pytest.mark.parametrize("error", [FetchError("status 500"), KeysError("not a JSON object")])
async def test_last_good_keys_stay_in_force_until_they_are_too_old(error: Exception) -> None:
    """Issue 3: last-known-good as documented, then a refusal that says to try again."""
    clock, source = Clock(), Keys()
    held = ring(source, clock, max_age_s=3600)
    judged, text = authenticator(keys=held), token()
    assert isinstance(await later(judged.authenticate(show(text))), Principal)

    source.error = error
    clock.now_s += 3600
    await held.fetch(None)
    assert isinstance(now(judged.authenticate(show(text))), Principal)
    assert isinstance(now(judged.authenticate(show(token(claims(jti="t2"))))), Principal)
    assert held.usable

    clock.now_s += 11
    assert reason(await later(judged.authenticate(show(text)))) == "token_unverifiable"
    assert reason(now(judged.authenticate(show(text)))) == "token_unverifiable"
    assert not held.usable

    source.error = None
    clock.now_s += 11
    assert isinstance(await later(judged.authenticate(show(text))), Principal)


async def test_keys_are_fetched_again_in_the_background(caplog: pytest.LogCaptureFixture) -> None:
    """Ours: a withdrawn key ends within the interval, without anybody asking; a failure is said once, not each time."""
    caplog.set_level(logging.INFO)
    source = Keys()
    held = ring(source, refresh_s=0.01)
    job = asyncio.create_task(held.run())
    await until(lambda: held.usable)
    source.error = FetchError("status 503")
    before = source.reads
    await until(lambda: source.reads > before + 3)
    source.error, source.content = None, jwks(jwk(STRANGER, "new"))
    await until(lambda: bool(held.find("new", "ES256")))

    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    await held.close()
    assert held.find("ec", "ES256") == ()
    assert [record.message for record in caplog.records].count("keys_not_fetched") == 1


async def test_request_that_gives_up_does_not_end_the_fetch_of_others() -> None:
    """Ours: the one fetch belongs to nobody who waits for it."""
    source = Keys(gate=asyncio.Event())
    judged = authenticator(keys=ring(source))
    first, second = (asyncio.ensure_future(later(judged.authenticate(show(token())))) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    source.gate.set()

    assert isinstance(await second, Principal)
    assert source.reads == 1


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"keys":{}}', b'{"keys":[' + b"[" * 99999, b'{"keys":1,"keys":[]}', b"\xff"]
)
def test_what_is_no_set_of_keys_is_refused_whole(content: bytes) -> None:
    """RFC 7517, 5."""
    with pytest.raises(KeysError):
        read_jwks(content)


def test_set_with_too_many_keys_is_refused_whole() -> None:
    """Ours: a hundred keys at most."""
    with pytest.raises(KeysError, match="100"):
        read_jwks(jwks(*({"kty": "x"} for _ in range(101))))


def test_same_keys_again_change_nothing() -> None:
    """Ours: a refresh that brings what is known leaves remembered tokens alone."""
    held = ring(Keys())
    held.put(read_jwks(KEYS))
    version = held.version
    held.put(read_jwks(KEYS))

    assert held.version == version


def invented() -> str:
    return token(kid=secrets.token_hex(8))


def held_clock(held: KeyRing) -> Clock:
    clock = held._clock
    assert isinstance(clock, Clock)
    return clock


async def until(condition: "object") -> None:
    """Wait for what a background job does."""
    async with asyncio.timeout(5):
        while not condition():  # type: ignore[operator] # a callable
            await asyncio.sleep(0.002)
