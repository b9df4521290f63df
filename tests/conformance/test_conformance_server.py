"""The official conformance suite's server side: against our server directly, and at the far end of the whole chain.

suite → `connect --http` → gRPC → mTLS Envoy → authz → bridge → the server of
`everything_server.py`, in the bridge's process, over stdio, over HTTP.
"""

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import suite
from chain_stack import Stack, make_home, running

pytestmark = pytest.mark.timeout(300)

KINDS = {"inprocess": suite.REVISIONS, "http": suite.REVISIONS, "stdio": ("2026-07-28",)}
"""How the bridge reaches the server, at which revisions. A child for each session of the handshake era would take half
a minute to start them all; tests/servers has that."""
CASES = [(kind, revision) for kind, revisions in KINDS.items() for revision in revisions]
NOT_JUDGED = {
    # The suite writes INFO where a server answers these with JSON: event streams are optional for what says nothing.
    "server-sse-multiple-streams server-sse-streams-functional",
    # … and where it was not disconnected. Who closes an event stream early is the HTTP server, here `connect`.
    "server-sse-polling server-sse-disconnect-resume",
}
"""Checks that pass directly and do not apply to the far end of the chain, in the suite's own words."""


@pytest.fixture(scope="module")
def work() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="smg-") as path:
        yield Path(path)


@pytest.fixture(scope="module")
def direct(work: Path) -> dict[str, suite.Checks]:
    found: dict[str, suite.Checks] = {}
    for revision in suite.REVISIONS:
        with suite.everything_server() as url:
            found[revision] = suite.server_side(url, revision, work / "direct" / revision)
    return found


@contextlib.contextmanager
def upstream(kind: str) -> Iterator[dict[str, Any]]:
    """The same server, reached in each way that the bridge has."""
    if kind == "http":
        with suite.everything_server() as url:
            yield {"url": url}
    elif kind == "stdio":
        yield {"command": [sys.executable, str(suite.HERE / "everything_server.py")]}
    else:
        yield {"target": "everything_server:server"}


@contextlib.contextmanager
def connected(stack: Stack) -> Iterator[str]:
    """The URL of `secure-mcp-grpc connect --http`, as model-a."""
    command = (sys.executable, "-m", "secure_mcp_grpc", "connect", stack.address)
    identity = ("--as", str(stack.home.certs / "model-a"))
    with subprocess.Popen(
        (*command, *identity, "--http", "127.0.0.1:0"), stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        assert process.stderr is not None
        try:
            yield next(url for line in process.stderr if (url := _url(line)))
        finally:
            process.terminate()
            process.stderr.read()


def _url(line: str) -> str:
    try:
        return str(json.loads(line).get("url", ""))
    except ValueError:
        return ""


@pytest.fixture(scope="module")
def chain(work: Path) -> Callable[[str], dict[str, suite.Checks]]:
    """What passes through the chain by revision, for one way to reach the server; the suite leaves its words below
    `work`."""

    @functools.cache
    def found(kind: str) -> dict[str, suite.Checks]:
        root = work / kind
        home = make_home(root)
        home.policy.write_text("p, model-a, *, *, allow\n")
        with pytest.MonkeyPatch.context() as patch, upstream(kind) as server:
            patch.setenv("PYTHONPATH", str(suite.HERE))
            changes = {"bridge": {"upstreams": {"everything": server}}}
            with running(root, changes, home, without=("dashboard",)) as stack, connected(stack) as url:
                return {revision: suite.server_side(url, revision, root / revision) for revision in KINDS[kind]}

    return found


@pytest.mark.parametrize("revision", suite.REVISIONS)
def test_the_server_itself_passes_what_it_did_before(direct: dict[str, suite.Checks], revision: str) -> None:
    """Ours: the yardstick of the next test, as data in the repository; `baseline.py` writes it again."""
    assert direct[revision] == suite.read_baseline(f"server-{revision}")


@pytest.mark.parametrize(("kind", "revision"), CASES)
def test_what_a_server_passes_directly_it_passes_through_the_chain(
    direct: dict[str, suite.Checks],
    chain: Callable[[str], dict[str, suite.Checks]],
    work: Path,
    kind: str,
    revision: str,
) -> None:
    """Issue 4: the suite's server side through connect, gRPC, Envoy, authz and bridge: every check passes."""
    found, directory = chain(kind)[revision], work / kind / revision
    told = suite.passed(directory, suite.SERVER, "INFO")
    missing = direct[revision] - found - suite.Checks(key for key in NOT_JUDGED if told[key])

    assert not missing, suite.why(directory, suite.SERVER, missing)
