"""What a person sees: headless Chromium on the real process in front of the real store."""

import datetime
from collections.abc import Callable, Iterator
from typing import Literal
from urllib.parse import urlencode, urlsplit

import dashboard_known as known
import pytest
from dashboard_harness import ARTIFACTS, RealStore
from playwright.sync_api import Browser, BrowserContext, Page, expect

HOUR = urlencode({"range": "Custom (UTC)", "from": known.FROM, "to": known.TO, "live": "false"})
SLOW_MS = 15_000
SIZES: tuple[tuple[int, Literal["light", "dark"]], ...] = ((1280, "light"), (400, "light"), (1280, "dark"))


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """One context: the second page finds Streamlit's scripts in its cache, as a person's browser does."""
    with browser.new_context() as context:
        yield context


@pytest.fixture
def open_page(context: BrowserContext, address: str) -> Iterator[Callable[[str], Page]]:
    """Opens a path of the dashboard; at the end no page may have asked another origin, raised a dialog or failed."""
    pages: list[Page] = []
    foreign: list[str] = []
    dialogs: list[str] = []

    def go(path: str) -> Page:
        page = context.new_page()
        pages.append(page)
        page.set_viewport_size({"width": 1280, "height": 900})
        page.on("request", lambda request: _note_foreign(request.url, address, foreign))
        page.on("console", lambda message: foreign.append(message.text) if "Security Policy" in message.text else None)
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.goto(address + path)
        expect(page.get_by_text("updated").last).to_be_visible(timeout=SLOW_MS)
        return page

    yield go
    for page in pages:
        assert page.locator('[data-testid="stException"]').count() == 0
        page.close()
    assert foreign == []
    assert dialogs == []


def _note_foreign(url: str, address: str, foreign: list[str]) -> None:
    if urlsplit(url).scheme not in ("data", "blob") and urlsplit(url).netloc != urlsplit(address).netloc:
        foreign.append(url)


def figure(page: Page, label: str) -> str:
    metric = page.get_by_test_id("stMetric").filter(has=page.get_by_text(label, exact=True))
    return metric.get_by_test_id("stMetricValue").inner_text().strip()


def picture(page: Page, name: str) -> None:
    """Save the whole page, for a person to look at."""
    page.wait_for_timeout(200)  # transitions of the charts; nothing depends on it
    height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    size = page.viewport_size
    assert size is not None
    page.set_viewport_size({"width": size["width"], "height": min(max(900, height + 20), 4000)})
    page.wait_for_timeout(400)
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"{name}.png")


def at_every_size(page: Page) -> Iterator[str]:
    """The page at 1280 px light, 400 px light and, loaded again, 1280 px dark; yields the size's name."""
    for width, scheme in SIZES:
        page.set_viewport_size({"width": width, "height": 900})
        if scheme == "dark":
            page.emulate_media(color_scheme=scheme)
            page.reload()
        ink = "rgb(228, 233, 240)" if scheme == "dark" else "rgb(27, 36, 48)"
        expect(page.get_by_test_id("stMetricValue").or_(page.get_by_role("heading")).first).to_have_css(
            "color", ink, timeout=SLOW_MS
        )
        yield f"{width}-{scheme}"


def test_numbers_on_screen_are_the_known_ones(open_page: Callable[[str], Page]) -> None:
    """Ours: what is written on the screen is what is in the store, at every size."""
    page = open_page(f"/?{HOUR}")
    for size in at_every_size(page):
        expect(page.locator(".js-plotly-plot")).to_be_visible(timeout=SLOW_MS)

        assert figure(page, "Requests") == f"{known.REQUESTS:,}"
        assert figure(page, "Refused") == "69"
        assert figure(page, "Failed") == "7"
        picture(page, f"overview-{size}")


def test_sankey_on_screen_has_the_links_and_a_script_for_a_name_is_text(open_page: Callable[[str], Page]) -> None:
    """Ours: the drawn diagram holds the known links; a tool named like a script is shown and does nothing."""
    page = open_page(f"/traffic?{HOUR}")
    for size in at_every_size(page):
        expect(page.locator(".sankey-node")).to_have_count(4 + 8 + 6, timeout=SLOW_MS)
        links = page.evaluate(
            """() => {
                const sankey = document.querySelector('.js-plotly-plot').data[0];
                const name = i => sankey.node.customdata[i];
                const {source, target, value} = sankey.link;
                return [...value].map((v, i) => [name(source[i]), name(target[i]), v]);
            }"""
        )

        assert ["model-a", "get_current_time", 1200] in links
        assert ["git_commit", "denied", 27] in links
        assert sum(value for _, _, value in links) == 2 * known.REQUESTS
        assert known.SCRIPT in page.locator(".node-label").all_text_contents()
        assert page.locator("script", has_text="alert(1)").count() == 0
        picture(page, f"traffic-{size}")


def test_security_on_screen_counts_refusals_and_handshakes(open_page: Callable[[str], Page]) -> None:
    """Ours: refusals, limits and failed handshakes of the known hour."""
    page = open_page(f"/security?{HOUR}")
    for size in at_every_size(page):
        expect(page.locator(".js-plotly-plot")).to_have_count(2, timeout=SLOW_MS)

        shown = [figure(page, label) for label in ("Denied", "Rate limited", "Failed handshakes", "Unavailable")]
        assert shown == ["30", "39", "5", "2"]
        picture(page, f"security-{size}")


def test_filter_and_range_follow_to_the_other_pages_and_stay_in_the_url(open_page: Callable[[str], Page]) -> None:
    """Ours: one range and one set of filters for all pages; the address is a link to what is seen."""
    page = open_page(f"/?{HOUR}&identity=model-b")
    assert figure(page, "Requests") == "62"

    page.get_by_role("link", name="Security").click()
    expect(page.get_by_role("heading", name="Security", exact=True)).to_be_visible(timeout=SLOW_MS)
    expect(page.get_by_test_id("stMetric").first.get_by_test_id("stMetricValue")).to_have_text("18", timeout=SLOW_MS)

    assert "identity=model-b" in page.url
    assert "from=2026-03-04" in page.url


def test_live_page_shows_a_new_refusal_within_five_seconds_and_keeps_its_state(
    open_page: Callable[[str], Page], real_store: RealStore
) -> None:
    """Issue 6: live mode shows a new refusal within 5 s; what a person opened stays open."""
    page = open_page("/?range=Last+15+minutes&identity=live-1")
    expect(page.get_by_text("No request matches the filters")).to_be_visible(timeout=SLOW_MS)
    real_store.insert("requests", [refusal("live-1")])
    expect(page.get_by_test_id("stMetric").filter(has_text="Refused").get_by_test_id("stMetricValue")).to_have_text(
        "1", timeout=5000
    )
    page.get_by_text("Same as a table").click()
    expect(page.get_by_test_id("stExpanderDetails")).to_be_visible(timeout=5000)

    real_store.insert("requests", [refusal("live-1")])

    expect(page.get_by_test_id("stMetric").filter(has_text="Refused").get_by_test_id("stMetricValue")).to_have_text(
        "2", timeout=5000
    )
    expect(page.get_by_test_id("stExpanderDetails")).to_be_visible()


def refusal(identity: str) -> dict[str, object]:
    now = datetime.datetime.now(datetime.UTC)
    return known.row(
        f"{now:%Y-%m-%d %H:%M:%S.%f}",
        identity=identity,
        method="tools/call",
        tool="shell",
        outcome="denied",
        reason="not_permitted",
        rule="",
    )


def test_no_deploy_button_and_no_menu_of_a_developer(open_page: Callable[[str], Page]) -> None:
    """Ours: an operator's page, not a developer's."""
    page = open_page(f"/?{HOUR}")

    assert page.get_by_test_id("stAppDeployButton").count() == 0
    assert page.get_by_test_id("stMainMenu").count() == 0
