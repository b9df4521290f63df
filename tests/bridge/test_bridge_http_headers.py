"""What the bridge says in HTTP headers, to whom, and what it never says."""

import asyncio
import contextlib
import datetime
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvicorn
from bridge_harness import request, send, serving, tool
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from mcp.server.lowlevel.server import Server
from mcp_types import CallToolResult, ListToolsResult, TextContent, Tool
from unruly_http import Asked, http_server

from mcp_bridge.settings import BridgeSettings
from mcp_bridge.upstreams.http import HttpUpstream
from mcp_bridge.upstreams.mirrors import annotated, param_headers
from secure_mcp_grpc.errors import UserError

LIMIT = 1024 * 1024
SCHEMA = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "size": {"type": "integer", "x-mcp-header": "Size"},
        "dry": {"type": "boolean", "x-mcp-header": "Dry-Run"},
        "place": {"type": "object", "properties": {"city": {"type": "string", "x-mcp-header": "City"}}},
        "free": {"type": "string"},
    },
}
ARGUMENTS = {"region": " Zürich ", "size": 12345678901234567890123, "dry": True, "place": {"city": "x"}, "free": "y"}


async def list_tools(_context: Any, _params: Any) -> ListToolsResult:
    return ListToolsResult(tools=[Tool(name="marked", input_schema=SCHEMA)])


async def call_tool(_context: Any, params: Any) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=str(params.arguments))])


@contextlib.asynccontextmanager
async def sdk_server() -> AsyncIterator[str]:
    app = Server("marked", on_list_tools=list_tools, on_call_tool=call_tool).streamable_http_app()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1, ws="none"))
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        running = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
        finally:
            server.should_exit = True
            await running


@pytest.mark.parametrize("listed", [True, False])
async def test_marked_arguments_are_mirrored_as_the_sdk_server_demands(listed: bool) -> None:
    """MCP 2026-07-28, "Custom Headers": also for a caller who never listed the tools, since we know no less."""
    async with (
        sdk_server() as url,
        serving(HttpUpstream("marked", url, max_message_bytes=LIMIT)) as bridge,
        bridge.channel() as channel,
    ):
        if listed:
            await send(channel, "Call", request("tools/list"))
        for arguments in (ARGUMENTS, {}, {"region": None, "size": 0, "dry": False}):
            answer = await send(channel, "Call", tool("marked", arguments))
            assert "result" in answer, answer


async def test_without_the_mirrors_the_sdk_server_refuses() -> None:
    """The test above can fail: the server does look."""
    async with (
        sdk_server() as url,
        serving(upstream := HttpUpstream("marked", url, max_message_bytes=LIMIT)) as bridge,
        bridge.channel("model-a") as channel,
    ):
        await send(channel, "Call", tool("marked", ARGUMENTS))
        (mirrors,) = upstream._mirrors.values()
        mirrors._maps = {"marked": {}}
        answer = await send(channel, "Call", tool("marked", ARGUMENTS))
        again = await send(channel, "Call", tool("marked", ARGUMENTS))

    assert answer["error"]["code"] == -32020
    assert "result" in again, "after a mismatch the tools are listed again"


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"type": "number", "x-mcp-header": "A"}}},
        {"properties": {"a": {"type": "string", "x-mcp-header": "A B"}}},
        {"properties": {"a": {"type": "string", "x-mcp-header": "A\r\nX: y"}}},
        {"properties": {"a": {"type": "string", "x-mcp-header": 7}}},
        {"properties": {"a": {"type": "string", "x-mcp-header": "A"}, "b": {"type": "string", "x-mcp-header": "a"}}},
        {"properties": {"a": {"type": ["string"], "x-mcp-header": "A"}}},
        [],
        None,
    ],
)
def test_schema_with_a_wrong_mark_mirrors_nothing(schema: Any) -> None:
    """MCP 2026-07-28, "Custom Headers": tokens, scalars, and each name once."""
    assert annotated(schema) == {}


def test_values_are_mirrored_only_where_they_can_be() -> None:
    """Ours: what has no header form, or no value, has no header; a value cannot end the header."""
    mirrored = {("a",): "A", ("b", "c"): "C"}
    assert param_headers(mirrored, b'{"arguments":{"a":[1],"b":{"c":null}}}') == {}
    assert param_headers(mirrored, b'{"arguments":{"a":"x\\r\\ny: z","b":7}}') == {
        "mcp-param-a": "=?base64?eA0KeTogeg==?="
    }
    assert param_headers(mirrored, b"{}") == {}


async def test_key_reaches_the_server_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Issue 4: never logged, never from a caller; a renewed file is read after the server refused the old key."""
    caplog.set_level(logging.DEBUG)
    key = tmp_path / "key"
    key.write_text("first-secret\n")
    monkeypatch.setenv("TEST_UPSTREAM_KEY", "Bearer second-secret")

    async def answer(asked: Asked) -> None:
        if asked.message["method"] == "tools/call" and asked.headers["x-api-key"] == "first-secret":
            await asked.head("401 Unauthorized", content_length="0")
        else:
            await asked.text("ok")

    async with http_server(answer) as server:
        sources = {"X-Api-Key": f"file:{key}", "authorization": "env:TEST_UPSTREAM_KEY"}
        upstream = HttpUpstream("keyed", server.url, max_message_bytes=LIMIT, headers=sources)
        async with serving(upstream) as bridge, bridge.channel() as channel:
            key.write_text("renewed-secret")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await send(channel, "Call", tool("x"))
            answered = await send(channel, "Call", tool("x"), metadata=[("x-api-key", "mine"), ("authorization", "me")])

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert refused.value.details() == "the MCP server keyed refused the sidecar (HTTP status 401)"
    assert "result" in answered
    calls = [one.headers for one in server.asked if one.message["method"] == "tools/call"]
    assert [one["x-api-key"] for one in calls] == ["first-secret", "renewed-secret"]
    assert {one["authorization"] for one in calls} == {"Bearer second-secret"}
    assert "secret" not in caplog.text
    assert "secret" not in repr(upstream._secrets)


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"x-key": "env:TEST_NOT_SET"}, "env:TEST_NOT_SET must hold one line"),
        ({"x-key": "file:/nowhere/key"}, "cannot be read: No such file"),
    ],
)
async def test_key_that_is_not_there_stops_the_start(headers: dict[str, str], said: str) -> None:
    """Ours: found at start, not at the first call."""
    upstream = HttpUpstream("keyed", "http://127.0.0.1:1/mcp", max_message_bytes=LIMIT, headers=headers)
    with pytest.raises(UserError, match=said):
        await upstream.start()
    await upstream.close()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('"headers": {"x-key": "s3cr3t"}', "must be env:VARIABLE or file:PATH"),
        ('"headers": {"Mcp-Session-Id": "env:A"}', "the protocol's own"),
        ('"headers": {"Host": "env:A"}', "the protocol's own"),
        ('"headers": {"a\\nb": "env:A"}', "is no header name"),
        ('"limits": {"files": 64}', "limits belong to an upstream with a command"),
    ],
)
def test_headers_that_cannot_be_are_refused_at_start(more: str, said: str) -> None:
    """Ours: no secret stands in settings, and none of the protocol's headers can be set."""
    with pytest.raises(UserError, match=said):
        BridgeSettings.load({"MCP_BRIDGE_UPSTREAMS": '{"x": {"url": "https://example.com/mcp", ' + more + "}}"})


def test_url_with_a_password_is_refused_at_start() -> None:
    """Ours: urls are logged, secrets are not."""
    with pytest.raises(UserError, match="an url holds no user and password"):
        BridgeSettings.load({"MCP_BRIDGE_UPSTREAMS": '{"x": {"url": "https://me:pw@example.com/mcp"}}'})


def certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed server certificate for 127.0.0.1, and its key."""
    import ipaddress

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    files = directory / "server.pem", directory / "server.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


async def test_https_server_must_be_signed_by_the_given_authority(tmp_path: Path) -> None:
    """Ours: the system's authorities unless `ca` is given, and never none."""
    pem, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)

    async def answer(asked: Asked) -> None:
        await asked.text("ok")

    async with http_server(answer, tls=context) as server:
        for ca, outcome in ((str(pem), "ok"), (None, "cannot be reached")):
            upstream = HttpUpstream("tls", server.url, max_message_bytes=LIMIT, ca=ca)
            async with serving(upstream) as bridge, bridge.channel() as channel:
                try:
                    said = (await send(channel, "Call", tool("x")))["result"]["content"][0]["text"]
                except grpc.aio.AioRpcError as error:
                    said = str(error.details())
            assert outcome in said


@pytest.mark.parametrize(("content", "said"), [(None, "cannot be read"), ("nothing", "holds no certificates")])
def test_authority_file_that_is_none_stops_the_start(tmp_path: Path, content: str | None, said: str) -> None:
    """Ours: the file is named, and nothing falls back to other authorities."""
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=said):
        HttpUpstream("tls", "https://127.0.0.1/mcp", max_message_bytes=LIMIT, ca=str(file))
