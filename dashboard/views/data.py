"""The process's store as pages see it: one client, answers shared for a moment between pages that ask the same."""

from datetime import UTC, datetime
from typing import Final

import pandas as pd
import streamlit as st

from dashboard import queries
from dashboard.queries import Parameters, Query
from dashboard.settings import DashboardSettings
from dashboard.store import Answer, Store
from dashboard.window import Filters, Window

__all__ = ["ask", "now", "settings"]

_BY_NAME: Final = {query.name: query for query in queries.ALL}


@st.cache_resource(show_spinner=False)
def settings() -> DashboardSettings:
    """The settings of this process, read once."""
    return DashboardSettings.load()


@st.cache_resource(show_spinner=False)
def _store() -> Store:
    return Store(settings())


@st.cache_data(ttl=2, max_entries=256, show_spinner=False)
def _answer(name: str, parameters: Parameters) -> tuple[pd.DataFrame, bool]:
    answer = _store().run(_BY_NAME[name], parameters)
    return answer.frame, answer.truncated


def ask(query: Query, window: Window, filters: Filters) -> Answer:
    """The rows of `query`; raises `StoreError`."""
    frame, truncated = _answer(query.name, queries.parameters(window, filters))
    return Answer(frame, truncated)


def now() -> datetime:
    return datetime.now(UTC)
