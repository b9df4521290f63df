"""X.509-SVIDs (SPIFFE) made in memory: the certificates that `secure_mcp_grpc.certs` writes.

Pure but for the clock and the random numbers; tests use it for certificates
that `certs.issue` would refuse to make.
"""

import datetime
import ipaddress
import re
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from secure_mcp_grpc import spiffe
from secure_mcp_grpc.errors import UserError

__all__ = ["CA_LIFETIME", "DEFAULT_LIFETIME", "key_pem", "make_ca", "make_leaf", "pem", "spiffe_id"]

DEFAULT_LIFETIME: Final = datetime.timedelta(hours=24)
CA_LIFETIME: Final = datetime.timedelta(days=365)
BACKDATE: Final = datetime.timedelta(minutes=5)
"""Clocks of two pods may differ by this much."""

_TRUST_DOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,253}[a-z0-9])?")


def spiffe_id(trust_domain: str, name: str) -> str:
    """`spiffe://<trust_domain>/<name>`; raises `UserError` for what the SPIFFE-ID specification (2.1, 2.2) forbids."""
    if not _TRUST_DOMAIN.fullmatch(trust_domain):
        raise UserError(f"trust domain {trust_domain!r} must be lower-case letters, digits, dots and dashes")
    for segment in name.split("/"):
        if not spiffe.is_segment(segment):
            raise UserError(f"name {name!r} must be letters, digits, dots, dashes and underscores, separated by /")
    uri = f"spiffe://{trust_domain}/{name}"
    if len(uri) > spiffe.MAX_ID_BYTES:
        raise UserError(
            f"name {name[:32]}… makes a SPIFFE ID of over {spiffe.MAX_ID_BYTES} bytes; choose a shorter one"
        )
    return uri


def make_ca(
    trust_domain: str, *, lifetime: datetime.timedelta = CA_LIFETIME
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A self-signed CA for one trust domain. Nothing is written."""
    root = spiffe_id(trust_domain, "ca").removesuffix("/ca")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{trust_domain[:50]} MCP CA")])
    now = _now()
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(root)]), critical=False)
        .add_extension(
            # RFC 5280 4.2.1.10: a URI constraint without a leading dot permits exactly that host.
            x509.NameConstraints([x509.UniformResourceIdentifier(trust_domain)], None),
            critical=True,
        )
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def make_leaf(
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    uris: Sequence[str],
    *,
    dns: Sequence[str] = (),
    ips: Sequence[str] = (),
    not_before: datetime.datetime | None = None,
    not_after: datetime.datetime | None = None,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A leaf certificate, not judged: `certs.issue` is the careful way. `not_after` is at most the CA's."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = _now()
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    names += [x509.DNSName(_dns_name(value)) for value in dns]
    names += [x509.IPAddress(_ip_address(value)) for value in ips]
    common_name = (uris[0].rpartition("/")[2] if uris else "")[:64] or "unnamed"
    authority = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before or now - BACKDATE)
        .not_valid_after(min(not_after or now + DEFAULT_LIFETIME, ca.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority),
            critical=False,
        )
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(ca_key, hashes.SHA256()), key


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _dns_name(value: str) -> str:
    if not re.fullmatch(r"(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", value):
        raise UserError(f"DNS name {value!r} must be letters, digits, dots and dashes")
    return value


def _ip_address(value: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(value)
    except ValueError:
        raise UserError(f"{value!r} is not an IP address") from None


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
