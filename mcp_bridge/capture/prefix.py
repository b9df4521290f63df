"""The beginning of a JSON text that is too long to be read whole, made into JSON of its own. Pure."""

import re
from typing import Any, Final

import msgspec

__all__ = ["CUT", "read_prefix"]

CUT: Final = "\ue000cut"
"""Ends a string that was cut; whoever writes it down leaves out its last part, which may be half a secret."""

_PIECE = re.compile(r'"(?:[^"\\]|\\.)*+("?)|[{}\[\],]|[^"{}\[\],]++', re.DOTALL)
_MAX_DEPTH: Final = 128


def read_prefix(text: bytes, max_bytes: int) -> Any:
    """The value of which the first `max_bytes` of `text` are the beginning: what is whole of it, and the cut string.

    None where this is no beginning of JSON.
    """
    head = text[:max_bytes].decode("utf-8", "ignore")
    closers: list[str] = []
    safe, safe_closers = 0, ""
    at = 0
    for match in _PIECE.finditer(head):
        piece, at = match.group(), match.end()
        if piece[0] == '"' and not match.group(1):
            break  # a string without its end
        if piece in "{[":
            closers.append("}" if piece == "{" else "]")
            safe, safe_closers = at, "".join(reversed(closers))
        elif piece in "}]":
            if not closers or closers.pop() != piece:
                return None
            safe, safe_closers = at, "".join(reversed(closers))
        elif piece == ",":
            safe, safe_closers = match.start(), "".join(reversed(closers))
        if len(closers) > _MAX_DEPTH:
            break
    else:
        return _decode(head[:safe] + safe_closers)
    if len(closers) <= _MAX_DEPTH:
        whole = re.sub(r"\\(?:u[0-9a-fA-F]{0,3})?\Z", "", head) if head.endswith("\\") or "\\u" in head[-6:] else head
        value = _decode(f'{whole}{CUT}"{"".join(reversed(closers))}')
        if value is not None:
            return value
    return _decode(head[:safe] + safe_closers)


def _decode(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
