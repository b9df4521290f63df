"""Results of MCP (JSON) as responses of the typed service. Pure functions.

That proto cannot carry everything MCP says. What would become something else
is refused with `CannotCarry`; what has no place is named in the response's
metadata under `DROPPED`, as JSON Pointers into the result. Of a list, items
that cannot be carried are left out and named like that.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from google.protobuf.message import Message
from mcp_grpc_transport_proto import mcp_messages_pb2 as pb

from mcp_bridge.listing import HIDDEN
from mcp_bridge.typed import items
from mcp_bridge.typed.inputs import input_request
from mcp_bridge.typed.reading import CannotCarry, Lost, Object, fill_struct, not_mcp, pointer

__all__ = ["DROPPED", "LISTS", "SINGLE"]

DROPPED: Final = "secure-mcp-grpc/dropped"
"""Key in a response's metadata: JSON Pointers of what is not in the response, or not exactly. "" stands for more."""

_SCOPES: Final = {"public": pb.CACHE_SCOPE_PUBLIC, "private": pb.CACHE_SCOPE_PRIVATE}
_MAX_TTL_MS: Final = 315_576_000_000_000
"""google.protobuf.Duration ends at 10,000 years."""
_INT64: Final = (-(2**63), 2**63 - 1)

Write = Callable[[Any, Any, str, Lost], None]


def _list(response: Any, field: Any, member: str, write: Write, pages: Sequence[Any]) -> Message:
    """All pages as one list. Paths count its items from the first page's first."""
    lost = Lost()
    place = 0
    for page in pages:
        with Object(page, "", lost) as it:
            _complete(it)
            for key in ("_meta", "ttlMs", "cacheScope", "nextCursor"):  # of all pages together, see `_shared`
                it.take(key)
            for item in it.items(member, required=True):
                _add(field, write, item, pointer(f"/{member}", place), lost)
                place += 1
    _shared(response, pages, lost)
    return _finished(response, lost)


def _add(field: Any, write: Write, item: Any, path: str, lost: Lost) -> None:
    mark = lost.mark()
    try:
        write(field.add(), item, path, lost)
    except CannotCarry:
        del field[-1]
        lost.back_to(mark)
        lost.add(path)


def _shared(response: Any, pages: Sequence[Any], lost: Lost) -> None:
    """Of several pages: the first word on each member of `_meta`, the shortest time, the narrower scope."""
    meta: dict[str, Any] = {}
    for page in pages:
        found = page.get("_meta")
        if found is not None and not isinstance(found, dict):
            lost.add("/_meta")
            continue
        for key, value in (found or {}).items():
            if key == HIDDEN and key in meta and isinstance(value, list):
                meta[key] = [*meta[key], *value]
            elif meta.setdefault(key, value) != value:
                lost.add(pointer("/_meta", key))
    if any(isinstance(page.get("_meta"), dict) for page in pages):
        fill_struct(response.common.metadata, meta, "/_meta", lost, exact=False, whole=False)
    times = [page.get("ttlMs") for page in pages]
    scopes = [page.get("cacheScope") for page in pages]
    if len(pages) > 1:
        known = all(isinstance(one, int) for one in times)
        times = [min(times) if known else None]
        scopes = ["private" if "private" in scopes else "public" if set(map(str, scopes)) == {"public"} else None]
    with Object({"ttlMs": times[0], "cacheScope": scopes[0]}, "", lost) as it:
        _cache(response, it)
    response.common.result_type = pb.RESULT_TYPE_COMPLETE


def call_tool(result: Any) -> Message:
    response, lost = pb.CallToolResponse(), Lost()
    with Object(result, "", lost) as it:
        if _common(response.common, it):
            response.is_error = it.flag("isError", False)
            for number, block in enumerate(it.items("content", required=True)):
                items.content(response.content.add(), block, pointer("/content", number), lost)
            structured = result.get("structuredContent")
            if structured is not None and not isinstance(structured, dict):
                raise CannotCarry("structured content that is not an object has no place in this service")
            it.struct("structuredContent", response.structured_content, exact=True, whole=True)
    return _finished(response, lost)


def read_resource(result: Any) -> Message:
    response, lost = pb.ReadResourceResponse(), Lost()
    with Object(result, "", lost) as it:
        if _common(response.common, it):
            for number, one in enumerate(it.items("contents", required=True)):
                items.contents(response.resource.add(), one, pointer("/contents", number), lost)
            _cache(response, it)
    return _finished(response, lost)


def get_prompt(result: Any) -> Message:
    response, lost = pb.GetPromptResponse(), Lost()
    with Object(result, "", lost) as it:
        if _common(response.common, it):
            response.description = it.text("description")
            for number, message in enumerate(it.items("messages", required=True)):
                with Object(message, pointer("/messages", number), lost) as one:
                    target = response.messages.add()
                    target.role = items.role(one.take("role"))
                    items.content(target, one.take("content"), one.at("content"), lost)
    return _finished(response, lost)


def complete(result: Any) -> Message:
    response, lost = pb.CompletionResponse(), Lost()
    with Object(result, "", lost) as it:
        _complete(it)
        response.common.result_type = pb.RESULT_TYPE_COMPLETE
        it.meta(response.common.metadata)
        with Object(it.take("completion"), "/completion", lost) as one:
            response.values.extend(one.texts("values", required=True))
            if (total := one.whole("total", *_INT64)) is not None:
                response.total_matches = total
            response.has_more = one.flag("hasMore", False)
    return _finished(response, lost)


def _common(common: pb.ResponseFields, it: Object) -> bool:
    """What every result has; whether it is complete, or else what the server wants to know first."""
    it.meta(common.metadata)
    if it.take("resultType") != "input_required":
        _complete(it)
        common.result_type = pb.RESULT_TYPE_COMPLETE
        return True
    common.result_type = pb.RESULT_TYPE_INPUT_REQUIRED
    requests = it.take("inputRequests")
    state = it.optional_text("requestState")
    if state is not None:
        common.request_state = state
    elif not requests:
        raise not_mcp()
    if requests is not None and not isinstance(requests, dict):
        raise not_mcp()
    for key, request in (requests or {}).items():
        input_request(common.input_requests[key], request, pointer("/inputRequests", key), it.lost)
    return False


def _complete(it: Object) -> None:
    """2026-07-28: a result without `resultType` is complete."""
    if it.take("resultType") not in (None, "complete"):
        raise CannotCarry("the server answered with a kind of result that has no place here; use McpTransport")


def _cache(response: Any, it: Object) -> None:
    if (ttl_ms := it.whole("ttlMs", 0, _MAX_TTL_MS)) is not None:
        response.ttl.FromMilliseconds(ttl_ms)
    if (scope := it.take("cacheScope")) is not None:
        if isinstance(scope, str) and scope in _SCOPES:
            response.cache_scope = _SCOPES[scope]
        else:
            it.lose("cacheScope")


def _finished(response: Any, lost: Lost) -> Message:
    """The response, its metadata with our word on what it lacks and nobody else's."""
    fields = response.common.metadata.fields
    if DROPPED in fields:  # the server wrote it
        del fields[DROPPED]
        lost.add(pointer("/_meta", DROPPED))
    if lost.paths:
        fields[DROPPED].list_value.SetInParent()
        fields[DROPPED].list_value.extend(lost.paths)
    message: Message = response
    return message


def list_tools(pages: Sequence[Any]) -> Message:
    response = pb.ListToolsResponse()
    return _list(response, response.tools, "tools", items.tool, pages)


def list_resources(pages: Sequence[Any]) -> Message:
    response = pb.ListResourcesResponse()
    return _list(response, response.resources, "resources", items.resource, pages)


def list_templates(pages: Sequence[Any]) -> Message:
    response = pb.ListResourceTemplatesResponse()
    return _list(response, response.resource_templates, "resourceTemplates", items.template, pages)


def list_prompts(pages: Sequence[Any]) -> Message:
    response = pb.ListPromptsResponse()
    return _list(response, response.prompts, "prompts", items.prompt, pages)


LISTS: Final[dict[str, tuple[str, Callable[[Sequence[Any]], Message]]]] = {
    "ListTools": ("tools", list_tools),
    "ListResources": ("resources", list_resources),
    "ListResourceTemplates": ("resourceTemplates", list_templates),
    "ListPrompts": ("prompts", list_prompts),
}
"""RPC → the member that holds the items, and all pages' results → the response."""
SINGLE: Final[dict[str, Callable[[Any], Message]]] = {
    "CallTool": call_tool,
    "ReadResource": read_resource,
    "GetPrompt": get_prompt,
    "Complete": complete,
}
"""RPC → result → response."""
