"""Metrics of trace_sink."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from secure_mcp_grpc import headers

__all__ = ["SinkMetrics", "log_label"]

_LOGS = frozenset({headers.LOG_ENVOY_HTTP, headers.LOG_ENVOY_TCP, headers.LOG_AUTHZ, headers.LOG_BRIDGE})


def log_label(log_name: str) -> str:
    """The log's name as a bounded label."""
    return log_name if log_name in _LOGS else "other"


class SinkMetrics:
    """Every metric that the sink exports, each declared once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.entries = Counter(
            "mcp_sink_entries_total", "Access log entries received, by log.", ["log"], registry=registry
        )
        self.skipped = Counter(
            "mcp_sink_entries_skipped_total",
            "Entries that say nothing new (start and intervals of a stream, good handshakes), by log.",
            ["log"],
            registry=registry,
        )
        self.repeated = Counter(
            "mcp_sink_records_repeated_total",
            "Records that a sender sent again and that were not stored again, by log.",
            ["log"],
            registry=registry,
        )
        self.dropped = Counter(
            "mcp_sink_entries_dropped_total",
            "Entries lost because memory for them was full, or at the end because the store stayed away, by log.",
            ["log"],
            registry=registry,
        )
        self.inserted = Counter(
            "mcp_sink_rows_inserted_total", "Rows inserted, by table.", ["table"], registry=registry
        )
        self.dead_letters = Counter(
            "mcp_sink_dead_letters_total", "Entries kept raw because they were not understood, by reason.", ["reason"],
            registry=registry,
        )  # fmt: skip
        self.insert_seconds = Histogram(
            "mcp_sink_insert_seconds",
            "Duration of one insert, seconds.",
            buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
            registry=registry,
        )
        self.insert_failures = Counter(
            "mcp_sink_insert_failures_total", "Attempts to insert that failed and were or will be repeated.",
            registry=registry,
        )  # fmt: skip
        self.pending_rows = Gauge("mcp_sink_pending_rows", "Rows received and not yet stored.", registry=registry)
        self.pending_bytes = Gauge(
            "mcp_sink_pending_bytes", "Size of the entries received and not yet stored, bytes.", registry=registry
        )
        self.streams = Gauge("mcp_sink_streams", "Open access log streams.", registry=registry)
        self.store_up = Gauge("mcp_sink_store_up", "1 while the store takes inserts, 0 while not.", registry=registry)
