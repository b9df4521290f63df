"""Security: what was refused and why, who ran into limits, what guards found, and who never got in."""

from typing import Final

import streamlit as st

from dashboard import charts, queries
from dashboard.store import Answer
from dashboard.views import data, parts
from dashboard.views.controls import Scope
from dashboard.window import OUTCOMES, REFUSED, Filters, Window

__all__ = ["page"]

_FINDINGS_HELP: Final = (
    "tool_drift: the definition differs from the approved one. tool_unknown: nobody approved it. "
    "invalid_arguments, invalid_result: against the tool's schema. schema_unusable: the schema cannot check anything."
)


def page() -> None:
    st.title("Security")
    parts.live(_body)


def _body(scope: Scope, window: Window) -> None:
    handshakes = data.ask(queries.HANDSHAKE_TIMELINE, window, Filters())
    summary = data.ask(queries.SUMMARY, window, scope.filters).frame
    now = summary[summary["current"].astype(bool)]
    counts = {name: int(now.iloc[0][name]) if len(now) else 0 for name in OUTCOMES}
    failed = int(handshakes.frame["handshakes"].sum())
    with parts.row_of_figures():
        parts.figure("Denied", f"{counts['denied']:,}", help="Requests that policy or identity checks refused.")
        parts.figure("Rate limited", f"{counts['limited']:,}", help="Requests over a limit of the caller or the tool.")
        parts.figure("Failed handshakes", f"{failed:,}", help="Connections that TLS refused.")
        parts.figure("Unavailable", f"{counts['unavailable']:,}", help="Nobody could decide or answer; nothing passed.")
    _denials(scope, window)
    _limits(scope, window)
    _findings(scope, window)
    _handshakes(handshakes, window)
    _events(window)


def _with_target(answer: Answer) -> Answer:
    target = [charts.target_text(row.method, row.tool) for row in answer.frame.itertuples()]
    return Answer(answer.frame.assign(target=target), answer.truncated)


def _denials(scope: Scope, window: Window) -> None:
    st.subheader("Refused requests")
    timeline = data.ask(queries.TIMELINE, window, scope.filters).frame
    timeline = timeline[timeline["outcome"].isin(REFUSED)]
    if timeline.empty:
        st.success("Nothing was refused in this time range.", icon=":material/check:")
        return
    width = charts.bucket_text(window.bucket_s)
    alt = f"Bars of denied and rate limited requests per {width} over time. The tables below list them."
    parts.chart(charts.outcome_bars(timeline, window), key="refusal-timeline", alt=alt)
    reasons = _with_target(data.ask(queries.REASONS, window, scope.filters))
    if len(reasons.frame):
        st.markdown("**Why policy refused**")
        columns = {
            "identity": "Identity",
            "target": st.column_config.TextColumn("Tool or method", width="medium"),
            "reason": "Reason",
            "rule": st.column_config.TextColumn("Rule", help="The policy rule that matched; empty where none did."),
            "requests": parts.count_column("Requests"),
            "latest": parts.time_column("Latest (UTC)"),
        }
        parts.table(reasons, columns, key="reasons", alt="Denied requests by identity, tool, reason and rule")
    st.markdown("**Each refusal, newest first**")
    refusals = _with_target(data.ask(queries.REFUSALS, window, scope.filters))
    columns = {
        "ts": parts.time_column(),
        "identity": st.column_config.TextColumn("Identity", width=110),
        "user": st.column_config.TextColumn("User", width=110),
        "target": st.column_config.TextColumn("Tool or method", width=200),
        "outcome": st.column_config.TextColumn("Outcome", width=80),
        "reason": st.column_config.TextColumn("Reason", width=130),
        "rule": st.column_config.TextColumn("Rule", width=260),
        "grpc_status": st.column_config.NumberColumn("gRPC status", width=90),
        "peer_address": st.column_config.TextColumn("Peer", width=140),
        "spiffe_id": st.column_config.TextColumn("SPIFFE ID", width=260),
        "request_id": st.column_config.TextColumn("Request ID", width=300),
    }
    if not refusals.frame["user"].any():
        del columns["user"]
    parts.table(refusals, columns, key="refusals", alt="Refused requests, newest first")


def _limits(scope: Scope, window: Window) -> None:
    st.subheader("Rate limits")
    limits = _with_target(data.ask(queries.LIMITS, window, scope.filters))
    if limits.frame.empty:
        st.caption("Nobody ran into a limit in this time range.")
        return
    columns = {
        "identity": "Identity",
        "target": st.column_config.TextColumn(
            "Tool or method", width="medium", help="Empty of a name where the limit struck before the message was read."
        ),
        "details": "Limit",
        "requests": parts.count_column("Requests"),
        "earliest": parts.time_column("First (UTC)"),
        "latest": parts.time_column("Latest (UTC)"),
    }
    parts.table(limits, columns, key="limits", alt="Rate limited requests by identity and tool")


def _findings(scope: Scope, window: Window) -> None:
    st.subheader("Findings in tools and messages")
    findings = _with_target(data.ask(queries.FINDINGS, window, scope.filters))
    if findings.frame.empty:
        st.caption("The bridge found nothing in this time range.")
        return
    columns = {
        "finding": st.column_config.TextColumn("Finding", width=150, help=_FINDINGS_HELP),
        "identity": st.column_config.TextColumn("Identity", width=110),
        "server": st.column_config.TextColumn("Server", width=110),
        "target": st.column_config.TextColumn("Tool or method", width=200),
        "outcome": st.column_config.TextColumn(
            "Outcome", width=80, help="allowed: the caller got an answer, which may be an MCP error."
        ),
        "requests": parts.count_column("Requests"),
        "latest": parts.time_column("Latest (UTC)"),
    }
    if not findings.frame["server"].any():
        del columns["server"]  # a call that was refused reached none
    parts.table(findings, columns, key="findings", alt="Findings of the bridge by identity, server and tool")


def _handshakes(timeline: Answer, window: Window) -> None:
    st.subheader("Failed handshakes")
    st.caption(
        "Connections that TLS refused. The names in them are **claims** that nobody verified: they identify no one. "
        "Filters do not apply here."
    )
    if timeline.frame.empty:
        st.caption("No handshake failed in this time range.")
        return
    width = charts.bucket_text(window.bucket_s)
    alt = f"Bars of failed handshakes per {width} over time. The table below lists them."
    parts.chart(charts.handshake_bars(timeline.frame, window), key="handshake-timeline", alt=alt)
    columns = {
        "ts": parts.time_column(),
        "failure": st.column_config.TextColumn("Why", width=400),
        "claimed_id": st.column_config.TextColumn("Claimed ID (unverified)", width=220),
        "claimed_subject": st.column_config.TextColumn("Claimed subject (unverified)", width=200),
        "sni": "Server name asked",
        "tls_version": "TLS",
        "peer_address": "Peer",
    }
    failed = data.ask(queries.HANDSHAKES, window, Filters())
    parts.table(failed, columns, key="handshakes", alt="Failed handshakes, newest first")


def _events(window: Window) -> None:
    st.subheader("Policy, revocations and audit")
    st.caption("What happened to the policy service itself, from its journal. Filters do not apply here.")
    events = data.ask(queries.EVENTS, window, Filters())
    if events.frame.empty:
        st.caption("Nothing happened in this time range.")
        return
    columns = {
        "ts": parts.time_column(),
        "kind": st.column_config.TextColumn("What", width=90),
        "reason": st.column_config.TextColumn("Result", width=110),
        "rule": st.column_config.TextColumn("Details", width=420),
        "identity": st.column_config.TextColumn("Identity", width=110),
        "user": st.column_config.TextColumn("User", width=110),
        "policy_version": st.column_config.TextColumn("Policy in force", width=140),
        "chain": st.column_config.TextColumn("Journal", width=260),
    }
    parts.table(events, columns, key="events", alt="Events of the policy service, newest first")
