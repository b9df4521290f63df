"""The fronts' pure parts: messages, access, event logs."""

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_bridge.front.access import Access
from mcp_bridge.front.backend import BackendError, Via
from mcp_bridge.front.conversations import Conversations
from mcp_bridge.front.log import EventLog
from mcp_bridge.front.messages import Invalid, Request, id_of, read_message

TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner)
)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_break_the_reader(text: bytes) -> None:
    """Ours: whatever comes is a message or a refusal with a code."""
    message = read_message(text)
    assert not isinstance(message, Invalid) or message.code in (-32700, -32600, -32602)


@given(st.integers(-(10**17), 10**17) | TEXT, st.dictionaries(TEXT.filter(lambda key: key.isascii()), JSON, max_size=4))
def test_params_and_id_stay_the_bytes_that_came(request_id: int | str, params: dict[str, object]) -> None:
    """Issue 4: payloads pass as raw JSON, byte for byte."""
    id_json = json.dumps(request_id, ensure_ascii=False).encode()
    params_json = json.dumps(params, indent=1, ensure_ascii=False).encode()
    message = read_message(b'{"jsonrpc":"2.0","params": %b ,"id":%b,"method":"a/b"}' % (params_json, id_json))
    assert isinstance(message, Request)
    assert (message.id_json, message.params_json) == (id_json, params_json)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"jsonrpc":"2.0","id":5,"method":"x","params":{"a":"', b"5"),
        (b'{"jsonrpc": "2.0", "method": "x", "id": "a b", "params"', b'"a b"'),
        (b'{"params":{"a":"x"},"method":"x","jsonrpc":"2.0","id":6}', b"6"),
        (b'{"params":{"a":"x"},"method":"x","id":6,"jsonrpc":"2.0"}\n', b"6"),
        (b'{"jsonrpc":"2.0","method":"x","params":{"id":5,"a":"', b"null"),
        (b'"x","params":{"a":{},"id":5}}', b"null"),
        (b"xxxx", b"null"),
    ],
)
def test_id_of_an_over_long_message_is_found_only_where_it_is_sure(text: bytes, expected: bytes) -> None:
    """Ours: a caller learns that its message was too long; nobody else's request is answered."""
    assert id_of(text, text) == expected


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "0.0.0.0"])
def test_loopback_names_are_allowed_wherever_loopback_is_bound(host: str) -> None:
    """Ours: a page cannot have these names; other machines' names are a person's to add."""
    access = Access.bound_to(host, 8080, allow_hosts=["tools.example", "other.example:1"])
    for name in ("127.0.0.1:8080", "localhost:8080", "[::1]:8080", "tools.example:8080", "other.example:1"):
        assert access.flaw((("host", name),)) == ""
    assert access.flaw((("host", "evil.example:8080"),))
    assert access.flaw(())
    assert access.flaw((("host", "localhost:8080"), ("host", "evil.example")))


def test_address_of_a_network_is_named_as_bound() -> None:
    """Ours: bound to one address, only that address."""
    access = Access.bound_to("192.0.2.1", 80)
    assert access.flaw((("host", "192.0.2.1"),)) == ""
    assert access.flaw((("host", "192.0.2.1:80"),)) == ""
    assert access.flaw((("host", "localhost:80"),))


async def test_reader_that_comes_back_reads_on_and_ends_the_one_before() -> None:
    """2025-11-25, "Resumability and Redelivery"."""
    log = EventLog(1000, keeps=True)
    for text in (b"a", b"b", b"c"):
        log.offer(text)
    first = log.reader()
    assert [await first.next(), await first.next()] == [(1, b"a"), (2, b"b")]
    waiting = asyncio.create_task(first.next())
    assert await waiting == (3, b"c")
    waiting = asyncio.create_task(first.next())
    await asyncio.sleep(0)
    second = log.reader(1)
    assert await waiting is None
    assert [await second.next(), await second.next()] == [(2, b"b"), (3, b"c")]
    log.close()
    assert await second.next() is None
    assert not log.offer(b"d")


async def test_slow_reader_makes_the_writer_wait_and_absence_costs_bounded_memory() -> None:
    """Issue 4: back-pressure is bounded; what was not read in time is lost from the oldest on."""
    log = EventLog(10, keeps=True)
    reader = log.reader()
    await log.put(b"x" * 8)
    writing = asyncio.create_task(log.put(b"y" * 8))
    await asyncio.sleep(0)
    assert not writing.done()
    assert not log.offer(b"zzz")
    assert await reader.next() == (1, b"x" * 8)
    await writing
    reader.detach()
    for number in range(100):
        await log.put(b"%08d" % number)
    assert log.bytes_kept <= 10
    assert await log.reader(0).next() == (102, b"00000099")


class Silent:
    """A backend with one endless session."""

    def owner(self, via: Via) -> str:
        return ""

    async def listen(self, via: Via) -> AsyncGenerator[bytes, None]:
        await asyncio.Event().wait()
        yield b""


async def test_idle_session_is_no_longer_listened_to_and_they_are_bounded() -> None:
    """Ours: a client that never ends its session does not keep it alive for ever, nor take another's place."""
    conversations = Conversations(Silent(), 2, 0.1, 1000)  # type: ignore[arg-type]
    async with asyncio.TaskGroup() as group:
        reaper = group.create_task(conversations.reap())
        one = conversations.of(Via("a"))
        one.listen(group, Via("a"))
        conversations.of(Via("b"))
        with pytest.raises(BackendError, match="2 sessions are open"):
            conversations.of(Via("c"))
        async with asyncio.timeout(5):
            await one.ended.wait()
        assert conversations.of(Via("a")) is not one
        reaper.cancel()
