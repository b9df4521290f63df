"""What pages are made of: a live body with designed states, figures with their table, numbers with their unit."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboard import queries
from dashboard.store import Answer, StoreError
from dashboard.views import controls, data
from dashboard.views.controls import Scope
from dashboard.window import Filters, Window

__all__ = [
    "base_theme",
    "bytes_text",
    "chart",
    "count_column",
    "duration_text",
    "figure",
    "live",
    "nothing_here",
    "row_of_figures",
    "table",
    "time_column",
]

Body = Callable[[Scope, Window], None]

_TROUBLE: Final[Mapping[str, str]] = {
    "away": "The store is away",
    "refused": "The store refuses the dashboard",
    "no_tables": "The store is not set up yet",
    "slow": "The store took too long",
    "large": "Too much at once",
    "misconfigured": "The store's address is wrong",
    "failed": "The store could not answer",
}
_DASH: Final = "\N{EN DASH}"
_ROWS_SEEN: Final = 10
_TALL_PX: Final = 390
_FIGURE_PX: Final = 172
_CHART_CONFIG: Final = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
    "showTips": False,
}


def live(body: Body) -> None:
    """Draw `body` now, and again every few seconds while the live switch is on; nothing else of the page is redrawn."""
    scope = controls.current()
    every = data.settings().refresh_s if scope.live else None
    st.fragment(_guarded, run_every=every)(body)


def _guarded(body: Body) -> None:
    scope = controls.current()
    window = scope.window()
    try:
        if _anything_stored(window):
            body(scope, window)
    except StoreError as error:
        st.error(f"**{_TROUBLE.get(error.code, 'The store gave no answer')}.** {error}", icon=":material/cloud_off:")
        st.caption(
            "Nothing is shown rather than something old. "
            + ("The page tries again by itself." if scope.live else "Switch Live on, or reload, to try again.")
        )
        return
    pace = f"live, every {data.settings().refresh_s:g} s" if scope.live else "not live"
    st.caption(f"{window.text()} · updated {data.now():%H:%M:%S} UTC · {pace}")


def _anything_stored(window: Window) -> bool:
    frame = data.ask(queries.ACTIVITY, window, Filters()).frame
    if int(frame["stored"].sum()) > 0:
        return True
    st.info("**No traffic has been recorded yet.** Send some, and it appears here:", icon=":material/info:")
    st.code(
        "secure-mcp-grpc demo                                      # a whole pod with three identities and traffic\n"
        'secure-mcp-grpc call get_current_time \'{"timezone": "UTC"}\' --as model-a   # one call to a pod that is up',
        language="bash",
    )
    return False


def nothing_here(scope: Scope, window: Window, what: str) -> None:
    """Say that the window has no `what`, and where the latest of all is."""
    frame = data.ask(queries.ACTIVITY, window, Filters()).frame
    latest = {str(row.source): (int(row.stored), row.latest) for row in frame.itertuples()}
    found = [moment for source in ("requests", "interactions") for stored, moment in [latest[source]] if stored]
    moment = max(found, default=None)
    tail = f" The latest request on record is of {moment:%Y-%m-%d %H:%M:%S} UTC." if moment else ""
    why = "matches the filters in this time range" if scope.filters else "in this time range"
    st.info(f"No {what} {why}.{tail}", icon=":material/info:")


def chart(figure: go.Figure, *, key: str, alt: str) -> None:
    """A figure that keeps its place and zoom between refreshes; `alt` says in words what it shows."""
    st.plotly_chart(figure, key=key, config=_CHART_CONFIG, alt=alt)


def row_of_figures() -> Any:
    """A container that puts `figure`s beside each other, as many as fit: four on a desk, two on a phone."""
    return st.container(horizontal=True, gap="small")


def figure(label: str, value: str, **more: Any) -> None:
    """One number with its label, in a `row_of_figures`."""
    st.metric(label, value, width=_FIGURE_PX, **more)


def table(answer: Answer | pd.DataFrame, columns: Mapping[str, Any], *, key: str, alt: str) -> None:
    """Rows as text and numbers; only `columns` are shown, in their order. Says so where rows were cut."""
    frame = answer.frame if isinstance(answer, Answer) else answer
    height: Literal["content"] | int = "content" if len(frame) <= _ROWS_SEEN else _TALL_PX
    st.dataframe(
        frame[list(columns)],
        hide_index=True,
        column_config=dict(columns),
        key=key,
        alt=alt,
        height=height,
        placeholder=_DASH,
    )
    if isinstance(answer, Answer) and answer.truncated:
        st.caption(f":material/content_cut: Only the first {len(frame):,} rows are shown; there are more.")


def time_column(label: str = "Time (UTC)") -> Any:
    return st.column_config.DatetimeColumn(label, format="YYYY-MM-DD HH:mm:ss.SSS", timezone="UTC", width=185)


def count_column(label: str) -> Any:
    return st.column_config.NumberColumn(label, format="localized")


def base_theme() -> str:
    """`light` or `dark`, as the browser shows the page."""
    return "dark" if st.context.theme.type == "dark" else "light"


def duration_text(microseconds: float) -> str:
    """A duration in the unit that people read; a dash where there is none."""
    if microseconds != microseconds:
        return _DASH
    if microseconds < 1_000_000:
        return f"{microseconds / 1000:,.2f} ms"
    return f"{microseconds / 1_000_000:,.2f} s"


def bytes_text(size: int) -> str:
    """A number of bytes with a decimal unit."""
    if size < 1000:
        return f"{size} B"
    value = float(size)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 1000:
            return f"{value:.2f} {unit}"
    return f"{value / 1000:,.2f} TB"
