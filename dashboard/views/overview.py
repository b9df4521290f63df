"""Overview: how much, how much of it refused, how fast, and what changed against the time before."""

from typing import Any, Final

import pandas as pd
import streamlit as st

from dashboard import charts, queries
from dashboard.views import data, parts
from dashboard.views.controls import Scope
from dashboard.window import OUTCOMES, REFUSED, Window

__all__ = ["page"]

_COUNTS: Final = ("requests", *OUTCOMES, "identities", "tools", "request_bytes", "response_bytes")
_FAILED: Final = ("error", "unavailable", "cancelled")
_ESTIMATE: Final = (
    "Of allowed requests, first byte received to last byte sent; without sessions and listening streams, which last. "
    "Exact up to 8,192, estimated above."
)


def page() -> None:
    st.title("Overview")
    parts.live(_body)


def _body(scope: Scope, window: Window) -> None:
    summary = data.ask(queries.SUMMARY, window, scope.filters).frame
    now, before = _period(summary, current=True), _period(summary, current=False)
    if now is None:
        parts.nothing_here(scope, window, "request")
        return
    _figures(now, before, scope)
    _timeline(scope, window)
    _tools(scope, window)
    _refusals(scope, window)


def _period(summary: pd.DataFrame, *, current: bool) -> dict[str, Any] | None:
    rows = summary[summary["current"].astype(bool) == current]
    return None if rows.empty else {str(name): value for name, value in rows.iloc[0].items()}


def _figures(now: dict[str, Any], before: dict[str, Any] | None, scope: Scope) -> None:
    requests = int(now["requests"])
    refused = sum(int(now[name]) for name in REFUSED)
    failed = sum(int(now[name]) for name in _FAILED)
    versus = None if before is None else f"vs previous {scope.span_text}"

    def count(label: str, value: int, names: tuple[str, ...], color: Any = "off", note: str | None = None) -> None:
        delta = None if before is None else f"{value - sum(int(before[name]) for name in names):+,}"
        parts.figure(label, f"{value:,}", delta=delta, delta_color=color, delta_description=versus, help=note)

    denied, limited = (f"{int(now[name]):,}" for name in REFUSED)
    with parts.row_of_figures():
        count("Requests", requests, ("requests",))
        count("Allowed", int(now["allowed"]), ("allowed",))
        note = f"{denied} denied by policy, {limited} rate limited."
        count("Refused", refused, REFUSED, "inverse", note)
        note = ", ".join(f"{int(now[name]):,} {name}" for name in _FAILED)
        count("Failed", failed, _FAILED, "inverse", note)
    middle, high, highest = (parts.duration_text(float(value)) for value in now["duration_us"])
    with parts.row_of_figures():
        parts.figure("Refusal rate", f"{100 * refused / requests:.1f} %", help="Refused ÷ requests.")
        parts.figure("Latency p50", middle, help=_ESTIMATE)
        parts.figure("Latency p95", high, help=_ESTIMATE)
        parts.figure("Latency p99", highest, help=_ESTIMATE)
    with parts.row_of_figures():
        parts.figure("Identities", f"{int(now['identities']):,}", help="Authenticated workloads that sent requests.")
        parts.figure("Tools", f"{int(now['tools']):,}", help="Different tool names in tools/call.")
        for label, name in (("Received", "request_bytes"), ("Sent", "response_bytes")):
            size = int(now[name])
            parts.figure(label, parts.bytes_text(size), help=f"{size:,} bytes of message bodies.")


def _timeline(scope: Scope, window: Window) -> None:
    answer = data.ask(queries.TIMELINE, window, scope.filters)
    st.subheader("Requests by outcome")
    width = charts.bucket_text(window.bucket_s)
    alt = f"Bars of requests per {width} over time, stacked by outcome. The table below has the same numbers."
    parts.chart(charts.outcome_bars(answer.frame, window), key="timeline", alt=alt)
    with st.expander("Same as a table"):
        frame = answer.frame.assign(time=pd.to_datetime(answer.frame["bucket"], unit="s", utc=True))
        columns = {
            "time": st.column_config.DatetimeColumn(
                f"From (UTC), {width} each", format="YYYY-MM-DD HH:mm:ss", timezone="UTC"
            ),
            "outcome": "Outcome",
            "requests": parts.count_column("Requests"),
        }
        parts.table(frame, columns, key="timeline-table", alt="Requests per time bucket and outcome")


def _tools(scope: Scope, window: Window) -> None:
    st.subheader("Most used")
    answer = data.ask(queries.TOOLS, window, scope.filters)
    frame = answer.frame.assign(
        target=[charts.target_text(row.method, row.tool) for row in answer.frame.itertuples()],
        p50=[value[0] / 1000 for value in answer.frame["duration_us"]],
        p95=[value[1] / 1000 for value in answer.frame["duration_us"]],
    )
    columns = {
        "target": st.column_config.TextColumn("Tool or method", width="medium"),
        "requests": parts.count_column("Requests"),
        "allowed": parts.count_column("Allowed"),
        "refused": parts.count_column("Refused"),
        "failed": parts.count_column("Failed"),
        "p50": st.column_config.NumberColumn("p50 (ms)", format="%.2f", help=_ESTIMATE),
        "p95": st.column_config.NumberColumn("p95 (ms)", format="%.2f", help=_ESTIMATE),
    }
    parts.table(type(answer)(frame, answer.truncated), columns, key="tools", alt="Requests per tool or method")


def _refusals(scope: Scope, window: Window) -> None:
    st.subheader("Latest refusals")
    answer = data.ask(queries.REFUSALS, window, scope.filters)
    if answer.frame.empty:
        st.caption("Nothing was refused in this time range.")
        return
    newest = answer.frame.head(10)
    frame = newest.assign(target=[charts.target_text(row.method, row.tool) for row in newest.itertuples()])
    columns = {
        "ts": parts.time_column(),
        "identity": "Identity",
        "target": "Tool or method",
        "outcome": "Outcome",
        "reason": "Reason",
    }
    parts.table(frame, columns, key="latest-refusals", alt="The latest ten refused requests")
