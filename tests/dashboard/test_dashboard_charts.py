"""The pure parts: labels, flows, figures, windows."""

import datetime
import html

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as some

from dashboard import charts, theme
from dashboard.views import parts
from dashboard.window import OUTCOMES, RANGES, custom, last

NOW = datetime.datetime(2026, 3, 4, 10, 59, 59, 250000, tzinfo=datetime.UTC)


@given(some.text() | some.text(alphabet="<>&;abltg#"))
def test_label_holds_no_markup_and_loses_nothing_visible(text: str) -> None:
    """Ours: Plotly reads a little HTML in labels; a name must stay a name."""
    label = theme.plain(text)

    assert "<" not in label
    assert label.isprintable()
    if text.isprintable():
        assert html.unescape(label) == text


def test_label_shows_what_could_mislead() -> None:
    """Ours: characters that turn or hide text are written out."""
    assert theme.plain("git\u202eti\x00") == "git\\u202eti\\x00"


@given(
    some.lists(
        some.tuples(some.integers(0, 40), some.integers(0, 60), some.sampled_from(OUTCOMES), some.integers(1, 9)),
        min_size=1,
    )
)
def test_no_call_is_lost_when_small_flows_are_summed_up(rows: list[tuple[int, int, str, int]]) -> None:
    """Ours: the diagram's sum is the sum of the rows, however many names there are."""
    frame = pd.DataFrame(
        [(f"i{i}", "tools/call", f"t{t}", outcome, calls, 10) for i, t, outcome, calls in rows],
        columns=["identity", "method", "tool", "outcome", "calls", "bytes"],
    )
    links = charts.flows(frame)

    assert sum(link.calls for link in links) == frame["calls"].sum()
    assert len({link.identity for link in links}) <= 12
    assert len({link.target for link in links}) <= 24
    sankey = charts.sankey(links, "calls", "light").data[0]
    assert sum(sankey.link.value) == 2 * frame["calls"].sum()


def test_refused_flows_are_drawn_stronger_than_allowed_ones() -> None:
    """Issue 2: refusals stand out."""
    links = [charts.Flow("a", "t", "allowed", 9, 9), charts.Flow("a", "t", "denied", 1, 1)]
    colours = charts.sankey(links, "calls", "light").data[0].link.color

    assert [colour.split(",")[-1] for colour in colours] == ["0.28)", "0.8)", "0.28)", "0.8)"]


def test_an_identity_a_tool_and_an_outcome_of_one_name_are_three_nodes() -> None:
    """Ours: a tool may be called `denied`."""
    sankey = charts.sankey([charts.Flow("denied", "denied", "denied", 1, 1)], "calls", "light").data[0]

    assert len(sankey.node.label) == 3


@pytest.mark.parametrize(
    ("method", "tool", "text"),
    [
        ("tools/call", "git_log", "git_log"),
        ("tools/list", "", "tools/list"),
        ("resources/read", "file:///a", "resources/read file:///a"),
        ("", "", "(message not read)"),
    ],
)
def test_target_is_named_in_one_word(method: str, tool: str, text: str) -> None:
    """Ours."""
    assert charts.target_text(method, tool) == text


@pytest.mark.parametrize("name", RANGES)
def test_range_ends_with_this_second_and_has_few_bars(name: str) -> None:
    """Ours: a row of this very moment is inside, and a chart has at most ninety bars."""
    window = last(name, NOW)

    assert window.start < NOW < window.end
    assert window.end - window.start == RANGES[name]
    assert (window.end_us - window.start_us) / window.bucket_s / 1e6 <= 91


def test_window_without_length_is_none() -> None:
    """Ours."""
    moment = NOW.replace(tzinfo=None)

    assert custom(moment, moment) is None


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (parts.duration_text(1820.4), "1.82 ms"),
        (parts.duration_text(2_500_000), "2.50 s"),
        (parts.duration_text(float("nan")), "\N{EN DASH}"),
        (parts.bytes_text(999), "999 B"),
        (parts.bytes_text(133_700), "133.70 kB"),
        (charts.bucket_text(60), "minute"),
        (charts.bucket_text(600), "10 min"),
        (theme.short("x" * 50), "x" * 17 + "…" + "x" * 17),
    ],
)
def test_numbers_carry_their_unit(written: str, expected: str) -> None:
    """Ours."""
    assert written == expected
