"""What is revoked at this moment, arranged for looking up. Pure; a change makes a new one."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from authz_service.identity import Identity
from authz_service.revocations.entry import Entry
from secure_mcp_grpc import spiffe
from secure_mcp_grpc.authenticators import Principal

__all__ = ["InForce"]

_SPIFFE: Final = "spiffe://"


@dataclass(frozen=True, slots=True)
class _Sets:
    identities: dict[str, Entry]
    users: dict[str, Entry]
    certificates: dict[str, Entry]
    tokens: dict[tuple[str, str], Entry]


class InForce:
    """The entries that are not lifted, by what they name. Ends are looked at in each answer.

    A workload that a token names by its SPIFFE ID is found as an identity, by its path too in the first of
    `trust_domains`.
    """

    def __init__(self, entries: Iterable[Entry] = (), trust_domains: Sequence[str] = ()) -> None:
        self._trust_domains = trust_domains
        self._revoked = _Sets({}, {}, {}, {})
        self._quarantined = _Sets({}, {}, {}, {})
        self.size = 0
        for entry in entries:
            if not entry.lifted:
                self._add(self._quarantined if entry.quarantine else self._revoked, entry)
                self.size += 1

    def _add(self, sets: _Sets, entry: Entry) -> None:
        if entry.kind == "token":
            sets.tokens[entry.issuer, entry.value] = entry
        else:
            by_kind = {"identity": sets.identities, "user": sets.users, "certificate": sets.certificates}
            by_kind[entry.kind][entry.value] = entry

    def revoked(self, identity: Identity | None, principal: Principal | None, now_us: int) -> Entry | None:
        """The revocation that concerns the request of `identity` and `principal`, credentials first."""
        return _first(self._matches(self._revoked, identity, principal), now_us)

    def quarantined(self, identity: Identity | None, principal: Principal | None, now_us: int) -> Entry | None:
        return _first(self._matches(self._quarantined, identity, principal), now_us)

    def _matches(self, sets: _Sets, identity: Identity | None, principal: Principal | None) -> Iterator[Entry | None]:
        if identity is not None and sets.certificates:
            yield sets.certificates.get(identity.fingerprint)
            yield sets.certificates.get(identity.serial.lstrip("0"))
        if principal is not None and principal.token_id and sets.tokens:
            yield sets.tokens.get(("", principal.token_id))
            yield sets.tokens.get((principal.issuer, principal.token_id))
        if identity is not None and sets.identities:
            yield sets.identities.get(identity.subject.casefold())
            yield sets.identities.get(identity.spiffe_id.casefold())
        if principal is not None:
            for name in (principal.subject, *principal.actors):
                yield from self._named(sets, name.casefold(), principal.issuer.casefold())

    def _named(self, sets: _Sets, name: str, issuer: str) -> Iterator[Entry | None]:
        """A user, or an actor of a delegation: that may be a workload, and may be written without its issuer."""
        yield sets.users.get(name)
        yield sets.users.get(f"user:{issuer}:{name}")
        yield sets.identities.get(name)
        _, workload, path = name.partition(_SPIFFE)
        if workload:
            yield sets.identities.get(workload + path)
            if self._trust_domains:
                yield sets.identities.get(spiffe.subject(workload + path, self._trust_domains))


def _first(found: Iterator[Entry | None], now_us: int) -> Entry | None:
    return next((entry for entry in found if entry is not None and entry.in_force(now_us)), None)
