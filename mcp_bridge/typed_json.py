"""Results of MCP (JSON) as messages of the typed service (PyPI `mcp-grpc-transport-proto`). Pure functions.

That proto cannot carry everything MCP says. What would change on the way is
refused with `CannotCarry`, never changed silently.
"""

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any, Final

from google.protobuf import struct_pb2
from google.protobuf.message import Message
from mcp_grpc_transport_proto import mcp_messages_pb2 as pb

__all__ = ["CannotCarry", "call_tool", "get_prompt", "list_prompts", "list_resources", "list_tools", "read_resource"]

_MAX_EXACT: Final = 2**53
_MAX_DEPTH: Final = 30
_ROLES: Final = {"user": pb.Role.Value("ROLE_USER"), "assistant": pb.Role.Value("ROLE_ASSISTANT")}
_SCOPES: Final = {"public": pb.CACHE_SCOPE_PUBLIC, "private": pb.CACHE_SCOPE_PRIVATE}

Json = Mapping[str, Any]


class CannotCarry(ValueError):
    """The typed service has no way to say this; its text is a sentence for the peer."""


def list_tools(pages: list[Json]) -> pb.ListToolsResponse:
    response = pb.ListToolsResponse()
    _list(response, pages, "tools", lambda item: _tool(response.tools.add(), item))
    return response


def list_resources(pages: list[Json]) -> pb.ListResourcesResponse:
    response = pb.ListResourcesResponse()
    _list(response, pages, "resources", lambda item: _resource(response.resources.add(), item))
    return response


def list_prompts(pages: list[Json]) -> pb.ListPromptsResponse:
    response = pb.ListPromptsResponse()
    _list(response, pages, "prompts", lambda item: _prompt(response.prompts.add(), item))
    return response


def call_tool(result: Json) -> pb.CallToolResponse:
    response = pb.CallToolResponse(is_error=bool(result.get("isError", False)))
    _common(response.common, result)
    for block in result.get("content", ()):
        _content(response.content.add(), block)
    structured = result.get("structuredContent")
    if structured is not None:
        if not isinstance(structured, dict):
            raise CannotCarry("structured content that is not an object has no place in this service")
        _struct(response.structured_content, structured)
    return response


def read_resource(result: Json) -> pb.ReadResourceResponse:
    response = pb.ReadResourceResponse()
    _common(response.common, result)
    _cache(response, result)
    for contents in result.get("contents", ()):
        _contents(response.resource.add(), contents)
    return response


def get_prompt(result: Json) -> pb.GetPromptResponse:
    response = pb.GetPromptResponse(description=_text(result, "description"))
    _common(response.common, result)
    for message in result.get("messages", ()):
        target = response.messages.add()
        target.role = _role(message.get("role"))
        _content(target, message.get("content") or {})
    return response


def _list(response: Any, pages: list[Json], member: str, add: Callable[[Json], None]) -> None:
    for page in pages:
        for item in page.get(member, ()):
            add(item)
    if pages:
        _common(response.common, pages[0])
        _cache(response, pages[0])


def _common(common: pb.ResponseFields, result: Json) -> None:
    """2026-07-28: a result without `resultType` is complete."""
    kind = result.get("resultType", "complete")
    if kind != "complete":
        raise CannotCarry(f"the server answered with {kind!r}; use McpTransport, which carries it")
    common.result_type = pb.RESULT_TYPE_COMPLETE
    if meta := result.get("_meta"):
        _struct(common.metadata, meta)


def _cache(response: Any, result: Json) -> None:
    ttl_ms = result.get("ttlMs")
    if isinstance(ttl_ms, int | float) and ttl_ms >= 0:
        response.ttl.FromMilliseconds(int(ttl_ms))
    if scope := _SCOPES.get(str(result.get("cacheScope"))):
        response.cache_scope = scope


def _tool(target: pb.Tool, tool: Json) -> None:
    _titled(target, tool)
    _struct(target.input_schema, tool.get("inputSchema") or {})
    if (schema := tool.get("outputSchema")) is not None:
        _struct(target.output_schema, schema)
    hints = tool.get("annotations") or {}
    target.annotations.title = _text(hints, "title")
    # An absent hint means its default in MCP and False in the proto: write the default.
    target.annotations.read_only_hint = bool(hints.get("readOnlyHint", False))
    target.annotations.destructive_hint = bool(hints.get("destructiveHint", True))
    target.annotations.idempotent_hint = bool(hints.get("idempotentHint", False))
    target.annotations.open_world_hint = bool(hints.get("openWorldHint", True))


def _prompt(target: pb.Prompt, prompt: Json) -> None:
    _titled(target, prompt)
    for argument in prompt.get("arguments") or ():
        target.arguments.add(
            name=_text(argument, "name"),
            title=_text(argument, "title"),
            description=_text(argument, "description"),
            required=bool(argument.get("required", False)),
        )


def _resource(target: pb.Resource, resource: Json) -> None:
    _titled(target, resource)
    target.uri = _text(resource, "uri")
    target.mime_type = _text(resource, "mimeType")
    if isinstance(size := resource.get("size"), int):
        target.size = size
    _annotations(target, resource)


def _titled(target: Any, item: Json) -> None:
    """Name, title, description, icons and `_meta`, which tools, prompts and resources share."""
    target.name = _text(item, "name")
    target.title = _text(item, "title")
    target.description = _text(item, "description")
    for icon in item.get("icons") or ():
        target.icons.add(src=_text(icon, "src"), mime_type=_text(icon, "mimeType"), sizes=icon.get("sizes") or ())
    if meta := item.get("_meta"):
        _struct(target.metadata, meta)


def _content(target: Any, block: Json) -> None:
    """One content block into a message that has a field for each kind."""
    kind = block.get("type")
    if kind == "text":
        target.text.text = _text(block, "text")
        part: Message = target.text
    elif kind == "image":
        target.image.data, target.image.mime_type = _bytes(block, "data"), _text(block, "mimeType")
        part = target.image
    elif kind == "audio":
        target.audio.data, target.audio.mime_type = _bytes(block, "data"), _text(block, "mimeType")
        part = target.audio
    elif kind == "resource":
        _contents(target.embedded_resource.contents, block.get("resource") or {})
        part = target.embedded_resource
    elif kind == "resource_link":
        _resource(target.resource_link, block)
        return
    else:
        raise CannotCarry(f"content of type {kind!r} has no place in this service")
    _annotations(part, block)
    if meta := block.get("_meta"):
        _struct(part.metadata, meta)  # type: ignore[attr-defined]  # every one of these messages has it


def _contents(target: pb.ResourceContents, contents: Json) -> None:
    target.uri, target.mime_type = _text(contents, "uri"), _text(contents, "mimeType")
    if "blob" in contents:
        target.blob = _bytes(contents, "blob")
    else:
        target.text = _text(contents, "text")
    if meta := contents.get("_meta"):
        _struct(target.metadata, meta)


def _annotations(target: Any, item: Json) -> None:
    annotations = item.get("annotations")
    if not isinstance(annotations, dict):
        return
    target.annotations.audience.extend(_role(role) for role in annotations.get("audience") or ())
    if isinstance(priority := annotations.get("priority"), int | float):
        target.annotations.priority = priority
    if isinstance(modified := annotations.get("lastModified"), str):
        target.annotations.last_modified = modified


def _role(role: Any) -> Any:
    if role not in _ROLES:
        raise CannotCarry("a message has a role that this service does not know")
    return _ROLES[role]


def _text(item: Json, key: str) -> str:
    value = item.get(key)
    return value if isinstance(value, str) else ""


def _bytes(item: Json, key: str) -> bytes:
    try:
        return base64.b64decode(_text(item, key), validate=True)
    except (binascii.Error, ValueError):
        raise CannotCarry("the server sent binary data that is not base64") from None


def _struct(target: struct_pb2.Struct, value: Json) -> None:
    _check(value, 0)
    target.update(value)


def _check(value: Any, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise CannotCarry("a value is nested too deeply for this service; use McpTransport")
    if isinstance(value, dict):
        for item in value.values():
            _check(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, depth + 1)
    elif isinstance(value, int) and abs(value) > _MAX_EXACT:
        raise CannotCarry("an integer is too large for this service; use McpTransport")
