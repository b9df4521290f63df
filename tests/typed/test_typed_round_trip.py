"""Results to the proto and back: nothing changes in silence."""

import json
from typing import Any

import mcp_types
import pytest
import typed_reverse
from hypothesis import given, settings
from hypothesis import strategies as st
from typed_compare import differences, normal, without
from typed_strategies import shapes, values

from mcp_bridge.typed.reading import CannotCarry
from mcp_bridge.typed.results import LISTS, SINGLE

KNOWN, STRANGE = shapes(strange=False), shapes(strange=True)
RPCS = [*LISTS, *SINGLE]
MODELS: dict[str, Any] = {
    "ListTools": mcp_types.ListToolsResult,
    "ListResources": mcp_types.ListResourcesResult,
    "ListResourceTemplates": mcp_types.ListResourceTemplatesResult,
    "ListPrompts": mcp_types.ListPromptsResult,
    "CallTool": mcp_types.CallToolResult,
    "ReadResource": mcp_types.ReadResourceResult,
    "GetPrompt": mcp_types.GetPromptResult,
    "Complete": mcp_types.CompleteResult,
}
OWN_NAMES = {"_meta", "inputSchema", "outputSchema", "structuredContent", "metadata"}
"""Members whose values are the servers' own in all depth: there null is null."""
MAPS = {"inputRequests", "properties"}
EXAMPLES = settings(max_examples=30, deadline=None)


def carried(rpc: str, result: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What a client reads, from the bytes on the wire."""
    response = LISTS[rpc][1]([result]) if rpc in LISTS else SINGLE[rpc](result)
    return typed_reverse.result(rpc, type(response).FromString(response.SerializeToString()))


def check(rpc: str, result: dict[str, Any]) -> list[str]:
    """What differs and is not named."""
    back, dropped = carried(rpc, result)
    if "" in dropped:
        return []
    left = without(normal(rpc, result, dropped), dropped)
    # A response that lost something has metadata, if only for saying so.
    left.setdefault("_meta", {}) if "_meta" in back else None
    return differences(left, back)


@pytest.mark.parametrize("rpc", RPCS)
@EXAMPLES
@given(data=st.data())
def test_the_results_of_these_tests_are_results_of_mcp(rpc: str, data: Any) -> None:
    """Of the tests themselves: what is made up here is what the SDK reads."""
    result = data.draw(KNOWN[rpc])
    model = mcp_types.InputRequiredResult if result.get("resultType") == "input_required" else MODELS[rpc]
    model.model_validate(json.loads(json.dumps(result)))


@pytest.mark.parametrize("rpc", RPCS)
@EXAMPLES
@given(data=st.data())
def test_every_difference_is_named(rpc: str, data: Any) -> None:
    """Issue 4: what the proto cannot carry is refused or marked in metadata, never silently changed."""
    result = data.draw(STRANGE[rpc])
    try:
        assert check(rpc, result) == []
    except CannotCarry:
        assert result.get("structuredContent") or result.get("inputRequests")  # nothing else here is a reason


@pytest.mark.parametrize("rpc", RPCS)
@EXAMPLES
@given(data=st.data())
def test_a_result_with_one_thing_wrong_is_refused_or_what_differs_is_named(rpc: str, data: Any) -> None:
    """Ours: servers err; whatever they write, nothing but a refusal or a named difference comes of it."""
    result = data.draw(STRANGE[rpc])
    places = list(_places(result))
    holder, key = data.draw(st.sampled_from(places))
    holder[key] = data.draw(values.filter(lambda one: one is not None) | st.just([]) | st.just({}))
    try:
        assert check(rpc, result) == []
    except CannotCarry:
        return


@pytest.mark.parametrize("rpc", RPCS)
@EXAMPLES
@given(data=st.data())
def test_null_on_a_member_that_mcp_knows_reads_as_the_member_absent(rpc: str, data: Any) -> None:
    """Ours: some servers write null for what they do not have, as MCP's own libraries read it."""
    result = data.draw(KNOWN[rpc])
    holder, key = data.draw(st.sampled_from(list(_members(result))))
    holder[key] = None
    with_null = _outcome(rpc, result)
    del holder[key]
    assert with_null == _outcome(rpc, result)


def _outcome(rpc: str, result: dict[str, Any]) -> Any:
    try:
        return carried(rpc, result)
    except CannotCarry as refusal:
        return str(refusal)


def _members(value: Any) -> Any:
    """Holder and name of members that MCP names, not of what servers name themselves."""
    for key, item in value.items() if isinstance(value, dict) else ():
        yield value, key
        if key not in OWN_NAMES:
            for one in item.values() if key in MAPS else item if isinstance(item, list) else [item]:
                yield from _members(one)


def _places(value: Any) -> Any:
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(item, dict | list):
            yield from _places(item)
