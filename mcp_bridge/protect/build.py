"""From settings to guards: the ones that protect, and their metrics."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter

from mcp_bridge.exchange import Exchange
from mcp_bridge.guards import Guard
from mcp_bridge.protect.settings import ProtectSettings

__all__ = ["ProtectMetrics", "protect_guards"]


@dataclass(frozen=True, slots=True)
class ProtectMetrics:
    findings: Counter
    validation: Counter

    @classmethod
    def declare(cls, registry: CollectorRegistry) -> "ProtectMetrics":
        return cls(
            Counter(
                "mcp_bridge_pin_findings_total",
                "Times that something was hidden or refused for the tools lock, by finding and severity.",
                ["finding", "severity"],
                registry=registry,
            ),
            Counter(
                "mcp_bridge_validation_findings_total",
                "Calls whose arguments, result or schema was not valid, by finding.",
                ["finding"],
                registry=registry,
            ),
        )


def protect_guards(
    settings: ProtectSettings,
    registry: CollectorRegistry,
    *,
    max_list_bytes: int,
    owner: Callable[[Exchange, str, str], str],
) -> list[Guard]:
    """The outermost first; none where nothing is asked for. Raises `UserError` for a lock that cannot be relied on."""
    validating = settings.validate_arguments or settings.validate_results
    if settings.tools_lock is None and not validating:
        return []
    from mcp_bridge.protect.catalog import Catalog

    metrics = ProtectMetrics.declare(registry)
    catalog = Catalog(
        lifetime_s=settings.definitions_lifetime_s, max_list_bytes=max_list_bytes, clock=time.monotonic, owner=owner
    )
    guards: list[Guard] = []
    if settings.tools_lock is not None:
        from mcp_bridge.protect.pinned import PinnedLock
        from mcp_bridge.protect.pins import Pins
        from secure_mcp_grpc.signing import read_public_key

        path = settings.tools_lock_key
        key = read_public_key(path, "public key of the tools lock") if path is not None else None
        lock = PinnedLock(settings.tools_lock, key, clock=time.monotonic)

        def count_pin(finding: str, severity: str) -> None:
            metrics.findings.labels(finding, severity).inc()

        guards.append(Pins(lock.current, catalog, new=settings.tools_lock_new, count=count_pin))
    if validating:
        from mcp_bridge.protect.validation import Validation

        guards.append(
            Validation(
                catalog,
                arguments=settings.validate_arguments,
                results=settings.validate_results,
                unusable=settings.unusable_schemas,
                count=lambda finding: metrics.validation.labels(finding).inc(),
            )
        )
    return [*guards, catalog]
