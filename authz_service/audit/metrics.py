"""Metrics of the audit, declared once."""

from prometheus_client import CollectorRegistry, Counter, Gauge

__all__ = ["AuditMetrics"]


class AuditMetrics:
    """In `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.anchors = Counter(
            "mcp_authz_anchors_total", "Anchors written into the journal and the anchors file.", registry=registry
        )
        self.failures = Counter(
            "mcp_authz_anchor_failures_total",
            "Anchors that could not be written whole; another follows at the next interval.",
            registry=registry,
        )
        self.last = Gauge(
            "mcp_authz_anchor_timestamp_seconds", "Unix time of the last anchor that was written.", registry=registry
        )
