"""Metrics of authz_service, declared once.

Decisions are counted in plain integers on the hot path (a Prometheus counter
or histogram takes a lock and costs as much as the decision itself) and turned
into samples when somebody asks.
"""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from authz_service.verdict import REASONS

__all__ = ["Metrics"]

_BUCKETS_S: Final = (
    0.00001, 0.00002, 0.00003, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05,
)  # fmt: skip


class Metrics:
    """The service's metrics, in `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.checks = _Checks()
        registry.register(self.checks)
        self.policy_rules = Gauge("mcp_authz_policy_rules", "Rules (p lines) in force.", registry=registry)
        self.policy_info = Gauge(
            "mcp_authz_policy_info", "1 for the version of model and policy in force.", ["version"], registry=registry
        )
        self.policy_loaded = Gauge(
            "mcp_authz_policy_loaded_timestamp_seconds",
            "Unix time at which the policy in force was loaded.",
            registry=registry,
        )
        self.policy_refused = Gauge(
            "mcp_authz_policy_refused",
            "1 while the policy files hold something that was refused, and an older policy is in force.",
            registry=registry,
        )
        self.policy_reloads = Counter(
            "mcp_authz_policy_reloads_total", "Changes of the policy files, by result.", ["result"], registry=registry
        )
        self.journal_available = Gauge(
            "mcp_authz_journal_available",
            "1 while decisions can be recorded; 0 means all are refused.",
            registry=registry,
        )
        self.journal_records = Gauge("mcp_authz_journal_records", "Records in this process's chain.", registry=registry)
        self.journal_unshipped = Gauge(
            "mcp_authz_journal_unshipped_records", "Records that the sink has not acknowledged.", registry=registry
        )
        self.journal_shipped = Counter(
            "mcp_authz_journal_shipped_total", "Records that the sink has acknowledged.", registry=registry
        )
        self.sink_failures = Counter(
            "mcp_authz_sink_failures_total",
            "Batches that the sink did not acknowledge; each is sent again.",
            registry=registry,
        )
        for result in ("loaded", "refused"):
            self.policy_reloads.labels(result)

    def policy_in_force(self, version: str, rules: int, now_s: float) -> None:
        self.policy_info.clear()
        self.policy_info.labels(version).set(1)
        self.policy_rules.set(rules)
        self.policy_loaded.set(now_s)


class _Checks(Collector):
    """`mcp_authz_decisions_total` and `mcp_authz_check_seconds`."""

    def __init__(self) -> None:
        self._decisions = dict.fromkeys(REASONS, 0)
        self._durations = [0] * (len(_BUCKETS_S) + 1)
        self._total_s = 0.0

    def count(self, reason: str, duration_s: float) -> None:
        self._decisions[reason] += 1
        self._durations[bisect_left(_BUCKETS_S, duration_s)] += 1
        self._total_s += duration_s

    def collect(self) -> Iterator[Metric]:
        decisions = CounterMetricFamily(
            "mcp_authz_decisions", "Decisions, by outcome and reason.", labels=["decision", "reason"]
        )
        for reason, count in self._decisions.items():
            decisions.add_metric(["allow" if reason == "permitted" else "deny", reason], count)
        yield decisions
        duration = HistogramMetricFamily(
            "mcp_authz_check_seconds", "Time to read, judge, record and answer one request, without gRPC."
        )
        bounds = [*map(str, _BUCKETS_S), "+Inf"]
        counts = accumulate(self._durations)
        duration.add_metric([], [*zip(bounds, map(float, counts), strict=True)], self._total_s)
        yield duration
