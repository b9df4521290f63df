"""The bridge asks and authz_service answers over the socket between them, for each server that may stand there."""

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from authz_service.lists import FILTER, ListMetrics, Lists
from authz_service.policy import load_policy
from authz_service.server import PartHealth, ServerKind, new_server
from authz_service.settings import AuthzSettings
from mcp_bridge.exchange import Caller, Exchange
from mcp_bridge.listing import HIDDEN, PolicyLists, authz_channel
from mcp_bridge.wire import read_meta
from secure_mcp_grpc.calls import McpCall

MODEL = AuthzSettings.model_fields["model_file"].default.read_bytes()
POLICY = b"""
p, model-a, tools/call, *1, allow
p, user:corp:ann, tools/call, *, allow
p, user:corp:ann, tools/call, secret*, deny
p, role:auditor, policy:explain, tools/list, allow
g, model-a, role:auditor
"""


@contextlib.asynccontextmanager
async def served(kind: ServerKind) -> AsyncIterator[PolicyLists]:
    policy = load_policy(MODEL, POLICY, model_name="model.conf", policy_name="policy.csv", cached=64)
    handler = Lists(lambda: policy, ListMetrics(CollectorRegistry())).filter
    with tempfile.TemporaryDirectory() as directory:
        socket = Path(directory) / "authz.sock"
        server = new_server(kind, {FILTER: handler}, PartHealth(), socket)
        await server.start()
        try:
            async with authz_channel(f"unix:{socket}") as channel:
                yield PolicyLists(channel, timeout_s=5, count=lambda _result, _items: None)
        finally:
            await server.stop(0)


def caller(subject: str, user: str = "", *roles: str) -> Caller:
    return Caller(subject, user, roles, request_id="", chain="", seq=0, targets=())


def exchange(params: bytes = b"") -> Exchange:
    return Exchange(McpCall("tools/list", "", {}), b"1", params, read_meta(params))


async def filtered(lists: PolicyLists, asked: Exchange, who: Caller, listed: bytes) -> bytes:
    """What `who` gets of `listed`."""

    async def ask(_one: Exchange) -> bytes:
        return listed

    return await lists.request(asked, who, ask)


def answer(*names: str) -> bytes:
    tools = [{"name": name, "description": "d" * 10} for name in names]
    return msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "result": {"tools": tools}})


def names_in(response: bytes) -> list[str]:
    return [tool["name"] for tool in msgspec.json.decode(response)["result"]["tools"]]


@pytest.mark.parametrize("kind", get_args(ServerKind))
async def test_lists_come_out_as_policy_says(kind: ServerKind) -> None:
    """Issue 3: a caller sees what it may use, with and without a user behind it."""
    async with served(kind) as lists:
        alone = await filtered(lists, exchange(), caller("model-a"), answer("a1", "a2", "secret1"))
        both = await filtered(lists, exchange(), caller("model-a", "user:corp:ann"), answer("a1", "a2", "secret1"))
        other = await filtered(lists, exchange(), caller("model-a", "user:corp:bob"), answer("a1", "a2", "secret1"))
        nobody = await filtered(lists, exchange(), caller(""), answer("a1", "a2", "secret1"))

    assert [names_in(one) for one in (alone, both, other, nobody)] == [["a1", "secret1"], ["a1"], [], []]


@pytest.mark.parametrize("kind", get_args(ServerKind))
async def test_reasons_come_from_all_identities_and_for_all_of_them(kind: ServerKind) -> None:
    """Issue 3: who may ask hears which identity is refused, and by which rule; both must have the right."""
    asking = exchange(b'{"_meta":{"secure-mcp-grpc/explain":true}}')
    async with served(kind) as lists:
        alone = await filtered(lists, asking, caller("model-a"), answer("a2"))
        without = await filtered(lists, asking, caller("model-a", "user:corp:ann"), answer("a2", "secret1"))
        auditor = caller("model-a", "user:corp:ann", "role:auditor")
        both = await filtered(lists, asking, auditor, answer("a2", "secret1"))

    assert msgspec.json.decode(alone)["result"]["_meta"][HIDDEN] == [
        {"name": "a2", "reason": "not_permitted", "message": "model-a may not call a2: no rule allows it"}
    ]
    assert "_meta" not in msgspec.json.decode(without)["result"]
    first, second = msgspec.json.decode(both)["result"]["_meta"][HIDDEN]
    assert first["message"].startswith("model-a may not call a2")
    assert second["message"] == "user:corp:ann may not call secret1: a rule forbids it"
    assert second["rule"] == "p, user:corp:ann, tools/call, secret*, deny"


@pytest.mark.parametrize("kind", get_args(ServerKind))
async def test_long_names_and_long_lists_fit(kind: ServerKind) -> None:
    """Ours: whatever the bridge takes from a server, it can ask about."""
    wide = [f"ä{number}" + "ö" * 2000 + "1" for number in range(120)]
    many = [f"t{number}" for number in range(5000)]
    async with served(kind) as lists:
        assert names_in(await filtered(lists, exchange(), caller("model-a"), answer(*wide))) == wide
        shown = names_in(await filtered(lists, exchange(), caller("model-a"), answer(*many)))

    assert shown == [name for name in many if name.endswith("1")]
