"""Metrics of mcp_bridge, each declared once with unit and meaning. Labels are bounded: no tool or identity names."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["BridgeMetrics"]

_METHODS = frozenset(
    {
        "completion/complete",
        "initialize",
        "logging/setLevel",
        "ping",
        "prompts/get",
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/subscribe",
        "resources/templates/list",
        "resources/unsubscribe",
        "server/discover",
        "subscriptions/listen",
        "tools/call",
        "tools/list",
    }
)
_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)


class BridgeMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "mcp_bridge_requests_total",
            "MCP messages that arrived, by gRPC method, MCP method and outcome.",
            ["rpc", "method", "outcome"],
            registry=registry,
        )
        self.upstream_seconds = Histogram(
            "mcp_bridge_upstream_seconds",
            "Time an upstream took to answer, in seconds.",
            ["server", "method"],
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self.list_items = Counter(
            "mcp_bridge_list_items_total",
            "Items of lists, by what became of them: shown, hidden (policy) or unusable (no call could name them).",
            ["result"],
            registry=registry,
        )
        self.streamed = Counter(
            "mcp_bridge_streamed_messages_total", "Messages streamed to clients before a response.", registry=registry
        )
        self.tokens = Counter(
            "mcp_bridge_tokens_total",
            "Tokens of requests (in) and answers (out), by whether messages reported or sizes estimate them.",
            ["direction", "source"],
            registry=registry,
        )
        self.children = Gauge("mcp_bridge_children", "Child processes running.", ["server"], registry=registry)
        self.restarts = Counter(
            "mcp_bridge_child_restarts_total", "Child processes started after one ended.", ["server"], registry=registry
        )
        self.parked_calls = Gauge(
            "mcp_bridge_parked_calls",
            "Calls that wait for their client's input, where client and server speak different protocol eras.",
            ["server"],
            registry=registry,
        )
        self._sessions = Gauge("mcp_bridge_sessions", "Open sessions of the handshake era.", registry=registry)
        self._in_flight = Gauge(
            "mcp_bridge_requests_in_flight", "Requests that wait for an upstream.", registry=registry
        )
        self._pending = Gauge(
            "mcp_bridge_records_pending", "Records the sink has not confirmed yet.", registry=registry
        )
        self._refused = Gauge("mcp_bridge_records_lost", "Records given up since the start.", registry=registry)

    def watch(
        self,
        *,
        sessions: Callable[[], float],
        in_flight: Callable[[], float],
        pending: Callable[[], float],
        refused: Callable[[], float],
    ) -> None:
        """Where the gauges that nobody sets get their values when they are asked for."""
        self._sessions.set_function(sessions)
        self._in_flight.set_function(in_flight)
        self._pending.set_function(pending)
        self._refused.set_function(refused)

    @staticmethod
    def method_class(method: str) -> str:
        """Method names come from clients: what is not in the specification is one class."""
        if method in _METHODS:
            return method
        return "notifications" if method.startswith("notifications/") else "other"
