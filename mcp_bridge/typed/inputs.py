"""What a server wants to know before it goes on (2026-07-28, `InputRequiredResult`), and what the client answers.

JSON → messages for requests, messages → JSON for responses. Pure functions.
"""

import base64
from collections.abc import Mapping
from typing import Any, Final

from mcp_grpc_transport_proto import mcp_messages_pb2 as pb

from mcp_bridge.typed.items import ROLES, media, role
from mcp_bridge.typed.reading import CannotCarry, Lost, Object, as_float32, not_mcp, pointer
from secure_mcp_grpc.calls import Malformed
from secure_mcp_grpc.typed_calls import struct_to_dict

__all__ = ["input_request", "input_response"]

_FORMATS: Final = {
    "email": pb.PrimitiveSchemaDefinition.StringSchema.FORMAT_EMAIL,
    "uri": pb.PrimitiveSchemaDefinition.StringSchema.FORMAT_URI,
    "date": pb.PrimitiveSchemaDefinition.StringSchema.FORMAT_DATE,
    "date-time": pb.PrimitiveSchemaDefinition.StringSchema.FORMAT_DATE_TIME,
}
_CONTEXTS: Final = {
    "none": pb.SamplingCreateMessageRequest.NONE,
    "thisServer": pb.SamplingCreateMessageRequest.THIS_SERVER,
    "allServers": pb.SamplingCreateMessageRequest.ALL_SERVERS,
}
_ACTIONS: Final = {
    pb.ElicitResult.TYPE_ACCEPT: "accept",
    pb.ElicitResult.TYPE_DECLINE: "decline",
    pb.ElicitResult.TYPE_CANCEL: "cancel",
}
_ROLE_NAMES: Final = {number: name for name, number in ROLES.items()}
_MAX_UINT64: Final = 2**64 - 1
_MAX_UINT32: Final = 2**32 - 1
_INT64: Final = (-(2**63), 2**63 - 1)
_INT32: Final = (-(2**31), 2**31 - 1)


def input_request(target: pb.InputRequest, value: Any, path: str, lost: Lost) -> None:
    with Object(value, path, lost) as it:
        method = it.take("method")
        params = it.take("params")
        write = _REQUESTS.get(method if isinstance(method, str) else "")
        if write is None:
            raise CannotCarry("the server asks for something that this service does not know; use McpTransport")
        with Object({} if params is None else params, it.at("params"), lost) as one:
            write(target, one)


def _list_roots(target: pb.InputRequest, it: Object) -> None:
    target.list_roots_request.SetInParent()


def _sampling(target: pb.InputRequest, it: Object) -> None:
    if "tools" in it or "toolChoice" in it:
        raise CannotCarry("sampling with tools has no place in this service; use McpTransport")
    request = target.sampling_create_message
    request.SetInParent()
    for number, message in enumerate(it.items("messages", required=True)):
        with Object(message, pointer(it.at("messages"), number), it.lost) as one:
            _sampling_message(request.messages.add(), one)
    max_tokens = it.whole("maxTokens", *_INT32)
    if max_tokens is None:
        raise CannotCarry("maxTokens is no number that this service has")
    request.max_tokens = max_tokens
    request.system_prompt = it.text("systemPrompt")
    request.stop_sequence.extend(it.texts("stopSequences"))
    if (temperature := it.short_number("temperature")) is not None:
        request.temperature = temperature
    if (context := it.take("includeContext")) is not None:
        if not isinstance(context, str) or context not in _CONTEXTS:
            raise not_mcp()
        request.include_context = _CONTEXTS[context]
    if (preferences := it.take("modelPreferences")) is not None:
        with Object(preferences, it.at("modelPreferences"), it.lost) as one:
            _preferences(request.model_preferences, one)
    for key in ("metadata", "tools", "toolChoice"):  # MCP's, without a place here: what is absent is not lost
        if key not in it:
            it.take(key)


def _sampling_message(target: pb.SamplingMessage, it: Object) -> None:
    target.role = role(it.take("role"))
    value, path = it.take("content"), it.at("content")
    if isinstance(value, list):
        if len(value) != 1:
            raise CannotCarry("a message of several content blocks has no place in this service; use McpTransport")
        value, path = value[0], pointer(path, 0)
    with Object(value, path, it.lost) as block:
        media(target, block.take("type"), block)


def _preferences(target: pb.SamplingCreateMessageRequest.ModelPreferences, it: Object) -> None:
    target.SetInParent()
    for number, hint in enumerate(it.items("hints")):
        with Object(hint, pointer(it.at("hints"), number), it.lost) as one:
            target.hints.add(name=one.text("name"))
    for key, name in (
        ("intelligencePriority", "intelligence_priority"),
        ("speedPriority", "speed_priority"),
        ("costPriority", "cost_priority"),
    ):
        if (value := it.short_number(key)) is not None:
            setattr(target, name, value)


def _elicitation(target: pb.InputRequest, it: Object) -> None:
    request = target.elicit_request
    request.message = it.name("message")
    mode = it.take("mode")
    if mode == "url":
        request.url_mode.url, request.url_mode.id = it.name("url"), it.text("elicitationId")
        return
    if mode not in (None, "form"):
        raise CannotCarry("the server asks in a way that this service does not know; use McpTransport")
    with Object(it.take("requestedSchema"), it.at("requestedSchema"), it.lost) as schema:
        schema.expect("type", "object")
        fields = schema.take("properties")
        if not isinstance(fields, dict):
            raise not_mcp()
        for key, field in fields.items():
            with Object(field, pointer(schema.at("properties"), key), it.lost) as one:
                _field(request.requested_schema[key], one)
        request.required_fields.extend(schema.texts("required"))


def _field(target: pb.PrimitiveSchemaDefinition, it: Object) -> None:
    match it.take("type"):
        case "string" if "enum" in it or "oneOf" in it:
            _choice(target.enum_schema, it, it)
            target.enum_schema.single_select.SetInParent()
            if (default := it.optional_text("default")) is not None:
                target.enum_schema.single_select.default_item = default
        case "string":
            _string(target.string_schema, it)
        case "integer":
            _integer(target.number_schema, it)
        case "number":
            _double(target.number_schema, it)
        case "boolean":
            _described(target.boolean_schema, it)
            if "default" not in it:  # the field reads as false
                it.lose("default")
            target.boolean_schema.default = it.flag("default", False)
        case "array":
            _choices(target.enum_schema, it)
        case _:
            raise CannotCarry("the server asks for a value of a type that this service does not know")


def _string(target: pb.PrimitiveSchemaDefinition.StringSchema, it: Object) -> None:
    _described(target, it)
    for key, name in (("minLength", "min_length"), ("maxLength", "max_length")):
        if (length := it.whole(key, 0, _MAX_UINT64)) is not None:
            setattr(target, name, length)
    if (default := it.optional_text("default")) is not None:
        target.default_value = default
    if (text := it.optional_text("format")) is not None:
        if text in _FORMATS:
            target.format = _FORMATS[text]
        else:
            it.lose("format")


def _integer(target: pb.PrimitiveSchemaDefinition.NumberSchema, it: Object) -> None:
    _described(target, it)
    target.integer_range.SetInParent()
    for key in ("minimum", "maximum"):
        if (bound := it.whole(key, *_INT64)) is not None:
            setattr(target.integer_range, key, bound)
    if (default := it.whole("default", *_INT64)) is not None:
        target.default_integer = default


def _double(target: pb.PrimitiveSchemaDefinition.NumberSchema, it: Object) -> None:
    _described(target, it)
    target.double_range.SetInParent()
    for key in ("minimum", "maximum"):
        if (bound := it.number(key)) is not None:
            setattr(target.double_range, key, bound)
    if (default := it.number("default")) is not None:
        target.default_number = default


def _choices(target: pb.PrimitiveSchemaDefinition.EnumSchema, it: Object) -> None:
    """Several of a list."""
    with Object(it.take("items"), it.at("items"), it.lost) as one:
        if "enum" in one:
            one.expect("type", "string")
        _choice(target, it, one, "anyOf")
    many = target.multi_select
    many.SetInParent()
    many.default_items.extend(it.texts("default"))
    for key, name in (("minItems", "min_items"), ("maxItems", "max_items")):
        if (count := it.whole(key, 0, _MAX_UINT32)) is not None:
            setattr(many, name, count)


def _choice(
    target: pb.PrimitiveSchemaDefinition.EnumSchema, described: Object, it: Object, titled: str = "oneOf"
) -> None:
    """The values to choose from, and their names where they have some; one way of saying so is as good as another."""
    _described(target, described)
    if titled in it and "enum" not in it:
        for number, option in enumerate(it.items(titled, required=True)):
            with Object(option, pointer(it.at(titled), number), it.lost) as one:
                target.enum_list.append(one.name("const"))
                target.enum_names.append(one.name("title"))
        return
    target.enum_list.extend(it.texts("enum", required=True))
    target.enum_names.extend(it.texts("enumNames"))


def _described(target: Any, it: Object) -> None:
    target.SetInParent()
    target.title, target.description = it.text("title"), it.text("description")


_REQUESTS: Final = {
    "sampling/createMessage": _sampling,
    "elicitation/create": _elicitation,
    "roots/list": _list_roots,
}


def input_response(response: pb.InputResponse) -> Mapping[str, Any]:
    """The result that `response` stands for, in JSON; raises `Malformed` for one that says nothing or too much."""
    if response.HasField("sampling_create_message_result"):
        return _sampled(response.sampling_create_message_result)
    if response.HasField("root_list_result"):
        roots = response.root_list_result.roots
        return {"roots": [{"uri": root.uri} | ({"name": root.name} if root.name else {}) for root in roots]}
    elicited = response.elicit_result
    if elicited.type not in _ACTIONS:
        raise Malformed("an elicit_result must be accepted, declined or cancelled")
    content = {"content": struct_to_dict(elicited.content)} if elicited.HasField("content") else {}
    return {"action": _ACTIONS[elicited.type]} | content


def _sampled(result: pb.SamplingCreateMessageResult) -> dict[str, Any]:
    message = result.message
    kinds = [kind for kind in ("text", "image", "audio") if message.HasField(kind)]
    if len(kinds) != 1 or message.role not in _ROLE_NAMES:
        raise Malformed("a sampled message must have a role and one content")
    stop = {"stopReason": result.stop_reason} if result.stop_reason else {}
    content = _content(kinds[0], getattr(message, kinds[0]))
    return {"role": _ROLE_NAMES[message.role], "content": content, "model": result.model} | stop


def _content(kind: str, part: Any) -> dict[str, Any]:
    block: dict[str, Any] = {"type": kind}
    if kind == "text":
        block["text"] = part.text
    else:
        block |= {"data": base64.b64encode(part.data).decode(), "mimeType": part.mime_type}
    if part.HasField("annotations"):
        block["annotations"] = _annotations(part.annotations)
    if part.HasField("metadata"):
        block["_meta"] = struct_to_dict(part.metadata)
    return block


def _annotations(value: pb.Annotations) -> dict[str, Any]:
    if any(one not in _ROLE_NAMES for one in value.audience):
        raise Malformed("an audience must be of known roles")
    found: dict[str, Any] = {"audience": [_ROLE_NAMES[one] for one in value.audience]} if value.audience else {}
    if value.HasField("priority"):
        found["priority"] = as_float32(value.priority)
    return found | ({"lastModified": value.last_modified} if value.HasField("last_modified") else {})
