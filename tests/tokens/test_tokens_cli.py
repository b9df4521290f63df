"""`secure-mcp-grpc token`: what it prints is what the service accepts."""

import stat
import time
from datetime import timedelta
from pathlib import Path

import jwt
import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from prometheus_client import CollectorRegistry
from token_kit import ED_KEY, now, show
from typer.testing import CliRunner

from authz_service.tokens import development
from authz_service.tokens.build import build_authenticators
from authz_service.tokens.settings import TokenSettings
from secure_mcp_grpc import certs
from secure_mcp_grpc.authenticators import Outcome, Principal, Refusal
from secure_mcp_grpc.cli.app import app
from secure_mcp_grpc.errors import UserError


def run(home: Path, *arguments: str) -> str:
    """What the command prints to stdout."""
    result = CliRunner().invoke(app, ["token", *arguments, "--dir", str(home)])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


async def judge(home: Path, text: str, fingerprint: str = "") -> Outcome:
    """The outcome under the configuration that `token keys` prints."""
    config = home / "sidecar.yaml"
    config.write_text(run(home, "keys"))
    tokens = build_authenticators(TokenSettings.load({}, config), CollectorRegistry(), wait_s=1)
    for job in tokens.jobs:
        job.close()
    (authenticator,) = tokens.authenticators
    outcome = now(authenticator.authenticate(show(text, fingerprint=fingerprint)))
    await tokens.close()
    return outcome


async def test_issued_token_is_accepted_under_the_printed_configuration(tmp_path: Path) -> None:
    """Issue 3: `secure-mcp-grpc token issue` for development."""
    printed = run(
        tmp_path,
        *("issue", "--subject", "alice", "--role", "analyst", "--role", "admin"),
        *("--act", "agent", "--act", "planner", "--for", "2h"),
    )
    principal = await judge(tmp_path, printed.strip())

    assert len(printed.splitlines()) == 1
    assert isinstance(principal, Principal)
    assert principal.subject == "user:dev:alice"
    assert principal.roles == ("role:admin", "role:analyst")
    assert principal.actors == ("user:dev:agent", "user:dev:planner")
    assert principal.token_id
    assert principal.expires_s == pytest.approx(time.time() + 7200, abs=30)


async def test_token_for_another_audience_is_not_accepted(tmp_path: Path) -> None:
    """Ours: `--audience`."""
    outcome = await judge(tmp_path, run(tmp_path, "issue", "--subject", "a", "--audience", "elsewhere").strip())

    assert isinstance(outcome, Refusal)
    assert outcome.reason == "token_audience"


async def test_bound_token_needs_its_certificate(tmp_path: Path) -> None:
    """RFC 8705, 3: `--bound-to` names a file or an identity in DIR."""
    certs.init_ca(tmp_path / "certs" / "ca", "mcp.internal")
    certs.issue(tmp_path / "certs" / "ca", tmp_path / "certs" / "model-a", "model-a", lifetime=timedelta(hours=1))
    fingerprint = certs.facts(tmp_path / "certs" / "model-a").fingerprint.replace(":", "").lower()
    by_name = run(tmp_path, "issue", "--subject", "a", "--bound-to", "model-a").strip()
    by_file = run(
        tmp_path, "issue", "--subject", "a", "--bound-to", str(tmp_path / "certs" / "model-a" / "tls.crt")
    ).strip()

    for text in (by_name, by_file):
        assert isinstance(await judge(tmp_path, text, fingerprint), Principal)
        assert isinstance(await judge(tmp_path, text), Refusal)


def test_key_is_kept_and_private(tmp_path: Path) -> None:
    """Ours: the next token is of the same key, which nobody else can read."""
    first, second = (run(tmp_path, "issue", "--subject", "a") for _ in range(2))

    assert jwt.get_unverified_header(first.strip())["kid"] == jwt.get_unverified_header(second.strip())["kid"]
    assert jwt.get_unverified_header(first.strip())["typ"] == "at+jwt"
    assert stat.S_IMODE((tmp_path / "tokens" / "signing.key").stat().st_mode) == 0o600
    assert "PRIVATE" not in (tmp_path / "tokens" / "jwks.json").read_text()
    assert '"d"' not in (tmp_path / "tokens" / "jwks.json").read_text()


def test_wording_says_what_it_is_for(tmp_path: Path) -> None:
    """Issue 3: for development."""
    assert "DEVELOPMENT ONLY" in run(tmp_path, "keys")
    assert "DEVELOPMENT ONLY" in CliRunner().invoke(app, ["token", "issue", "--help"]).stdout
    assert yaml.safe_load(run(tmp_path, "keys"))["authz"]["issuers"][0]["name"] == "dev"


@pytest.mark.parametrize("text", ["", "10", "0m", "2d", "-1m", "1.5h", "10 m", "999999h"])
def test_odd_lifetime_is_refused(tmp_path: Path, text: str) -> None:
    """Ours: a number and a unit, a day at most."""
    with pytest.raises(UserError, match="--for"):
        run(tmp_path, "issue", "--subject", "a", f"--for={text}")


def test_file_that_is_no_key_is_named(tmp_path: Path) -> None:
    """House rule: bad input gets a clear error that names the thing."""
    run(tmp_path, "keys")
    (tmp_path / "tokens" / "signing.key").write_text("oops")
    with pytest.raises(UserError, match=r"signing\.key is not a P-256 key"):
        run(tmp_path, "issue", "--subject", "a")
    ed25519 = ED_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ValueError, match="not a P-256 key"):
        development.read_key(ed25519)
