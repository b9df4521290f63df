"""Metrics of tokens, declared once. The cache is counted in plain integers: it stands on the hot path."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["TokenMetrics"]


class TokenMetrics:
    """In `registry`; `issuers` are the names in the settings, and so the bounded label."""

    def __init__(self, registry: CollectorRegistry, issuers: Sequence[str] = ()) -> None:
        self._fetches = Counter(
            "mcp_authz_key_fetches_total", "Fetches of an issuer's keys.", ["issuer", "result"], registry=registry
        )
        self._age = Gauge(
            "mcp_authz_key_age_seconds",
            "Time since an issuer's keys were last had; +Inf where they never were.",
            ["issuer"],
            registry=registry,
        )
        self._introspections = Counter(
            "mcp_authz_introspections_total",
            "Questions about opaque tokens, by answer; `failed` is none.",
            ["issuer", "result"],
            registry=registry,
        )
        self.cache = _Cache()
        registry.register(self.cache)
        for issuer in issuers:
            for result in ("ok", "failed"):
                self._fetches.labels(issuer, result)

    def fetched(self, issuer: str, *, ok: bool) -> None:
        self._fetches.labels(issuer, "ok" if ok else "failed").inc()

    def introspected(self, issuer: str, result: Literal["active", "inactive", "failed", "overloaded"]) -> None:
        self._introspections.labels(issuer, result).inc()

    def watch_age(self, issuer: str, age_s: Callable[[], float]) -> None:
        self._age.labels(issuer).set_function(age_s)


class _Cache(Collector):
    """`mcp_authz_token_cache_lookups_total`."""

    def __init__(self) -> None:
        self.hits = 0
        self.misses = 0

    def collect(self) -> Iterator[Metric]:
        lookups = CounterMetricFamily(
            "mcp_authz_token_cache_lookups", "Verified tokens looked up, by result.", labels=["result"]
        )
        lookups.add_metric(["hit"], self.hits)
        lookups.add_metric(["miss"], self.misses)
        yield lookups
