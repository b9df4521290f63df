"""Prometheus metrics of the dashboard, declared once."""

import functools

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from secure_mcp_grpc.metrics import new_registry

__all__ = ["DashboardMetrics", "metrics"]


class DashboardMetrics:
    """The registry and its figures; labels are names of queries and of failures, both fixed sets."""

    def __init__(self) -> None:
        self.registry: CollectorRegistry = new_registry("dashboard")
        self.queries = Counter(
            "mcp_dashboard_queries_total", "Queries sent to the store.", ["query", "result"], registry=self.registry
        )
        self.query_seconds = Histogram(
            "mcp_dashboard_query_duration_seconds",
            "Time until a query was answered.",
            ["query"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=self.registry,
        )
        self.store_up = Gauge(
            "mcp_dashboard_store_up", "1 while the store answers, 0 otherwise.", registry=self.registry
        )
        self.script_errors = Counter(
            "mcp_dashboard_script_errors_total", "Pages that ended with an error.", registry=self.registry
        )


@functools.cache
def metrics() -> DashboardMetrics:
    """The process's metrics: pages run in threads of the server's process and count in the same registry."""
    return DashboardMetrics()
