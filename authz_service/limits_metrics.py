"""Metrics of shared state, quotas and revocations, declared once."""

from prometheus_client import CollectorRegistry, Counter, Gauge

__all__ = ["LimitsMetrics"]

CHANGES = ("revoked", "unrevoked", "quarantined", "released", "ended")


class LimitsMetrics:
    """In `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.shared_state_up = Gauge(
            "mcp_authz_shared_state_up",
            "1 while Redis answers, or none is configured; 0 means quotas are local and changes do not arrive.",
            registry=registry,
        )
        self.revocations = Gauge(
            "mcp_authz_revocations",
            "Revocations and quarantines in force; one that ended counts for up to a minute longer.",
            registry=registry,
        )
        self.revocations_damaged = Gauge(
            "mcp_authz_revocations_damaged",
            "1 while the file or Redis holds revocations that cannot be read; what was known is in force.",
            registry=registry,
        )
        self.revocation_changes = Counter(
            "mcp_authz_revocation_changes_total", "Changes put in force here, by kind.", ["change"], registry=registry
        )
        for change in CHANGES:
            self.revocation_changes.labels(change)
        self.quota_counters = Gauge(
            "mcp_authz_quota_counters", "Counters of quotas in this process's memory.", registry=registry
        )
        self.quota_fallbacks = Counter(
            "mcp_authz_quota_fallbacks_total", "Calls counted here because Redis was lost.", registry=registry
        )

    def link(self, up: bool) -> None:
        self.shared_state_up.set(float(up))
