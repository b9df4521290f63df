"""From settings to the one upstream that the executor asks."""

from collections.abc import Callable

from mcp_bridge.exchange import Exchange, Upstream
from mcp_bridge.metrics import BridgeMetrics
from mcp_bridge.settings import BridgeSettings, UpstreamSettings

__all__ = ["build_upstream", "owner_in"]


def build_upstream(settings: BridgeSettings, metrics: BridgeMetrics) -> Upstream:
    """The upstream named in the settings; a `Router` over all of them where there are several."""
    upstreams = [
        _of_any_era(_build(name, spec, settings, metrics), spec, settings, metrics)
        for name, spec in settings.upstreams.items()
    ]
    prefixes = {name: prefix for name in settings.upstreams if (prefix := settings.prefix_of(name))}
    if len(upstreams) == 1 and not prefixes:
        return upstreams[0]
    from mcp_bridge.upstreams.router import Router

    return Router(
        upstreams,
        max_bytes=settings.max_answer_bytes,
        prefixes=prefixes,
        leave_out=settings.when_down == "leave_out",
        patience_s=settings.child_start_timeout_s,
    )


def owner_in(upstream: Upstream) -> Callable[[Exchange, str, str], str]:
    """Which server a name on a list belongs to, as `Catalog` wants to know it."""
    if upstream.name:
        return lambda *_: upstream.name
    from mcp_bridge.upstreams.router import Router

    return upstream.owner_of if isinstance(upstream, Router) else lambda *_: ""


def _of_any_era(
    upstream: Upstream, spec: UpstreamSettings, settings: BridgeSettings, metrics: BridgeMetrics
) -> Upstream:
    """A server in this process speaks both eras by itself."""
    if spec.target is not None and spec.era == "auto":
        return upstream
    from mcp_bridge.eras.bridged import Bridged, Limits

    limits = Limits(
        input_wait_s=settings.input_wait_s,
        max_parked_calls=settings.max_parked_calls,
        max_sessions=settings.max_sessions,
        open_s=settings.child_start_timeout_s,
    )
    bridged = Bridged(upstream, era=spec.era, limits=limits)
    metrics.parked_calls.labels(upstream.name).set_function(lambda: bridged.parked)
    return bridged


def _build(name: str, spec: UpstreamSettings, settings: BridgeSettings, metrics: BridgeMetrics) -> Upstream:
    if spec.command is not None:
        from mcp_bridge.upstreams.stdio import StdioUpstream

        return StdioUpstream(
            name,
            spec.command,
            env=spec.env,
            cwd=spec.cwd,
            max_message_bytes=settings.max_answer_bytes,
            max_children=settings.max_children,
            start_timeout_s=settings.child_start_timeout_s,
            limits=spec.limits.for_launch(),
            on_children=metrics.children.labels(name).set,
            on_restart=metrics.restarts.labels(name).inc,
        )
    if spec.url is not None:
        from mcp_bridge.upstreams.http import HttpUpstream

        return HttpUpstream(
            name, spec.url, max_message_bytes=settings.max_answer_bytes, ca=spec.ca, headers=spec.headers
        )
    from mcp_bridge.upstreams.inprocess import InProcessUpstream

    return InProcessUpstream(name, spec.target)
