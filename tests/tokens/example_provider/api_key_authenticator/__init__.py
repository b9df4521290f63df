"""An authenticator for API keys; see the README beside this package."""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from secure_mcp_grpc.authenticators import Authenticator, Outcome, Presented, Principal, Refusal

__all__ = ["ApiKeys", "create"]

_SCHEME = "ApiKey "


class ApiKeys:
    """`digests` maps a name to the hex SHA-256 of its secret."""

    def __init__(self, digests: Mapping[str, str], roles: tuple[str, ...]) -> None:
        self._digests = digests
        self._roles = roles

    def authenticate(self, presented: Presented) -> Outcome:
        if not presented.authorization.startswith(_SCHEME):
            return None
        name, _, secret = presented.authorization.removeprefix(_SCHEME).partition(":")
        digest = hashlib.sha256(secret.encode()).hexdigest()
        if not hmac.compare_digest(digest, self._digests.get(name, "")):
            return Refusal("token_inactive", "the API key is not known")
        return Principal(f"user:api-key:{name}", "api-key", self._roles, expires_s=presented.now_s + 60)


def create(settings: Mapping[str, Any]) -> Authenticator:
    """The factory that the entry point names."""
    return ApiKeys(dict(settings["keys"]), tuple(f"role:{role}" for role in settings.get("roles", ())))
