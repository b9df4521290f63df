"""Who calls: the SPIFFE ID of the client certificate that Envoy verified.

Envoy hands over the certificate itself (`include_peer_certificate`), PEM and
percent-encoded, and its first URI SAN as `principal`. A certificate with
several URI SANs has no single identity and is refused (SPIFFE X.509-SVID, 2:
"exactly one URI SAN"). The x-forwarded-client-cert header is never read: it is
text that a client may have written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from authz_service.verdict import Code, Deny, Reason
from secure_mcp_grpc import spiffe

__all__ = ["Identity", "IdentityReader", "read_certificate"]

_MAX_CERTIFICATE_CHARS: Final = 32 * 1024


@dataclass(frozen=True, slots=True)
class Identity:
    """One workload, from one certificate."""

    subject: str
    """Path of the SPIFFE ID in the first trust domain, the whole SPIFFE ID otherwise; policy's name for it."""
    spiffe_id: str
    fingerprint: str
    """SHA-256 of the certificate (DER), lower-case hex, as Envoy writes it."""
    serial: str
    """Serial number, lower-case hex with an even number of digits, as Envoy writes it."""
    not_after_s: float
    """End of validity, seconds since the epoch."""


class IdentityReader:
    """Reads identities and remembers the last `cached` certificates."""

    def __init__(self, trust_domains: Sequence[str], cached: int) -> None:
        domains = tuple(trust_domains)
        self._read = lru_cache(cached)(lambda certificate: read_certificate(certificate, domains))

    def read(self, certificate: str, principal: str, now_s: float) -> Identity | Deny:
        """The identity behind `certificate`, which must be the one Envoy took `principal` from.

        Envoy checks validity at the handshake only, and a connection may outlive its certificate: the end of
        validity is looked at again here, for each request.
        """
        if not certificate:
            return _refuse("no_certificate", "no client certificate was presented")
        identity = self._read(certificate)
        if isinstance(identity, Deny):
            return identity
        if identity.spiffe_id != principal:
            return _refuse("principal_mismatch", "the client certificate has no single identity")
        if now_s > identity.not_after_s:
            return _refuse("certificate_expired", "the client certificate has expired; connect again with a new one")
        return identity


def read_certificate(encoded: str, trust_domains: Sequence[str]) -> Identity | Deny:
    """The identity in one percent-encoded PEM certificate."""
    if len(encoded) > _MAX_CERTIFICATE_CHARS:
        return _refuse("bad_certificate", "the client certificate is too large")
    try:
        (certificate,) = x509.load_pem_x509_certificates(unquote(encoded, errors="strict").encode())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return _refuse("bad_certificate", "the client certificate cannot be read or has no URI SAN")
    if len(uris) != 1:
        return _refuse("bad_certificate", "the client certificate must have exactly one URI SAN")
    found = spiffe.parse(uris[0])
    if found is None:
        return _refuse("bad_certificate", "the URI SAN of the client certificate is not a SPIFFE ID of a workload")
    if found[0] not in trust_domains:
        return _refuse("untrusted_domain", "the trust domain of the client certificate is not accepted here")
    serial = f"{certificate.serial_number:x}"
    return Identity(
        subject=spiffe.subject(uris[0], trust_domains),
        spiffe_id=uris[0],
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        serial=serial.rjust(len(serial) + len(serial) % 2, "0"),
        not_after_s=certificate.not_valid_after_utc.timestamp(),
    )


def _refuse(reason: Reason, sentence: str) -> Deny:
    return Deny(Code.UNAUTHENTICATED, reason, sentence)
