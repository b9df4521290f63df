"""Results of MCP 2026-07-28 for Hypothesis: every member of every shape, and members that MCP does not know."""

import base64
from typing import Any

from hypothesis import strategies as st

Json = st.SearchStrategy[Any]

texts = st.text(max_size=8)
leaves = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | texts
)
values = st.recursive(
    leaves, lambda one: st.lists(one, max_size=3) | st.dictionaries(texts, one, max_size=3), max_leaves=6
)
objects = st.dictionaries(texts, values, max_size=3)
names = st.text(min_size=1, max_size=8)
data = st.binary(max_size=6).map(lambda raw: base64.b64encode(raw).decode())
priorities = st.floats(0, 1) | st.sampled_from((0, 1, 0.5, 0.7, 0.123456))
roles = st.sampled_from(("user", "assistant"))
unknown = st.dictionaries(st.sampled_from(("vendor", "x/y~z", "größe")), values, max_size=1)


def shape(required: dict[str, Json], optional: dict[str, Json], *, strange: bool) -> Json:
    """An object; `strange` adds members that MCP does not know."""
    known = st.fixed_dictionaries(required, optional=optional)
    return st.builds(lambda one, more: one | more, known, unknown) if strange else known


def shapes(strange: bool) -> dict[str, Json]:
    """RPC → results."""

    def of(needed: dict[str, Json], /, **optional: Json) -> Json:
        return shape(needed, optional, strange=strange)

    meta = {"_meta": objects}
    icons = st.lists(
        of({"src": texts}, mimeType=texts, sizes=st.lists(texts, max_size=2), theme=st.sampled_from(("light", "dark"))),
        max_size=2,
    )
    marks = {
        "annotations": of({}, audience=st.lists(roles, max_size=2), priority=priorities, lastModified=texts),
        **meta,
    }
    titles = {"title": texts, "description": texts, "icons": icons, **meta}
    schema = st.fixed_dictionaries({"type": st.just("object")}, optional={"properties": objects, "maximum": leaves})
    hints = of(
        {},
        title=texts,
        **{f"{one}Hint": st.booleans() for one in ("readOnly", "destructive", "idempotent", "openWorld")},
    )
    tool = of({"name": names, "inputSchema": schema}, outputSchema=schema, annotations=hints, **titles)
    argument = of({"name": names}, title=texts, description=texts, required=st.booleans())
    prompt = of({"name": names}, arguments=st.lists(argument, max_size=2), **titles)
    file = {"mimeType": texts, "annotations": marks["annotations"], **titles}
    resource = of({"name": names, "uri": texts}, size=st.integers(0, 2**65), **file)
    template = of({"name": names, "uriTemplate": texts}, **file)
    contents = of({"uri": texts, "text": texts}, mimeType=texts, **meta) | of(
        {"uri": texts, "blob": data}, mimeType=texts, **meta
    )
    media = of({"type": st.just("text"), "text": texts}, **marks) | st.sampled_from(("image", "audio")).flatmap(
        lambda kind: of({"type": st.just(kind), "data": data, "mimeType": texts}, **marks)
    )
    linked = st.builds(lambda one: {"type": "resource_link"} | one, resource)
    content = media | of({"type": st.just("resource"), "resource": contents}, **marks) | linked
    asked = st.dictionaries(names, requests(of, media), max_size=2)
    input_required = of({"resultType": st.just("input_required"), "requestState": texts}, inputRequests=asked, **meta)
    whole = {"resultType": st.just("complete"), **meta}
    cached = {"ttlMs": st.integers(0, 10**9), "cacheScope": st.sampled_from(("public", "private")), **whole}

    def listed(member: str, item: Json) -> Json:
        return of({member: st.lists(item, max_size=2)}, **cached)

    return {
        "ListTools": listed("tools", tool),
        "ListResources": listed("resources", resource),
        "ListResourceTemplates": listed("resourceTemplates", template),
        "ListPrompts": listed("prompts", prompt),
        "CallTool": input_required
        | of({"content": st.lists(content, max_size=2)}, structuredContent=objects, isError=st.booleans(), **whole),
        "ReadResource": input_required | of({"contents": st.lists(contents, max_size=2)}, **cached),
        "GetPrompt": input_required
        | of({"messages": st.lists(of({"role": roles, "content": content}), max_size=2)}, description=texts, **whole),
        "Complete": of(
            {
                "completion": of(
                    {"values": st.lists(texts, max_size=3)}, total=st.integers(0, 2**64), hasMore=st.booleans()
                )
            },
            **whole,
        ),
    }


def requests(of: Any, media: Json) -> Json:
    """What servers ask for."""
    described = {"title": texts, "description": texts}
    small, numbers = st.integers(0, 2**65), st.integers(-(2**70), 2**70) | st.floats(-1e300, 1e300)
    options = st.lists(st.fixed_dictionaries({"const": texts, "title": texts}), min_size=1, max_size=2)
    enum = {"enum": st.lists(texts, min_size=1, max_size=2)}
    kinds = [
        of(
            {"type": st.just("string")},
            minLength=small,
            maxLength=small,
            default=texts,
            format=st.sampled_from(("email", "uri", "date", "date-time")),
            **described,
        ),
        of(
            {"type": st.sampled_from(("number", "integer"))},
            minimum=numbers,
            maximum=numbers,
            default=numbers,
            **described,
        ),
        of({"type": st.just("boolean")}, default=st.booleans(), **described),
        of({"type": st.just("string"), **enum}, enumNames=st.lists(texts, max_size=2), default=texts, **described),
        of({"type": st.just("string"), "oneOf": options}, default=texts, **described),
        of(
            {"type": st.just("array"), "items": of({"type": st.just("string"), **enum}) | of({"anyOf": options})},
            default=st.lists(texts, max_size=2),
            minItems=small,
            maxItems=small,
            **described,
        ),
    ]
    fields = st.dictionaries(names, st.one_of(kinds), max_size=3)
    form = of(
        {
            "message": texts,
            "requestedSchema": of(
                {"type": st.just("object"), "properties": fields}, required=st.lists(texts, max_size=2)
            ),
        },
        mode=st.just("form"),
    )
    url = of({"message": texts, "mode": st.just("url"), "url": texts}, elicitationId=texts)
    message = of({"role": roles, "content": media | media.map(lambda one: [one])})
    preferences = of(
        {},
        hints=st.lists(of({}, name=texts), max_size=2),
        costPriority=priorities,
        speedPriority=priorities,
        intelligencePriority=priorities,
    )
    sampling = of(
        {"messages": st.lists(message, max_size=2), "maxTokens": st.integers(1, 2**31 - 1)},
        systemPrompt=texts,
        temperature=priorities,
        stopSequences=st.lists(texts, max_size=2),
        includeContext=st.sampled_from(("none", "thisServer", "allServers")),
        metadata=objects,
        modelPreferences=preferences,
    )
    return st.one_of(
        st.builds(lambda params: {"method": "elicitation/create", "params": params}, form | url),
        st.builds(lambda params: {"method": "sampling/createMessage", "params": params}, sampling),
        st.just({"method": "roots/list"}),
    )
