"""What the pages say, checked against rows whose totals are known, on the real store."""

import json
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import dashboard_known as known
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from dashboard import queries
from dashboard.settings import DashboardSettings
from dashboard.store import Store
from dashboard.views import data
from dashboard.window import Filters, custom

APP = Path(__file__).parents[2] / "dashboard" / "app.py"
HOUR = {"range": "Custom (UTC)", "from": known.FROM, "to": known.TO}


def overview() -> None:
    from dashboard.views import controls, overview

    controls.draw()
    overview.page()


def traffic() -> None:
    from dashboard.views import controls, traffic

    controls.draw()
    traffic.page()


def security() -> None:
    from dashboard.views import controls, security

    controls.draw()
    security.page()


@pytest.fixture(autouse=True)
def _store_of_this_test(monkeypatch: pytest.MonkeyPatch, real_store: Any) -> Iterator[None]:
    monkeypatch.setenv("CLICKHOUSE_URL", real_store.url())
    st.cache_data.clear()
    st.cache_resource.clear()
    yield
    st.cache_data.clear()
    st.cache_resource.clear()


def shown(page: Callable[[], None], **query: Any) -> AppTest:
    """The page as a browser with this URL query would get it; an error of the script is a failure."""
    test = AppTest.from_function(page, default_timeout=20)
    for name, value in (HOUR | query).items():
        test.query_params[name] = value
    test.run()
    assert not test.exception
    return test


def figures(test: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in test.metric}


def texts(test: AppTest) -> str:
    parts = (*test.markdown, *test.caption, *test.info, *test.error, *test.warning, *test.success, *test.code)
    return "\n".join(str(part.value) for part in parts)


def table_with(test: AppTest, *columns: str) -> Any:
    return next(table.value for table in test.dataframe if set(columns) <= set(table.value.columns))


def test_app_opens_on_the_overview_of_the_last_hour() -> None:
    """Ours: without a range in the URL the last hour is shown; without rows it says when the latest one was."""
    test = AppTest.from_file(str(APP), default_timeout=20)
    test.query_params["identity"] = "model-b"
    test.run()

    assert not test.exception
    assert test.title[0].value == "Overview"
    assert test.selectbox(key="range").value == "Last hour"
    assert "No request matches the filters in this time range. The latest request on record is of" in texts(test)


def test_overview_agrees_with_the_store_to_the_unit() -> None:
    """Ours: numbers on the page are the numbers of the rows."""
    values = figures(shown(overview))

    assert values["Requests"] == f"{known.REQUESTS:,}"
    assert values["Allowed"] == f"{known.total('allowed'):,}"
    assert values["Refused"] == f"{known.total('denied', 'limited'):,}"
    assert values["Failed"] == f"{known.total('error', 'unavailable', 'cancelled'):,}"
    assert values["Refusal rate"] == f"{100 * known.total('denied', 'limited') / known.REQUESTS:.1f} %"
    assert values["Latency p50"] == values["Latency p99"] == "2.00 ms"
    assert values["Identities"] == "3"
    assert values["Tools"] == "6"
    assert values["Received"] == f"{known.REQUESTS * known.REQUEST_BYTES / 1000:.2f} kB"


def test_timeline_table_adds_up_to_the_total() -> None:
    """Ours: the table beside the chart has the same numbers as the chart and the total."""
    test = shown(overview)
    chart = json.loads(test.get("plotly_chart")[0].proto.spec)

    assert int(table_with(test, "time", "requests")["requests"].sum()) == known.REQUESTS
    assert sum(sum(bars["y"]) for bars in chart["data"]) == known.REQUESTS
    assert {bars["name"] for bars in chart["data"]} == {row[3] for row in known.COUNTS}


def test_change_is_against_the_window_before() -> None:
    """Ours: the second half hour is compared with the first."""
    halves = Counter(str(row["ts"]) >= "2026-03-04 10:30" for row in known.requests())
    metric = next(m for m in shown(overview, **{"from": "2026-03-04T10:30"}).metric if m.label == "Requests")

    assert metric.value == f"{halves[True]:,}"
    assert metric.delta == f"{halves[True] - halves[False]:+,}"


@pytest.mark.parametrize(
    ("name", "value", "requests"),
    [
        ("identity", "model-b", 62),
        ("tool", known.SCRIPT, 3),
        ("tool", "o'clock\\n", 2),
        ("method", "tools/list", 21),
        ("outcome", "limited", 39),
        ("server", "time", known.REQUESTS),
    ],
)
def test_filter_in_the_url_narrows_the_page(name: str, value: str, requests: int) -> None:
    """Ours: a link shows the same picture; quotes and backslashes of a value stay values."""
    assert figures(shown(overview, **{name: value}))["Requests"] == f"{requests:,}"


def test_filter_that_is_sql_finds_nothing() -> None:
    """Ours: values are bound, never formatted."""
    test = shown(overview, identity="') OR 1=1 --")

    assert "No request matches the filters" in texts(test)


def test_sankey_holds_every_link_twice() -> None:
    """Ours: identity → target and target → outcome, with the calls of the rows."""
    test = shown(traffic)
    sankey = json.loads(test.get("plotly_chart")[0].proto.spec)["data"][0]
    names, link = sankey["node"]["customdata"], sankey["link"]
    links = Counter[tuple[str, str]]()
    for source, target, value in zip(link["source"], link["target"], link["value"], strict=True):
        links[names[source], names[target]] += value

    assert links["model-a", "get_current_time"] == 1200
    assert links["model-c", "get_current_time"] == links["get_current_time", "limited"] == 25
    assert links["git_commit", "denied"] == 27
    assert links["model-c", "&lt;script&gt;alert(1)&lt;/script&gt;"] == 3
    assert links["(no identity)", "get_current_time"] == 1
    assert sum(links.values()) == 2 * known.REQUESTS
    assert f"**{known.REQUESTS:,}** calls, **69** of them refused" in texts(test)
    assert int(table_with(test, "calls", "bytes")["calls"].sum()) == known.REQUESTS


def test_sankey_can_be_as_wide_as_bytes() -> None:
    """Ours: bytes are those of both directions."""
    sankey = json.loads(shown(traffic, width="bytes").get("plotly_chart")[0].proto.spec)["data"][0]
    total = known.REQUESTS * known.REQUEST_BYTES + known.total("allowed") * known.RESPONSE_BYTES

    assert sum(sankey["link"]["value"]) == 2 * total


def test_security_counts_and_names_the_reasons() -> None:
    """Ours: refused requests with reason and rule, limits, handshakes."""
    test = shown(security)
    reasons = table_with(test, "rule", "requests")
    limits = table_with(test, "details", "requests")

    assert figures(test) == {"Denied": "30", "Rate limited": "39", "Failed handshakes": "5", "Unavailable": "2"}
    assert sorted(zip(reasons["identity"], reasons["target"], reasons["reason"], reasons["requests"], strict=True)) == [
        ("model-b", "git_commit", "not_permitted", 18),
        ("model-c", known.SCRIPT, "not_permitted", 3),
        ("model-c", "git_commit", "denied_by_rule", 9),
    ]
    assert sorted(limits["requests"]) == [14, 25]
    assert len(table_with(test, "request_id")) == 69


def test_identity_of_a_failed_handshake_is_labelled_as_a_claim() -> None:
    """Design: the SAN of a failed handshake is a claim, not an identity; a filter by identity must not use it."""
    test = shown(security, identity="model-b")
    table = next(table for table in test.dataframe if "claimed_id" in table.value.columns)

    assert set(table.value["claimed_id"]) == {known.CLAIM}
    assert "identity" not in table.value.columns
    assert json.loads(table.proto.columns)["claimed_id"]["label"] == "Claimed ID (unverified)"
    assert figures(test)["Failed handshakes"] == str(known.HANDSHAKES)
    assert "claims" in texts(test)


def test_findings_stand_beside_refusals_and_show_markup_as_text() -> None:
    """Issue 4: a security event for a tool that changed; the tool's name is the attacker's."""
    findings = table_with(shown(security), "finding")

    columns = ["finding", "identity", "server", "target", "outcome", "requests"]
    assert findings[columns].to_numpy().tolist() == [["tool_drift", "model-a", "time", known.SCRIPT, "denied", 1]]
    assert "The bridge found nothing" in texts(shown(security, identity="model-b"))


def test_frames_of_a_session_count_as_requests_and_the_session_as_one() -> None:
    """Issue 4: what a pipelined client does is seen like what others do, once; a stream's bytes are its frames'."""
    test = shown(overview, **known.PIPELINED)
    values = figures(test)

    assert values["Requests"] == str(known.FRAMES + 2)
    assert (values["Allowed"], values["Refused"], values["Failed"]) == ("4", "5", "2")
    assert values["Latency p99"] == "2.00 ms"  # not that of the session, a minute
    assert values["Received"] == f"{known.FRAMES * known.REQUEST_BYTES} B"
    assert values["Tools"] == "3"
    calls = table_with(shown(traffic, **known.PIPELINED), "calls", "bytes")
    assert int(calls["calls"].sum()) == known.FRAMES + 2
    assert list(calls[calls["target"] == "grpc:session"]["bytes"]) == [0]


def test_refused_frame_has_its_reason_and_the_rule_of_its_decision() -> None:
    """Issue 4: also where the decision or Envoy's entry was lost; a limit of the bridge is one of the limits."""
    test = shown(security, **known.PIPELINED)
    refusals = table_with(test, "request_id")
    found = {row.request_id: (row.outcome, row.reason, row.rule, row.spiffe_id) for row in refusals.itertuples()}

    assert found == {
        "s1/2": ("denied", "denied_by_rule", known.RULE, known.CLAIM),
        "s1/3": ("limited", "rate_limited", "", ""),
        "s1/5": ("denied", "tool_drift", "", ""),
        "s2/2": ("denied", "not_permitted", "", ""),
        "r-ended": ("denied", "refused_by_bridge", "", known.CLAIM),
    }
    reasons = table_with(test, "rule", "requests")
    assert known.RULE in set(reasons["rule"])
    assert set(table_with(test, "details", "requests")["details"]) == {"bridge_rate_limited"}


def test_what_happened_to_the_policy_service_is_shown() -> None:
    """Issue 3: a refused policy file is a security event; so is a revocation. Decisions and anchors are none."""
    events = table_with(shown(security), "kind", "rule")

    assert list(zip(events["kind"], events["reason"], strict=True)) == [
        ("revocation", "revoked"),
        ("policy", "refused"),
    ]
    assert "policy.csv:3" in events["rule"].iloc[1]


def test_cut_answer_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: a table that does not show all rows says it."""
    monkeypatch.setitem(data._BY_NAME, "refusals", replace(queries.REFUSALS, max_rows=5))
    test = shown(security)

    assert len(table_with(test, "request_id")) == 5
    assert "Only the first 5 rows are shown" in texts(test)


def test_cut_flows_say_so_and_claim_no_total(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: a sum of cut rows is a lower bound and called one."""
    monkeypatch.setitem(data._BY_NAME, "flows", replace(queries.FLOWS, max_rows=2))

    assert "At least **1,240** calls" in texts(shown(traffic))


@pytest.mark.parametrize("page", [overview, traffic, security])
def test_empty_store_explains_how_to_send_traffic(
    page: Callable[[], None], real_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: the first start helps."""
    real_store.write("CREATE DATABASE IF NOT EXISTS empty")
    for table in ("requests", "interactions", "handshakes"):
        real_store.write(f"CREATE TABLE IF NOT EXISTS empty.{table} AS mcp.{table}")
    monkeypatch.setenv("CLICKHOUSE_URL", real_store.url("empty"))

    said = texts(shown(page))

    assert "No traffic has been recorded yet" in said
    assert "secure-mcp-grpc demo" in said
    assert "secure-mcp-grpc call" in said


@pytest.mark.parametrize("page", [overview, traffic, security])
def test_store_without_tables_is_told_apart(
    page: Callable[[], None], real_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: the dashboard may start before the sink."""
    real_store.write("CREATE DATABASE IF NOT EXISTS bare")
    monkeypatch.setenv("CLICKHOUSE_URL", real_store.url("bare"))

    assert "trace_sink makes them when it starts" in texts(shown(page))


@pytest.mark.parametrize("page", [overview, traffic, security])
def test_store_away_is_a_sentence_without_the_password(
    page: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: no traceback, no secret, and nothing old is shown."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("CLICKHOUSE_URL", f"http://reader:hunter2@{address}/mcp")
        test = shown(page)

    assert f"The store at {address} does not answer." in test.error[0].value
    assert "hunter2" not in texts(test)
    assert not test.metric


def test_wrong_password_is_told_apart(real_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: who has to mend it is clear from the sentence."""
    monkeypatch.setenv("CLICKHOUSE_URL", f"http://reader:wrong@{real_store.address}/mcp")

    assert "refuses the dashboard's user or password" in shown(overview).error[0].value


def test_url_file_wins_and_is_read_again(real_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: the file may appear after the dashboard started."""
    monkeypatch.setenv("CLICKHOUSE_URL", "http://reader:x@127.0.0.1:1/mcp")
    monkeypatch.setenv("MCP_DASHBOARD_CLICKHOUSE_URL_FILE", str(tmp_path / "url"))
    assert "cannot be read yet" in shown(overview).error[0].value

    (tmp_path / "url").write_text(real_store.url() + "\n")

    assert figures(shown(overview))["Requests"] == f"{known.REQUESTS:,}"


def test_columns_of_queries_are_those_of_the_store() -> None:
    """Ours: an empty answer comes without columns, so each query names its own; both must agree."""
    window = custom(datetime.fromisoformat(known.FROM), datetime.fromisoformat(known.TO))
    assert window is not None
    store = Store(DashboardSettings.load())
    for query in queries.ALL:
        answer = store.run(query, queries.parameters(window, Filters()))
        assert not answer.frame.empty, query.name
        assert not answer.frame.isna().all().any(), query.name
    store.close()


def test_no_page_asks_for_payloads() -> None:
    """Issue 4: captured messages may hold what the viewer of a dashboard must not see, and are large."""
    payloads = {"arguments", "request", "response", "payload_encoding", "record", "resources"}
    for query in queries.ALL:
        words = set(re.findall(r"\w+", query.sql))
        assert not words & payloads, query.name
        assert "SELECT *" not in query.sql.replace("SELECT * FROM traffic", ""), query.name
    view = (Path(__file__).parents[2] / "trace_sink" / "migrations" / "0003_frames_as_traffic.sql").read_text()
    assert not set(re.findall(r"i\.(\w+)", view)) & payloads
