"""SPIFFE IDs: what they look like, and what a workload is called by. Pure.

Source: SPIFFE-ID, 2.1 (trust domain), 2.2 (path), 2.3 (at most 2048 bytes).
"""

import re
from collections.abc import Sequence
from typing import Final

__all__ = ["MAX_ID_BYTES", "is_segment", "is_trust_domain", "parse", "subject"]

MAX_ID_BYTES: Final = 2048

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
_SCHEME: Final = "spiffe://"


def is_trust_domain(text: str) -> bool:
    """Lower-case letters, digits, dots, dashes and underscores."""
    return _TRUST_DOMAIN.fullmatch(text) is not None


def is_segment(text: str) -> bool:
    """One segment of a path: letters, digits, dots, dashes and underscores, but not `.` or `..`."""
    return _SEGMENT.fullmatch(text) is not None and text not in (".", "..")


def parse(uri: str) -> tuple[str, str] | None:
    """Trust domain, and path without its first slash, of a workload's ID; None for anything else."""
    if not uri.startswith(_SCHEME) or len(uri) > MAX_ID_BYTES:
        return None
    domain, slash, path = uri.removeprefix(_SCHEME).partition("/")
    if not slash or not is_trust_domain(domain) or not all(map(is_segment, path.split("/"))):
        return None
    return domain, path


def subject(uri: str, trust_domains: Sequence[str]) -> str:
    """What policy and records call `uri`: its path in the first trust domain, the whole ID otherwise.

    A path has no colon, so no workload can be born with the name of a role (`role:…`) or of a foreign ID.
    """
    found = parse(uri)
    return found[1] if found is not None and found[0] == trust_domains[0] else uri
