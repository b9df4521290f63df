"""What the demo sends, what each step must come to, and what it came to."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from secure_mcp_grpc.demo.handshake import tls_refusal
from secure_mcp_grpc.demo.wiretap import Wiretap

if TYPE_CHECKING:
    from mcp import Client

__all__ = ["Outcome", "Step", "TrafficLog", "send_traffic"]

Outcome = Literal["allowed", "denied", "limited", "invalid", "tls_refused", "error"]
"""`invalid`: answered, with what is wrong with the arguments; the server never saw them."""
_STATUS_OUTCOME: dict[str, Outcome] = {"PERMISSION_DENIED": "denied", "RESOURCE_EXHAUSTED": "limited"}


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the report. `expected` and `came` count outcomes; `detail` is what a person would want to see."""

    who: str
    what: str
    expected: str
    came: Mapping[Outcome, int]
    as_expected: bool
    detail: str = ""


@dataclass(slots=True)
class TrafficLog:
    """Everything that was sent: the steps, and each gRPC request and frame with the id it has in the records."""

    steps: list[Step] = field(default_factory=list)
    wiretap: Wiretap = field(default_factory=Wiretap)

    def count(self, outcome: Outcome) -> int:
        return sum(step.came.get(outcome, 0) for step in self.steps)


async def send_traffic(address: str, certs: Path, repository: Path, *, burst: int, allowed_burst: int) -> TrafficLog:
    """Send the demo's traffic to the sidecar at `address` ("host:port").

    `burst` calls at once, of which the limit lets the first `allowed_burst` through.
    """
    log = TrafficLog()
    async with _client(log, address, certs / "model-a") as client:
        await _list(log, "model-a", client, shows="git_commit", hides="git_checkout")
        await _call(log, "model-a", client, "get_current_time", {"timezone": "UTC"}, "allowed")
        arguments = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
        await _call(log, "model-a", client, "convert_time", arguments, "allowed")
        (repository / "note.txt").write_text("written by the demo\n", encoding="utf-8")
        repo = {"repo_path": str(repository)}
        await _call(log, "model-a", client, "git_add", {**repo, "files": ["note.txt"]}, "allowed")
        await _call(log, "model-a", client, "git_commit", {**repo, "message": "Add a note"}, "allowed")
    async with _client(log, address, certs / "model-b") as client:
        await _list(log, "model-b", client, shows="git_log", hides="git_commit")
        await _call(log, "model-b", client, "git_log", {**repo, "max_count": 1}, "allowed")
        await _call(log, "model-b", client, "git_log", {**repo, "max_count": 1000}, "denied")
        await _call(log, "model-b", client, "git_commit", {**repo, "message": "Not allowed"}, "denied")
        await _call(log, "model-b", client, "git_checkout", {**repo, "branch_name": "main"}, "denied")
        await _call(log, "model-b", client, "get_current_time", {"timezone": "UTC"}, "denied")
    async with _client(log, address, certs / "model-b", pipelined=True) as client:
        await _call(log, "model-b", client, "git_status", repo, "allowed")
        await _call(log, "model-b", client, "git_log", {**repo, "max_count": "many"}, "denied")
        await _call(log, "model-b", client, "git_show", {**repo, "revision": 7}, "invalid")
    async with _client(log, address, certs / "model-c") as client:
        await _list(log, "model-c", client, shows="get_current_time", hides="git_log")
        await _burst(log, "model-c", client, burst, allowed_burst)
    await _handshake(log, "no certificate", address, certs / "model-a" / "ca.crt", None)
    await _handshake(log, "certificate of another CA", address, certs / "model-a" / "ca.crt", certs / "stranger")
    return log


@contextlib.asynccontextmanager
async def _client(log: TrafficLog, address: str, identity: Path, *, pipelined: bool = False) -> AsyncIterator["Client"]:
    from mcp import Client

    from mcp_bridge.client import Identity, grpc_transport

    transport = grpc_transport(
        address,
        identity=Identity.from_directory(identity),
        interceptors=log.wiretap.interceptors(identity.name),
        pipelined=pipelined,
    )
    async with Client(transport) as client:
        what = "connect, all on one stream" if pipelined else "connect (server/discover)"
        log.steps.append(Step(identity.name, what, "allowed", {"allowed": 1}, True))
        yield client


async def _list(log: TrafficLog, who: str, client: "Client", *, shows: str, hides: str) -> None:
    """A list shows what its caller may use: `shows` is a tool that it must hold, `hides` one that it must not."""
    tools = [tool.name for tool in (await client.list_tools()).tools]
    good = shows in tools and hides not in tools
    detail = f"{len(tools)} tools that {who} may use: {', '.join(tools)}"
    log.steps.append(Step(who, "tools/list", "allowed", {"allowed": 1}, good, detail))


async def _call(
    log: TrafficLog, who: str, client: "Client", tool: str, arguments: Mapping[str, Any], expected: Outcome
) -> None:
    came, detail = await _outcome(client, tool, arguments)
    log.steps.append(Step(who, f"tools/call {tool}", expected, {came: 1}, came == expected, detail))


async def _burst(log: TrafficLog, who: str, client: "Client", burst: int, allowed_burst: int) -> None:
    calls = [_outcome(client, "get_current_time", {"timezone": "UTC"}) for _ in range(burst)]
    outcomes = [outcome for outcome, _ in await asyncio.gather(*calls)]
    came: dict[Outcome, int] = {outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)}
    good = set(came) == {"allowed", "limited"} and allowed_burst <= came["allowed"] < burst
    expected = f"{allowed_burst} or a few more allowed, the rest limited"
    log.steps.append(Step(who, f"tools/call get_current_time, {burst} at once", expected, came, good))


async def _outcome(client: "Client", tool: str, arguments: Mapping[str, Any]) -> tuple[Outcome, str]:
    from mcp import MCPError

    try:
        result = await client.call_tool(tool, dict(arguments))
    except MCPError as error:
        data = error.error.data if isinstance(error.error.data, dict) else {}
        return _STATUS_OUTCOME.get(str(data.get("grpcStatus")), "error"), error.error.message
    text = " ".join(str(getattr(block, "text", "")) for block in result.content)
    if result.is_error:
        return ("invalid" if text.startswith("Invalid arguments") else "error"), " ".join(text.split())
    return "allowed", " ".join(text.split())


async def _handshake(log: TrafficLog, what: str, address: str, ca: Path, identity: Path | None) -> None:
    """Try to use the port with the wrong certificate or none; TLS itself must refuse."""
    refusal = await asyncio.to_thread(tls_refusal, address, ca, identity)
    outcome: Outcome = "tls_refused" if refusal else "error"
    detail = refusal or "the connection was accepted"
    log.steps.append(Step("nobody", what, "tls_refused", {outcome: 1}, bool(refusal), detail))
