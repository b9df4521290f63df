"""Pages of lists as JSON: what stays of them, and what is no list."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_bridge.listing import HIDDEN, read_page, write_page
from mcp_bridge.upstreams.merge import LISTS
from mcp_bridge.wire import NotJson, read_meta


def shown(method: str, result: bytes, *names: str) -> bytes:
    """`result` for a caller that may use `names`."""
    page = read_page(method, result)
    return write_page(page, [name in names for name in page.names], None)


@pytest.mark.parametrize("method", LISTS)
def test_hidden_items_go_and_the_rest_stays(method: str) -> None:
    """Issue 3: tools, prompts, resources and templates alike; the cursor stays."""
    member, key = LISTS[method]
    result = json.dumps({member: [{key: "a"}, {key: "b"}, {key: "c"}], "nextCursor": "n"}).encode()

    assert json.loads(shown(method, result, "a", "c")) == {member: [{key: "a"}, {key: "c"}], "nextCursor": "n"}


def test_kept_item_stays_byte_for_byte() -> None:
    """Design: unknown fields, big integers, number forms, key order and escapes survive."""
    item = (
        b'{"x-new":{"z":1,"a":[123456789012345678901234567890,1.50,1e400]},"name":"kept",'
        b'"description":"\\u00e4 \\/ \xc3\xa4","inputSchema":{"type": "object", "b":1,"a":2}}'
    )
    result = b'{"later":[1.0],"tools":[{"name":"gone"},' + item + b'],"nextCursor":"c\\u0031"}'

    assert shown("tools/list", result, "kept") == b'{"later":[1.0],"tools":[' + item + b'],"nextCursor":"c\\u0031"}'


@pytest.mark.parametrize(
    "result",
    [
        b"{}",
        b"[]",
        b"null",
        b"",
        b'{"tools":null}',
        b'{"tools":{"name":"a"}}',
        b'{"tools":"a"}',
        b'{"Tools":[{"name":"a"}]}',
        b'{"tools":[],"Tools":[{"name":"a"}]}',
        b'{"tools":[],"TOOLS":[]}',
        b'{"resultType":"input_required","inputRequests":{}}',
        b'{"tools":[{"name":"a"}]',
        b'{"tools":[{"name":"a"},{"name":"\\ud800"}]}',
    ],
)
def test_result_that_is_no_list_is_refused(result: bytes) -> None:
    """Ours: what is not understood is not passed on."""
    with pytest.raises(NotJson):
        read_page("tools/list", result)


@pytest.mark.parametrize(
    "item",
    [
        b"{}",
        b"null",
        b'"name"',
        b"[]",
        b'{"name":null}',
        b'{"name":1}',
        b'{"name":""}',
        b'{"Name":"a"}',
        b'{"name":"a","NAME":"b"}',
        b'{"name":"\\u0000"}',
        b'{"name":"\\u202eevil"}',
        b'{"name":"\xff"}',
        b'{"title":"a"}',
        b'{"name":"' + b"x" * 2049 + b'"}',
    ],
)
def test_item_that_no_call_could_name_is_dropped(item: bytes) -> None:
    """Ours: the other items of the list are none the worse."""
    page = read_page("tools/list", b'{"tools":[{"name":"good"},' + item + b"]}")

    assert (page.names, page.unusable) == (["good"], 1)
    assert write_page(page, [True], None) == b'{"tools":[{"name":"good"}]}'


def test_of_equal_keys_only_the_judged_one_stays() -> None:
    """Ours: a reader that takes the first of two keys must not see what was not judged."""
    result = b'{"tools":[{"name":"secret"}],"tools":[{"name":"secret","name":"open"},{"n\\u0061me":"other"}]}'
    page = read_page("tools/list", result)

    assert page.names == ["open", "other"]
    assert write_page(page, [True, True], None) == b'{"tools":[{"name":"open"},{"name":"other"}]}'


def test_filtered_list_is_private() -> None:
    """2026-07-28, CacheableResult: a public result may be served to other users, and this one is the caller's own."""
    result = b'{"tools":[{"name":"a"}],"ttlMs":5,"cacheScope":"public"}'

    assert shown("tools/list", result, "a") == b'{"tools":[{"name":"a"}],"ttlMs":5,"cacheScope":"private"}'


def test_reasons_stand_in_meta_beside_what_was_there() -> None:
    """Ours: `_meta` of the server stays as it was."""
    page = read_page("tools/list", b'{"_meta":{"a":1.0},"tools":[{"name":"x"}]}')
    told = [{"name": "x", "reason": "not_permitted"}]

    assert json.loads(write_page(page, [False], told)) == {"_meta": {"a": 1.0, HIDDEN: told}, "tools": []}
    assert write_page(page, [True], None) == b'{"_meta":{"a":1.0},"tools":[{"name":"x"}]}'


@pytest.mark.parametrize("explained", [True, False])
def test_server_cannot_write_reasons_itself(explained: bool) -> None:
    """Ours: what stands under our key is ours."""
    page = read_page("tools/list", b'{"_meta":{"secure-mcp-grpc/hidden":["forged"],"b":2},"tools":[]}')
    written = json.loads(write_page(page, [], [] if explained else None))

    assert written["_meta"] == ({"b": 2, HIDDEN: []} if explained else {"b": 2})


@pytest.mark.parametrize("meta", [b"null", b"[]", b'"x"'])
def test_odd_meta_neither_fails_nor_hides_reasons(meta: bytes) -> None:
    """Ours: `_meta` is an object in MCP; a server that writes something else still has a list."""
    page = read_page("tools/list", b'{"_meta":' + meta + b',"tools":[]}')

    assert write_page(page, [], None) == b'{"_meta":' + meta + b',"tools":[]}'
    assert json.loads(write_page(page, [], []))["_meta"] == {HIDDEN: []}


@pytest.mark.parametrize(("flag", "wanted"), [("true", True), ("false", False), ("1", False), ('"true"', False)])
def test_only_true_asks_for_reasons(flag: str, wanted: bool) -> None:
    """Ours: the key of the request is a JSON boolean."""
    assert read_meta(b'{"_meta":{"secure-mcp-grpc/explain":' + flag.encode() + b"}}").wants_explanation is wanted


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)


@given(
    items=st.lists(st.dictionaries(st.sampled_from(["name", "Name", "title", "x"]), _JSON, max_size=4), max_size=6),
    extra=st.dictionaries(st.sampled_from(["nextCursor", "_meta", "ttlMs", "other"]), _JSON, max_size=3),
    data=st.data(),
)
def test_every_other_reader_finds_only_what_was_visible(
    items: list[Any], extra: dict[str, Any], data: st.DataObject
) -> None:
    """Ours: json, another parser than ours, sees the visible items in their order and nothing else of the list."""
    page = read_page("tools/list", msgspec.json.encode(extra | {"tools": items}))
    bits = data.draw(st.lists(st.booleans(), min_size=len(page.names), max_size=len(page.names)))
    written = json.loads(write_page(page, bits, None))

    by_name = [item for item in items if item.get("name") in page.names and "Name" not in item]
    assert written["tools"] == [item for item, bit in zip(by_name, bits, strict=True) if bit]
    assert {key: value for key, value in written.items() if key != "tools"} == json.loads(msgspec.json.encode(extra))


@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda text: b'{"tools":[' + text.encode() + b"]}"))
def test_no_bytes_raise_anything_but_that_they_are_no_list(result: bytes) -> None:
    """Ours: reading fails in one way."""
    try:
        page = read_page("tools/list", result)
    except NotJson:
        return
    assert len(page.names) == len(page.items)
