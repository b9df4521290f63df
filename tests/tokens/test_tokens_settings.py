"""Settings of tokens: what they accept, and the one line with which they refuse."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from token_kit import AUDIENCE, ISSUER, KEYS, b64, jwks

from authz_service.tokens.build import build_authenticators
from authz_service.tokens.settings import TokenSettings
from authz_service.tokens.urls import check_url
from secure_mcp_grpc.errors import UserError

GOOD = {"name": "corp", "issuer": ISSUER, "audience": AUDIENCE}


def load(*issuers: Any, **environment: str) -> TokenSettings:
    return TokenSettings.load({"MCP_AUTHZ_ISSUERS": json.dumps(issuers)} | environment)


def test_issuers_come_from_a_variable_or_from_the_file(tmp_path: Path) -> None:
    """Issue 3: several issuers; a list of objects in YAML, a JSON array in the environment."""
    config = tmp_path / "sidecar.yaml"
    config.write_text(f"authz:\n  issuers:\n    - {{name: corp, issuer: '{ISSUER}', audience: [{AUDIENCE}, b]}}\n")
    from_file = TokenSettings.load({}, config).issuers
    from_variable = load(GOOD | {"audience": [AUDIENCE, "b"]}).issuers

    assert from_file == from_variable
    assert from_file[0].metadata_url == f"{ISSUER}/.well-known/openid-configuration"
    assert from_file[0].discovers
    assert "HS256" not in from_file[0].algorithms
    assert TokenSettings.load({}).issuers == ()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"name": "a:b"}, "MCP_AUTHZ_ISSUERS[0].name ('a:b')"),
        ({"name": ""}, "MCP_AUTHZ_ISSUERS[0].name"),
        ({"audience": []}, "MCP_AUTHZ_ISSUERS[0].audience"),
        ({"audience": None}, "MCP_AUTHZ_ISSUERS[0].audience"),
        ({"audience": ""}, "MCP_AUTHZ_ISSUERS[0].audience[0]"),
        ({"issuer": "http://login.example"}, "must be an https URL; http is accepted for loopback addresses only"),
        ({"jwks_url": "http://10.0.0.1/keys"}, "ISSUERS[0].jwks_url ('http://10.0.0.1/keys'): must be an https"),
        ({"jwks_url": "ftp://x/keys"}, "must be an https URL"),
        ({"jwks_url": "https://a:b@x/"}, "without user name"),
        ({"jwks_url": "https://x/", "jwks_file": "k"}, "corp: has both jwks_file and jwks_url; choose one"),
        ({"algorithms": ["none"]}, "unknown algorithm 'none'"),
        ({"algorithms": ["HS256"]}, "corp: HS256 needs hmac_secret_file"),
        ({"algorithms": ["HS256", "RS256"], "hmac_secret_file": "s"}, "corp: hmac_secret_file needs algorithms"),
        ({"hmac_secret_file": "s"}, "corp: hmac_secret_file needs algorithms that are all of HS256"),
        ({"algorithms": ["HS256"], "hmac_secret_file": "s", "jwks_file": "k"}, "both jwks_file and hmac_secret_file"),
        ({"introspection_url": "https://x/i"}, "corp: introspection_url, client_id and client_secret_file"),
        ({"client_secret": "in clear"}, "unknown setting MCP_AUTHZ_ISSUERS[0].client_secret"),
        ({"leeway_s": 301}, "MCP_AUTHZ_ISSUERS[0].leeway_s (301)"),
    ],
)  # fmt: skip
def test_bad_issuer_is_refused_with_its_place(changed: dict[str, Any], expected: str) -> None:
    """House rule: one line with variable, value and what was expected; a secret in the wrong place is not repeated."""
    with pytest.raises(UserError) as caught:
        load({name: value for name, value in (GOOD | changed).items() if value is not None})

    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "in clear" not in str(caught.value)


def test_issuers_differ_in_name_and_iss() -> None:
    """Ours: a name stands for one issuer, and an `iss` too."""
    with pytest.raises(UserError, match="two issuers have the same name"):
        load(GOOD, GOOD | {"issuer": "https://b.example"})
    with pytest.raises(UserError, match="two issuers have the same issuer"):
        load(GOOD, GOOD | {"name": "b"})
    asked = {"introspection_url": "https://x/i", "client_id": "c", "client_secret_file": "s"}
    with pytest.raises(UserError, match="does not say whose it is"):
        load(GOOD | asked, {**GOOD, "name": "b", "issuer": "https://b.example"} | asked)


@pytest.mark.parametrize("text", ["[oops", "corp", "{}", "5"])
def test_variable_that_is_no_array_is_refused(text: str) -> None:
    """House rule: a bad value names its variable."""
    with pytest.raises(
        UserError, match=r"MCP_AUTHZ_ISSUERS.*: expected a list of objects, in a variable as a JSON array"
    ):
        TokenSettings.load({"MCP_AUTHZ_ISSUERS": text})


@pytest.mark.parametrize("auth_type", ["jwt", "mtls+jwt", "oauth2"])
def test_mode_that_needs_a_token_needs_an_issuer(auth_type: str) -> None:
    """Issue 3: it refuses to start, with a clear error."""
    with pytest.raises(UserError, match="no issuer is named whose tokens count"):
        build_authenticators(TokenSettings.load({"MCP_AUTH_TYPE": auth_type}), CollectorRegistry(), wait_s=1)


@pytest.mark.parametrize("auth_type", ["jwt", "mtls+jwt"])
def test_mode_that_takes_jwts_only_needs_keys(auth_type: str) -> None:
    """Issue 3: `jwt` accepts JWTs only, so an issuer that can only be asked is a mistake."""
    asked = {"introspection_url": "https://x/i", "client_id": "c", "client_secret_file": "s"}
    with pytest.raises(UserError, match="issuer corp has no keys"):
        build_authenticators(load(GOOD | asked, MCP_AUTH_TYPE=auth_type), CollectorRegistry(), wait_s=1)


async def test_mtls_alone_needs_nothing() -> None:
    """Ours: the default starts without issuers, and then no token counts."""
    tokens = build_authenticators(TokenSettings.load({}), CollectorRegistry(), wait_s=1)

    assert tokens.authenticators == []
    assert tokens.jobs == []


async def test_no_authentication_is_said_loudly(caplog: pytest.LogCaptureFixture) -> None:
    """Issue 3: `none` says so loudly, at start and again."""
    settings = TokenSettings.load({"MCP_AUTH_TYPE": "none", "MCP_ALLOW_NO_AUTH": "true"})
    tokens = build_authenticators(settings, CollectorRegistry(), wait_s=1)
    (job,) = map(asyncio.ensure_future, tokens.jobs)
    await asyncio.sleep(0)
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)

    (record,) = [record for record in caplog.records if record.message == "no_authentication"]
    assert record.levelno == logging.WARNING


def test_no_authentication_needs_its_switch() -> None:
    """Issue 3: only with an explicit development switch."""
    with pytest.raises(UserError, match="MCP_ALLOW_NO_AUTH"):
        TokenSettings.load({"MCP_AUTH_TYPE": "none"})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "cannot be read: No such file"),
        (b"{", "not a JSON object"),
        (b'{"keys":[]}', "there is no key"),
        (jwks({"kty": "oct", "k": b64(b"x" * 32)}), "key 1: it is a private or shared key"),
        (b" " * 300_000, "is larger than"),
    ],
)
async def test_file_without_keys_stops_the_start(tmp_path: Path, content: bytes | None, expected: str) -> None:
    """House rule: bad input gets a clear error that names the thing."""
    path = tmp_path / "keys.json"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(UserError) as caught:
        build_authenticators(load(GOOD | {"jwks_file": str(path)}), CollectorRegistry(), wait_s=1)
    assert str(caught.value).startswith("issuer corp: ")
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("secret", "algorithm", "expected"),
    [(b"short", "HS256", "shorter than 32 bytes"), (b"s" * 32, "HS512", "too short for HS512")],
)
async def test_short_secret_stops_the_start(tmp_path: Path, secret: bytes, algorithm: str, expected: str) -> None:
    """RFC 7518, 3.2: a key at least as long as the hash."""
    path = tmp_path / "secret"
    path.write_bytes(secret)

    issuer = GOOD | {"hmac_secret_file": str(path), "algorithms": [algorithm]}
    with pytest.raises(UserError, match=expected):
        build_authenticators(load(issuer), CollectorRegistry(), wait_s=1)


async def test_other_files_that_cannot_be_used_stop_the_start(tmp_path: Path) -> None:
    """House rule: as above, for the CA and the client's secret."""
    with pytest.raises(UserError, match=r"ca_file .* cannot be read"):
        build_authenticators(load(GOOD | {"ca_file": str(tmp_path / "no.pem")}), CollectorRegistry(), wait_s=1)
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(UserError, match=r"ca_file .* cannot be read: no certificates"):
        build_authenticators(load(GOOD | {"ca_file": str(tmp_path / "empty.pem")}), CollectorRegistry(), wait_s=1)
    asked = {"introspection_url": "https://x/i", "client_id": "c", "client_secret_file": str(tmp_path / "empty.pem")}
    with pytest.raises(UserError, match=r"issuer corp: client_secret_file .* is empty"):
        build_authenticators(load(GOOD | asked), CollectorRegistry(), wait_s=1)


async def test_authenticators_are_asked_in_the_order_named(tmp_path: Path) -> None:
    """Issue 3: ordered names."""
    (tmp_path / "secret").write_text("s")
    (tmp_path / "keys.json").write_bytes(KEYS)
    issuer = GOOD | {
        "jwks_file": str(tmp_path / "keys.json"),
        "introspection_url": "https://x/i",
        "client_id": "c",
        "client_secret_file": str(tmp_path / "secret"),
    }
    for names in ("jwt,introspection", "introspection,jwt"):
        settings = load(issuer, MCP_AUTHZ_AUTHENTICATORS=names)
        tokens = build_authenticators(settings, CollectorRegistry(), wait_s=1)
        made = [type(one).__name__.removesuffix("Authenticator").lower() for one in tokens.authenticators]
        assert ",".join(made) == names
        for job in tokens.jobs:
            job.close()
        await tokens.close()


@pytest.mark.parametrize(
    "url", ["https://x", "https://x:8443/a?b=c", "http://127.0.0.1:1/", "http://[::1]:1/", "http://localhost/"]
)
def test_safe_addresses(url: str) -> None:
    """Issue 3: https, and http for loopback only."""
    assert check_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "http://x",
        "http://127.0.0.1.example.com/",
        "http://localhost.example/",
        "http://0.0.0.0/",
        "http://127.1/",
        "https:///x",
        "https://x#f",
        "https://x\n/",
        "https://x y/",
        "https://x:0/",
        "https://x:99999/",
        "https://ex\u00e4mple/",
        "https://u@x/",
        "https://" + "x" * 2050,
    ],
)
def test_unsafe_addresses(url: str) -> None:
    """Issue 3: as above; names that only look like this machine are others."""
    with pytest.raises(ValueError, match="URL"):
        check_url(url)


def test_loopback_is_an_exception_that_can_be_withheld() -> None:
    """Ours: what a remote issuer names must not be on this machine in the clear."""
    with pytest.raises(ValueError, match="https"):
        check_url("http://127.0.0.1/keys", loopback=False)
