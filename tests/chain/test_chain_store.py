"""What the store holds after known traffic, asked with curl and with clickhouse-connect; and the picture of it."""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from chain_stack import Stack, until
from mcp import Client
from playwright.sync_api import Page, sync_playwright

from tests.tools.browser import launch

CALLS = 1_000
ARTIFACTS = Path(__file__).parents[2] / ".artifacts" / "chain"
COLUMNS = (
    "identity, spiffe_id, method, tool, server, decision, reason, rule, outcome, grpc_status, "
    "duration_us > 0, upstream_us > 0, upstream_us <= duration_us, request_bytes > 0, response_bytes > 0, "
    "length(request_id), chain != '', seq > 0, length(peer_fingerprint), tls_version"
)


@pytest.fixture(scope="module")
def traffic(stack: Stack) -> Stack:
    """1,000 allowed calls by model-a, through the SDK."""

    async def send() -> None:
        async with Client(stack.transport()) as client:
            numbers = iter(range(CALLS))

            async def worker() -> None:
                for number in numbers:
                    await client.call_tool("echo", {"text": str(number)})

            async with asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(worker())

    asyncio.run(send())
    until(lambda: stack.rows("SELECT count() FROM requests WHERE tool = 'echo'")[0][0] >= CALLS)
    return stack


def test_a_thousand_calls_are_a_thousand_rows(traffic: Stack) -> None:
    """Issue: with identity, method, tool, decision, rule, status, latency, sizes, request id."""
    rows = traffic.rows(
        f"SELECT {COLUMNS}, count(), uniqExact(request_id) FROM requests WHERE tool = 'echo' GROUP BY ALL"
    )

    assert rows == [
        (
            *("model-a", "spiffe://test.mcp/model-a", "tools/call", "echo", "recorder", "allow", "permitted"),
            *("p, role:user, tools/call, echo, allow", "allowed", 0, 1, 1, 1, 1, 1, 36, 1, 1, 64, "TLSv1.3"),
            *(CALLS, CALLS),
        )
    ]


def test_curl_counts_the_same(traffic: Stack) -> None:
    """Issue: query the store with curl."""
    url = (traffic.home.secrets / "clickhouse-reader.url").read_text()
    counted = "count() AS n, countIf(decision = 'allow') AS allowed"
    sql = f"SELECT {counted} FROM requests WHERE tool = 'echo' FORMAT JSONEachRow"
    base, _, database = url.rpartition("/")
    command = ("curl", "--silent", "--show-error", "--fail", f"{base}/?database={database}", "--data-binary", sql)
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert {key: int(value) for key, value in json.loads(answer).items()} == {"n": CALLS, "allowed": CALLS}


def test_all_three_logs_tell_of_the_same_requests(traffic: Stack) -> None:
    """Ours: Envoy, authz_service and mcp_bridge agree on request id, chain and sequence number."""
    sql = """
        SELECT count() FROM requests AS r
        JOIN decisions AS d ON r.request_id = d.request_id AND r.chain = d.chain AND r.seq = d.seq
        JOIN interactions AS i ON r.request_id = i.request_id AND i.chain = d.chain AND i.seq = d.seq
        WHERE r.tool = 'echo' AND d.decision = 'allow' AND i.outcome = 'ok' AND i.tool = 'echo'
    """
    assert until(lambda: (rows := traffic.rows(sql)) and rows[0][0] >= CALLS and rows) == [(CALLS,)]


def test_the_journal_has_no_gap(traffic: Stack) -> None:
    """Ours: a chain numbers its records 1, 2, 3, … and the store holds each once."""
    sql = "SELECT count() = max(seq), uniqExact(seq) = count(), min(seq) FROM decisions GROUP BY chain"
    assert traffic.rows(sql) == [(True, True, 1)]


@pytest.fixture(scope="module")
def page(traffic: Stack) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser.new_page(viewport={"width": 1280, "height": 900})
        browser.close()


def test_the_dashboard_shows_those_calls(traffic: Stack, page: Page) -> None:
    """Issue: the Sankey shows those calls; no error box. The picture is kept for a person to look at."""
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))

    page.goto(traffic.endpoint("dashboard", "http"))
    page.get_by_role("link", name="Traffic flow").click()
    page.wait_for_selector(".js-plotly-plot .sankey-link", timeout=30_000)
    labels = page.locator(".js-plotly-plot .node-label").all_text_contents()
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTIFACTS / "traffic-flow.png", full_page=True)

    assert any("model-a" in label for label in labels)
    assert any("echo" in label for label in labels)
    assert page.locator('[data-testid="stException"], [data-testid="stAlertContentError"]').count() == 0
    assert errors == []
    total = traffic.rows("SELECT count() FROM requests")[0][0]
    assert total > CALLS
    assert f"{total:,} calls, 0 of them refused" in page.inner_text("body")
