"""Issuers over HTTP, as the service makes them: discovery, introspection, and servers that fail in every way."""

import asyncio
import base64
import contextlib
import gzip
import hashlib
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from token_kit import (
    AUDIENCE,
    EC_KEY,
    FINGERPRINT,
    KEYS,
    STRANGER,
    b64,
    claims,
    jwk,
    jwks,
    later,
    now,
    reason,
    show,
    token,
)
from unruly_issuer import UnrulyIssuer, answer, unruly_issuer

from authz_service.tokens.build import build_authenticators
from authz_service.tokens.fetch import MAX_BYTES, Fetcher, FetchError
from authz_service.tokens.keys import KeysError
from authz_service.tokens.made import Tokens
from authz_service.tokens.settings import TokenSettings
from authz_service.tokens.sources import DiscoverySource
from secure_mcp_grpc import certs
from secure_mcp_grpc.authenticators import Outcome, Principal, Refusal

METADATA = "/.well-known/openid-configuration"


@contextlib.asynccontextmanager
async def tokens_of(
    *issuers: dict[str, Any],
    wait_s: float = 2.0,
    run: bool = True,
    registry: CollectorRegistry | None = None,
    **more: Any,
) -> AsyncIterator[Tokens]:
    """The authenticators for these settings, with their background jobs."""
    settings = TokenSettings.model_validate({"auth_type": "oauth2", "issuers": list(issuers)} | more)
    tokens = build_authenticators(settings, registry or CollectorRegistry(), wait_s=wait_s)
    jobs = [asyncio.ensure_future(job) for job in tokens.jobs] if run else []
    for job in [] if run else tokens.jobs:
        job.close()
    try:
        yield tokens
    finally:
        for task in jobs:
            task.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        await tokens.close()


async def ask(tokens: Tokens, text: str, **shown: Any) -> Outcome:
    """As the identity step does: the first that does not answer None."""
    for authenticator in tokens.authenticators:
        outcome = await later(authenticator.authenticate(show(text, **shown)))
        if outcome is not None:
            return outcome
    return None


def at(server: UnrulyIssuer, **changed: Any) -> dict[str, Any]:
    return {"name": "corp", "issuer": server.url, "audience": AUDIENCE} | changed


def publish(server: UnrulyIssuer, keys: bytes = KEYS, **metadata: Any) -> None:
    document = {"issuer": server.url, "jwks_uri": f"{server.url}/keys"} | metadata
    server.pages[METADATA] = answer(json.dumps(document).encode(), Content_Type="application/json")
    server.pages["/keys"] = answer(keys, Content_Type="application/json")


async def test_keys_are_found_by_discovery() -> None:
    """OpenID Connect Discovery 1.0, 4."""
    async with unruly_issuer() as server:
        publish(server)
        async with tokens_of(at(server)) as tokens:
            principal = await ask(tokens, token(claims(iss=server.url)))

    assert isinstance(principal, Principal)
    assert [path for path, *_ in server.requests] == [f"GET {METADATA}", "GET /keys"]


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://someone.example"},
        {"issuer": None},
        {"jwks_uri": None},
        {"jwks_uri": "http://someone.example/keys"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "https://user:secret@someone.example/"},
    ],
)
async def test_metadata_of_another_issuer_or_with_an_unsafe_address_is_refused(metadata: dict[str, Any]) -> None:
    """OpenID Connect Discovery 1.0, 4.3: the issuer MUST be the one asked for; ours: keys never come in the clear."""
    async with unruly_issuer() as server:
        publish(server, **metadata)
        async with tokens_of(at(server)) as tokens:
            assert reason(await ask(tokens, token(claims(iss=server.url)))) == "token_unverifiable"

    assert not any(path.endswith("/keys") for path, *_ in server.requests)


class Pages:
    """Stands in for a fetcher: addresses and what is there."""

    def __init__(self, pages: dict[str, bytes]) -> None:
        self.pages = pages
        self.asked: list[str] = []

    async def get(self, url: str) -> bytes:
        self.asked.append(url)
        return self.pages[url]


@pytest.mark.parametrize("keys", ["http://127.0.0.1:1/keys", "http://login.example/keys", "file:///keys", "keys"])
async def test_remote_issuer_cannot_have_this_machine_asked(keys: str) -> None:
    """Ours: an https issuer names https addresses; nothing is sent to others."""
    metadata = "https://login.example/.well-known/openid-configuration"
    document = {"issuer": "https://login.example", "jwks_uri": keys}
    pages = Pages({metadata: json.dumps(document).encode(), keys: KEYS})
    source = DiscoverySource(cast("Fetcher", pages), metadata, "https://login.example")

    with pytest.raises(KeysError, match="jwks_uri"):
        await source.read()
    assert pages.asked == [metadata]


async def test_answer_that_drips_is_given_up_in_time() -> None:
    """Ours: the time for an exchange is for all of it, not for each byte."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
        writer.close()
        ended.set()

    ended = asyncio.Event()
    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    fetcher = Fetcher.create(None, 0.2)
    async with asyncio.timeout(10):
        with pytest.raises(FetchError, match="no answer in time"):
            await fetcher.get(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        await fetcher.close()
        await ended.wait()
    server.close()
    await server.wait_closed()


FAILURES: dict[str, bytes | None] = {
    "hangs": None,
    "not found": answer(b"", "404 Not Found"),
    "server error": answer(KEYS, "500 Oops"),
    "redirect": answer(b"", "302 Found", Location="/elsewhere"),
    "not JSON": answer(b"<html>"),
    "not keys": answer(b'{"a":1}'),
    "no body": answer(b""),
    "huge body": answer(b'{"keys":[' + b" " * MAX_BYTES + b"]}"),
    "endless length": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{",
    "bomb": answer(gzip.compress(b" " * 50_000_000), Content_Encoding="gzip"),
    "not HTTP": b"\x16\x03\x01\x00\x00",
    "cut short": answer(KEYS)[:-20],
    "nested": answer(b'{"keys":' + b"[" * 100_000),
    "closes": b"",
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_issuer_that_fails_at_first_is_a_refusal_in_bounded_time(failure: str) -> None:
    """Issue 3: kill, hang or garble the JWKS server: a refusal, in bounded time."""
    async with unruly_issuer() as server:
        server.pages["/keys"] = FAILURES[failure]
        server.pages["/elsewhere"] = answer(KEYS)
        async with tokens_of(at(server, jwks_url=f"{server.url}/keys", timeout_s=0.3), wait_s=0.5) as tokens:
            started = time.monotonic()
            outcome = await ask(tokens, token(claims(iss=server.url)))

    assert reason(outcome) == "token_unverifiable"
    assert time.monotonic() - started < 5
    assert not any("elsewhere" in path for path, *_ in server.requests)


@pytest.mark.parametrize("failure", FAILURES)
async def test_issuer_that_fails_later_leaves_the_last_good_keys_in_force(failure: str) -> None:
    """Issue 3: last-known-good as documented."""
    async with unruly_issuer() as server:
        publish(server)
        async with tokens_of(at(server, timeout_s=0.2, keys_refresh_s=1), wait_s=0.5) as tokens:
            assert isinstance(await ask(tokens, token(claims(iss=server.url))), Principal)
            server.pages["/keys"] = FAILURES[failure]
            seen = len(server.requests)
            async with asyncio.timeout(20):
                while sum(path == "GET /keys" for path, *_ in server.requests[seen:]) < 2:
                    await asyncio.sleep(0.02)

            assert isinstance(await ask(tokens, token(claims(iss=server.url, jti="t2"))), Principal)
            assert all(is_well() for is_well in tokens.components.values())


async def test_killed_issuer_leaves_the_last_good_keys_in_force_and_is_found_again() -> None:
    """Issue 3: kill the JWKS server."""
    async with unruly_issuer() as server:
        publish(server)
        port = int(server.url.rsplit(":", 1)[1])
        async with contextlib.AsyncExitStack() as stack:
            tokens = await stack.enter_async_context(
                tokens_of(at(server, keys_unknown_s=1, timeout_s=0.5, keys_refresh_s=1), wait_s=0.5)
            )
            assert isinstance(await ask(tokens, token(claims(iss=server.url))), Principal)
            keep = stack.pop_all()
    async with keep:
        assert isinstance(await ask(tokens, token(claims(iss=server.url, jti="t2"))), Principal)
        assert isinstance(await ask(tokens, token(claims(iss=server.url), kid="new", key=STRANGER)), Refusal)
        async with unruly_issuer(port=port) as revived:
            publish(revived, jwks(jwk(EC_KEY, "ec"), jwk(STRANGER, "new")))
            async with asyncio.timeout(20):
                while not isinstance(
                    await ask(tokens, token(claims(iss=server.url), kid="new", key=STRANGER)), Principal
                ):
                    await asyncio.sleep(0.05)


async def test_cookies_of_an_issuer_are_not_kept() -> None:
    """Ours: a cookie that no header can carry made every later fetch fail."""
    async with unruly_issuer() as server:
        fetcher = Fetcher.create(None, 1)
        for cookie in ("a=b; Path=/", "a=\xe4\xff; Path=/"):
            server.pages["/keys"] = answer(KEYS, Set_Cookie=cookie)
            for _ in range(2):
                assert await fetcher.get(f"{server.url}/keys") == KEYS
        await fetcher.close()

    assert len(server.requests) == 4


async def test_certificates_are_checked_against_the_file_that_is_named(tmp_path: Path) -> None:
    """Ours: `ca_file`; without it a server of a private CA is a stranger."""
    certs.init_ca(tmp_path / "ca", "mcp.internal")
    certs.issue(tmp_path / "ca", tmp_path / "server", "idp", dns=["localhost"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "server" / "tls.crt", tmp_path / "server" / "tls.key")
    async with unruly_issuer(context) as server:
        publish(server)
        async with tokens_of(at(server, ca_file=tmp_path / "server" / "ca.crt")) as tokens:
            assert isinstance(await ask(tokens, token(claims(iss=server.url))), Principal)
        async with tokens_of(at(server)) as tokens:
            assert reason(await ask(tokens, token(claims(iss=server.url)))) == "token_unverifiable"


async def test_changed_file_of_keys_is_in_force_within_two_seconds(tmp_path: Path) -> None:
    """Issue 3: keys from a file, watched; a broken one leaves the old keys in force."""
    path = tmp_path / "keys.json"
    path.write_bytes(KEYS)
    text = token(claims(iss="urn:corp"), key=STRANGER, kid="new")
    async with tokens_of({"name": "corp", "issuer": "urn:corp", "audience": AUDIENCE, "jwks_file": path}) as tokens:
        assert isinstance(await ask(tokens, token(claims(iss="urn:corp"))), Principal)
        path.write_bytes(b"{")
        async with asyncio.timeout(20):
            while reason(await ask(tokens, text)) != "token_unverifiable":
                await asyncio.sleep(0.05)
        assert isinstance(await ask(tokens, token(claims(iss="urn:corp", jti="t2"))), Principal)
        path.write_bytes(jwks(jwk(STRANGER, "new")))
        async with asyncio.timeout(20):
            while not isinstance(await ask(tokens, text), Principal):
                await asyncio.sleep(0.05)
        assert reason(await ask(tokens, token(claims(iss="urn:corp")))) == "token_signature"


async def test_fetches_ages_and_cache_are_counted() -> None:
    """Ours: metrics by issuer and result."""
    registry = CollectorRegistry()
    async with unruly_issuer() as server:
        publish(server)
        async with tokens_of(at(server), registry=registry) as tokens:
            text = token(claims(iss=server.url))
            for _ in range(3):
                await ask(tokens, text)
            metrics = generate_latest(registry).decode()

    assert 'mcp_authz_key_fetches_total{issuer="corp",result="ok"} 1.0' in metrics
    assert 'mcp_authz_key_age_seconds{issuer="corp"} ' in metrics
    assert 'mcp_authz_token_cache_lookups_total{result="hit"} 2.0' in metrics


# Introspection


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "client_secret"
    path.write_text("s3cret/+:%\n")
    return path


def opaque(server: UnrulyIssuer, secret_file: Path, **changed: Any) -> dict[str, Any]:
    return at(
        server,
        introspection_url=f"{server.url}/introspect",
        client_id="gateway id",
        client_secret_file=secret_file,
        timeout_s=0.3,
        **changed,
    )


def active(server: UnrulyIssuer, **changed: Any) -> bytes:
    said = {"active": True} | claims(iss=server.url, client_id="app", scope="read") | changed
    return answer(json.dumps({name: value for name, value in said.items() if value is not None}).encode())


async def test_opaque_token_is_asked_about_once_and_remembered_briefly(secret_file: Path) -> None:
    """RFC 7662, 2.1 and 2.2; RFC 6749, 2.3.1 for how the client shows itself."""
    async with unruly_issuer() as server:
        server.pages["/introspect"] = active(server)
        async with tokens_of(opaque(server, secret_file, roles_claim="scope")) as tokens:
            first = await asyncio.gather(*(ask(tokens, "opaque+token==") for _ in range(20)))
            (authenticator,) = tokens.authenticators
            again = now(authenticator.authenticate(show("opaque+token==")))
            much_later = await ask(tokens, "opaque+token==", now_s=time.time() + 11)

    assert {outcome.subject for outcome in first if isinstance(outcome, Principal)} == {"user:corp:alice"}
    assert len(first) == 20
    assert isinstance(again, Principal)
    assert again.roles == ("role:read",)
    assert isinstance(much_later, Principal)
    assert len(server.requests) == 2
    method, authorization, body = server.requests[0]
    assert method == "POST /introspect"
    assert base64.b64decode(authorization.removeprefix("Basic ")) == b"gateway+id:s3cret%2F%2B%3A%25"
    assert parse_qs(body.decode())["token"] == ["opaque+token=="]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"active": False}, "token_inactive"),
        ({"active": "true"}, "token_inactive"),
        ({"active": 1}, "token_inactive"),
        ({"active": None}, "token_inactive"),
        ({"iss": "https://evil.example"}, "token_issuer"),
        ({"aud": "someone-else"}, "token_audience"),
        ({"aud": None}, "token_audience"),
        ({"exp": 1000}, "token_expired"),
        ({"exp": "soon"}, "token_claims"),
        ({"nbf": 9e10}, "token_not_yet_valid"),
        ({"sub": None}, "token_claims"),
        ({"cnf": {"x5t#S256": b64(bytes(32))}}, "token_unbound"),
        ({"cnf": {"jkt": "x"}}, "token_unbound"),
    ],
)
async def test_answer_that_does_not_vouch_is_a_refusal(
    secret_file: Path, changed: dict[str, Any], expected: str
) -> None:
    """Issue 3: opaque tokens by introspection, judged as strictly as others."""
    async with unruly_issuer() as server:
        server.pages["/introspect"] = active(server, **changed)
        async with tokens_of(opaque(server, secret_file)) as tokens:
            assert reason(await ask(tokens, "opaque", fingerprint=FINGERPRINT)) == expected
            assert reason(await ask(tokens, "opaque", fingerprint=FINGERPRINT)) == expected

    assert len(server.requests) == 1


async def test_bound_opaque_token_is_bound_at_each_use(secret_file: Path) -> None:
    """RFC 8705, 3.2: the confirmation comes with the introspection."""
    async with unruly_issuer() as server:
        server.pages["/introspect"] = active(server, cnf={"x5t#S256": b64(bytes.fromhex(FINGERPRINT))})
        async with tokens_of(opaque(server, secret_file)) as tokens:
            assert isinstance(await ask(tokens, "opaque", fingerprint=FINGERPRINT), Principal)
            assert reason(await ask(tokens, "opaque")) == "token_unbound"
            assert reason(await ask(tokens, "opaque", fingerprint=hashlib.sha256(b"x").hexdigest())) == "token_unbound"


async def test_token_without_an_end_is_believed_briefly(secret_file: Path) -> None:
    """RFC 7662, 2.2: exp is optional there; ours: then the answer ends when it is no longer believed."""
    async with unruly_issuer() as server:
        server.pages["/introspect"] = active(server, exp=None)
        async with tokens_of(opaque(server, secret_file)) as tokens:
            principal = await ask(tokens, "opaque", now_s=1e9 * 2)

    assert isinstance(principal, Principal)
    assert principal.expires_s == 2e9 + 10


async def test_answer_is_never_believed_beyond_the_end_of_the_token(secret_file: Path) -> None:
    """Issue 3: cached briefly, never beyond exp."""
    start = int(time.time())
    async with unruly_issuer() as server:
        server.pages["/introspect"] = active(server, exp=start + 5)
        async with tokens_of(opaque(server, secret_file, leeway_s=0)) as tokens:
            assert isinstance(await ask(tokens, "opaque", now_s=start), Principal)
            assert reason(await ask(tokens, "opaque", now_s=start + 5)) == "token_expired"


@pytest.mark.parametrize("failure", [name for name in FAILURES if name != "not keys"])
async def test_introspection_that_fails_is_a_refusal_in_bounded_time(secret_file: Path, failure: str) -> None:
    """Issue 3: kill, hang or garble introspection."""
    async with unruly_issuer() as server:
        server.pages["/introspect"] = FAILURES[failure]
        if failure == "server error":
            server.pages["/introspect"] = active(server).replace(b"200 OK", b"500 Oops")
        async with tokens_of(opaque(server, secret_file), wait_s=0.5) as tokens:
            started = time.monotonic()
            assert reason(await ask(tokens, "opaque")) == "token_unverifiable"
            assert time.monotonic() - started < 5


async def test_failure_of_introspection_is_not_remembered(secret_file: Path) -> None:
    """Ours: it says nothing about the token."""
    async with unruly_issuer() as server:
        server.pages["/introspect"] = FAILURES["server error"]
        async with tokens_of(opaque(server, secret_file)) as tokens:
            assert reason(await ask(tokens, "opaque")) == "token_unverifiable"
            server.pages["/introspect"] = active(server)
            assert isinstance(await ask(tokens, "opaque"), Principal)


async def test_only_so_many_tokens_are_asked_about_at_once(secret_file: Path) -> None:
    """Issue 3: bounded concurrency; more are refused at once."""
    async with unruly_issuer() as server:
        server.pages["/introspect"] = None
        async with tokens_of(opaque(server, secret_file), wait_s=0.2) as tokens:
            outcomes = await asyncio.gather(*(ask(tokens, f"opaque{number}") for number in range(200)))

    assert {reason(outcome) for outcome in outcomes} == {"token_unverifiable"}
    assert len(server.requests) <= 32


async def test_issuer_with_keys_and_introspection_takes_both_kinds(secret_file: Path) -> None:
    """Issue 3: oauth2 accepts JWTs and opaque tokens."""
    async with unruly_issuer() as server:
        publish(server)
        server.pages["/introspect"] = active(server, sub="bob")
        async with tokens_of(opaque(server, secret_file, jwks_url=f"{server.url}/keys")) as tokens:
            of_jwt = await ask(tokens, token(claims(iss=server.url)))
            of_opaque = await ask(tokens, "opaque")

    assert isinstance(of_jwt, Principal)
    assert of_jwt.subject == "user:corp:alice"
    assert isinstance(of_opaque, Principal)
    assert of_opaque.subject == "user:corp:bob"


async def test_foreign_jwt_is_not_shown_to_an_introspection_endpoint(secret_file: Path) -> None:
    """Ours: a token that names another issuer is not handed to this one."""
    async with unruly_issuer() as server:
        publish(server)
        settings = opaque(server, secret_file, jwks_url=f"{server.url}/keys")
        async with tokens_of(settings, run=False) as tokens:
            outcome = await ask(tokens, token(claims(iss="https://evil.example")))

    assert reason(outcome) == "token_issuer"
    assert server.requests == []


async def test_jwt_of_an_issuer_without_keys_is_asked_about(secret_file: Path) -> None:
    """Ours: the form of a token does not say how it is verified, its issuer's settings do."""
    async with unruly_issuer() as server:
        server.pages["/introspect"] = active(server)
        with_keys = {"name": "other", "issuer": "https://other.example", "audience": AUDIENCE}
        async with tokens_of(opaque(server, secret_file), with_keys, run=False) as tokens:
            assert isinstance(await ask(tokens, token(claims(iss=server.url), key=STRANGER)), Principal)
            assert reason(await ask(tokens, token(claims(iss="https://evil.example")))) == "token_issuer"

    assert [path for path, *_ in server.requests] == ["POST /introspect"]


async def test_rotated_client_secret_is_used(secret_file: Path) -> None:
    """Ours: secrets are rotated in place; one that has gone leaves nothing to ask with."""
    async with unruly_issuer() as server:
        server.pages["/introspect"] = active(server)
        async with tokens_of(opaque(server, secret_file)) as tokens:
            secret_file.write_text("second")
            assert isinstance(await ask(tokens, "one"), Principal)
            secret_file.unlink()
            assert reason(await ask(tokens, "two")) == "token_unverifiable"

    assert base64.b64decode(server.requests[0][1].removeprefix("Basic ")) == b"gateway+id:second"
    assert len(server.requests) == 1


async def test_remembered_answers_are_few(secret_file: Path) -> None:
    """Ours: `token_cache` bounds them; the one used last stays."""
    async with unruly_issuer() as server:
        server.pages["/introspect"] = active(server)
        async with tokens_of(opaque(server, secret_file), token_cache=2) as tokens:
            for text in ("a", "b", "a", "c", "a", "b"):
                await ask(tokens, text)

    assert len(server.requests) == 4


async def test_logs_hold_no_token_and_no_secret(secret_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """House rule: events with fields, never credentials."""
    caplog.set_level(logging.DEBUG, "authz_service")
    text = token(claims(iss="x"))
    async with unruly_issuer() as server:
        for page in ("/introspect", "/keys"):
            server.pages[page] = FAILURES["server error"]
        async with tokens_of(opaque(server, secret_file, jwks_url=f"{server.url}/keys")) as tokens:
            await ask(tokens, text)
            await ask(tokens, "opaque-token-in-clear")
            await ask(tokens, token(claims(iss=server.url)))

    logged = " ".join(f"{record.message} {getattr(record, 'fields', '')}" for record in caplog.records)
    assert "introspection_failed" in logged
    assert "keys_not_fetched" in logged
    for secret in (text, text.rsplit(".", 1)[1], "opaque-token-in-clear", "s3cret", "alice"):
        assert secret not in logged


def test_refusals_are_values() -> None:
    """Ours: the kit tells a refusal from an acceptance."""
    assert reason(Refusal("token_claims", "x")) == "token_claims"
    assert reason(Principal("user:a:b", "a")).startswith("not refused")
