"""Data frames in, Plotly figures out. Pure: no Streamlit, no store, no clock."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Final, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from dashboard.theme import OUTCOME_COLOURS, ink, neutral, plain, short, translucent
from dashboard.window import OUTCOMES, REFUSED, Window

__all__ = ["Flow", "bucket_text", "flows", "handshake_bars", "outcome_bars", "sankey", "target_text"]

NO_IDENTITY: Final = "(no identity)"
UNREAD: Final = "(message not read)"
_HEIGHT: Final = 260
_MAX_IDENTITIES: Final = 12
_MAX_TARGETS: Final = 24


class Flow(NamedTuple):
    """Calls of one identity to one target with one outcome."""

    identity: str
    target: str
    outcome: str
    calls: int
    bytes: int


@dataclass(slots=True)
class _Nodes:
    """Nodes of a Sankey, numbered in the order in which they are first asked for; a column and a name make one."""

    numbers: dict[tuple[str, str], int]

    def number(self, column: str, name: str) -> int:
        return self.numbers.setdefault((column, name), len(self.numbers))


def target_text(method: str, tool: str) -> str:
    """What was asked for, in one name: the tool of a tool call, otherwise the method and what it names."""
    if not method and not tool:
        return UNREAD
    return tool if method == "tools/call" and tool else f"{method} {tool}".strip()


def bucket_text(seconds: int) -> str:
    """A width of time in the largest unit that divides it."""
    for unit, word, size in (("d", "day", 86400), ("h", "hour", 3600), ("min", "minute", 60), ("s", "second", 1)):
        if seconds % size == 0:
            return word if seconds == size else f"{seconds // size} {unit}"
    return f"{seconds} s"


def outcome_bars(frame: pd.DataFrame, window: Window) -> go.Figure:
    """Requests per bucket, stacked by outcome. Columns: bucket (Unix seconds), outcome, requests."""
    figure = go.Figure()
    for outcome in (*OUTCOMES, *sorted(set(frame["outcome"]) - set(OUTCOMES))):
        part = frame[frame["outcome"] == outcome]
        if not part.empty:
            _add_bars(figure, part["bucket"], part["requests"], outcome, window)
    return _timeline_layout(figure, window, "requests")


def handshake_bars(frame: pd.DataFrame, window: Window) -> go.Figure:
    """Failed handshakes per bucket. Columns: bucket (Unix seconds), handshakes."""
    figure = go.Figure()
    _add_bars(figure, frame["bucket"], frame["handshakes"], "failed handshake", window)
    return _timeline_layout(figure, window, "handshakes")


def _add_bars(figure: go.Figure, buckets: pd.Series, heights: pd.Series, name: str, window: Window) -> None:
    starts = pd.to_datetime(buckets, unit="s")
    figure.add_bar(
        x=starts.dt.strftime("%Y-%m-%d %H:%M:%S").tolist(),
        y=[int(value) for value in heights],
        name=plain(name),
        marker={"color": OUTCOME_COLOURS.get(name, neutral("light")), "line": {"width": 0}},
        width=window.bucket_s * 900,
        offset=window.bucket_s * 50,
        hovertemplate="%{y:,d}",
    )


def _timeline_layout(figure: go.Figure, window: Window, unit: str) -> go.Figure:
    figure.update_layout(
        barmode="stack",
        height=_HEIGHT,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        showlegend=True,
        hovermode="x unified",
        uirevision=unit,
    )
    span = [f"{moment:%Y-%m-%d %H:%M:%S}" for moment in (window.start, window.end)]
    figure.update_xaxes(type="date", range=span, title="time (UTC)", showgrid=False, fixedrange=True)
    if _tallest(figure) < 5:
        figure.update_yaxes(dtick=1)  # no half requests
    figure.update_yaxes(
        title=f"{unit} per {bucket_text(window.bucket_s)}", rangemode="tozero", tickformat=",d", fixedrange=True
    )
    return figure


def _tallest(figure: go.Figure) -> int:
    heights: dict[str, int] = defaultdict(int)
    for bars in figure.data:
        for start, height in zip(bars.x, bars.y, strict=True):
            heights[start] += height
    return max(heights.values(), default=0)


def flows(frame: pd.DataFrame) -> list[Flow]:
    """The rows of the query `flows` as links, small identities and targets summed up under one name each.

    No call is lost: the links' sum is the sum of the rows.
    """
    rows = [
        Flow(identity or NO_IDENTITY, target_text(method, tool), outcome, int(calls), int(size))
        for identity, method, tool, outcome, calls, size in frame[
            ["identity", "method", "tool", "outcome", "calls", "bytes"]
        ].itertuples(index=False)
    ]
    identities = _largest(rows, 0, _MAX_IDENTITIES)
    targets = _largest(rows, 1, _MAX_TARGETS)
    sums: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for row in rows:
        total = sums[(identities[row.identity], targets[row.target], row.outcome)]
        total[0] += row.calls
        total[1] += row.bytes
    links = [Flow(*key, *total) for key, total in sums.items()]
    return sorted(links, key=lambda link: (-link.calls, link.identity, link.target, link.outcome))


def _largest(rows: list[Flow], column: int, most: int) -> dict[str, str]:
    """Each name of a column → the name that stands for it. Names with a refusal come first, then those with calls."""
    weight: dict[str, tuple[int, int]] = {}
    for row in rows:
        refused, calls = weight.get(str(row[column]), (0, 0))
        weight[str(row[column])] = (refused + (row.outcome in REFUSED) * row.calls, calls + row.calls)
    ranked = sorted(weight, key=lambda name: (*(-part for part in weight[name]), name))
    if len(ranked) <= most:
        return {name: name for name in ranked}
    other = f"({len(ranked) - most + 1:,} others)"
    return {name: name if place < most - 1 else other for place, name in enumerate(ranked)}


def sankey(links: list[Flow], measure: str, base: str) -> go.Figure:
    """Identity → target → outcome, as wide as `calls` or `bytes`; refusals are drawn last and stronger."""
    nodes = _Nodes({})
    drawn = sorted(links, key=lambda link: _drawing_order(link.outcome))
    sources, targets, values, colours, hovers = [], [], [], [], []
    outgoing: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for link in drawn:
        total = outgoing[(link.target, link.outcome)]
        total[0] += link.calls
        total[1] += link.bytes
        sources.append(nodes.number("identity", link.identity))
        targets.append(nodes.number("target", link.target))
        values.append(getattr(link, measure))
        colours.append(_link_colour(link.outcome))
        hovers.append(_link_text(f"{link.identity} → {link.target}", link.outcome, link.calls, link.bytes))
    for (target, outcome), (calls, size) in outgoing.items():
        sources.append(nodes.number("target", target))
        targets.append(nodes.number("outcome", outcome))
        values.append(calls if measure == "calls" else size)
        colours.append(_link_colour(outcome))
        hovers.append(_link_text(target, outcome, calls, size))
    figure = go.Figure(
        go.Sankey(
            arrangement="snap",
            textfont={"size": 13, "color": ink(base)},
            node={
                "label": [plain(short(name)) for _, name in nodes.numbers],
                "color": [_node_colour(column, name, base) for column, name in nodes.numbers],
                "customdata": [plain(name) for _, name in nodes.numbers],
                "hovertemplate": f"%{{customdata}}<br>%{{value:,d}} {measure}<extra></extra>",
                "pad": 20,
                "thickness": 14,
                "line": {"width": 0},
            },
            link={
                "source": sources,
                "target": targets,
                "value": values,
                "color": colours,
                "customdata": hovers,
                "hovertemplate": "%{customdata}<extra></extra>",
            },
        )
    )
    columns = [column for column, _ in nodes.numbers]
    tallest = max((columns.count(column) for column in ("identity", "target", "outcome")), default=1)
    figure.update_layout(
        height=max(320, min(90 + 38 * tallest, 900)), margin={"l": 8, "r": 8, "t": 16, "b": 16}, uirevision="flows"
    )
    return figure


def _drawing_order(outcome: str) -> int:
    return OUTCOMES.index(outcome) if outcome in OUTCOMES else len(OUTCOMES)


def _link_colour(outcome: str) -> str:
    colour = OUTCOME_COLOURS.get(outcome, neutral("light"))
    return translucent(colour, 0.28 if outcome == "allowed" else 0.8)


def _node_colour(column: str, name: str, base: str) -> str:
    return OUTCOME_COLOURS.get(name, neutral(base)) if column == "outcome" else neutral(base)


def _link_text(path: str, outcome: str, calls: int, size: int) -> str:
    return f"{plain(path)}<br>{plain(outcome)}: {calls:,} calls, {size:,} bytes"
