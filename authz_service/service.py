"""The running service: what happens beside the checks, and the order in which it ends."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping

from authz_service.checker import Checker
from authz_service.journal import Journal
from authz_service.metrics import Metrics
from authz_service.policy import Policy
from authz_service.server import PartHealth
from authz_service.shipper import Shipper
from secure_mcp_grpc import logs
from secure_mcp_grpc.records import DecisionRecord, timestamp

__all__ = ["PolicyDesk", "ailment", "keep_journal", "keep_pruned", "policy_record", "watch_health"]

logger = logging.getLogger(__name__)

_HEALTH_INTERVAL_S = 0.25
_PRUNE_INTERVAL_S = 30.0


def policy_record(version: str, reason: str, problem: str = "") -> DecisionRecord:
    """The journal's record of a policy that was `loaded` or `refused`; `version` is the one in force afterwards."""
    return DecisionRecord(
        kind="policy",
        chain="",
        seq=0,
        ts=timestamp(time.time_ns() // 1000),
        reason=reason,
        rule=problem,
        policy_version=version,
    )


class PolicyDesk:
    """Puts a policy in force: at the checker, in the metrics, in the journal."""

    def __init__(self, checker: Checker, journal: Journal, metrics: Metrics) -> None:
        self._checker = checker
        self._journal = journal
        self._metrics = metrics

    def loaded(self, policy: Policy) -> None:
        self._journal.note(policy_record(policy.version, "loaded"))
        self._checker.policy = policy
        self._metrics.policy_in_force(policy.version, policy.size, time.time())
        self._metrics.policy_refused.set(0)
        self._metrics.policy_reloads.labels("loaded").inc()

    def refused(self, problem: str) -> None:
        self._journal.note(policy_record(self._checker.policy.version, "refused", problem))
        self._metrics.policy_refused.set(1)
        self._metrics.policy_reloads.labels("refused").inc()


def ailment(component: str) -> str:
    """What is true while `component`, a name in grpc.health.v1, is unwell."""
    if component.startswith("issuer-"):
        return f"the keys of issuer {component.removeprefix('issuer-')} are not to be had: its tokens do not count"
    return {
        "journal": "decisions cannot be recorded: everything is refused",
        "policy": "the policy files were refused: the policy before them is in force",
        "shared_state": "shared revocations and quotas are not to be had: what is known locally is in force",
    }[component]


async def keep_journal(journal: Journal, interval_s: float) -> None:
    """Force records to the disk at an interval."""
    while True:
        await asyncio.sleep(interval_s)
        await journal.sync()


async def watch_health(
    journal: Journal, components: Mapping[str, Callable[[], bool]], health: PartHealth, changed: asyncio.Event
) -> None:
    """Keep health true: without a journal everything is refused; whatever else is unwell, decisions are still made.

    Components are asked several times a second, and at once when `changed` is set.
    """
    before: dict[str, bool] = {}
    while True:
        journal.check()
        now = {"journal": journal.available} | {name: is_well() for name, is_well in components.items()}
        for name, well in now.items():
            if before.get(name) != well:
                await health.component(name, well=well)
        if before.get("journal") != now["journal"]:
            await (health.serving() if now["journal"] else health.not_serving())
        before = now
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_HEALTH_INTERVAL_S):
                await changed.wait()
        changed.clear()


async def keep_pruned(journal: Journal, shipper: Shipper, keep_bytes: int) -> None:
    """Remove journal files that are shipped and too many."""
    while True:
        await asyncio.sleep(_PRUNE_INTERVAL_S)
        try:
            removed = journal.prune(shipper.position, keep_bytes)
        except OSError as error:
            logs.event(logger, logging.WARNING, "journal_not_pruned", error=error.strerror)
            continue
        if removed:
            logs.event(logger, logging.INFO, "journal_pruned", files=removed)
