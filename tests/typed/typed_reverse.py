"""Responses of the typed service back into MCP's JSON: what a client that knows the proto's conventions would read."""

import base64
from typing import Any

from google.protobuf import struct_pb2
from mcp_grpc_transport_proto import mcp_messages_pb2 as pb

from mcp_bridge.typed.reading import as_float32
from mcp_bridge.typed.results import DROPPED

ROLES = {pb.Role.Value("ROLE_USER"): "user", pb.Role.Value("ROLE_ASSISTANT"): "assistant"}
SCOPES = {pb.CACHE_SCOPE_PUBLIC: "public", pb.CACHE_SCOPE_PRIVATE: "private"}
THEMES = {pb.Icon.THEME_LIGHT: "light", pb.Icon.THEME_DARK: "dark"}
CONTEXTS = {0: "none", 1: "thisServer", 2: "allServers"}
FORMATS = {1: "email", 2: "uri", 3: "date", 4: "date-time"}
String = pb.PrimitiveSchemaDefinition.StringSchema


def value_of(value: struct_pb2.Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return struct_of(value.struct_value)
        case "list_value":
            return [value_of(one) for one in value.list_value.values]
        case "null_value":
            return None
        case kind:
            return getattr(value, str(kind))


def struct_of(struct: struct_pb2.Struct) -> dict[str, Any]:
    return {key: value_of(value) for key, value in struct.fields.items()}


def present(message: Any, **names: str) -> dict[str, Any]:
    """Members of fields that say something: proto field → member."""
    found = {}
    for field, member in names.items():
        descriptor = message.DESCRIPTOR.fields_by_name[field]
        value = getattr(message, field)
        if descriptor.has_presence and not message.HasField(field):
            continue
        if descriptor.message_type is not None and descriptor.message_type.full_name == "google.protobuf.Struct":
            found[member] = struct_of(value)
        elif descriptor.is_repeated:
            if len(value):
                found[member] = list(value)
        elif descriptor.has_presence or value:
            found[member] = as_float32(value) if descriptor.type == descriptor.TYPE_FLOAT else value
    return found


def annotations(message: Any) -> dict[str, Any]:
    if not message.HasField("annotations"):
        return {}
    found = present(message.annotations, priority="priority", last_modified="lastModified")
    if message.annotations.audience:
        found["audience"] = [ROLES[one] for one in message.annotations.audience]
    return {"annotations": found}


def titled(message: Any) -> dict[str, Any]:
    found = {"name": message.name} | present(message, title="title", description="description", metadata="_meta")
    icons = [
        {"src": one.src}
        | present(one, mime_type="mimeType", sizes="sizes")
        | ({"theme": THEMES[one.theme]} if one.theme else {})
        for one in message.icons
    ]
    return found | ({"icons": icons} if icons else {})


def tool(message: pb.Tool) -> dict[str, Any]:
    hints = message.annotations
    said = present(hints, title="title") | {
        "readOnlyHint": hints.read_only_hint,
        "destructiveHint": hints.destructive_hint,
        "idempotentHint": hints.idempotent_hint,
        "openWorldHint": hints.open_world_hint,
    }
    schemas = present(message, input_schema="inputSchema", output_schema="outputSchema")
    return titled(message) | schemas | {"annotations": said}


def prompt(message: pb.Prompt) -> dict[str, Any]:
    arguments = [
        {"name": one.name, "required": one.required} | present(one, title="title", description="description")
        for one in message.arguments
    ]
    return titled(message) | ({"arguments": arguments} if arguments else {})


def resource(message: pb.Resource) -> dict[str, Any]:
    rest = present(message, mime_type="mimeType", size="size")
    return titled(message) | {"uri": message.uri} | rest | annotations(message)


def template(message: pb.ResourceTemplate) -> dict[str, Any]:
    rest = present(message, mime_type="mimeType")
    return titled(message) | {"uriTemplate": message.uri_template} | rest | annotations(message)


def contents(message: pb.ResourceContents) -> dict[str, Any]:
    found = {"uri": message.uri} | present(message, mime_type="mimeType", metadata="_meta")
    if message.blob:
        return found | {"blob": base64.b64encode(message.blob).decode()}
    return found | {"text": message.text}


def content(message: Any) -> dict[str, Any]:
    (kind,) = [
        field.name
        for field, _ in message.ListFields()
        if field.name in ("text", "image", "audio", "embedded_resource", "resource_link")
    ]
    part = getattr(message, kind)
    if kind == "resource_link":
        return {"type": "resource_link"} | resource(part)
    rest = annotations(part) | present(part, metadata="_meta")
    if kind == "text":
        return {"type": "text", "text": part.text} | rest
    if kind == "embedded_resource":
        return {"type": "resource", "resource": contents(part.contents)} | rest
    return {"type": kind, "data": base64.b64encode(part.data).decode(), "mimeType": part.mime_type} | rest


def field(message: pb.PrimitiveSchemaDefinition) -> dict[str, Any]:
    (kind,) = [one.name for one, _ in message.ListFields()]
    part = getattr(message, kind)
    found: dict[str, Any] = present(part, title="title", description="description")
    if kind == "string_schema":
        found |= present(part, min_length="minLength", max_length="maxLength", default_value="default")
        return found | {"type": "string"} | ({"format": FORMATS[part.format]} if part.format else {})
    if kind == "boolean_schema":
        return found | {"type": "boolean", "default": part.default}
    if kind == "number_schema":
        ranges = "integer_range" if part.HasField("integer_range") else "double_range"
        found |= present(getattr(part, ranges), minimum="minimum", maximum="maximum")
        found |= present(part, default_number="default", default_integer="default")
        return found | {"type": "integer" if ranges == "integer_range" else "number"}
    options = {"enum": list(part.enum_list)} | present(part, enum_names="enumNames")
    if part.HasField("multi_select"):
        found |= present(part.multi_select, default_items="default", min_items="minItems", max_items="maxItems")
        return found | {"type": "array", "items": {"type": "string"} | options}
    return found | {"type": "string"} | options | present(part.single_select, default_item="default")


def sampling(message: pb.SamplingCreateMessageRequest) -> dict[str, Any]:
    params: dict[str, Any] = {
        "messages": [{"role": ROLES[one.role], "content": content(one)} for one in message.messages],
        "maxTokens": message.max_tokens,
        "includeContext": CONTEXTS[message.include_context],
    }
    params |= present(message, system_prompt="systemPrompt", temperature="temperature", stop_sequence="stopSequences")
    if message.HasField("model_preferences"):
        preferences = message.model_preferences
        params["modelPreferences"] = present(
            preferences,
            intelligence_priority="intelligencePriority",
            speed_priority="speedPriority",
            cost_priority="costPriority",
        )
        if preferences.hints:
            params["modelPreferences"]["hints"] = [present(one, name="name") for one in preferences.hints]
    return params


def elicitation(message: pb.ElicitRequest) -> dict[str, Any]:
    if message.HasField("url_mode"):
        given = {"url": message.url_mode.url} | present(message.url_mode, id="elicitationId")
        return {"mode": "url", "message": message.message} | given
    fields = {key: field(one) for key, one in message.requested_schema.items()}
    schema = {"type": "object", "properties": fields} | present(message, required_fields="required")
    return {"mode": "form", "message": message.message, "requestedSchema": schema}


def input_request(message: pb.InputRequest) -> dict[str, Any]:
    if message.HasField("sampling_create_message"):
        return {"method": "sampling/createMessage", "params": sampling(message.sampling_create_message)}
    if message.HasField("elicit_request"):
        return {"method": "elicitation/create", "params": elicitation(message.elicit_request)}
    assert message.HasField("list_roots_request")
    return {"method": "roots/list", "params": {}}


def result(rpc: str, message: Any) -> tuple[dict[str, Any], list[str]]:
    """The result, and what the response says it lacks."""
    common = message.common
    found = present(common, metadata="_meta", request_state="requestState")
    dropped = found.get("_meta", {}).pop(DROPPED, [])
    if common.result_type == pb.RESULT_TYPE_INPUT_REQUIRED:
        requests = {key: input_request(one) for key, one in common.input_requests.items()}
        return found | {"resultType": "input_required", "inputRequests": requests}, dropped
    found["resultType"] = "complete"
    if "ttl" in message.DESCRIPTOR.fields_by_name:
        found |= {"ttlMs": message.ttl.ToMilliseconds()} if message.HasField("ttl") else {}
        found |= {"cacheScope": SCOPES[message.cache_scope]} if message.cache_scope else {}
    return found | BODIES[rpc](message), dropped


def called(message: pb.CallToolResponse) -> dict[str, Any]:
    found = {"content": [content(one) for one in message.content], "isError": message.is_error}
    return found | present(message, structured_content="structuredContent")


def prompted(message: pb.GetPromptResponse) -> dict[str, Any]:
    messages = [{"role": ROLES[one.role], "content": content(one)} for one in message.messages]
    return {"messages": messages} | present(message, description="description")


def completed(message: pb.CompletionResponse) -> dict[str, Any]:
    values = {"values": list(message.values), "hasMore": message.has_more}
    return {"completion": values | present(message, total_matches="total")}


BODIES: dict[str, Any] = {
    "ListTools": lambda message: {"tools": [tool(one) for one in message.tools]},
    "ListResources": lambda message: {"resources": [resource(one) for one in message.resources]},
    "ListResourceTemplates": lambda message: {
        "resourceTemplates": [template(one) for one in message.resource_templates]
    },
    "ListPrompts": lambda message: {"prompts": [prompt(one) for one in message.prompts]},
    "CallTool": called,
    "ReadResource": lambda message: {"contents": [contents(one) for one in message.resource]},
    "GetPrompt": prompted,
    "Complete": completed,
}
