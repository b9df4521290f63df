"""Which quotas a call counts against, and under which key. Pure."""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Final
from urllib.parse import quote

from authz_service.case import Case
from authz_service.policy.patterns import wildcard
from authz_service.quotas.quota import Quota, Take
from secure_mcp_grpc.calls import McpCall

__all__ = ["takes"]

_LONGEST_KEY: Final = 256


def takes(quotas: Sequence[Quota], case: Case) -> list[Take]:
    """What the call in `case` counts against.

    A quota by user or token is for calls with a token; one without `jti` counts as its user. A quota by identity
    is for everybody: without a certificate, the identity is the user.
    """
    call, principal = case.call, case.principal
    if call is None:
        return []
    found = []
    for quota in quotas:
        if quota.by in ("identity", "identity_tool"):
            owner = part = case.subject
        elif principal is None:
            continue
        else:
            owner = principal.subject
            by_token = quota.by == "token" and principal.token_id
            part = f"{principal.issuer}\n{principal.token_id}" if by_token else owner
        if owner and _applies(quota, owner, call):
            found.append(Take(quota, owner, _key(quota, part, call)))
    return found


def _applies(quota: Quota, owner: str, call: McpCall) -> bool:
    return _any(quota.methods, call.method) and _any(quota.tools, call.name) and _any(quota.who, owner)


def _any(patterns: tuple[str, ...], text: str) -> bool:
    return any(pattern == "*" or wildcard(text, pattern) for pattern in patterns)


def _key(quota: Quota, part: str, call: McpCall) -> str:
    if quota.by != "identity_tool":
        return _key_of(quota, part, "", "")
    build = _key_of if len(call.name) <= _LONGEST_KEY else _key_of.__wrapped__
    return build(quota, part, call.method, call.name)


@lru_cache(4096)
def _key_of(quota: Quota, part: str, method: str, name: str) -> str:
    """Readable, unambiguous (parts are percent-encoded) and of bounded length.

    Quotas that differ in their buckets do not share a counter, so that sidecars may run with old and new settings
    at the same time.
    """
    parts = [quota.name, quota.by, str(quota.bucket_us), part]
    if quota.by == "identity_tool":
        parts += [method, name]
    key = ":".join(quote(part, safe="/") for part in parts)
    return f"mcp:quota:{key}" if len(key) <= _LONGEST_KEY else f"mcp:quota:sha256:{sha256(key.encode()).hexdigest()}"
