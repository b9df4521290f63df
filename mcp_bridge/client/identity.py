"""Who a client is: certificate, key and the CA it trusts, as files that are read anew for each channel."""

import asyncio
import contextlib
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

__all__ = ["Identity", "verify_server"]

_CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class Identity:
    """Paths of PEM files. The certificate names the workload by a SPIFFE URI SAN.

    Without certificate and key the server is verified and the client is anonymous at the level of TLS: for servers
    that take the identity from a token alone.
    """

    cert: Path | str | None
    key: Path | str | None
    ca: Path | str

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("a certificate needs its key, and a key its certificate")

    @classmethod
    def from_directory(cls, directory: Path | str) -> "Identity":
        """A directory with tls.crt, tls.key and ca.crt, as `secure-mcp-grpc certs issue` and Kubernetes write it."""
        base = Path(directory)
        return cls(base / "tls.crt", base / "tls.key", base / "ca.crt")

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises `OSError` for a file that cannot be read."""
        cert, key, ca = (Path(path).read_bytes() if path else None for path in (self.cert, self.key, self.ca))
        return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=cert)

    def version(self) -> tuple[int, ...]:
        """Changes when a file is replaced; raises `OSError`."""
        return tuple(Path(path).stat().st_mtime_ns for path in (self.cert, self.key, self.ca) if path)


async def verify_server(address: str, identity: Identity, server_id: str, server_name: str | None) -> None:
    """Raise `ConnectionError` unless the server at `address` proves to be `server_id`, and nobody else besides.

    gRPC for Python verifies the chain and the host name but cannot look at URI
    SANs, so this looks on a connection of its own, before each new channel.
    """
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=str(identity.ca))
    if identity.cert is not None:
        context.load_cert_chain(str(identity.cert), str(identity.key))
    context.set_alpn_protocols(["h2"])
    async with asyncio.timeout(_CONNECT_S):
        _, writer = await asyncio.open_connection(
            host.strip("[]"), int(port), ssl=context, server_hostname=server_name or host.strip("[]")
        )
    try:
        certificate = writer.get_extra_info("peercert") or {}
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    if names != [server_id]:
        raise ConnectionError(f"the server at {address} is {', '.join(names) or 'nameless'}, not {server_id}")
