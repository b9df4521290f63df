"""Tokens of a real OpenID provider, through a running authz_service.

The provider is Canaille (PyPI), a whole identity server: discovery, published keys, JWT access tokens and opaque ones,
introspection and key rotation come from other people's code.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from token_service import ROOT, call_of, service

from secure_mcp_grpc import certs

POLICY = """
p, user:corp:alice, tools/call, query_db, allow
p, role:analyst, tools/call, read_report, allow
p, user:corp:mcp-gateway, tools/call, ping, allow
p, model-a, tools/call, *, allow
"""
SECRET = "provider-secret"


@dataclass
class Provider:
    """A running provider at `url`."""

    url: str
    directory: Path
    process: "asyncio.subprocess.Process"

    async def grant(self, client: str = "mcp-gateway", **form: str) -> dict[str, Any]:
        async with httpx2.AsyncClient(trust_env=False) as http:
            answer = await http.post(f"{self.url}/oauth/token", data=form, auth=(client, SECRET))
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    async def alice(self, client: str = "mcp-gateway") -> str:
        """Her access token, by the password grant."""
        form = {"grant_type": "password", "username": "alice", "password": "wonderland"}
        return str((await self.grant(client, **form, scope="openid profile groups"))["access_token"])

    async def revoke(self, token: str) -> None:
        async with httpx2.AsyncClient(trust_env=False) as http:
            answer = await http.post(f"{self.url}/oauth/revoke", data={"token": token}, auth=("mcp-gateway", SECRET))
        answer.raise_for_status()

    async def rotate(self) -> None:
        self.process.send_signal(signal.SIGUSR1)
        async with asyncio.timeout(10):
            while not (self.directory / "rotated").exists():
                await asyncio.sleep(0.02)

    def issuer(self, **more: Any) -> str:
        """The setting `issuers` with this one."""
        one = {"name": "corp", "issuer": self.url, "audience": "mcp-gateway", "roles_claim": "groups"}
        return json.dumps([one | more])


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[Provider]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).parent / "run_provider.py"),
        str(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        url = (await process.stdout.readline()).decode().strip()
    assert url, "the provider did not start"
    yield Provider(url, tmp_path, process)
    if process.returncode is None:
        process.kill()
    await process.communicate()


async def test_users_of_a_real_provider_are_told_apart(provider: Provider) -> None:
    """Issue 3: discovery, JWKS, a real grant; user and roles from the token, recorded with the decision."""
    async with service(POLICY, MCP_AUTH_TYPE="jwt", MCP_AUTHZ_ISSUERS=provider.issuer()) as authz:
        good, foreign = f"Bearer {await provider.alice()}", f"Bearer {await provider.alice('elsewhere')}"
        allowed = await authz.check(call_of("query_db", good))
        by_role = await authz.check(call_of("read_report", good))
        refused = [
            await authz.check(call_of("shell", good)),
            await authz.check(call_of("query_db", foreign)),
            await authz.check(call_of("query_db")),
            await authz.check(call_of("query_db", "Basic YTpi")),
            await authz.check(call_of("query_db", f"{good},{good}")),
            await authz.check(call_of("query_db", good[:-6])),
        ]
        recorded = authz.records()

    assert (allowed.code, allowed.metadata["user"]) == (0, "user:corp:alice")
    assert by_role.code == 0
    assert [(answer.code, answer.metadata["reason"]) for answer in refused] == [
        (7, "not_permitted"),
        (16, "token_audience"),
        (16, "no_token"),
        (16, "token_not_accepted"),
        (16, "token_malformed"),
        (16, "token_signature"),
    ]
    assert refused[1].sentence == "the token is meant for another audience"
    assert recorded[0]["user"] == "user:corp:alice"
    assert "role:analyst" in recorded[0]["user_roles"]


async def test_rotated_keys_are_followed(provider: Provider) -> None:
    """Issue 3: keys rotated; tokens of the old key, still published, and of the new one both count."""
    async with service(POLICY, MCP_AUTH_TYPE="jwt", MCP_AUTHZ_ISSUERS=provider.issuer()) as authz:
        old = await provider.alice()
        assert (await authz.check(call_of("query_db", f"Bearer {old}"))).code == 0
        await provider.rotate()
        new = await provider.alice()
        assert old.split(".")[0] != new.split(".")[0]
        assert (await authz.check(call_of("query_db", f"Bearer {new}"))).code == 0
        assert (await authz.check(call_of("query_db", f"Bearer {old}"))).code == 0


async def test_opaque_tokens_are_introspected(provider: Provider, tmp_path: Path) -> None:
    """Issue 3, RFC 7662: opaque tokens of a client, and JWTs of an issuer whose keys are not used."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    issuer = provider.issuer(
        introspection_url=f"{provider.url}/oauth/introspect",
        client_id="mcp-gateway",
        client_secret_file=str(secret),
        subject_claim="client_id",
        introspection_cache_s=0,
    )
    async with service(POLICY, MCP_AUTH_TYPE="oauth2", MCP_AUTHZ_ISSUERS=issuer) as authz:
        token = (await provider.grant(grant_type="client_credentials", scope="profile"))["access_token"]
        assert "." not in token
        accepted = await authz.check(call_of("ping", f"Bearer {token}"))
        invented = await authz.check(call_of("ping", "Bearer invented"))
        await provider.revoke(token)
        revoked = await authz.check(call_of("ping", f"Bearer {token}"))
        provider.process.kill()
        await provider.process.wait()
        away = await authz.check(call_of("ping", "Bearer another"))

    assert (accepted.code, accepted.metadata["user"]) == (0, "user:corp:mcp-gateway")
    assert (invented.code, invented.metadata["reason"]) == (16, "token_inactive")
    assert (revoked.code, revoked.metadata["reason"]) == (16, "token_inactive")
    assert (away.code, away.metadata["reason"]) == (14, "token_unverifiable")


async def test_provider_that_is_gone_leaves_its_keys_in_force(provider: Provider) -> None:
    """Issue 3: kill the JWKS server: last-known-good as documented."""
    async with service(POLICY, MCP_AUTH_TYPE="jwt", MCP_AUTHZ_ISSUERS=provider.issuer()) as authz:
        first, second = await provider.alice(), await provider.alice()
        assert (await authz.check(call_of("query_db", f"Bearer {first}"))).code == 0
        provider.process.kill()
        await provider.process.wait()
        assert (await authz.check(call_of("query_db", f"Bearer {second}"))).code == 0


async def test_certificate_and_token_must_both_be_allowed(provider: Provider, tmp_path: Path) -> None:
    """Issue 3: with a certificate and a token both identities must be allowed."""
    certs.init_ca(tmp_path / "ca", "mcp.internal")
    for name in ("model-a", "model-b"):
        certs.issue(tmp_path / "ca", tmp_path / name, name)
    model_a, model_b = (tmp_path / name / "tls.crt" for name in ("model-a", "model-b"))
    async with service(POLICY, MCP_AUTH_TYPE="mtls+jwt", MCP_AUTHZ_ISSUERS=provider.issuer()) as authz:
        alice = f"Bearer {await provider.alice()}"
        both = await authz.check(call_of("query_db", alice, model_a))
        only_workload = await authz.check(call_of("shell", alice, model_a))
        only_user = await authz.check(call_of("query_db", alice, model_b))
        no_token = await authz.check(call_of("query_db", "", model_a))
        no_certificate = await authz.check(call_of("query_db", alice))

    assert (both.code, both.metadata["subject"], both.metadata["user"]) == (0, "model-a", "user:corp:alice")
    assert (only_workload.code, only_user.code) == (7, 7)
    assert (no_token.code, no_token.metadata["reason"]) == (16, "no_token")
    assert (no_certificate.code, no_certificate.metadata["reason"]) == (16, "no_certificate")
