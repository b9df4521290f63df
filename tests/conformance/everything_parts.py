"""What the server of the conformance tests offers: its tools, resources and prompts, as the official suite names them.

The suite describes each of them in the text of the scenario that uses it.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import PromptsListChanged, ToolsListChanged

Context = ServerRequestContext[Any, Any]
Answer = types.CallToolResult | types.InputRequiredResult
Work = Callable[[Context, types.CallToolRequestParams], Awaitable[Answer]]

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQAAAAA="
STEP_S = 0.05
PLAIN: dict[str, Any] = {"type": "object", "properties": {}}

bus = InMemorySubscriptionBus()
tools: dict[str, tuple[types.Tool, Work]] = {}


def tool(name: str, description: str, schema: dict[str, Any] = PLAIN) -> Callable[[Work], Work]:
    def register(work: Work) -> Work:
        tools[name] = (types.Tool(name=name, description=description, input_schema=schema), work)
        return work

    return register


def strings(*names: str, **extra: dict[str, Any]) -> dict[str, Any]:
    """An object of required strings."""
    properties = {name: {"type": "string", **extra.get(name, {})} for name in names}
    return {"type": "object", "properties": properties, "required": list(names)}


def text(words: str) -> types.TextContent:
    return types.TextContent(text=words)


def image() -> types.ImageContent:
    return types.ImageContent(data=PNG, mime_type="image/png")


def embedded(uri: str, mime_type: str, words: str) -> types.EmbeddedResource:
    return types.EmbeddedResource(resource=types.TextResourceContents(uri=uri, mime_type=mime_type, text=words))


def done(*content: types.ContentBlock) -> types.CallToolResult:
    return types.CallToolResult(content=list(content))


@tool("test_simple_text", "Gives text")
async def simple_text(context: Context, params: types.CallToolRequestParams) -> Answer:
    return done(text("This is a simple text response for testing."))


@tool("test_image_content", "Gives an image")
async def image_content(context: Context, params: types.CallToolRequestParams) -> Answer:
    return done(image())


@tool("test_audio_content", "Gives audio")
async def audio_content(context: Context, params: types.CallToolRequestParams) -> Answer:
    return done(types.AudioContent(data=WAV, mime_type="audio/wav"))


@tool("test_embedded_resource", "Gives a resource")
async def embedded_resource(context: Context, params: types.CallToolRequestParams) -> Answer:
    return done(embedded("test://embedded-resource", "text/plain", "This is an embedded resource content."))


@tool("test_multiple_content_types", "Gives text, an image and a resource")
async def multiple_content_types(context: Context, params: types.CallToolRequestParams) -> Answer:
    document = embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}')
    return done(text("Multiple content types test:"), image(), document)


@tool("test_error_handling", "Always fails")
async def error_handling(context: Context, params: types.CallToolRequestParams) -> Answer:
    words = "This tool intentionally returns an error for testing"
    return types.CallToolResult(content=[text(words)], is_error=True)


async def _log(context: Context, words: str) -> None:
    await context.session.send_log_message("info", words, related_request_id=context.request_id)


@tool("test_tool_with_logging", "Logs three times")
async def tool_with_logging(context: Context, params: types.CallToolRequestParams) -> Answer:
    await _log(context, "Tool execution started")
    await asyncio.sleep(STEP_S)
    await _log(context, "Tool processing data")
    await asyncio.sleep(STEP_S)
    await _log(context, "Tool execution completed")
    return done(text("Logged three times."))


@tool("test_logging_tool", "Logs where the request asks for it")
async def logging_tool(context: Context, params: types.CallToolRequestParams) -> Answer:
    await _log(context, "Asked for")
    return done(text("Logged, if that was asked for."))


@tool("test_tool_with_progress", "Reports progress")
async def tool_with_progress(context: Context, params: types.CallToolRequestParams) -> Answer:
    for percent in (0, 50, 100):
        await context.session.report_progress(percent, 100, f"at {percent}")
        await asyncio.sleep(STEP_S)
    return done(text("Came to 100."))


@tool("test_reconnection", "Closes the stream of its answer before it answers")
async def reconnection(context: Context, params: types.CallToolRequestParams) -> Answer:
    await _log(context, "Before the stream closes")
    if context.close_sse_stream is not None:
        await context.close_sse_stream()
    await asyncio.sleep(2 * STEP_S)
    await _log(context, "After the stream closed")
    return done(text("Answered after the stream closed."))


@tool("test_sampling", "Asks the client's model", strings("prompt"))
async def sampling(context: Context, params: types.CallToolRequestParams) -> Answer:
    prompt = str((params.arguments or {}).get("prompt", ""))
    question = types.SamplingMessage(role="user", content=text(prompt))
    answer = await context.session.create_message([question], max_tokens=100, related_request_id=context.request_id)
    return done(text(f"LLM response: {getattr(answer.content, 'text', '')}"))


async def _elicit(context: Context, message: str, schema: dict[str, Any]) -> Answer:
    answer = await context.session.elicit_form(message, schema, related_request_id=context.request_id)
    return done(text(f"User response: action={answer.action}, content={json.dumps(answer.content or {})}"))


@tool("test_elicitation", "Asks the user", strings("message"))
async def elicitation(context: Context, params: types.CallToolRequestParams) -> Answer:
    described = {"username": {"description": "User's response"}, "email": {"description": "User's email address"}}
    message = str((params.arguments or {}).get("message", ""))
    return await _elicit(context, message, strings("username", "email", **described))


@tool("test_elicitation_sep1034_defaults", "Asks the user, with defaults")
async def elicitation_defaults(context: Context, params: types.CallToolRequestParams) -> Answer:
    properties = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    return await _elicit(context, "Who are you?", {"type": "object", "properties": properties})


def _titled(key: str, *titles: str) -> dict[str, Any]:
    return {key: [{"const": f"value{number}", "title": title} for number, title in enumerate(titles, 1)]}


@tool("test_elicitation_sep1330_enums", "Asks the user to choose")
async def elicitation_enums(context: Context, params: types.CallToolRequestParams) -> Answer:
    options = ["option1", "option2", "option3"]
    properties = {
        "untitledSingle": {"type": "string", "enum": options},
        "titledSingle": {"type": "string", **_titled("oneOf", "First Option", "Second Option", "Third Option")},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
        "titledMulti": {"type": "array", "items": _titled("anyOf", "First Choice", "Second Choice", "Third Choice")},
    }
    return await _elicit(context, "Choose.", {"type": "object", "properties": properties})


@tool("test_trigger_tool_change", "Says that the tools changed")
async def trigger_tool_change(context: Context, params: types.CallToolRequestParams) -> Answer:
    await bus.publish(ToolsListChanged())
    return done(text("Said."))


@tool("test_trigger_prompt_change", "Says that the prompts changed")
async def trigger_prompt_change(context: Context, params: types.CallToolRequestParams) -> Answer:
    await bus.publish(PromptsListChanged())
    return done(text("Said."))


@tool("test_missing_capability", "Needs a client that can sample")
async def missing_capability(context: Context, params: types.CallToolRequestParams) -> Answer:
    declared = context.session.client_capabilities
    if declared is None or declared.sampling is None:
        data = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(types.MISSING_REQUIRED_CLIENT_CAPABILITY, "this tool needs a client that can sample", data)
    return done(text("The client can sample."))


@tool(
    "test_region",
    "Takes a parameter that HTTP carries in a header, too",
    strings("region", region={"x-mcp-header": "Region"}),
)
async def region(context: Context, params: types.CallToolRequestParams) -> Answer:
    return done(text(str((params.arguments or {}).get("region"))))


RICH_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


@tool("json_schema_2020_12_tool", "Has a schema with much of JSON Schema 2020-12", RICH_SCHEMA)
async def json_schema_tool(context: Context, params: types.CallToolRequestParams) -> Answer:
    return done(text(json.dumps(params.arguments)))


TEXT_URI, BINARY_URI, WATCHED_URI = "test://static-text", "test://static-binary", "test://watched-resource"
RESOURCES = [
    types.Resource(uri=TEXT_URI, name="static-text", description="Text", mime_type="text/plain"),
    types.Resource(uri=BINARY_URI, name="static-binary", description="An image", mime_type="image/png"),
    types.Resource(uri=WATCHED_URI, name="watched", description="May be subscribed to", mime_type="text/plain"),
]
TEMPLATE = types.ResourceTemplate(
    uri_template="test://template/{id}/data", name="template", description="Data by id", mime_type="application/json"
)


def read(uri: str) -> types.TextResourceContents | types.BlobResourceContents:
    """The contents of one resource; raises the error that the specification names for one that is not there."""
    prefix, suffix = "test://template/", "/data"
    if uri == TEXT_URI:
        words = "This is the content of the static text resource."
        return types.TextResourceContents(uri=uri, mime_type="text/plain", text=words)
    if uri == BINARY_URI:
        return types.BlobResourceContents(uri=uri, mime_type="image/png", blob=PNG)
    if uri == WATCHED_URI:
        return types.TextResourceContents(uri=uri, mime_type="text/plain", text="Watched.")
    if uri.startswith(prefix) and uri.endswith(suffix):
        number = uri[len(prefix) : -len(suffix)]
        data = {"id": number, "templateTest": True, "data": f"Data for ID: {number}"}
        return types.TextResourceContents(uri=uri, mime_type="application/json", text=json.dumps(data))
    raise MCPError(types.INVALID_PARAMS, "Resource not found", {"uri": uri})


def _prompt(name: str, description: str, *arguments: str) -> types.Prompt:
    needed = [types.PromptArgument(name=one, description=f"The {one}", required=True) for one in arguments]
    return types.Prompt(name=name, description=description, arguments=needed)


PROMPTS = [
    _prompt("test_simple_prompt", "Text"),
    _prompt("test_prompt_with_arguments", "Text of two arguments", "arg1", "arg2"),
    _prompt("test_prompt_with_embedded_resource", "A resource and text", "resourceUri"),
    _prompt("test_prompt_with_image", "An image and text"),
    _prompt("test_input_required_result_prompt", "Asks the user first"),
]


def prompt(name: str, arguments: dict[str, str]) -> list[types.ContentBlock]:
    """What one prompt says, each block in a message of the user."""
    if name == "test_simple_prompt":
        return [text("This is a simple prompt for testing.")]
    if name == "test_prompt_with_arguments":
        return [text(f"Prompt with arguments: arg1='{arguments.get('arg1')}', arg2='{arguments.get('arg2')}'")]
    if name == "test_prompt_with_embedded_resource":
        document = embedded(arguments.get("resourceUri", ""), "text/plain", "Embedded resource content for testing.")
        return [document, text("Please process the embedded resource above.")]
    if name == "test_prompt_with_image":
        return [image(), text("Please analyze the image above.")]
    raise MCPError(types.INVALID_PARAMS, f"unknown prompt: {name}")
