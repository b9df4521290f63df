"""Settings of Envoy: sections `server`, `limits` and `egress` of the file, and their variables."""

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from secure_mcp_grpc import spiffe
from secure_mcp_grpc.errors import UserError
from secure_mcp_grpc.limit_settings import LimitSettings
from secure_mcp_grpc.settings import CONFIG_ENV, from_env, read_config

__all__ = ["EgressPeer", "EnvoySettings"]

_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[?[0-9A-Fa-f:]+\]?"
_BUNDLE = re.compile(r"(?P<domain>[^=]+)=(?P<path>.+)")
_RESOURCE = re.compile(r"https://[A-Za-z0-9.\[\]:-]+(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*/?")
_ISSUER = re.compile(r"https?://[!$-;=@-Z_a-z~%]+")
_SCOPE = re.compile(r"[!#-\[\]-~]+")
_PEER = re.compile(rf"(?P<local_port>\d+)=(?P<identity>[^@]+)@(?P<host>{_HOST}):(?P<port>\d+)")


class EgressPeer(BaseModel):
    """Another pod, reached through a loopback port. In text: `15001=model-b@model-b.pods:8443`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    local_port: int = Field(ge=0, le=65535)
    """Loopback port of the egress listener; 0 lets the system choose."""
    identity: str
    """Whom the peer must be: a SPIFFE ID, or its path in the first trust domain."""
    host: str = Field(pattern=rf"^(?:{_HOST})$")
    """Name or IP address of the peer's sidecar."""
    port: int = Field(ge=1, le=65535)
    """Its port."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if not (found := _PEER.fullmatch(value)):
            raise ValueError("a peer is written LOCAL_PORT=IDENTITY@HOST:PORT")
        return {**found.groupdict(), "host": found["host"].strip("[]")}

    @property
    def host_is_address(self) -> bool:
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True


class _EgressSettings(LimitSettings):
    section: ClassVar[str] = "egress"
    env_prefix: ClassVar[str] = "MCP_EGRESS_"

    peers: tuple[EgressPeer, ...] = ()
    """Pods that this pod calls."""


class EnvoySettings(_EgressSettings):
    """What Envoy's configuration is rendered from."""

    section: ClassVar[str] = "server"
    env_prefix: ClassVar[str] = "MCP_SERVER_"

    host: str = "127.0.0.1"
    """Address that clients connect to; an IP address, or localhost."""
    port: int = Field(default=8443, ge=0, le=65535)
    """0 lets the system choose; `listener_address` tells."""
    cert_path: Annotated[Path, from_env("MCP_CERT_PATH")] = Path("certs/tls.crt")
    """Certificate that clients see (PEM); replaced files are served without a restart."""
    key_path: Annotated[Path, from_env("MCP_KEY_PATH")] = Path("certs/tls.key")
    """Its private key (PEM)."""
    ca_path: Annotated[Path, from_env("MCP_CA_PATH")] = Path("certs/ca.crt")
    """CAs whose client certificates are accepted (PEM)."""
    federated: Annotated[dict[str, Path], from_env("MCP_FEDERATED_CA")] = {}  # noqa: RUF012 - pydantic copies it
    """CAs (PEM) of other trust domains, each believed for its own domain only:
    `partner.example=/etc/bundles/partner.pem`, comma-separated. `ca_path` then counts for the first trust domain
    only, and every other one in `trust_domains` needs an entry here. Without any, `ca_path` vouches for all."""
    resource: str = ""
    """URL by which clients know this server, for those that look for where to get a token (RFC 9728). Empty:
    `https://host:port`, unless the host stands for every address or the system chooses the port."""
    resource_name: str = Field(default="", max_length=256)
    """Name of this server for people (RFC 9728)."""
    authorization_servers: tuple[str, ...] = ()
    """Issuer URLs of the authorization servers whose tokens are accepted (RFC 9728)."""
    scopes_supported: tuple[str, ...] = ()
    """Scopes that clients may ask for (RFC 9728)."""
    mcp_filter: bool = True
    """With `streamable_http`: Envoy's own MCP filter reads each message, too, and authz_service refuses what the two
    read differently. Envoy calls that filter work in progress; `false` leaves it out."""
    concurrency: int = Field(default=1, ge=1, le=64)
    """Envoy's worker threads: one serves a pod, and each costs memory."""

    @field_validator("host")
    @classmethod
    def _is_address(cls, value: str) -> str:
        if value == "localhost":
            return "127.0.0.1"
        try:
            return str(ipaddress.ip_address(value.strip("[]")))
        except ValueError:
            raise ValueError("expected an IP address, such as 127.0.0.1 or 0.0.0.0") from None

    @field_validator("trust_domains")
    @classmethod
    def _are_trust_domains(cls, value: list[str]) -> list[str]:
        for domain in value:
            if not spiffe.is_trust_domain(domain):
                raise ValueError(f"{domain!r} is not a SPIFFE trust domain (lower-case letters, digits, . _ -)")
        return value

    @field_validator("peers")
    @classmethod
    def _are_distinct(cls, value: tuple[EgressPeer, ...]) -> tuple[EgressPeer, ...]:
        ports = [peer.local_port for peer in value if peer.local_port]
        if len(set(ports)) != len(ports):
            raise ValueError("two peers have the same local_port")
        return value

    @field_validator("federated", mode="before")
    @classmethod
    def _from_pairs(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [part.strip() for part in value.split(",") if part.strip()]
        found = [_BUNDLE.fullmatch(pair) for pair in pairs]
        domains = [match["domain"] for match in found if match]
        if len(domains) != len(pairs) or len(set(domains)) != len(domains):
            raise ValueError("expected TRUST_DOMAIN=FILE, comma-separated, each domain once")
        return {match["domain"]: match["path"] for match in found if match}

    @field_validator("federated")
    @classmethod
    def _cover_the_trust_domains(cls, value: dict[str, Path], info: ValidationInfo) -> dict[str, Path]:
        own, *others = info.data.get("trust_domains") or [""]
        if own in value:
            raise ValueError(f"{own} is the first trust domain; its CAs stand in MCP_CA_PATH")
        if unknown := sorted(set(value) - set(others)):
            raise ValueError(f"{unknown[0]} is not among MCP_TRUST_DOMAINS")
        if value and (bare := sorted(set(others) - set(value))):
            raise ValueError(f"{bare[0]} of MCP_TRUST_DOMAINS has no CAs here, and no others may vouch for it")
        return value

    @field_validator("resource")
    @classmethod
    def _is_resource(cls, value: str) -> str:
        if value and not _RESOURCE.fullmatch(value):
            raise ValueError("expected an https URL without query or fragment (RFC 9728, 1.2)")
        return value

    @field_validator("authorization_servers")
    @classmethod
    def _are_issuers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for issuer in value:
            if not _ISSUER.fullmatch(issuer):
                raise ValueError(f"{issuer!r} is not an issuer: an http(s) URL without query or fragment")
        return value

    @field_validator("scopes_supported")
    @classmethod
    def _are_scopes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for scope in value:
            if not _SCOPE.fullmatch(scope):
                raise ValueError(f"{scope!r} is not a scope (RFC 6749, 3.3)")
        return value

    @model_validator(mode="after")
    def _peers_have_identities(self) -> Self:
        for peer in self.peers:
            if spiffe.parse(self.peer_spiffe_id(peer)) is None:
                raise ValueError(f"egress peer identity {peer.identity!r} is not a SPIFFE ID or the path of one")
            if self.federated and self.peer_trust_domain(peer) not in self.trust_domains:
                raise ValueError(f"egress peer {peer.identity!r} is in a trust domain that has no CAs here")
        return self

    @property
    def shows_certificate(self) -> bool:
        """Whether clients show a certificate."""
        return self.auth_type in ("mtls", "mtls+jwt")

    @property
    def takes_tokens(self) -> bool:
        """Whether clients must show a token."""
        return self.auth_type in ("mtls+jwt", "jwt", "oauth2")

    @property
    def resource_url(self) -> str:
        """What `resource` says, or else what it is by host and port; empty when neither is known."""
        if self.resource or not self.port or ipaddress.ip_address(self.host).is_unspecified:
            return self.resource
        return f"https://[{self.host}]:{self.port}" if ":" in self.host else f"https://{self.host}:{self.port}"

    def peer_trust_domain(self, peer: EgressPeer) -> str:
        """The trust domain that `peer` is in."""
        return self.peer_spiffe_id(peer).removeprefix("spiffe://").partition("/")[0]

    def peer_spiffe_id(self, peer: EgressPeer) -> str:
        """The SPIFFE ID that `peer` must show."""
        if peer.identity.startswith("spiffe://"):
            return peer.identity
        return f"spiffe://{self.trust_domains[0]}/{peer.identity}"

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, config: Path | None = None) -> Self:
        """As `Settings.load`; unknown names in `limits` and `egress` are refused like those in `server`."""
        environ = os.environ if environ is None else environ
        path = config or (Path(environ[CONFIG_ENV]) if environ.get(CONFIG_ENV) else None)
        document = read_config(path) if path else {}
        for base in (LimitSettings, _EgressSettings):
            known = set(base.__annotations__)
            if unknown := sorted(str(key) for key in document.get(base.section, {}) if key not in known):
                raise UserError(f"unknown setting {path}: {base.section}.{unknown[0]}; known are {_join(known)}")
            variables = {f"{base.env_prefix}{name.upper()}" for name in known}
            if unknown := sorted(
                name for name in environ if name.startswith(base.env_prefix) and name not in variables
            ):
                raise UserError(f"unknown setting {unknown[0]}; known are {_join(variables)}")
        return super().load(environ, config)


def _join(names: set[str]) -> str:
    return ", ".join(sorted(names))
