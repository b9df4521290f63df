"""Which quotas a call counts against, and under which key. Pure."""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Final
from urllib.parse import quote

from authz_service.case import Case
from authz_service.policy.patterns import wildcard
from authz_service.quotas.quota import Quota, Take

__all__ = ["Counted"]

_LONGEST_KEY: Final = 256
_REMEMBERED: Final = 4096


class Counted:
    """Finds what a call counts against; what repeats is remembered."""

    def __init__(self, quotas: Sequence[Quota]) -> None:
        self._quotas = tuple(quotas)
        self._remembered = lru_cache(_REMEMBERED)(self._find)

    def takes(self, case: Case) -> tuple[Take, ...]:
        """A take for each quota that the call in `case` falls under.

        A quota by user or token is for calls with a token; one without `jti` counts as its user. A quota by identity
        is for everybody: without a certificate, the identity is the user.
        """
        call, principal = case.call, case.principal
        if call is None:
            return ()
        # Long names are looked at each time: remembering them would let a client fill the memory.
        find = self._remembered if len(call.name) <= _LONGEST_KEY else self._find
        if principal is None:
            return find(case.subject, "", "", call.method, call.name)
        token = f"{principal.issuer}\n{principal.token_id}" if principal.token_id else principal.subject
        return find(case.subject, principal.subject, token, call.method, call.name)

    def _find(self, subject: str, user: str, token: str, method: str, name: str) -> tuple[Take, ...]:
        found = []
        for quota in self._quotas:
            by_identity = quota.by in ("identity", "identity_tool")
            owner = subject if by_identity else user
            if owner and _applies(quota, owner, method, name):
                tool = (method, name) if quota.by == "identity_tool" else ()
                found.append(Take(quota, owner, _key(quota, token if quota.by == "token" else owner, *tool)))
        return tuple(found)


def _applies(quota: Quota, owner: str, method: str, name: str) -> bool:
    return _any(quota.methods, method) and _any(quota.tools, name) and _any(quota.who, owner)


def _any(patterns: tuple[str, ...], text: str) -> bool:
    return any(wildcard(text, pattern) for pattern in patterns)


def _key(quota: Quota, *parts: str) -> str:
    """Readable, unambiguous (parts are percent-encoded) and of bounded length.

    Quotas that differ in their buckets do not share a counter, so that sidecars may run with old and new settings
    at the same time.
    """
    key = ":".join(quote(part, safe="/") for part in (quota.name, quota.by, str(quota.bucket_us), *parts))
    return f"mcp:quota:{key}" if len(key) <= _LONGEST_KEY else f"mcp:quota:sha256:{sha256(key.encode()).hexdigest()}"
