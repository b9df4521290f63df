"""Who a stream is, as it was authenticated when it opened: sealed, kept by mcp_bridge, shown again with each frame.

A ticket counts in the process that made it and nowhere else: the key is drawn
at the start and kept in memory. It proves who calls, never what is allowed;
that is asked anew each time.
"""

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from functools import lru_cache
from typing import Final

import msgspec

from authz_service.case import Case
from authz_service.identity import Identity
from authz_service.verdict import Code, Deny
from secure_mcp_grpc.authenticators import Principal
from secure_mcp_grpc.calls import TRANSPORT

__all__ = ["RPCS", "Ticket", "Tickets"]

RPCS: Final = {f"{TRANSPORT}{rpc}": rpc for rpc in ("Session", "Stream", "Listen")}
"""Path → RPC of what stays open, and so gets a ticket."""

_VERSION: Final = 1
_MAC_BYTES: Final = 32
_MAX_CHARS: Final = 12 * 1024
"""With the other headers it must fit into 16 KiB, the most that a request's headers may have here."""
_REMEMBERED: Final = 1024
_INVALID: Final = Deny(
    Code.UNAVAILABLE, "ticket_invalid", "the authorization service was restarted meanwhile; open the stream again"
)
_TOO_OLD: Final = Deny(Code.UNAVAILABLE, "ticket_expired", "the stream is too old; open it again")
_CERTIFICATE_EXPIRED: Final = Deny(
    Code.UNAUTHENTICATED,
    "certificate_expired",
    "the client certificate has expired; connect again with a new one",
)
_TOKEN_EXPIRED: Final = Deny(Code.UNAUTHENTICATED, "token_expired", "the token has expired; open the stream again")


class Ticket(msgspec.Struct, frozen=True, array_like=True):
    """What is sealed."""

    version: int
    rpc: str
    expires_s: float
    """Of the ticket itself."""
    identity: Identity | None
    principal: Principal | None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Ticket)


class Tickets:
    """Makes tickets and reads them. A ticket is good for `max_age_s` seconds at most."""

    def __init__(self, max_age_s: float, key: bytes | None = None) -> None:
        self._max_age_s = max_age_s
        self._key = key or secrets.token_bytes(_MAC_BYTES)
        self._read = lru_cache(_REMEMBERED)(self._unseal)

    def seal(self, case: Case, rpc: str) -> str | None:
        """A header value for `case`, which was allowed; None where it would be too long for one."""
        if case.identity is None and case.principal is None:
            return None
        ticket = Ticket(_VERSION, rpc, case.now_s + self._max_age_s, case.identity, case.principal)
        content = _encoder.encode(ticket)
        text = urlsafe_b64encode(self._mac(content) + content).decode()
        return text if len(text) <= _MAX_CHARS else None

    def open(self, text: str, rpc: str, now_s: float) -> Ticket | Deny:
        """The ticket for `rpc`, or why it does not count (any more)."""
        ticket = self._read(text) if len(text) <= _MAX_CHARS else None
        if ticket is None or ticket.rpc != rpc or ticket.version != _VERSION:
            return _INVALID
        if ticket.identity is not None and now_s > ticket.identity.not_after_s:
            return _CERTIFICATE_EXPIRED
        if ticket.principal is not None and now_s > ticket.principal.expires_s:
            return _TOKEN_EXPIRED
        return _TOO_OLD if now_s > ticket.expires_s else ticket

    def _unseal(self, text: str) -> Ticket | None:
        try:
            sealed = urlsafe_b64decode(text.encode())
        except ValueError:  # binascii.Error and UnicodeEncodeError are ones
            return None
        mac, content = sealed[:_MAC_BYTES], sealed[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(content)):
            return None
        return _decoder.decode(content)

    def _mac(self, content: bytes) -> bytes:
        return hmac.digest(self._key, content, hashlib.sha256)
