"""A small certificate authority for SPIFFE identities: demos, tests, and pods without a better one.

On one side stands the person at `secure-mcp-grpc certs`; on the other Envoy,
which reads an identity directory through SDS and reloads it when it changes,
and our own clients. Directories have the layout of a mounted Kubernetes
secret: `tls.crt`, `tls.key` and `ca.crt` are links through `..data` to a
versioned directory, and renewal swaps `..data` by one rename, so that
certificate and key always change together.

Certificates follow the X.509-SVID specification (SPIFFE): one URI SAN, a CA
that cannot sign further CAs, and name constraints that tie the CA to its
trust domain.
"""

import contextlib
import datetime
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.lifecycle import private_directory, write_by_rename
from secure_mcp_grpc.svid import CA_LIFETIME, DEFAULT_LIFETIME, key_pem, make_ca, make_leaf, pem, spiffe_id

__all__ = [
    "CA_CRT",
    "CA_KEY",
    "DEFAULT_LIFETIME",
    "TLS_CRT",
    "TLS_KEY",
    "Facts",
    "Identity",
    "facts",
    "init_ca",
    "issue",
    "key_pem",
    "load_ca",
    "load_identity",
    "make_ca",
    "make_leaf",
    "pem",
    "replace_identity",
    "show",
    "spiffe_id",
]

TLS_CRT: Final = "tls.crt"
TLS_KEY: Final = "tls.key"
CA_CRT: Final = "ca.crt"
CA_KEY: Final = "ca.key"
DATA: Final = "..data"
"""Link to the version in force; the name that the kubelet uses, and Envoy's guide to watching mounted secrets."""

_VERSION = re.compile(r"\.\.\d{8}T\d{6}\.\d{6}Z")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a certificate says, for people."""

    path: str
    subject: str
    issuer: str
    uris: tuple[str, ...]
    dns: tuple[str, ...]
    ips: tuple[str, ...]
    is_ca: bool
    not_before: datetime.datetime
    not_after: datetime.datetime
    serial: str
    """Hex, lower case, an even number of digits, as Envoy's `%DOWNSTREAM_PEER_SERIAL%`."""
    fingerprint: str
    """SHA-256 of the certificate, hex, as Envoy's `%DOWNSTREAM_PEER_FINGERPRINT_256%`."""

    @property
    def expired(self) -> bool:
        return self.not_after <= _now()


@dataclass(frozen=True, slots=True)
class Identity:
    """A checked identity directory: PEM texts for a gRPC channel, and whose they are."""

    spiffe_id: str
    certificate: bytes
    key: bytes
    ca: bytes
    not_after: datetime.datetime


def init_ca(directory: Path, trust_domain: str, *, lifetime: datetime.timedelta = CA_LIFETIME) -> Path:
    """Make a CA for `trust_domain` in `directory` (`ca.crt`, `ca.key`); returns the certificate's path.

    Raises `UserError` when there is one already: every certificate it issued
    would stop working.
    """
    private_directory(directory)
    for name in (CA_CRT, CA_KEY):
        if (directory / name).exists():
            raise UserError(f"{directory / name} exists already; remove it first or choose another directory")
    certificate, key = make_ca(trust_domain, lifetime=lifetime)
    try:
        write_by_rename(directory / CA_KEY, key_pem(key), mode=0o600)
        write_by_rename(directory / CA_CRT, pem(certificate), mode=0o644)
    except OSError as error:
        raise UserError(f"{directory} cannot be written: {error.strerror}") from None
    return directory / CA_CRT


def issue(
    ca_dir: Path,
    out_dir: Path,
    name: str,
    trust_domain: str | None = None,
    *,
    dns: Sequence[str] = (),
    ips: Sequence[str] = (),
    lifetime: datetime.timedelta = DEFAULT_LIFETIME,
    allow_other_trust_domain: bool = False,
) -> Path:
    """Issue, or renew, the identity `name` into the directory `out_dir`; returns the certificate's path.

    `trust_domain` defaults to the CA's and must equal it, unless
    `allow_other_trust_domain`: peers refuse such a certificate, which is what
    tests want of it. The certificate never outlives the CA. Raises `UserError` for a CA that is missing, unreadable,
    mismatched or expired, and for names that are not of their form.
    """
    ca, ca_key = load_ca(ca_dir)
    own = _trust_domain_of(ca, ca_dir / CA_CRT)
    if trust_domain not in (None, own) and not allow_other_trust_domain:
        raise UserError(f"the CA in {ca_dir} signs for trust domain {own}, not {trust_domain}")
    if lifetime <= datetime.timedelta(0):
        raise UserError(f"lifetime {lifetime} must be positive")
    uri = spiffe_id(trust_domain or own, name)
    certificate, key = make_leaf(ca, ca_key, [uri], dns=dns, ips=ips, not_after=_now() + lifetime)
    replace_identity(out_dir, {TLS_CRT: pem(certificate), TLS_KEY: key_pem(key), CA_CRT: pem(ca)})
    return out_dir / TLS_CRT


def replace_identity(out_dir: Path, files: dict[str, bytes]) -> None:
    """Put `files` in force in `out_dir` by one rename of the link `..data`; keys are 0600.

    Envoy watches `out_dir` (`watched_directory`) and reads all files again on
    that rename. The version before stays until the next renewal, for a reader
    that has opened one of its files only.
    """
    private_directory(out_dir)
    version = out_dir / f"..{_now():%Y%m%dT%H%M%S.%fZ}"
    before = (out_dir / DATA).resolve()
    try:
        version.mkdir(mode=0o700)
        for name, content in files.items():
            write_by_rename(version / name, content, mode=0o600 if name.endswith(".key") else 0o644)
        _link(version.name, out_dir / DATA)
        for name in files:
            _link(f"{DATA}/{name}", out_dir / name)
    except OSError as error:
        with contextlib.suppress(OSError):
            shutil.rmtree(version)
        raise UserError(f"{out_dir} cannot be written: {error.strerror}") from None
    for old in out_dir.iterdir():
        if _VERSION.fullmatch(old.name) and old not in (version, before) and old.resolve() != before:
            shutil.rmtree(old, ignore_errors=True)


def facts(path: Path) -> Facts:
    """What the certificate at `path` says; `path` may be an identity or CA directory, too. Raises `UserError`."""
    if path.is_dir():
        path = path / (TLS_CRT if (path / TLS_CRT).exists() else CA_CRT)
    return _facts(path, _certificate(path))


def show(path: Path) -> dict[str, str]:
    """`facts` as names and texts, for a table."""
    found = facts(path)
    return {
        "file": found.path,
        "kind": "CA" if found.is_ca else "identity",
        "URI": ", ".join(found.uris) or "none",
        "DNS names": ", ".join(found.dns) or "none",
        "IP addresses": ", ".join(found.ips) or "none",
        "subject": found.subject,
        "issuer": found.issuer,
        "valid from": f"{found.not_before:%Y-%m-%d %H:%M:%SZ}",
        "valid until": f"{found.not_after:%Y-%m-%d %H:%M:%SZ}{' (expired)' if found.expired else ''}",
        "serial": found.serial,
        "SHA-256": found.fingerprint,
    }


def load_identity(directory: Path) -> Identity:
    """The identity in `directory`, checked as a peer would check it.

    Raises `UserError` that names the file when one is missing or unreadable,
    expired or not yet valid, when key and certificate differ, when the
    certificate has not exactly one SPIFFE ID, or when `ca.crt` did not sign it
    (a bundle of several CAs may stand there).
    """
    crt, key_path, ca_path = directory / TLS_CRT, directory / TLS_KEY, directory / CA_CRT
    certificate = _certificate(crt)
    key = _private_key(key_path)
    if certificate.public_key() != key.public_key():
        raise UserError(f"{key_path} is not the key of {crt}; issue the identity again")
    facts = _facts(crt, certificate)
    if facts.expired:
        raise UserError(f"{crt} expired at {facts.not_after:%Y-%m-%d %H:%M:%SZ}; issue the identity again")
    if facts.not_before > _now():
        raise UserError(f"{crt} is not valid before {facts.not_before:%Y-%m-%d %H:%M:%SZ}; check the clock")
    if len(facts.uris) != 1 or not facts.uris[0].startswith("spiffe://"):
        raise UserError(f"{crt} must carry exactly one URI, a SPIFFE ID; it carries {len(facts.uris)}")
    bundle = _read(ca_path)
    if not any(_signed_by(certificate, ca) for ca in _parse_bundle(ca_path, bundle)):
        raise UserError(f"{ca_path} did not sign {crt}; put the CA certificate of the issuer there")
    return Identity(facts.uris[0], _read(crt), _read(key_path), bundle, facts.not_after)


def load_ca(directory: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Certificate and key of the CA in `directory`; raises `UserError` as `issue` does."""
    crt, key_path = directory / CA_CRT, directory / CA_KEY
    if not crt.exists() and not key_path.exists():
        raise UserError(f"there is no CA in {directory}; run: secure-mcp-grpc certs init")
    certificate, key = _certificate(crt), _private_key(key_path)
    if certificate.public_key() != key.public_key():
        raise UserError(f"{key_path} is not the key of {crt}; restore the matching pair")
    facts = _facts(crt, certificate)
    if not facts.is_ca:
        raise UserError(f"{crt} is not a CA certificate")
    if facts.expired:
        raise UserError(f"{crt} expired at {facts.not_after:%Y-%m-%d %H:%M:%SZ}; make a new CA")
    return certificate, key


def _trust_domain_of(ca: x509.Certificate, path: Path) -> str:
    uris = _facts(path, ca).uris
    if len(uris) != 1 or not uris[0].startswith("spiffe://"):
        raise UserError(f"{path} does not say its trust domain (a URI SAN spiffe://…); make a CA with certs init")
    return uris[0].removeprefix("spiffe://").rstrip("/")


def _facts(path: Path, certificate: x509.Certificate) -> Facts:
    uris: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()
    is_ca = False
    with contextlib.suppress(x509.ExtensionNotFound):
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = tuple(names.get_values_for_type(x509.UniformResourceIdentifier))
        dns = tuple(names.get_values_for_type(x509.DNSName))
        ips = tuple(str(ip) for ip in names.get_values_for_type(x509.IPAddress))
    with contextlib.suppress(x509.ExtensionNotFound):
        is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    return Facts(
        path=str(path),
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        uris=uris,
        dns=dns,
        ips=ips,
        is_ca=is_ca,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        serial=_whole_bytes(f"{certificate.serial_number:x}"),
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
    )


def _whole_bytes(digits: str) -> str:
    return digits.zfill(len(digits) + len(digits) % 2)


def _signed_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _certificate(path: Path) -> x509.Certificate:
    return _parse_bundle(path, _read(path))[0]


def _parse_bundle(path: Path, content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise UserError(f"{path} is not a PEM certificate") from None


def _private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError):
        raise UserError(f"{path} is not an unencrypted PEM private key") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"{path} must be an elliptic curve key (P-256)")
    return key


def _link(target: str, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(path)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
