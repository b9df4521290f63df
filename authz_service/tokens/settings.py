"""Settings of tokens: which issuers are believed, and for what."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from authz_service.tokens.urls import check_url
from secure_mcp_grpc.settings import CommonSettings

__all__ = ["ASYMMETRIC", "BUILT_IN", "HMAC", "JWT_ONLY", "Issuer", "TokenSettings"]

ASYMMETRIC: Final = (
    *("RS256", "RS384", "RS512"),
    *("PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512"),
    "EdDSA",
)
BUILT_IN: Final = ("jwt", "introspection")
"""Authenticators of this package."""
JWT_ONLY: Final = ("mtls+jwt", "jwt")
"""Authentication types that take no opaque tokens."""
HMAC: Final = ("HS256", "HS384", "HS512")

Text = Annotated[str, Field(min_length=1, max_length=2048)]


class Issuer(BaseModel):
    """One issuer of tokens.

    Its keys come from `jwks_file`, from `jwks_url`, or by OpenID discovery, which is the default; with
    `introspection_url` alone it has no keys, and its tokens are asked about one by one (RFC 7662).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """What policy calls it: its users are `user:<name>:<sub>`."""
    issuer: Text
    """The exact value of `iss`."""
    audience: Annotated[tuple[Text, ...], Field(min_length=1)]
    """This service, as the issuer names it; a token must be meant for one of these (`aud`)."""
    discovery_url: str = ""
    """OpenID Provider Metadata; empty means `<issuer>/.well-known/openid-configuration`."""
    jwks_url: str = ""
    """Keys (RFC 7517) at a fixed address, without discovery."""
    jwks_file: Path | None = None
    """Keys in a file; a changed file is read again within 2 s."""
    hmac_secret_file: Path | None = None
    """A shared secret instead of keys, as raw bytes, at least as long as the hash; `algorithms` must then name HMAC
    algorithms and no others. Whoever can check such tokens can also make them."""
    introspection_url: str = ""
    """Introspection endpoint for opaque tokens. At most one issuer may have it: an opaque token does not say whose it
    is, and would be shown to the other one."""
    client_id: str = ""
    """Our name at the introspection endpoint (HTTP Basic)."""
    client_secret_file: Path | None = None
    """File with our secret there; white space at its ends does not count."""
    ca_file: Path | None = None
    """CA certificates (PEM) of the issuer's HTTPS server, instead of the system's."""
    algorithms: Annotated[tuple[str, ...], Field(min_length=1)] = ASYMMETRIC
    """Accepted signature algorithms (`alg`)."""
    types: Annotated[tuple[str, ...], Field(min_length=1)] = ("at+jwt", "JWT", "")
    """Accepted values of `typ`; the empty text stands for a token without it. RFC 9068 has `at+jwt`."""
    subject_claim: Text = "sub"
    """The claim that names the user."""
    roles_claim: str = ""
    """Where roles are: the name of a claim, or a path such as `realm_access.roles`. Each value is the role
    `role:<value>`; text is split at blanks. Empty means that tokens give no roles."""
    require_bound: bool = False
    """Accept only tokens that are bound to a client certificate (RFC 8705, `cnf`)."""
    leeway_s: Annotated[float, Field(ge=0, le=300)] = 10.0
    """Difference of clocks that is forgiven."""
    keys_refresh_s: Annotated[float, Field(ge=1, le=86400)] = 300.0
    """How often keys are fetched again, ahead of need."""
    keys_max_age_s: Annotated[float, Field(ge=1, le=7 * 86400)] = 4 * 3600.0
    """How long the last good keys stay in force while new ones cannot be had; after that, tokens are refused as
    unverifiable."""
    keys_unknown_s: Annotated[float, Field(ge=1, le=3600)] = 10.0
    """Keys are fetched because of an unknown `kid` at most once in this time."""
    introspection_cache_s: Annotated[float, Field(ge=0, le=300)] = 10.0
    """How long an answer about an active token is believed; never beyond the token's end."""
    timeout_s: Annotated[float, Field(gt=0, le=30)] = 5.0
    """Longest time for one exchange with the issuer. A request waits at most `decision_timeout_s` for it."""

    @field_validator("audience", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("discovery_url", "jwks_url", "introspection_url")
    @classmethod
    def _is_safe(cls, value: str) -> str:
        return check_url(value) if value else value

    @field_validator("algorithms")
    @classmethod
    def _is_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = (*ASYMMETRIC, *HMAC)
        if unknown := [name for name in value if name not in known]:
            raise ValueError(f"unknown algorithm {unknown[0]!r}; known are {', '.join(known)}")
        return value

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        sources = {
            "jwks_file": self.jwks_file,
            "jwks_url": self.jwks_url,
            "discovery_url": self.discovery_url,
            "hmac_secret_file": self.hmac_secret_file,
        }
        if len(named := [name for name, value in sources.items() if value]) > 1:
            raise ValueError(f"{self.name}: has both {named[0]} and {named[1]}; choose one")
        symmetric = [name for name in self.algorithms if name in HMAC]
        if self.hmac_secret_file and len(symmetric) != len(self.algorithms):
            raise ValueError(f"{self.name}: hmac_secret_file needs algorithms that are all of {', '.join(HMAC)}")
        if symmetric and not self.hmac_secret_file:
            raise ValueError(f"{self.name}: {symmetric[0]} needs hmac_secret_file, and no keys beside it")
        if (self.introspection_url or self.client_id or self.client_secret_file) and not (
            self.introspection_url and self.client_id and self.client_secret_file
        ):
            raise ValueError(f"{self.name}: introspection_url, client_id and client_secret_file belong together")
        if self.discovers and not self.discovery_url:
            try:
                check_url(self.issuer)
            except ValueError as error:
                raise ValueError(f"{self.name}: for discovery the issuer {error}; or name jwks_file") from None
        return self

    @property
    def discovers(self) -> bool:
        """Whether its keys come by discovery."""
        others = self.jwks_file or self.jwks_url or self.hmac_secret_file
        return bool(self.discovery_url) or not (others or self.introspection_url)

    @property
    def has_keys(self) -> bool:
        """Whether its JWTs are checked here."""
        return bool(self.discovers or self.jwks_file or self.jwks_url or self.hmac_secret_file)

    @property
    def metadata_url(self) -> str:
        """OpenID Connect Discovery 1.0, 4: a slash at the end of the issuer is removed first."""
        return self.discovery_url or f"{self.issuer.removesuffix('/')}/.well-known/openid-configuration"


class TokenSettings(CommonSettings):
    """Section `authz` of the file, environment variables `MCP_AUTHZ_*`."""

    section: ClassVar[str] = "authz"
    env_prefix: ClassVar[str] = "MCP_AUTHZ_"

    issuers: tuple[Issuer, ...] = ()
    """Whose tokens are believed: a list of objects, in the variable a JSON array; see docs/identity.md."""

    authenticators: Annotated[tuple[str, ...], Field(min_length=1)] = BUILT_IN
    """Asked in this order: the built-in ones, and names of entry points of the group
    `secure_mcp_grpc.authenticators`."""

    authenticator_settings: Annotated[dict[str, dict[str, Any]], Field(default_factory=dict)]
    """Name of an authenticator of another package → its settings; in the variable a JSON object."""

    max_token_bytes: Annotated[int, Field(ge=256, le=65536)] = 8192
    """A longer token is refused unread."""

    token_cache: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    """Verified tokens remembered, for at most 60 s and never beyond their end."""

    @field_validator("issuers", mode="before")
    @classmethod
    def _are_objects(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple) or not all(isinstance(one, dict | Issuer) for one in value):
            raise ValueError("expected a list of objects, in a variable as a JSON array; see docs/identity.md")
        return value

    @field_validator("issuers")
    @classmethod
    def _are_different(cls, value: tuple[Issuer, ...]) -> tuple[Issuer, ...]:
        for what in ("name", "issuer"):
            named = [getattr(issuer, what) for issuer in value]
            if len(set(named)) != len(named):
                raise ValueError(f"two issuers have the same {what}")
        if sum(bool(issuer.introspection_url) for issuer in value) > 1:
            raise ValueError("two issuers have an introspection_url, and an opaque token does not say whose it is")
        return value

    @property
    def brings_roles(self) -> bool:
        """Whether a principal may have roles that policy itself gives to nobody."""
        return any(issuer.roles_claim for issuer in self.issuers) or not set(self.authenticators) <= set(BUILT_IN)
