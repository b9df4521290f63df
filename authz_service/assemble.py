"""Puts the service together from its settings: the one place that knows every piece."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry

from authz_service.checker import Checker
from authz_service.frames.judge import JUDGE, FrameJudge
from authz_service.frames.metrics import FrameMetrics
from authz_service.frames.tickets import Tickets
from authz_service.http_request import PlainHttp
from authz_service.identity import IdentityReader
from authz_service.journal import Journal
from authz_service.limits import build_limits
from authz_service.lists import FILTER, ListMetrics, Lists
from authz_service.metrics import Metrics
from authz_service.pipeline import Pipeline, Step, arrange
from authz_service.policy import Policy
from authz_service.server import METHOD
from authz_service.settings import AuthzSettings
from authz_service.steps.identity import IdentityStep
from authz_service.steps.message import MessageStep
from authz_service.steps.policy import PolicyStep
from authz_service.tokens.build import build_authenticators

if TYPE_CHECKING:
    from authz_service.policy_announcer import PolicyAnnouncer

__all__ = ["Service", "assemble"]

_WAIT_SHARE: Final = 0.8
"""Of the time for a decision, what waiting for an issuer may take: the refusal should still name it."""

Handler = Callable[[bytes], bytes | Awaitable[bytes]]


@dataclass(slots=True)
class Service:
    """The pieces that `__main__` starts and stops."""

    checker: Checker
    settled: Callable[[], Awaitable[None]]
    """To be awaited, with `jobs` running, before the first request is let in; takes a second at most."""
    routes: dict[str, Handler] = field(default_factory=dict)
    """gRPC path → handler of one message."""
    jobs: list[Coroutine[Any, Any, None]] = field(default_factory=list)
    """Run until they are cancelled; one that fails ends the service, which is then restarted."""
    components: dict[str, Callable[[], bool]] = field(default_factory=dict)
    """Name in grpc.health.v1 → whether it is well. The service as a whole depends on `journal` alone."""
    announcer: "PolicyAnnouncer | None" = None
    """Tells other sidecars of a policy that was loaded here, and hears of theirs; None without Redis."""


def assemble(
    settings: AuthzSettings,
    policy: Policy,
    journal: Journal,
    metrics: Metrics,
    registry: CollectorRegistry,
    closing: AsyncExitStack,
) -> Service:
    """The service around `policy` and `journal`; what must be closed at the end goes onto `closing`."""
    jobs: list[Coroutine[Any, Any, None]] = []
    components: dict[str, Callable[[], bool]] = {}
    tokens = build_authenticators(settings, registry, wait_s=settings.decision_timeout_s * _WAIT_SHARE)
    closing.push_async_callback(tokens.close)
    jobs += tokens.jobs
    components |= tokens.components
    limits = build_limits(settings, registry, journal.note)
    closing.push_async_callback(limits.close)
    jobs += limits.jobs
    components |= limits.components
    certificates = IdentityReader(settings.trust_domains, settings.certificate_cache)
    built_in: dict[str, Sequence[Step]] = {
        "identity": (
            IdentityStep(settings.auth_type, certificates, tokens.authenticators),
            MessageStep(settings.max_body_bytes, PlainHttp.of(settings)),
        ),
        **{name: (step,) for name, step in limits.steps.items()},
        "policy": (PolicyStep(),),
    }
    steps = arrange(settings.steps, built_in)
    tickets = Tickets(settings.stream_max_age_s)
    checker = Checker(policy, Pipeline(steps, timeout_s=settings.decision_timeout_s), journal, metrics, tickets=tickets)
    frames = FrameJudge(
        lambda: checker.policy,
        tickets,
        Pipeline(steps[len(built_in["identity"]) :], timeout_s=settings.decision_timeout_s),
        journal,
        metrics,
        FrameMetrics(registry),
        max_body_bytes=settings.max_body_bytes,
    )
    lists = Lists(lambda: checker.policy, ListMetrics(registry))
    announcer = limits.announcer(lambda: checker.policy.version)
    routes: dict[str, Handler] = {METHOD: checker.check, FILTER: lists.filter, JUDGE: frames.judge}
    return Service(checker, limits.settled, routes, jobs, components, announcer)
