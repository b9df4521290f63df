"""Through the whole chain: an SDK client of one era, mTLS Envoy, authz, bridge, an SDK server of the other."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chain_stack import POLICY, Stack, make_home, running
from era_bridge import SERVER, Answers
from mcp import Client, MCPError

pytestmark = pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")

_MORE = "".join(
    f"p, role:user, tools/call, {prefix}_{name}, allow\n" for prefix in "mh" for name in ("add", "ask", "form", "count")
)
_LIGHT = ("store", "sink", "dashboard")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A sidecar with a server of each era behind it."""
    root = Path(tempfile.mkdtemp(prefix="smg-"))
    home = make_home(root)
    home.policy.write_text(POLICY + _MORE)
    upstreams = {
        era: {"command": [sys.executable, SERVER, era], "prefix": f"{era[0]}_"} for era in ("modern", "handshake")
    }
    with running(root, {"bridge": {"upstreams": upstreams}}, home, without=_LIGHT) as one:
        yield one
    shutil.rmtree(root)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_either_era_reaches_either_through_the_chain(stack: Stack, mode: Any) -> None:
    """Issue 4: any era to any era, with progress, elicitation and sampling, each message authorized."""
    answers = Answers()
    seen: list[float] = []

    async def note(progress: float, _total: float | None, _message: str | None) -> None:
        seen.append(progress)

    options = {"sampling_callback": answers.sample, "elicitation_callback": answers.elicit}
    async with Client(stack.transport(), mode=mode, cache=None, **options) as client:
        for prefix in ("m", "h"):
            assert (await client.call_tool(f"{prefix}_add", {"a": 1, "b": 2})).structured_content == {"total": 3}
            assert (await client.call_tool(f"{prefix}_ask", {"question": "x"})).content[0].text == "re x"
            assert (await client.call_tool(f"{prefix}_form", {})).content[0].text == "to first? to second?"
            await client.call_tool(f"{prefix}_count", {"to": 3}, progress_callback=note)
            with pytest.raises(MCPError) as refused:
                await client.call_tool(f"{prefix}_crash", {})
            assert refused.value.error.data["grpcStatus"] == "PERMISSION_DENIED"
    assert seen == [0, 1, 2] * 2
