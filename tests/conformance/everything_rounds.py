"""The tools and the prompt of the conformance server that ask the client for input by their result (2026-07-28)."""

from collections.abc import Mapping
from typing import Any

import mcp_types as types
from everything_parts import Answer, Context, done, strings, text, tool

PREFIX = "test_input_required_result_"

Responses = Mapping[str, types.InputResponse] | None


def elicit(message: str, schema: dict[str, Any]) -> types.ElicitRequest:
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=schema))


def sample(question: str, max_tokens: int) -> types.CreateMessageRequest:
    message = types.SamplingMessage(role="user", content=text(question))
    return types.CreateMessageRequest(
        params=types.CreateMessageRequestParams(messages=[message], max_tokens=max_tokens)
    )


NAME = elicit("What is your name?", strings("name"))
CONFIRM = elicit("Please confirm", {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]})


def ask(state: str | None = None, **requests: types.InputRequest) -> types.InputRequiredResult:
    return types.InputRequiredResult(input_requests=requests, request_state=state)


def given(responses: Responses, key: str, field: str) -> str | None:
    """A field of what the user entered; None when it did not come."""
    answer = (responses or {}).get(key)
    if not isinstance(answer, types.ElicitResult) or not answer.content:
        return None
    value = answer.content.get(field)
    return None if value is None else str(value)


def sampled(responses: Responses, key: str) -> str | None:
    answer = (responses or {}).get(key)
    if not isinstance(answer, types.CreateMessageResult | types.CreateMessageResultWithTools):
        return None
    return str(getattr(answer.content, "text", ""))


def roots(responses: Responses, key: str) -> str | None:
    answer = (responses or {}).get(key)
    if not isinstance(answer, types.ListRootsResult):
        return None
    return ", ".join(str(root.uri) for root in answer.roots)


@tool(f"{PREFIX}elicitation", "Asks for a name")
async def elicitation(context: Context, params: types.CallToolRequestParams) -> Answer:
    name = given(params.input_responses, "user_name", "name")
    return ask(user_name=NAME) if name is None else done(text(f"Hello, {name}!"))


@tool(f"{PREFIX}sampling", "Asks the client's model")
async def sampling(context: Context, params: types.CallToolRequestParams) -> Answer:
    answer = sampled(params.input_responses, "capital_question")
    return ask(capital_question=sample("What is the capital of France?", 100)) if answer is None else done(text(answer))


@tool(f"{PREFIX}list_roots", "Asks for roots")
async def list_roots(context: Context, params: types.CallToolRequestParams) -> Answer:
    uris = roots(params.input_responses, "client_roots")
    return ask(client_roots=types.ListRootsRequest()) if uris is None else done(text(f"Roots: {uris}"))


@tool(f"{PREFIX}request_state", "Keeps its state with the client")
async def request_state(context: Context, params: types.CallToolRequestParams) -> Answer:
    if given(params.input_responses, "confirm", "ok") is None or params.request_state != "first":
        return ask("first", confirm=CONFIRM)
    return done(text("state-ok"))


@tool(f"{PREFIX}tampered_state", "Refuses a state that is not its own")
async def tampered_state(context: Context, params: types.CallToolRequestParams) -> Answer:
    return await request_state(context, params)


@tool(f"{PREFIX}multiple_inputs", "Asks three things at once")
async def multiple_inputs(context: Context, params: types.CallToolRequestParams) -> Answer:
    name = given(params.input_responses, "user_name", "name")
    greeting = sampled(params.input_responses, "greeting")
    uris = roots(params.input_responses, "client_roots")
    if name is None or greeting is None or uris is None:
        return ask(
            "asked", user_name=NAME, greeting=sample("Generate a greeting", 50), client_roots=types.ListRootsRequest()
        )
    return done(text(f"{greeting} {name}, of {uris}"))


@tool(f"{PREFIX}multi_round", "Asks one thing after the other")
async def multi_round(context: Context, params: types.CallToolRequestParams) -> Answer:
    if params.request_state is None:
        return ask("round-1", step1=elicit("Step 1: What is your name?", strings("name")))
    if params.request_state == "round-1":
        name = given(params.input_responses, "step1", "name")
        return ask(f"round-2 {name}", step2=elicit("Step 2: What is your favorite color?", strings("color")))
    color = given(params.input_responses, "step2", "color")
    return done(text(f"{params.request_state.removeprefix('round-2 ')} likes {color}"))


@tool(f"{PREFIX}capabilities", "Asks only what the client can answer")
async def capabilities(context: Context, params: types.CallToolRequestParams) -> Answer:
    if params.input_responses:
        return done(text("Answered."))
    declared = context.session.client_capabilities or types.ClientCapabilities()
    requests: dict[str, types.InputRequest] = {}
    if declared.sampling is not None:
        requests["question"] = sample("What is the capital of France?", 100)
    if declared.elicitation is not None:
        requests["user_name"] = NAME
    return ask(**requests) if requests else done(text("There is nobody to ask."))


@tool("test_streaming_elicitation", "Asks the user by its result, never by a request of its own")
async def streaming_elicitation(context: Context, params: types.CallToolRequestParams) -> Answer:
    return await elicitation(context, params)


def prompt_after_input(responses: Responses) -> types.GetPromptResult | types.InputRequiredResult:
    """The prompt that asks for its context first."""
    words = given(responses, "user_context", "context")
    if words is None:
        return ask(user_context=elicit("What context should the prompt use?", strings("context")))
    return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=text(f"Context: {words}"))])
