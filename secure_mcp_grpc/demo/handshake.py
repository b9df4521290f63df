"""Knocking at the sidecar's port with the wrong certificate, or none."""

import socket
import ssl
from pathlib import Path

__all__ = ["tls_refusal"]

# The client connection preface (RFC 9113, 3.4) with an empty SETTINGS frame: some filters judge at the first byte.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


def tls_refusal(address: str, ca: Path, identity: Path | None) -> str:
    """What ended a connection to `address` ("host:port") as `identity`; "" if the server talked to us.

    In TLS 1.3 the server judges our certificate after our side is done, so
    its alert comes with the first read.
    """
    context = ssl.create_default_context(cafile=str(ca))
    context.set_alpn_protocols(["h2"])
    context.check_hostname = False
    if identity:
        context.load_cert_chain(identity / "tls.crt", identity / "tls.key")
    host, _, port = address.rpartition(":")
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), timeout=5) as plain,
            context.wrap_socket(plain) as tls,
        ):
            tls.sendall(_PREFACE)
            return "" if tls.recv(1) else "connection closed"
    except ssl.SSLError as error:
        return (error.reason or "TLS alert").lower().replace("_", " ")
    except (BrokenPipeError, ConnectionResetError):
        return "connection reset"
