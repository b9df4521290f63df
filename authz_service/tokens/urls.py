"""Which addresses of an issuer are acceptable. Pure."""

import ipaddress
from typing import Final
from urllib.parse import urlsplit

__all__ = ["check_url", "is_loopback"]

_MAX_CHARS: Final = 2048


def check_url(text: str, *, loopback: bool = True) -> str:
    """`text`, if it is an https URL, or (with `loopback`) an http URL of this very machine; raises `ValueError`.

    RFC 8725, 3.10 and RFC 8414, 3: what says whom to trust must not travel in the clear.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if not text.isascii() or not text.isprintable() or " " in text or len(text) > _MAX_CHARS:
        raise ValueError("is not a URL")
    if not parts.hostname or parts.username is not None or parts.password is not None or parts.fragment or port == 0:
        raise ValueError("must be a URL with a host and without user name or fragment")
    if parts.scheme == "https" or (parts.scheme == "http" and loopback and is_loopback(text)):
        return text
    raise ValueError("must be an https URL; http is accepted for loopback addresses only")


def is_loopback(url: str) -> bool:
    """Whether the host is this machine by its very name: no name server is asked."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
