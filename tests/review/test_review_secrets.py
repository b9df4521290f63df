"""Secrets that try to get into a record: written oddly, beside their names, in identifiers, in what a child says."""

import asyncio
import json
import logging
import os
import sys
import time
from typing import Any

import msgspec
import pytest
from bridge_harness import request, send, serving, stdio

from mcp_bridge import wire
from mcp_bridge.capture.build import build_capture
from mcp_bridge.capture.keyed import Keyed
from mcp_bridge.capture.otlp import attributes
from mcp_bridge.capture.rules import Rules, compile_fields
from mcp_bridge.capture.sanitize import Sanitizer
from mcp_bridge.capture.settings import CaptureSettings
from mcp_bridge.exchange import Exchange, Outbox, Session
from mcp_bridge.upstreams.child import Child
from secure_mcp_grpc.calls import McpCall

SECRET = "hunter2hunter2XYZ"
DODGES: dict[str, tuple[Any, str]] = {
    "name_and_value": ([{"name": "API_TOKEN", "value": SECRET}], SECRET),
    "key_and_value": ([{"key": "password", "value": SECRET}], SECRET),
    "pair": ([["Authorization", SECRET]], SECRET),
    "argv": (["mysql", "--password", SECRET], SECRET),
    "command": (f"mysql -u root --password {SECRET} db", SECRET),
    "command_quoted": (f'deploy --api-key "{SECRET}"', SECRET),
    "card_float": ({"n": 4111111111111111.0}, "411111"),
    "card_exponent": ({"n": 4.111111111111111e15}, "411111"),
    "card_negative": ({"n": -4111111111111111}, "411111"),
    "card_dots": ({"n": "4111.1111.1111.1111"}, "1111.1111"),
    "card_fullwidth": ({"n": "\uff14" + "\uff11" * 15}, "\uff11\uff11"),
    "card_zero_width": ({"n": "4111\u200b1111\u200b1111\u200b1111"}, "1111\u200b1111"),
    "token_zero_width": ("sk-abcd\u200befghijklmnopqrstuvwx", "efghijkl"),
    "token_half_zero_width": ("sk-abcdefghijklmnopqrst\u200buvwxyzuvwxyz", "uvwxyz"),
    "name_zero_width": ({"pass\u200bword": SECRET}, SECRET),
    "name_fullwidth": ({"\uff50\uff41\uff53\uff53\uff57\uff4f\uff52\uff44": SECRET}, SECRET),
    "name_long": ({"a" * 300 + "password": SECRET}, SECRET),
    "percent": (f"a=1&x=password%3D{SECRET}", SECRET),
    "entity": (f"password&#61;{SECRET}", SECRET),
    "element": (f"<db:password type='x'>{SECRET}</db:password>", SECRET),
    "arrow": (f"'password' => '{SECRET}'", SECRET),
    "scheme": (f"GET /\nAuthorization: Negotiate {SECRET}\n", SECRET),
    "signature": (f"https://b.example/x?X-Amz-Signature={SECRET}", SECRET),
    "url_long": (f"postgres://u:{SECRET * 20}@h/db", SECRET),
    "data_uri": (f"data:text/plain;password={SECRET};base64,AAAA", SECRET),
    "inner_surrogate": (f'{{"a":"\\ud800","pin":"{SECRET}"}}', SECRET),
    "inner_space": (f' \n{{"pin":"{SECRET}"}}', SECRET),
}


@pytest.mark.parametrize("name", DODGES)
def test_a_secret_written_oddly_is_not_recorded(name: str) -> None:
    """Issue 4: capture with sanitization: secrets, tokens, keys and cards, however somebody writes them."""
    value, part = DODGES[name]
    written = Sanitizer(Rules(fields=compile_fields(("pin",))), Keyed(b"k" * 16)).text({"v": value}, 4096)

    assert part not in written
    assert part not in json.dumps(json.loads(written), ensure_ascii=False)
    assert "[redacted:" in written


@pytest.mark.parametrize(
    "text",
    [
        "Gr\u00fc\u00dfe an 4 Leute \u2013 \u2460 und \uff21, \ud83d\udc69\u200d\ud83d\udcbb.",
        "usage: tool --tokens 5 --key-file x",
        "a < b and <p>tokens</p> on 1.2.3.4 at 2026.11.21",
        "the password of the day",
    ],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    """Ours: folding is for looking only; what holds no secret is written as it came."""
    text = text.encode("utf-16", "surrogatepass").decode("utf-16")
    assert json.loads(Sanitizer(Rules(), Keyed(b"k" * 16)).text({"v": text}, 4096)) == {"v": text}


@pytest.mark.parametrize("mode", ["full", "off"])
async def test_no_secret_of_a_uri_is_in_a_record_or_a_span(mode: Any) -> None:
    """Issue 4: not in the name of what was asked for either, nor in what OpenTelemetry is told."""
    spans: list[Any] = []

    class Spans:
        def ended(self, record: Any, _started: int, _ended: int, request_id: str, _flags: str) -> None:
            spans.append((record, attributes(record, request_id)))

    uri = f"https://bob:{SECRET}@files.example/x?access_token={SECRET}"
    capture = build_capture(CaptureSettings(capture=mode))
    answer = wire.result(b"1", msgspec.json.encode({"contents": [{"uri": uri, "text": uri}]}))
    async with serving(Fixed(answer), capture=capture, spans=Spans()) as bridge, bridge.channel() as channel:
        await send(channel, "Call", request("resources/read", {"uri": uri}, id_json=b'"token=%b"' % SECRET.encode()))
        await asyncio.sleep(0)
        written = msgspec.json.encode(bridge.records[-1]).decode()

    assert bridge.records[-1].tool.startswith("https://bob:[redacted:")
    assert SECRET not in written
    assert SECRET not in repr(spans)


async def test_no_secret_of_a_childs_stderr_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Ours: servers print what they were given."""
    caplog.set_level(logging.INFO)
    said = asyncio.Event()
    lines: list[str] = []

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == "upstream_stderr":
                lines.append(record.fields["line"])  # type: ignore[attr-defined]
                said.set()

    logging.getLogger("mcp_bridge.upstreams.child").addHandler(watch := Watch())
    program = f"import sys; sys.stderr.write('login with password={SECRET}\\n'); sys.stderr.flush(); sys.stdin.read()"
    child = await start_child(program, None)
    try:
        async with asyncio.timeout(20):
            await said.wait()
    finally:
        await child.close()
        logging.getLogger("mcp_bridge.upstreams.child").removeHandler(watch)

    assert lines == ["login with password=[redacted]"]


async def test_a_session_ends_when_its_idle_child_is_reaped() -> None:
    """Ours: it leaves nobody listening to the session."""
    upstream = stdio("child", "-c", "import sys; sys.stdin.read()")
    session = Session("s", "o", Outbox(1000))
    await upstream._child("o", session, opens=True)
    listening = asyncio.ensure_future(session.queue.get())
    await upstream.reap(-1)
    async with asyncio.timeout(5):
        assert await listening is None
    await upstream.close()


async def test_a_child_that_floods_lets_others_have_their_turn() -> None:
    """Ours: however much a server writes at once, the others wait for milliseconds at most."""
    program = "import sys\nwhile True: sys.stdout.write('{}\\n' * 20000)"
    child = await start_child(program, None)
    asking = asyncio.ensure_future(
        child.peer.request(Exchange(McpCall("ping", "", {}), b"1", b"", wire.read_meta(b"")))
    )
    asking.add_done_callback(lambda _: None)
    try:
        await asyncio.sleep(0.5)
        longest, until, before = 0.0, time.monotonic() + 1, time.process_time()
        while time.monotonic() < until:
            await asyncio.sleep(0)
            now = time.process_time()  # of this process: a busy machine counts for nothing
            longest, before = max(longest, now - before), now
        assert longest < 0.03
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await child.close()


async def start_child(program: str, session: Session | None) -> Child:
    command, env = [sys.executable, "-c", program], {"PATH": os.environ["PATH"]}
    return await Child.start("child", command, env, None, session, 1 << 20, lambda _child: None)


class Fixed:
    """An upstream that always gives the same answer."""

    name = "fixed"

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    async def start(self) -> None: ...

    async def request(self, exchange: Exchange) -> bytes:
        exchange.server = self.name
        return wire.response_with_id(wire.read_envelope(self.answer), exchange.id_json)

    async def notify(self, note: Any) -> None: ...

    async def reply(self, session: Session, message: bytes) -> None: ...

    async def end_session(self, session: Session) -> None: ...

    async def reap(self, idle_s: float) -> None: ...

    async def close(self) -> None: ...


CUT_IN = {
    "aws": ("AKIAIOSFODNN7EXAMPLE", "AKIAIOSFOD"),
    "card": ("4111111111111111", "41111111"),
    "jwt": ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl", "eyJhbGciOi"),
    "pair": ('"password": "correct horse battery staple"', "correct"),
    "long_pair": ('"password": "' + "correct horse " * 600 + '"', "correct"),
    "mail": ("alice.tagged@mail.example.org", "alice.tag"),
}


@pytest.mark.parametrize("name", CUT_IN)
def test_no_cut_uncovers_a_secret(name: str) -> None:
    """Ours: redaction comes before the cut, wherever in a secret the cut falls."""
    secret, part = CUT_IN[name]
    for max_bytes in range(200, 200 + 60):
        written = Sanitizer(Rules(), Keyed(b"k" * 16)).text({"t": "w " * 100 + secret + " y" * 3000}, max_bytes)
        assert part not in written, max_bytes
