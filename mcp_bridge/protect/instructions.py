"""What servers tell models of themselves, held to what was approved. Pure.

`instructions` of `initialize` and `server/discover` go into the model's
system prompt as they come: a server that may change them needs to change no tool.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from mcp_bridge import wire

__all__ = ["SAYS_THEM", "is_approved", "told_in", "without_instructions"]

SAYS_THEM: Final = frozenset({"initialize", "server/discover"})
_MEMBER: Final = "instructions"
_BETWEEN: Final = "\n\n"
_MAX_SERVERS: Final = 64


def is_approved(text: str, servers: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether `text` is what one server was approved with, or what a router makes of those of several.

    A router writes `name: instructions` of each, in the order of its settings; some may be left out.
    """
    approved = {name: one[_MEMBER] for name, one in servers.items() if isinstance(one.get(_MEMBER), str)}
    return text in approved.values() or _consists_of(text, [f"{name}: {told}" for name, told in approved.items()])


def _consists_of(text: str, parts: Iterable[str]) -> bool:
    left = sorted(parts, key=len, reverse=True)[:_MAX_SERVERS]
    while left:
        part = next((one for one in left if text == one or text.startswith(one + _BETWEEN)), None)
        if part is None:
            return False
        if text == part:
            return True
        left.remove(part)
        text = text[len(part) + len(_BETWEEN) :]
    return False


def told_in(answer: bytes) -> str | None:
    """The instructions in an answer; "" where they are no text, None where there are none. Raises `wire.NotJson`."""
    body = bytes(wire.read_envelope(answer).result)
    raw = wire.object_of(body).get(_MEMBER) if body else None
    if raw is None or bytes(raw) in (b"null", b'""'):
        return None
    try:
        return msgspec.json.decode(raw, type=str)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""


def without_instructions(id_json: bytes, answer: bytes) -> bytes:
    members = wire.object_of(bytes(wire.read_envelope(answer).result))
    members.pop(_MEMBER, None)
    return wire.result(id_json, wire.object_text(members))
