"""Traffic flow: who asked for what, and what became of it."""

from typing import Final

import pandas as pd
import streamlit as st

from dashboard import charts, queries
from dashboard.store import Answer
from dashboard.views import data, parts
from dashboard.views.controls import Scope
from dashboard.window import REFUSED, Window

__all__ = ["page"]

_WIDTHS: Final = ("calls", "bytes")


def page() -> None:
    st.title("Traffic flow")
    st.caption("From identity through tool to outcome. Refused calls are drawn stronger than allowed ones.")
    st.segmented_control("Width of a link", _WIDTHS, default="calls", required=True, key="width", bind="query-params")
    parts.live(_body)


def _body(scope: Scope, window: Window) -> None:
    answer = data.ask(queries.FLOWS, window, scope.filters)
    if answer.frame.empty:
        parts.nothing_here(scope, window, "request")
        return
    chosen = st.session_state.get("width")
    measure = chosen if chosen in _WIDTHS else "calls"
    links = charts.flows(answer.frame)
    calls = sum(link.calls for link in links)
    refused = sum(link.calls for link in links if link.outcome in REFUSED)
    qualifier = "At least " if answer.truncated else ""
    st.markdown(f"{qualifier}**{calls:,}** calls, **{refused:,}** of them refused")
    if answer.truncated:
        st.warning(
            f"Only the {len(answer.frame):,} largest flows are drawn; narrow the filters to see the others.",
            icon=":material/content_cut:",
        )
    alt = f"Sankey diagram of {calls} calls in {len(links)} links. The table below lists every link."
    parts.chart(charts.sankey(links, measure, parts.base_theme()), key="sankey", alt=alt)
    st.subheader("Links")
    columns = {
        "identity": "Identity",
        "target": st.column_config.TextColumn("Tool or method", width="medium"),
        "outcome": "Outcome",
        "calls": parts.count_column("Calls"),
        "bytes": parts.count_column("Bytes"),
    }
    frame = pd.DataFrame(links, columns=list(charts.Flow._fields))
    parts.table(Answer(frame, answer.truncated), columns, key="links", alt="Calls per identity, tool and outcome")
