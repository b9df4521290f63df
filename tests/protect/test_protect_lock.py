"""The lock file: signed, deterministic, never relied on when in doubt."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mcp_bridge.protect.compare import approve, compare
from mcp_bridge.protect.lockfile import Lock, LockError, encode, exclusive, parse, read_lock, write_lock
from mcp_bridge.protect.pinned import PinnedLock
from secure_mcp_grpc.errors import UserError

KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
TOOL: dict[str, Any] = {"name": "t", "inputSchema": {"type": "object", "maximum": 2**70}, "description": "ü\u200b"}
LOCK = Lock({"tools": {"t": TOOL}, "prompts": {}, "resourceTemplates": {}}, {"s": {"name": "n", "version": "1"}})


def test_a_lock_is_read_as_it_was_written_and_written_alike() -> None:
    """Issue 4: canonical, deterministic; big integers and unseen characters survive, the latter escaped."""
    content = encode(LOCK, KEY)
    read = parse(content, KEY.public_key())
    assert read.definitions == LOCK.definitions
    assert encode(read, KEY) == content
    assert content.isascii()
    assert b"\\u200b" in content


def test_order_and_spaces_do_not_count() -> None:
    """Issue 4: reordered is fine."""
    document = json.loads(encode(LOCK, KEY))
    shuffled = json.dumps(dict(reversed(document.items())), separators=(" , ", " : ")).encode()
    assert parse(shuffled, KEY.public_key()).definitions == LOCK.definitions


def tampered(change: Any) -> bytes:
    document = json.loads(encode(LOCK, KEY))
    change(document)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (encode(LOCK, None), "not signed"),
        (encode(LOCK, OTHER), "another key"),
        (tampered(lambda one: one["tools"]["t"].update(description="else")), "changed after"),
        (tampered(lambda one: one["tools"].clear()), "changed after"),
        (tampered(lambda one: one["servers"].clear()), "changed after"),
        (tampered(lambda one: one.pop("signature")), "not signed"),
        (tampered(lambda one: one["signature"].update(value="AAAA")), "changed after"),
        (tampered(lambda one: one["signature"].update(value="not base64")), "changed after"),
        (tampered(lambda one: one["signature"].update(value=1)), "of its form"),
        (tampered(lambda one: one.update(more=1)), "not known"),
        (tampered(lambda one: one.update(format="x")), "format"),
        (encode(LOCK, KEY)[:-20], "JSON"),
        (encode(LOCK, KEY).replace(b'"tools"', b'"tools": {}, "tools"'), "JSON"),
        (b"", "JSON"),
        (b"[]", "JSON"),
    ],
    ids=range(15),
)
def test_a_lock_in_doubt_is_refused(content: bytes, why: str) -> None:
    """Issue 4: tampered, wrong key, unsigned, truncated."""
    with pytest.raises(LockError, match=why):
        parse(content, KEY.public_key())


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one["tools"].update(t=5),
        lambda one: one["tools"].update(u=one["tools"]["t"]),
        lambda one: one.pop("prompts"),
        lambda one: one.update(tools=[]),
        lambda one: one.update(servers={"s": 1}),
    ],
)
def test_an_unsigned_lock_must_be_of_its_form_too(change: Any) -> None:
    """Ours: a name says what it names."""
    with pytest.raises(LockError):
        parse(tampered(change), None)


def test_the_lock_in_force_follows_its_file_and_keeps_the_last_good_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Issue 4: on reload the last good one stays, with an event."""
    path, now = tmp_path / "tools.lock", [0.0]
    with pytest.raises(UserError, match=r"tools\.lock cannot be read"):
        PinnedLock(path, None, clock=lambda: now[0])
    write_lock(path, LOCK, KEY)
    pinned = PinnedLock(path, KEY.public_key(), clock=lambda: now[0])
    first = pinned.current()

    path.write_bytes(b"{")
    assert pinned.current() is first  # looked at less than a second ago
    now[0] += 1
    assert pinned.current() is first
    assert [record.message for record in caplog.records if "tools_lock_refused" in record.message]

    path.unlink()
    now[0] += 1
    assert pinned.current() is first
    write_lock(path, Lock({"tools": {}}), OTHER)
    now[0] += 1
    assert pinned.current() is first
    write_lock(path, Lock({"tools": {}}), KEY)
    now[0] += 1
    assert pinned.current().get("tools", "t") is None


def test_approvals_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    """Issue 4: concurrent approve."""
    path = tmp_path / "tools.lock"
    names = [f"t{number}" for number in range(12)]
    live = Lock({"tools": {name: {"name": name} for name in names}})
    write_lock(path, Lock({}), KEY)

    def one(name: str) -> None:
        with exclusive(path):
            changed, _ = approve(read_lock(path, KEY.public_key()), live, [name])
            write_lock(path, changed, KEY)

    threads = [threading.Thread(target=one, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert compare(read_lock(path, KEY.public_key()), live) == []


def test_an_approval_takes_what_was_named_and_no_more() -> None:
    """Ours: the rest of the drift stays drift; what is gone leaves the lock."""
    live = Lock({"tools": {"t": TOOL | {"title": "T"}, "u": {"name": "u"}}, "prompts": {"t": {"name": "t"}}})
    changed, approved = approve(LOCK, live, ["t"])
    assert {(one.kind, one.name) for one in approved} == {("tools", "t"), ("prompts", "t")}
    assert [(one.kind, one.name) for one in compare(changed, live)] == [("tools", "u")]
    with pytest.raises(KeyError):
        approve(changed, live, ["t"])
    emptied, _ = approve(changed, Lock({}), None)
    assert compare(emptied, Lock({})) == []
