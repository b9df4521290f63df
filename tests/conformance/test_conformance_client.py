"""The official conformance suite's client side: our client, with the whole chain between it and the suite's servers.

OAuth (`auth/…`) is left out: those scenarios test a client that logs in to an
HTTP server, and a client of the chain has no such login; the sidecar is the
HTTP client, with its own secrets.
"""

import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import suite
from chain_stack import make_home, running
from forwarder import forwarding

pytestmark = pytest.mark.timeout(300)

SCENARIOS = {
    "2025-11-25": (
        *("initialize", "tools_call", "elicitation-sep1034-client-defaults", "sse-retry"),
        "json-schema-2020-12-preservation",
    ),
    "2026-07-28": (
        *("tools_call", "request-metadata", "sep-2322-client-request-state", "http-standard-headers"),
        *("http-custom-headers", "http-invalid-tool-headers", "json-schema-ref-no-deref"),
        "json-schema-2020-12-preservation",
    ),
}
CASES = [(revision, scenario) for revision, scenarios in SCENARIOS.items() for scenario in scenarios]


def run_all(revision: str, directory: Path, env: dict[str, str], workers: int) -> dict[str, suite.Checks]:
    scenarios = SCENARIOS[revision]
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(lambda one: suite.client_side(one, revision, directory / one, env), scenarios)
        return dict(zip(scenarios, found, strict=True))


@pytest.fixture(scope="module")
def work() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="smg-") as path:
        yield Path(path)


@pytest.fixture(scope="module")
def direct(work: Path) -> dict[tuple[str, str], suite.Checks]:
    return {
        (revision, scenario): found
        for revision in SCENARIOS
        for scenario, found in run_all(revision, work / "direct" / revision, {}, workers=2).items()
    }


@pytest.fixture(scope="module")
def chain(work: Path) -> dict[tuple[str, str], suite.Checks]:
    """One sidecar for each revision, one scenario after the other: the bridge asks one server at a time."""
    found: dict[tuple[str, str], suite.Checks] = {}
    for number, revision in enumerate(SCENARIOS):
        root, target = work / f"s{number}", work / f"target{number}"
        home = make_home(root)
        home.policy.write_text("p, model-a, *, *, allow\n")
        with forwarding(target) as port:
            # `http-custom-headers` calls with null for a boolean, which validation refuses before it becomes headers.
            bridge = {"upstreams": {"suite": {"url": f"http://127.0.0.1:{port}/mcp"}}, "validate_arguments": False}
            with running(root, {"bridge": bridge}, home, without=("dashboard",)) as stack:
                means = {"address": stack.address, "identity": str(home.certs / "model-a"), "target": str(target)}
                env = {"CONFORMANCE_CHAIN": json.dumps(means)}
                results = run_all(revision, work / "chain" / revision, env, workers=1)
        found |= {(revision, scenario): checks for scenario, checks in results.items()}
    return found


@pytest.mark.parametrize("revision", SCENARIOS)
def test_the_client_itself_passes_what_it_did_before(
    direct: dict[tuple[str, str], suite.Checks], revision: str
) -> None:
    """Ours: the yardstick of the next test, as data in the repository; `baseline.py` writes it again."""
    found: suite.Checks = sum((direct[revision, scenario] for scenario in SCENARIOS[revision]), suite.Checks())

    assert found == suite.read_baseline(f"client-{revision}")


@pytest.mark.parametrize(("revision", "scenario"), CASES)
def test_what_a_client_passes_directly_it_passes_through_the_chain(
    direct: dict[tuple[str, str], suite.Checks],
    chain: dict[tuple[str, str], suite.Checks],
    work: Path,
    revision: str,
    scenario: str,
) -> None:
    """Issue 4: the suite's client side through the chain: every check that passes directly passes."""
    missing = direct[revision, scenario] - chain[revision, scenario]

    assert not missing, suite.why(work / "chain" / revision / scenario, "", missing)
    assert direct[revision, scenario]
