"""What of Envoy's configuration depends on who is let in: `auth_type`, and what tells clients how to get a token.

Pure: settings in, values for the placeholders of `envoy/envoy.yaml` out; the
fragments stand in `envoy/parts.yaml`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from secure_mcp_grpc.envoy_settings import EnvoySettings
from secure_mcp_grpc.envoy_template import fill

__all__ = ["METADATA_PATH", "auth_values", "bucket", "resource_metadata", "spiffe_id_regex"]

METADATA_PATH: Final = "/.well-known/oauth-protected-resource"
"""RFC 9728, 3."""


def auth_values(settings: EnvoySettings, parts: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Placeholders and their values; None leaves a piece out. `known` has the other values that the fragments name."""
    known = {
        **known,
        "spiffe_ids": spiffe_id_regex(settings.trust_domains),
        "client_bucket": bucket(settings.per_client_per_second, settings.per_client_burst),
        "answered_here": parts["answered_here"],
        **_challenges(settings),
    }
    certificates, tokens = settings.shows_certificate, settings.takes_tokens
    metadata = resource_metadata(settings) if tokens else None
    http1 = metadata or settings.streamable_http

    def part(name: str, wanted: object = True, **values: Any) -> Any:
        return fill(parts[name], {**known, **values}) if wanted else None

    def route(path: str, wanted: object) -> Any:
        return part("metadata_route", metadata and wanted, metadata_path=path, metadata=json.dumps(metadata))

    address_bucket = bucket(settings.per_address_per_second, settings.per_address_burst)
    return {
        "answered_here": known["answered_here"],
        "client_certificate": certificates,
        "client_validation": part("client_validation", certificates),
        "one_identity": part("one_identity", certificates),
        "first_limit": part("limit_by_certificate" if certificates else "limit_by_address"),
        "first_key": "client" if certificates else "masked_remote_address",
        "first_bucket": known["client_bucket"] if certificates else address_bucket,
        "subject_limit": part("subject_limit", not certificates),
        # Strangers may connect where no certificate is asked for, and connections are limited in number.
        "connection_idle": "900s" if certificates else "60s",
        "codec": "AUTO" if http1 else "HTTP2",
        "alpn": ["h2", "http/1.1"] if http1 else ["h2"],
        "say_protocol": part("say_protocol", http1),
        "http1_stop": part("http1_stop", http1),
        "metadata_route": route(METADATA_PATH, True),
        "metadata_route_of_path": route(_path(settings, METADATA_PATH), _path(settings, "")),
        "challenge": part("challenge", tokens),
        "challenge_of_token": part("challenge_of_token", tokens),
    }


def resource_metadata(settings: EnvoySettings) -> dict[str, Any] | None:
    """Protected resource metadata (RFC 9728, 2); None while nobody knows the resource's URL."""
    if not settings.resource_url:
        return None
    known: dict[str, str | Sequence[str]] = {
        "resource": settings.resource_url,
        "authorization_servers": settings.authorization_servers,
        "bearer_methods_supported": ["header"],
        "scopes_supported": settings.scopes_supported,
        "resource_name": settings.resource_name,
    }
    return {key: value for key, value in known.items() if value}


def spiffe_id_regex(trust_domains: list[str]) -> str:
    """RE2 that a whole URI SAN must match (Envoy anchors it): a SPIFFE ID of a workload in one of `trust_domains`."""
    domains = "|".join(re.escape(domain) for domain in trust_domains)
    return rf"spiffe://(?:{domains})(?:/[A-Za-z0-9._-]+)+"


def bucket(per_second: int, burst: int) -> dict[str, Any]:
    return {"max_tokens": burst, "tokens_per_fill": per_second, "fill_interval": "1s"}


def _challenges(settings: EnvoySettings) -> dict[str, str]:
    """Values of `www-authenticate` for a request without a token and one with a bad token (RFC 6750, 3; RFC 9728, 5.1).

    Settings admit no quotes and no percent signs, which would mean something to Envoy.
    """
    url = urlsplit(settings.resource_url)
    bad = 'Bearer error="invalid_token"'
    if not url.netloc:
        return {"no_token": "Bearer", "bad_token": bad}
    where = f'resource_metadata="https://{url.netloc}{_path(settings, METADATA_PATH)}"'
    return {"no_token": f"Bearer {where}", "bad_token": f"{bad}, {where}"}


def _path(settings: EnvoySettings, prefix: str) -> str:
    """RFC 9728, 3.1: the well-known path goes before the resource's own path, if it has any."""
    path = urlsplit(settings.resource_url).path
    return prefix + ("" if path == "/" else path)
