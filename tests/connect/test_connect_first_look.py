"""`connect` to an address where nobody answers, or only to those who show a certificate: said at the start."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import full_server
import httpx2
import pytest
from bridge_harness import serving
from connect_kit import Connected, answered, connected, mirrors, modern, sidecar
from test_bridge_client import Ca, tls_sidecar

from mcp_bridge.client import Identity
from mcp_bridge.connect.first_look import look
from mcp_bridge.upstreams.inprocess import InProcessUpstream

DEAD = "127.0.0.1:1"


async def problem(one: Connected) -> str:
    async with asyncio.timeout(10):
        while not (said := [event["problem"] for event in one.log if event["event"] == "sidecar_not_reached"]):
            await asyncio.sleep(0.02)
    assert len(said) == 1
    return str(said[0])


async def refusal(one: Connected) -> str:
    async with httpx2.AsyncClient(trust_env=False, timeout=10) as client:
        message = modern("tools/list")
        return str(answered(await client.post(one.url, json=message, headers=mirrors(message)))["error"]["message"])


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[tuple[Ca, str]]:
    ca = Ca()
    async with tls_sidecar(ca.issue(tmp_path / "server", "spiffe://mcp.internal/sidecar")) as (_, address):
        yield ca, address


@pytest.mark.parametrize("http", [None, "127.0.0.1:0"], ids=["stdio", "http"])
async def test_address_where_nobody_answers_is_named_at_the_start(http: str | None) -> None:
    """Ours: a warning, not the end: the sidecar may start later."""
    async with connected(DEAD, http=http) as one:
        said = await problem(one)
    assert said.startswith(f"nothing answers at {DEAD} (")
    assert said.endswith("requests will fail until it does")


async def test_tls_port_without_an_identity_says_what_is_missing(port: tuple[Ca, str]) -> None:
    """Ours: at the start, and to who sends a request."""
    _, address = port
    async with connected(address) as one:
        expected = f"the sidecar at {address} wants TLS and to know who calls: --as IDENTITY"
        assert await problem(one) == expected
        assert expected in await refusal(one)


async def test_right_address_says_nothing(port: tuple[Ca, str], tmp_path: Path) -> None:
    """Ours: neither with a certificate, nor on a Unix socket without."""
    ca, address = port
    client = Identity.from_directory(ca.issue(tmp_path / "client", "spiffe://mcp.internal/model-a"))
    assert await look(address, client, None) is None
    async with (
        serving(InProcessUpstream("full", full_server.server)) as bridge,
        sidecar(bridge, tmp_path) as one,
    ):
        assert await look(one.address, None, None) is None


async def test_wrong_certificates_are_told_apart(port: tuple[Ca, str], tmp_path: Path) -> None:
    """Ours: none where one is wanted, one of another CA, a server of another CA, another name."""
    ca, address = port
    own = ca.issue(tmp_path / "client", "spiffe://mcp.internal/model-a")
    strange = Ca().issue(tmp_path / "strange", "spiffe://mcp.internal/model-a")
    cases = [
        (Identity(None, None, own / "ca.crt"), None, "wants a certificate: --as IDENTITY"),
        (Identity(strange / "tls.crt", strange / "tls.key", own / "ca.crt"), None, "does not accept the certificate"),
        (Identity.from_directory(strange), None, "is not trusted"),
        (Identity.from_directory(own), "other.example", "is not trusted"),
    ]
    for identity, name, words in cases:
        trouble = await look(address, identity, name)
        assert trouble is not None
        assert words in trouble.sentence
        assert trouble.lasts


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x01"])
async def test_what_is_no_sidecar_is_said(said: bytes, tmp_path: Path) -> None:
    """Ours: some other server, with TLS asked for and without."""
    own = Identity.from_directory(Ca().issue(tmp_path / "client", "spiffe://mcp.internal/model-a"))

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read(1)
            writer.write(said)
            writer.close()

    async with await asyncio.start_server(other, "127.0.0.1", 0) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for identity in (None, own):
            trouble = await look(address, identity, None)
            assert trouble is not None
            assert address in trouble.sentence
