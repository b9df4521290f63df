"""The files that Envoy's SDS reads: which certificate it shows, and which CAs vouch for whom.

Envoy watches what it reads by name: its own certificate and `ca_path`, and
the CAs of peers that it connects to. The CAs of federated trust domains are
copied into the SDS file for clients, since Envoy 1.40 reads files named in a
SPIFFE validator (`trust_domains`) again only together with the SDS resource
around them, and `trust_bundles`, which it does watch, would be a JSON file to
be written for our own CAs, too. So somebody looks after them: the supervisor,
or `secure-mcp-grpc envoy trust --watch` in a container beside Envoy's.
"""

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from secure_mcp_grpc import logs
from secure_mcp_grpc.envoy_settings import EnvoySettings
from secure_mcp_grpc.envoy_template import dump, fill, template
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.lifecycle import write_by_rename

__all__ = ["keep_trust", "keeping_trust", "refresh_trust", "render_secrets", "secret_path", "write_secrets"]

logger = logging.getLogger(__name__)

_MAX_BUNDLE_BYTES = 1024 * 1024


def secret_path(settings: EnvoySettings, name: str) -> Path:
    """Where the SDS file `name` stands."""
    return (settings.run_dir / f"envoy-{name}.yaml").absolute()


def render_secrets(settings: EnvoySettings) -> dict[Path, str]:
    """The SDS files by path: names of certificate files, and the content of `federated` ones.

    Raises `UserError` for a federated file that cannot be read or has no certificate.
    """
    texts = template("secrets.yaml")
    values = _values(settings)
    found = {"identity": fill(texts["identity"], values), "trust": fill(texts["trust"], values)}
    if settings.federated:
        found["clients"] = fill(texts["clients"], {**values, "trust_domains": _trust_domains(settings)})
    for domain, path in settings.federated.items():
        bundle = {"bundle": str(path.absolute()), "bundle_directory": str(path.absolute().parent)}
        found[f"trust-{domain}"] = fill(texts["trust_of_domain"], bundle)
    return {secret_path(settings, name): dump(content) for name, content in found.items()}


def write_secrets(settings: EnvoySettings) -> None:
    """Write what `render_secrets` says; raises `UserError` for certificate files that cannot be read."""
    for name, path in (
        ("cert_path", settings.cert_path),
        ("key_path", settings.key_path),
        ("ca_path", settings.ca_path),
    ):
        if not os.access(path, os.R_OK):
            what = "cannot be read" if path.exists() else "does not exist"
            variable = settings.env_names()[name]
            raise UserError(f"{path} {what}; set {variable}, or make it with: secure-mcp-grpc certs issue sidecar")
    for path, content in render_secrets(settings).items():
        write_by_rename(path, content.encode(), mode=0o600)


def refresh_trust(settings: EnvoySettings) -> bool:
    """Put changed CAs of federated trust domains in force; whether there were any.

    Cheap: meant to be called every second or so. All or nothing: raises
    `UserError` for a file that cannot be read or has no certificate, and what
    was in force stays so.
    """
    if not settings.federated:
        return False
    path = secret_path(settings, "clients")
    content = render_secrets(settings)[path].encode()
    try:
        if path.read_bytes() == content:
            return False
    except FileNotFoundError:
        pass
    write_by_rename(path, content, mode=0o600)
    return True


def keep_trust(settings: EnvoySettings, stop: threading.Event, *, every_s: float = 1.0) -> None:
    """`refresh_trust` every `every_s` seconds until `stop`; what is wrong is logged once, and again when it changes."""
    said = ""
    while not stop.wait(every_s):
        wrong = ""
        try:
            if refresh_trust(settings):
                logs.event(logger, logging.INFO, "federated_trust_renewed")
        except (UserError, OSError) as error:
            wrong = str(error)
        if wrong and wrong != said:
            logs.event(logger, logging.WARNING, "federated_trust_refused", why=wrong)
        said = wrong


@contextlib.contextmanager
def keeping_trust(settings: EnvoySettings, *, every_s: float = 1.0) -> Iterator[None]:
    """`keep_trust` in a thread; nothing to do without federation."""
    if not settings.federated:
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=keep_trust, args=(settings, stop), kwargs={"every_s": every_s}, name="trust")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _values(settings: EnvoySettings) -> dict[str, Any]:
    return {
        "certificate": str(settings.cert_path.absolute()),
        "key": str(settings.key_path.absolute()),
        "ca": str(settings.ca_path.absolute()),
        "certificate_directory": str(settings.cert_path.absolute().parent),
        "ca_directory": str(settings.ca_path.absolute().parent),
    }


def _trust_domains(settings: EnvoySettings) -> list[dict[str, Any]]:
    own = {"name": settings.trust_domains[0], "trust_bundle": {"filename": str(settings.ca_path.absolute())}}
    return [
        own,
        *(
            {"name": domain, "trust_bundle": {"inline_string": _bundle(domain, path)}}
            for domain, path in settings.federated.items()
        ),
    ]


def _bundle(domain: str, path: Path) -> str:
    """Certificates in `path` as PEM, without anything else that stands there."""
    from cryptography import x509

    from secure_mcp_grpc.svid import pem

    where = f"CAs of {domain} in MCP_FEDERATED_CA: {path}"
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BUNDLE_BYTES + 1)
        if len(content) > _MAX_BUNDLE_BYTES:
            raise UserError(f"{where} is larger than {_MAX_BUNDLE_BYTES} bytes")
        found = x509.load_pem_x509_certificates(content)
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{where} is not a PEM bundle of certificates") from None
    for certificate in found:
        if not _is_ca(certificate):
            raise UserError(f"{where} holds a certificate that is not a CA's: {certificate.subject.rfc4514_string()}")
    return b"".join(map(pem, found)).decode()


def _is_ca(certificate: Any) -> bool:
    from cryptography import x509

    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except (x509.ExtensionNotFound, ValueError):
        return False
