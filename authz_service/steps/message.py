"""Step: what is asked, read from the message itself. Part of `identity`: who asks comes first."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from authz_service.case import Case
from authz_service.http_request import PlainHttp
from authz_service.request import read_call
from authz_service.verdict import FAULT, Code, Deny

__all__ = ["MessageStep", "digest"]

_NO_ARGUMENTS: Final = f"sha256:{hashlib.sha256(b'{}').hexdigest()[:16]}"
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
_TOO_DEEP: Final = Deny(Code.INVALID_ARGUMENT, "malformed", "the arguments are nested too deeply")


class MessageStep:
    """Finds `call` and `args_digest`."""

    def __init__(self, max_body_bytes: int, plain: PlainHttp | None = None) -> None:
        """`plain` is None unless plain MCP over HTTP is served."""
        self._max_body_bytes = max_body_bytes
        self._plain = plain

    def judge(self, case: Case) -> Deny | None:
        if case.attributes is None:
            return FAULT
        call = read_call(case.attributes.request.http, self._max_body_bytes, self._plain)
        if isinstance(call, Deny):
            return call
        if self._plain is not None and (refusal := self._plain.second_opinion(case, call)):
            return refusal
        try:
            case.args_digest = digest(call.arguments)
        except RecursionError:
            return _TOO_DEEP
        case.call = call
        return None


def digest(arguments: Mapping[str, Any]) -> str:
    """`sha256:` and 16 hex digits over the canonical JSON of `arguments`: sorted keys, no blanks, ASCII."""
    if not arguments:
        return _NO_ARGUMENTS
    return f"sha256:{hashlib.sha256(_canonical(arguments).encode()).hexdigest()[:16]}"
