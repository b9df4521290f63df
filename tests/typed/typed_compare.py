"""Two results compared where the first is not said to have lost something."""

from collections.abc import Sequence
from typing import Any

LOST = object()
HINTS = {"readOnlyHint": False, "destructiveHint": True, "idempotentHint": False, "openWorldHint": True}
LISTS = {"tools", "resources", "resourceTemplates", "prompts"}


def normal(rpc: str, given: dict[str, Any], dropped: Sequence[str]) -> dict[str, Any]:
    """A copy of `given` with what MCP says about absent members written out, and with one way of naming options.

    Of list items that are `dropped` as a whole nothing is said: they may be anything.
    """
    result = _copied(given)
    result.setdefault("resultType", "complete")
    if result["resultType"] == "input_required":
        for request in result.setdefault("inputRequests", {}).values():
            _normal_request(request)
    elif rpc == "CallTool":
        result.setdefault("isError", False)
    elif rpc == "Complete":
        result["completion"].setdefault("hasMore", False)
    for tool in _kept(result, "tools", dropped) if rpc == "ListTools" else ():
        tool["annotations"] = HINTS | (tool.get("annotations") or {})
    for prompt in _kept(result, "prompts", dropped) if rpc == "ListPrompts" else ():
        for argument in prompt["arguments"] if isinstance(prompt.get("arguments"), list) else ():
            argument.setdefault("required", False)
    return result


def _kept(result: dict[str, Any], member: str, dropped: Sequence[str]) -> list[Any]:
    return [item for number, item in enumerate(result[member]) if f"/{member}/{number}" not in dropped]


def _normal_request(request: dict[str, Any]) -> None:
    params = request.setdefault("params", {})
    if request["method"] == "sampling/createMessage":
        params.setdefault("includeContext", "none")
    elif request["method"] == "elicitation/create":
        params.setdefault("mode", "form")
        for field in params.get("requestedSchema", {}).get("properties", {}).values():
            for holder in (field, field.get("items", {})):
                for member in ("oneOf", "anyOf"):
                    if member in holder and "enum" not in holder:
                        options = holder.pop(member)
                        holder |= {
                            "type": "string",
                            "enum": [one["const"] for one in options],
                            "enumNames": [one["title"] for one in options],
                        }


def without(result: dict[str, Any], pointers: Sequence[str]) -> Any:
    """`result` with `LOST` in all places that are named, and without list items that are."""
    for pointer in pointers:
        _lose(result, [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]])
    for member in LISTS & result.keys():
        if isinstance(result[member], list):
            result[member] = [item for item in result[member] if item is not LOST]
    return result


def _lose(place: Any, parts: list[str]) -> None:
    for number, part in enumerate(parts):
        key: Any = int(part) if isinstance(place, list) else part
        if number == len(parts) - 1:
            place[key] = LOST
            return
        if place is LOST:
            return
        if isinstance(place, list) and place == []:
            return
        place = place[key]


def differences(left: Any, right: Any, path: str = "") -> list[str]:
    """Where the two differ; a `LOST` on the left differs from nothing."""
    if left is LOST:
        return []
    if isinstance(left, list) and len(left) == 1 and isinstance(right, dict) and path.endswith("/content"):
        left = left[0]  # sampling: one block may stand in a list or by itself
    if isinstance(left, dict) and isinstance(right, dict):
        found = []
        for key in left.keys() | right.keys():
            if key not in left or (key not in right and left[key] is not LOST):
                found.append(f"{path}/{key}")
            elif key in right:
                found += differences(left[key], right[key], f"{path}/{key}")
        return found
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        return [
            one for n, (a, b) in enumerate(zip(left, right, strict=True)) for one in differences(a, b, f"{path}/{n}")
        ]
    same = left == right and isinstance(left, bool) == isinstance(right, bool)
    return [] if same else [path]


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value
