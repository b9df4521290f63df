"""What records hold of calls through a bridge: secrets of every kind, odd payloads, modes, sealing."""

import asyncio
import contextlib
import json
import logging
import re
import subprocess
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from bridge_harness import Bridge, send, serving, tool
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from mcp_bridge import wire
from mcp_bridge.capture.build import build_capture
from mcp_bridge.capture.capture import Message
from mcp_bridge.capture.sealing import Sealer, load_private_key, load_public_key, open_payload
from mcp_bridge.capture.settings import CaptureSettings
from mcp_bridge.errors import HopError, unavailable
from mcp_bridge.exchange import Exchange, Note, Session
from secure_mcp_grpc.calls import McpCall
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.records import InteractionRecord

SECRETS = (
    *("hunter2-and-more", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl", "4111111111111111"),
    *("bob.miller@example.com", "AKIAIOSFODNN7EXAMPLE", "MIIEowIBAAKCAQEAqwertyuiop", "dXNlcjpwYXNzd29yZDEyMzQ1"),
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
)
TEXT = (
    f"password={SECRETS[0]} jwt {SECRETS[1]} card {SECRETS[2]} mail {SECRETS[3]} aws {SECRETS[4]}\n"
    f"-----BEGIN PRIVATE KEY-----\n{SECRETS[5]}\n-----END PRIVATE KEY-----\nAuthorization: Basic {SECRETS[6]}\n"
    f"{SECRETS[7]}"
)


class Echo:
    """An upstream whose answers are what the test says; `{args}` stands for the arguments."""

    name = "echo"

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    async def start(self) -> None: ...

    async def request(self, exchange: Exchange) -> bytes:
        exchange.server = self.name
        if self.answer.startswith(b"!"):
            raise unavailable(f"the server said {TEXT}")
        arguments = msgspec.json.encode(dict(exchange.call.arguments))
        return self.answer.replace(b"{args}", arguments).replace(b"{text}", msgspec.json.encode(arguments.decode()))

    async def notify(self, note: Note) -> None: ...

    async def reply(self, session: Session, message: bytes) -> None: ...

    async def end_session(self, session: Session) -> None: ...

    async def reap(self, idle_s: float) -> None: ...

    async def close(self) -> None: ...


RESULT = b'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":{text}}],"structuredContent":{args}}}'


async def recorded(answer: bytes, arguments: dict[str, Any], **settings: Any) -> tuple[InteractionRecord, Bridge]:
    capture = build_capture(CaptureSettings(**settings))
    async with serving(Echo(answer), capture=capture) as bridge, bridge.channel() as channel:
        with contextlib.suppress(grpc.aio.AioRpcError, msgspec.DecodeError):
            await send(channel, "Call", tool("t", arguments))
        await asyncio.sleep(0)
        return bridge.records[-1], bridge


@pytest.mark.parametrize(
    "answer",
    [
        RESULT,
        b'{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":{text},"data":{args}}}',
        b"!",
        RESULT.replace(b'"structuredContent"', b'"x":"' + b"y " * 200_000 + b'","structuredContent"'),
        RESULT.replace(b'"content"', b'"x":"\\ud800","content"'),
    ],
    ids=["result", "error", "refusal", "large", "surrogate"],
)
async def test_no_secret_is_in_a_record_or_a_log(answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Issue 4: capture with sanitization; secrets of every kind, wherever they stand."""
    caplog.set_level(logging.DEBUG)
    arguments = {"note": TEXT, "api_key": SECRETS[0], "n": int(SECRETS[2]), "inner": json.dumps({"a": [TEXT]})}
    record, _ = await recorded(answer, arguments, capture_max_bytes=100_000, max_argument_bytes=100_000)
    written = msgspec.json.encode(record).decode()

    assert record.arguments
    assert record.response
    for secret in SECRETS:
        assert secret not in written
        assert secret not in caplog.text


async def test_record_holds_request_and_response() -> None:
    """Issue 4: requests (params) and responses are recorded."""
    record, _ = await recorded(RESULT, {"value": "something ordinary"})

    assert json.loads(record.arguments) == {"value": "something ordinary"}
    assert json.loads(record.response)["structuredContent"] == {"value": "something ordinary"}
    assert json.loads(record.request)["_meta"] == {
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"}
    }
    assert (record.tokens_source, record.tokens_in > 0, record.tokens_out > 0) == ("estimated", True, True)


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"capture": "off"}, (False, False)),
        ({"capture": "arguments"}, (True, False)),
        ({"capture": "full"}, (True, True)),
        ({"capture_off": ["t*"]}, (False, False)),
        ({"capture_off": ["echo/t"]}, (False, False)),
        ({"capture_off": ["other/t", "x"]}, (True, True)),
        ({"capture_sample": 0.0}, (False, False)),
        ({"capture_max_bytes": 0}, (True, False)),
    ],
)
async def test_settings_say_what_is_kept(settings: dict[str, Any], kept: tuple[bool, bool]) -> None:
    """Issue 4: off per tool, sampling rate, maximum size. The record itself is always written."""
    record, _ = await recorded(RESULT, {"value": "something ordinary"}, **settings)

    assert (bool(record.arguments), bool(record.response)) == kept
    assert bool(record.digests_in) == kept[0]
    assert (record.tool, record.outcome, len(record.trace_id)) == ("t", "ok", 32)


async def test_all_hops_of_a_trace_are_sampled_alike(tmp_path: Path) -> None:
    """Ours: half of the traces, the same half at every sidecar with the key; no client can tell which."""
    key = tmp_path / "key"
    key.write_bytes(b"0123456789abcdef")
    one, two = (build_capture(CaptureSettings(capture_sample=0.5, capture_key_file=key)) for _ in range(2))
    other = build_capture(CaptureSettings(capture_sample=0.5))

    def kept(capture: Any) -> list[bool]:
        call = McpCall("tools/call", "t", {"a": 1})
        return [bool(capture.of(Message(call, b"", "s", f"{n:032x}", b"")).arguments) for n in range(400)]

    assert kept(one) == kept(two)
    assert 120 < sum(kept(one)) < 280
    assert kept(one) != kept(other)


@pytest.mark.parametrize(
    "answer", [b"", b"\xff\xfe", b"[" * 5000, b"null", b'{"result":' + b"[" * 4000, b"x" * 300_000, b'{"result":1e999}']
)
def test_odd_answers_lose_no_record(answer: bytes) -> None:
    """Ours: never lose the record because the payload is odd."""
    call = McpCall("tools/call", "t", {"a": "\ud800", "b": [2**80, float("inf")]})
    captured = build_capture(CaptureSettings()).of(Message(call, b"{", "s", "0" * 32, answer))

    assert captured.arguments
    assert len(captured.response) <= 4096
    assert msgspec.json.encode(captured)


def test_reported_tokens_go_before_the_estimate() -> None:
    """Issue 4: real usage where a message carries it."""
    call = McpCall("tools/call", "t", {"a": 1})
    capture = build_capture(CaptureSettings())
    for usage in (
        b'"_meta":{"usage":{"input_tokens":12,"output_tokens":34}}',
        b'"_meta":{"example.com/usage":{"prompt_tokens":12,"completion_tokens":34}}',
        b'"structuredContent":{"usage":{"inputTokens":12,"outputTokens":34}}',
    ):
        captured = capture.of(Message(call, b"", "s", "0" * 32, b'{"result":{' + usage + b"}}"))
        assert (captured.tokens_in, captured.tokens_out, captured.tokens_source) == (12, 34, "reported")
    picture = b'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"image","data":"' + b"A" * 40_000 + b'"}]}}'
    assert capture.of(Message(call, b"", "s", "0" * 32, picture)).tokens_out < 30


def test_sealed_payloads_open_with_the_private_key_only(tmp_path: Path) -> None:
    """Issue 4: encryption with a key the store does not have; keys as openssl makes them."""
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    subprocess.run(("openssl", "genpkey", "-algorithm", "X25519", "-out", private), check=True)
    subprocess.run(("openssl", "pkey", "-in", private, "-pubout", "-out", public), check=True)
    capture = build_capture(CaptureSettings(capture_public_key_file=public))
    call = McpCall("tools/call", "t", {"note": "quite private"})
    captured = capture.of(Message(call, b"", "s", "0" * 32, b'{"result":{"content":"quite private"}}'))

    assert captured.payload_encoding == "sealed1"
    assert "private" not in captured.arguments + captured.response
    key = load_private_key(private)
    assert json.loads(open_payload(key, captured.arguments)) == {"note": "quite private"}
    assert open_payload(key, captured.response) == '{"content":"quite private"}'
    assert open_payload(key, "plain") == "plain"
    with pytest.raises(UserError, match="another key"):
        open_payload(X25519PrivateKey.generate(), captured.arguments)
    with pytest.raises(UserError, match="damaged"):
        open_payload(key, captured.arguments[:-4] + "AAAA")
    with pytest.raises(UserError, match="not an X25519 public key"):
        load_public_key(private)


def test_no_two_envelopes_are_alike() -> None:
    """Ours: a nonce is never used twice under one key, also when keys are renewed."""
    key = X25519PrivateKey.generate()
    sealer = Sealer(key.public_key())
    envelopes = [sealer.seal("same") for _ in range(9000)]

    assert len(set(envelopes)) == 9000
    assert {open_payload(key, envelopes[at]) for at in (0, 4095, 4096, 8999)} == {"same"}
    assert sealer.seal("") == ""


def test_key_file_that_is_too_short_stops_the_start(tmp_path: Path) -> None:
    """Ours: one line that names the setting, and what is wrong."""
    (tmp_path / "key").write_text("short")
    with pytest.raises(UserError, match=r"capture_key_file .* 5 bytes"):
        build_capture(CaptureSettings(capture_key_file=tmp_path / "key"))
    with pytest.raises(UserError, match="cannot be read"):
        build_capture(CaptureSettings(capture_key_file=tmp_path / "none"))


async def test_resources_that_were_read_are_recorded() -> None:
    """Issue 4: resource URIs read."""
    answer = (
        b'{"jsonrpc":"2.0","id":1,"result":{"contents":[{"uri":"note://today","text":"sunny all over the place"}]}}'
    )
    call = McpCall("resources/read", "note://today", {})
    captured = build_capture(CaptureSettings()).of(Message(call, b'{"uri":"note://today"}', "s", "0" * 32, answer))

    assert captured.resources == ("note://today",)
    assert captured.request == ""
    assert len(captured.digests_out) == 1
    assert re.fullmatch("[0-9a-f]{16}", captured.digests_out[0])


def test_refusal_is_recorded_as_such() -> None:
    """Ours: the sentence that the caller got."""
    call = McpCall("tools/call", "t", {})
    refusal: HopError = unavailable("the MCP server s cannot be reached")
    captured = build_capture(CaptureSettings()).of(Message(call, b"", "s", "0" * 32, refusal))

    assert json.loads(captured.response) == {
        "grpcStatus": "UNAVAILABLE",
        "message": "the MCP server s cannot be reached",
    }
    assert wire.outcome_of("", b"{}").outcome
