"""Metrics of the decisions on streams, declared once."""

from prometheus_client import CollectorRegistry, Counter

__all__ = ["FrameMetrics"]


class FrameMetrics:
    """Decisions on frames count among all decisions (`mcp_authz_decisions_total`), too."""

    def __init__(self, registry: CollectorRegistry) -> None:
        judged = Counter(
            "mcp_authz_frames_total",
            "Frames of pipelined sessions that were judged, by decision (allow, deny).",
            ["decision"],
            registry=registry,
        )
        rechecked = Counter(
            "mcp_authz_rechecks_total",
            "Open streams that were judged again, by decision (allow, deny).",
            ["decision"],
            registry=registry,
        )
        self.frames = {allowed: judged.labels("allow" if allowed else "deny") for allowed in (True, False)}
        self.rechecks = {allowed: rechecked.labels("allow" if allowed else "deny") for allowed in (True, False)}
        self.failures = Counter(
            "mcp_authz_judge_failures_total",
            "Questions about frames that could not be read or answered; nothing of them is executed.",
            registry=registry,
        )
