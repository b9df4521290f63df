"""Metrics of the embedded store."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["StoreMetrics"]


class StoreMetrics:
    """Every metric that the store exports, each declared once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "mcp_store_requests_total",
            "Statements by user, kind (insert, select, other) and outcome (ok, refused, failed, gone).",
            ["user", "kind", "outcome"],
            registry=registry,
        )
        self.seconds = Histogram(
            "mcp_store_request_seconds",
            "Time from the whole statement to the end of its answer, seconds.",
            ["kind"],
            buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60),
            registry=registry,
        )
        self.written_rows = Counter("mcp_store_written_rows_total", "Rows inserted, views included.", registry=registry)
        self.running = Gauge("mcp_store_running_requests", "Statements being executed now.", registry=registry)
        self.sessions = Gauge("mcp_store_sessions", "Open sessions.", registry=registry)
        self.refused_logins = Counter("mcp_store_refused_logins_total", "Wrong user or password.", registry=registry)
        self.open_seconds = Gauge(
            "mcp_store_open_seconds", "Time it took to open the data, seconds.", registry=registry
        )
