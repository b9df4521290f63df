"""How clients prove who they are, and what a server asks them for: one class for both sides of each way.

On the server each becomes settings of the sidecar (`Serving`); on the client
the files and the token of a channel (`Calling`). Nothing is decided here:
Envoy and authz_service do that, from these settings.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from secure_mcp_grpc.errors import UserError

if TYPE_CHECKING:
    from mcp_bridge.client import Identity
    from mcp_bridge.connect.tokens import TokenSource

__all__ = ["AuthProvider", "Calling", "JWTAuthProvider", "MTLSAuthProvider", "OAuth2AuthProvider", "Serving"]

ISSUER = "api"
"""What policy calls the one issuer of a `SecureMCPServer`: its users are `user:api:<sub>`."""

Token = str | Callable[[], str]


@dataclass(frozen=True, slots=True)
class Serving:
    """A provider on the server's side."""

    auth_type: str
    """See `MCP_AUTH_TYPE`."""
    subject: Callable[[str], str]
    """A model's name → the subject that policy knows it by."""
    tls: Mapping[str, str] | None
    """`cert_path`, `key_path` and `ca_path` of Envoy; None: from the server's own CA."""
    issuer: Mapping[str, Any] | None = None
    """Settings of the issuer whose tokens are believed."""


@dataclass(frozen=True, slots=True)
class Calling:
    """A provider on the client's side."""

    identity: "Identity | None"
    token: Token | None = None
    source: "TokenSource | None" = None
    """Where tokens are asked for, instead of `token`."""


class AuthProvider(Protocol):
    def serving(self) -> Serving:
        """Raises `UserError` where something is missing that a server needs."""
        ...

    def calling(self) -> Calling:
        """Raises `UserError` where something is missing that a client needs."""
        ...


@dataclass(frozen=True, slots=True)
class MTLSAuthProvider:
    """Both sides show certificates with a SPIFFE ID; files are read again when they are replaced."""

    cert_path: Path | str
    key_path: Path | str
    ca_path: Path | str

    def serving(self) -> Serving:
        return Serving("mtls", str, _tls(self.cert_path, self.key_path, self.ca_path))

    def calling(self) -> Calling:
        return Calling(_identity(self.cert_path, self.key_path, self.ca_path))


@dataclass(frozen=True, slots=True, kw_only=True)
class JWTAuthProvider:
    """The client sends a JWT; the server verifies it by a shared secret, a key set, or the issuer's own keys.

    With certificate and key on the client, and `require_certificate` on the
    server, both are needed. `ca_path` is the CA of the server's certificate on
    the client, and of the clients' certificates on the server.
    """

    token: Token | None = field(default=None, repr=False)
    """Client: the token, or a function that returns the present one."""
    token_path: Path | str | None = None
    """Client: a file with the token, read for each call."""
    issuer: str = ""
    """Server: the exact `iss`."""
    audience: str = ""
    """Server: the `aud` that a token must be meant for."""
    secret_key_path: Path | str | None = None
    """Server: file with a shared secret of at least 32 bytes (HS256)."""
    jwks_path: Path | str | None = None
    """Server: file with the issuer's keys (RFC 7517)."""
    jwks_url: str = ""
    """Server: where the issuer's keys are; without any key the issuer is asked (OpenID discovery)."""
    roles_claim: str = ""
    """Server: the claim that names roles."""
    require_certificate: bool = False
    """Server: a certificate, too."""
    cert_path: Path | str | None = None
    key_path: Path | str | None = None
    ca_path: Path | str | None = None

    def serving(self) -> Serving:
        if not self.issuer or not self.audience:
            raise UserError("JWTAuthProvider of a server needs issuer and audience")
        keys: dict[str, Any] = {}
        if self.secret_key_path is not None:
            keys = {"hmac_secret_file": str(self.secret_key_path), "algorithms": ["HS256"]}
        elif self.jwks_path is not None:
            keys = {"jwks_file": str(self.jwks_path)}
        elif self.jwks_url:
            keys = {"jwks_url": self.jwks_url}
        issuer = {"name": ISSUER, "issuer": self.issuer, "audience": [self.audience], **keys}
        if self.roles_claim:
            issuer["roles_claim"] = self.roles_claim
        kind = "mtls+jwt" if self.require_certificate else "jwt"
        subject = str if self.require_certificate else _user
        return Serving(kind, subject, _own_tls(self.cert_path, self.key_path, self.ca_path), issuer)

    def calling(self) -> Calling:
        if (self.token is None) == (self.token_path is None):
            raise UserError("JWTAuthProvider of a client needs either token or token_path")
        token = self.token if self.token is not None else _reader(Path(str(self.token_path)))
        return Calling(_client_tls(self.cert_path, self.key_path, self.ca_path), token)


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuth2AuthProvider:
    """The client gets its tokens by OAuth 2.0 client credentials; the server asks the issuer about them.

    Where `introspection_url` is given, opaque tokens are asked about one by
    one (RFC 7662); JWTs are verified by the issuer's keys.
    """

    issuer: str
    """URL of the authorization server; its metadata says where its endpoints and keys are."""
    client_id: str
    """Our name there: the client's at the token endpoint, the server's at the introspection endpoint."""
    client_secret_path: Path | str
    """File with the secret of `client_id`."""
    audience: str = ""
    """Server: the `aud` that a token must be meant for."""
    introspection_url: str = ""
    subject_claim: str = "sub"
    """Server: the claim that names the caller; `client_id` where tokens of client credentials have no `sub`."""
    token_url: str = ""
    """Client: token endpoint, where the issuer has no metadata."""
    scope: str = ""
    """Client: scopes to ask for, separated by blanks."""
    cert_path: Path | str | None = None
    key_path: Path | str | None = None
    ca_path: Path | str | None = None

    def serving(self) -> Serving:
        if not self.audience:
            raise UserError("OAuth2AuthProvider of a server needs an audience")
        issuer: dict[str, Any] = {
            "name": ISSUER,
            "issuer": self.issuer,
            "audience": [self.audience],
            "subject_claim": self.subject_claim,
        }
        if self.introspection_url:
            issuer |= {
                "introspection_url": self.introspection_url,
                "client_id": self.client_id,
                "client_secret_file": str(self.client_secret_path),
            }
        return Serving("oauth2", _user, _own_tls(self.cert_path, self.key_path, self.ca_path), issuer)

    def calling(self) -> Calling:
        from mcp_bridge.connect.oauth import ClientCredentials, Grant

        try:
            secret = Path(self.client_secret_path).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise UserError(f"client secret file {self.client_secret_path} cannot be read") from None
        where = {"token_url": self.token_url} if self.token_url else {"issuer": self.issuer}
        grant = Grant(self.client_id, secret, self.scope, self.audience, **where)
        return Calling(_client_tls(self.cert_path, self.key_path, self.ca_path), source=ClientCredentials(grant))


def _user(name: str) -> str:
    return name if ":" in name else f"user:{ISSUER}:{name}"


def _tls(cert: Path | str, key: Path | str, ca: Path | str) -> dict[str, str]:
    for path in (cert, key, ca):
        if not Path(path).is_file():
            raise UserError(f"file {path} does not exist")
    return {"cert_path": str(cert), "key_path": str(key), "ca_path": str(ca)}


def _own_tls(cert: Path | str | None, key: Path | str | None, ca: Path | str | None) -> dict[str, str] | None:
    """The server's certificate, which all three name or none."""
    if cert is None and key is None and ca is None:
        return None
    if cert is None or key is None or ca is None:
        raise UserError("cert_path, key_path and ca_path belong together on a server")
    return _tls(cert, key, ca)


def _identity(cert: Path | str | None, key: Path | str | None, ca: Path | str) -> "Identity":
    from mcp_bridge.client import Identity

    return Identity(cert, key, ca)


def _client_tls(cert: Path | str | None, key: Path | str | None, ca: Path | str | None) -> "Identity | None":
    if ca is None:
        if cert is not None or key is not None:
            raise UserError("cert_path and key_path need ca_path, which tells the server's certificate")
        return None
    return _identity(cert, key, ca)


def _reader(path: Path) -> Callable[[], str]:
    def read() -> str:
        try:
            return path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise UserError(f"token file {path} cannot be read") from None

    return read
