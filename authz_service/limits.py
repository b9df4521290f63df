"""Builds what limits callers from the settings: quotas, revocations, and the Redis behind both.

What speaks to Redis is imported only where one is configured: its client takes about 20 MiB.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry

from authz_service.limits_metrics import LimitsMetrics
from authz_service.pipeline import Step
from authz_service.quotas.local import LocalQuotas
from authz_service.revocations.file import RevocationFile
from authz_service.revocations.revocations import Revocations
from authz_service.settings import AuthzSettings
from authz_service.steps.quarantine import QuarantineStep
from authz_service.steps.quota import QuotaStep, Takes
from authz_service.steps.revocation import RevocationStep
from secure_mcp_grpc import logs
from secure_mcp_grpc.records import DecisionRecord

if TYPE_CHECKING:
    from authz_service.policy_announcer import PolicyAnnouncer
    from authz_service.redis_link import RedisLink

__all__ = ["Limits", "build_limits"]

logger = logging.getLogger(__name__)

_SETTLE_S: Final = 1.0


@dataclass(slots=True)
class Limits:
    """Steps by name, and what runs beside them."""

    steps: dict[str, Step]
    link: "RedisLink | None" = None
    jobs: list[Coroutine[Any, Any, None]] = field(default_factory=list)
    components: dict[str, Callable[[], bool]] = field(default_factory=dict)
    """`shared_state`: Redis answers, or none is configured, and what it and the file hold can be read."""

    def announcer(self, version: Callable[[], str]) -> "PolicyAnnouncer | None":
        """Tells other sidecars of a policy that was loaded; None without Redis."""
        if self.link is None:
            return None
        from authz_service.policy_announcer import PolicyAnnouncer

        return PolicyAnnouncer(self.link, version)

    async def settled(self) -> None:
        """Returns when Redis was heard, or soon after it was found lost: a start should not refuse the first calls."""
        if self.link is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SETTLE_S):
                    await self.link.tried.wait()

    async def close(self) -> None:
        if self.link is not None:
            await self.link.close()


def build_limits(
    settings: AuthzSettings, registry: CollectorRegistry, note: Callable[[DecisionRecord], None]
) -> Limits:
    """Raises `UserError` for a URL or a file of revocations that cannot be used; connects to nothing."""
    metrics = LimitsMetrics(registry)
    url = settings.redis_location()
    refuse = settings.when_redis_is_lost == "refuse"
    link = _link(url, settings, metrics) if url else None
    metrics.link(link is None)
    if link is None and refuse:
        logs.event(logger, logging.WARNING, "when_redis_is_lost_has_no_effect", why="redis_url is not set")
    revocations = Revocations(
        RevocationFile(settings.revocations_file),
        link,
        note,
        metrics,
        refuse_without_redis=refuse,
        trust_domains=settings.trust_domains,
    )
    local = LocalQuotas(settings.quota_max_keys)
    metrics.quota_counters.set_function(lambda: float(local.size))
    quotas = [spec.quota() for spec in settings.quotas]
    return Limits(
        steps={
            "revocation": RevocationStep(revocations),
            "quarantine": QuarantineStep(revocations),
            "quota": QuotaStep(quotas, _takes(link, local, metrics, refuse)),
        },
        link=link,
        jobs=[revocations.run(), *([link.run()] if link is not None else [])],
        components={"shared_state": lambda: revocations.well and (link is None or link.up)},
    )


def _link(url: str, settings: AuthzSettings, metrics: LimitsMetrics) -> "RedisLink":
    from authz_service.redis_link import RedisLink

    return RedisLink(url, timeout_s=settings.redis_timeout_s, node=settings.node_id, changed=metrics.link)


def _takes(link: "RedisLink | None", local: LocalQuotas, metrics: LimitsMetrics, refuse: bool) -> Takes:
    if link is None:
        return local.take
    from authz_service.quotas.shared import SharedQuotas

    return SharedQuotas(link, local, metrics.quota_fallbacks.inc, refuse=refuse).take
