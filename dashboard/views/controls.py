"""Time range, live switch and filters: shared by all pages and kept in the URL; a link shows the same picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import streamlit as st

from dashboard import queries
from dashboard.store import StoreError
from dashboard.views import data
from dashboard.window import CUSTOM, DEFAULT_RANGE, OUTCOMES, RANGES, Filters, Window, custom, last

__all__ = ["Scope", "current", "draw"]

_STATE: Final = "_scope"
_CHOICES: Final = (*RANGES, CUSTOM)


@dataclass(frozen=True, slots=True)
class Scope:
    """What the controls say. `fixed` is a window between two given times, otherwise `span` names one that ends now."""

    span: str
    fixed: Window | None
    filters: Filters
    live: bool

    def window(self) -> Window:
        """The window at this moment."""
        return self.fixed or last(self.span, data.now())

    @property
    def span_text(self) -> str:
        return self.span.removeprefix("Last ") if self.fixed is None else "window"


def current() -> Scope:
    """The scope of this run of the page."""
    scope = st.session_state[_STATE]
    assert isinstance(scope, Scope)  # noqa: S101 - `draw` ran before any page
    return scope


def draw() -> None:
    """Draw the controls into the sidebar and remember what they say."""
    with st.sidebar:
        span = st.selectbox(
            "Time range",
            _CHOICES,
            index=_CHOICES.index(DEFAULT_RANGE),
            key="range",
            bind="query-params",
        )
        fixed = _fixed_window() if span == CUSTOM else None
        span = span if span in RANGES else DEFAULT_RANGE
        live = st.toggle(
            "Live",
            value=True,
            key="live",
            bind="query-params",
            help=f"Asks the store every {data.settings().refresh_s:g} s.",
        )
        st.session_state[_STATE] = Scope(span, fixed, Filters(), live)
        filters = _filters(fixed or last(span, data.now()))
    st.session_state[_STATE] = Scope(span, fixed, filters, live)


def _fixed_window() -> Window | None:
    moment = data.now().replace(tzinfo=None, second=0, microsecond=0)
    step = timedelta(minutes=1)
    start = st.datetime_input(
        "From (UTC)", moment - timedelta(hours=1), key="from", bind="query-params", step=step, format="YYYY-MM-DD"
    )
    end = st.datetime_input("To (UTC)", moment + step, key="to", bind="query-params", step=step, format="YYYY-MM-DD")
    window = custom(start, end) if start and end else None
    if window is None:
        st.warning("The end must be after the start; the last hour is shown instead.")
    return window


def _filters(window: Window) -> Filters:
    offered = _choices(window)
    return Filters(
        identities=_several("Identity", "identity", offered["identities"]),
        tools=_several("Tool, prompt or resource", "tool", offered["tools"]),
        methods=_several("Method", "method", offered["methods"]),
        servers=_several("Server", "server", offered["servers"]),
        outcomes=tuple(
            st.multiselect("Outcome", list(OUTCOMES), key="outcome", bind="query-params", placeholder="All")
        ),
    )


def _several(label: str, key: str, offered: Sequence[str]) -> tuple[str, ...]:
    """Values of a link stay chosen although the window has none of them now."""
    return tuple(
        st.multiselect(
            label,
            [value for value in offered if value],
            key=key,
            bind="query-params",
            accept_new_options=True,
            placeholder="All",
        )
    )


def _choices(window: Window) -> dict[str, list[str]]:
    names = ("identities", "tools", "methods", "servers")
    try:
        frame = data.ask(queries.CHOICES, window, Filters()).frame
    except StoreError:
        return {name: [] for name in names}  # the page itself says what is wrong
    return {name: list(frame.iloc[0][name]) if len(frame) else [] for name in names}
