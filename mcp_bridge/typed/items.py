"""What MCP servers list and send, as messages: tools, prompts, resources, templates, content. Pure functions.

Each function writes one JSON value at `path` into `target`, names in `lost`
what has no place there, and raises `CannotCarry` where it would become
something else.
"""

import base64
import binascii
from typing import Any, Final

from mcp_grpc_transport_proto import mcp_messages_pb2 as pb

from mcp_bridge.typed.reading import CannotCarry, Lost, Object, not_mcp, pointer

__all__ = ["content", "contents", "media", "prompt", "resource", "role", "template", "tool"]

ROLES: Final = {"user": pb.Role.Value("ROLE_USER"), "assistant": pb.Role.Value("ROLE_ASSISTANT")}
_THEMES: Final = {"light": pb.Icon.THEME_LIGHT, "dark": pb.Icon.THEME_DARK}
_MAX_UINT64: Final = 2**64 - 1


def tool(target: pb.Tool, value: Any, path: str, lost: Lost) -> None:
    with Object(value, path, lost) as it:
        _titled(target, it)
        if not isinstance(value.get("inputSchema"), dict):
            raise not_mcp()
        it.struct("inputSchema", target.input_schema, exact=False, whole=True)
        it.struct("outputSchema", target.output_schema, exact=False, whole=True)
        given = it.take("annotations")
        with Object({} if given is None else given, it.at("annotations"), lost) as hints:
            target.annotations.title = hints.text("title")
            # An absent hint means its default in MCP and False in the proto: write the default.
            target.annotations.read_only_hint = hints.flag("readOnlyHint", False)
            target.annotations.destructive_hint = hints.flag("destructiveHint", True)
            target.annotations.idempotent_hint = hints.flag("idempotentHint", False)
            target.annotations.open_world_hint = hints.flag("openWorldHint", True)


def prompt(target: pb.Prompt, value: Any, path: str, lost: Lost) -> None:
    with Object(value, path, lost) as it:
        _titled(target, it)
        for number, argument in enumerate(it.items("arguments")):
            with Object(argument, pointer(it.at("arguments"), number), lost) as one:
                target.arguments.add(
                    name=one.name("name"),
                    title=one.text("title"),
                    description=one.text("description"),
                    required=one.flag("required", False),
                )


def resource(target: pb.Resource, value: Any, path: str, lost: Lost) -> None:
    with Object(value, path, lost) as it:
        _resource(target, it)


def template(target: pb.ResourceTemplate, value: Any, path: str, lost: Lost) -> None:
    with Object(value, path, lost) as it:
        _titled(target, it)
        target.uri_template, target.mime_type = it.name("uriTemplate"), it.text("mimeType")
        annotations(target.annotations, it)


def content(target: Any, value: Any, path: str, lost: Lost) -> None:
    """One content block into a message that has a field for each kind."""
    with Object(value, path, lost) as it:
        kind = it.take("type")
        if kind == "resource":
            part = target.embedded_resource
            contents(part.contents, it.take("resource"), it.at("resource"), lost)
            _described(part, it)
        elif kind == "resource_link":
            _resource(target.resource_link, it)
        else:
            media(target, kind, it)


def media(target: Any, kind: Any, it: Object) -> None:
    """Text, image or audio, the kinds that sampling has too."""
    if kind == "text":
        target.text.text = it.name("text")
        _described(target.text, it)
    elif kind in ("image", "audio"):
        part = target.image if kind == "image" else target.audio
        part.data, part.mime_type = _bytes(it.name("data")), it.name("mimeType")
        _described(part, it)
    elif isinstance(kind, str):
        raise CannotCarry("content of this type has no place in this service; use McpTransport")
    else:
        raise not_mcp()


def contents(target: pb.ResourceContents, value: Any, path: str, lost: Lost) -> None:
    """Text or binary contents of a resource."""
    with Object(value, path, lost) as it:
        target.uri, target.mime_type = it.name("uri"), it.text("mimeType")
        if ("blob" in it) == ("text" in it):
            raise not_mcp()
        if "text" in it:
            target.text = it.name("text")
        else:
            target.blob = _bytes(it.name("blob"))
            if not target.blob:  # reads as an empty text, of which MCP said nothing
                it.lose("blob")
                it.lose("text")
        it.meta(target.metadata)


def annotations(target: pb.Annotations, it: Object) -> None:
    value = it.take("annotations")
    if value is None:
        return
    target.SetInParent()
    with Object(value, it.at("annotations"), it.lost) as one:
        target.audience.extend(role(name) for name in one.items("audience"))
        if (priority := one.short_number("priority")) is not None:
            target.priority = priority
        if (modified := one.optional_text("lastModified")) is not None:
            target.last_modified = modified


def role(name: Any) -> Any:
    """Raises `CannotCarry`: a message from nobody would be read as somebody's."""
    if not isinstance(name, str) or name not in ROLES:
        raise CannotCarry("a message has a role that this service does not know")
    return ROLES[name]


def _resource(target: pb.Resource, it: Object) -> None:
    _titled(target, it)
    target.uri, target.mime_type = it.name("uri"), it.text("mimeType")
    if (size := it.whole("size", 0, _MAX_UINT64)) is not None:
        target.size = size
        if not size:  # reads as absent
            it.lose("size")
    annotations(target.annotations, it)


def _titled(target: Any, it: Object) -> None:
    """Name, title, description, icons and `_meta`, which tools, prompts, resources and templates share."""
    target.name, target.title, target.description = it.name("name"), it.text("title"), it.text("description")
    for number, icon in enumerate(it.items("icons")):
        with Object(icon, pointer(it.at("icons"), number), it.lost) as one:
            added = target.icons.add(src=one.name("src"), mime_type=one.text("mimeType"), sizes=one.texts("sizes"))
            if (theme := one.optional_text("theme")) in _THEMES:
                added.theme = _THEMES[theme]
            elif theme is not None:
                one.lose("theme")
    it.meta(target.metadata)


def _described(part: Any, it: Object) -> None:
    """Annotations and `_meta` of a content block."""
    annotations(part.annotations, it)
    it.meta(part.metadata)


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise CannotCarry("the server sent binary data that is not base64") from None
