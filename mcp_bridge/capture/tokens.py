"""How many tokens a request and its answer are worth: as reported by a message, else estimated. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

__all__ = ["Tokens", "count"]

_INPUT: Final = ("input_tokens", "inputTokens", "prompt_tokens", "promptTokens", "gen_ai.usage.input_tokens")
_OUTPUT: Final = (
    *("output_tokens", "outputTokens", "completion_tokens", "completionTokens"),
    "gen_ai.usage.output_tokens",
)
_USAGE: Final = frozenset({"usage", "tokenUsage", "token_usage"})
_BYTES_PER_TOKEN: Final = 4
_MOST: Final = 1 << 40


class Tokens(NamedTuple):
    tokens_in: int
    tokens_out: int
    source: str
    """`reported` or `estimated`."""


def count(request_bytes: int, answer_bytes: int, result: Any) -> Tokens:
    """Tokens in and out.

    Reported: what a model behind the server, or the client's own in an answer
    to sampling, says it used: `usage` in the result, in its `_meta` (also
    under a prefix, `example.com/usage`) or in its structured content, in the
    names of the large vendors. MCP itself defines no such field.

    Estimated: one token for four bytes of UTF-8, of the arguments (in) and of
    the result's JSON without files (out): what the caller's model wrote, and
    is given to read. English text has about that many, code and other
    scripts more tokens a byte; it is good for trends, not for bills.
    """
    for usage in _usages(result):
        used = _first(usage, _INPUT), _first(usage, _OUTPUT)
        if used != (None, None):
            return Tokens(used[0] or 0, used[1] or 0, "reported")
    return Tokens(_estimate(request_bytes), _estimate(answer_bytes), "estimated")


def _usages(result: Any) -> Iterator[Mapping[str, Any]]:
    if not isinstance(result, Mapping):
        return
    for holder in (result, result.get("_meta"), result.get("structuredContent")):
        if type(holder) is dict:
            for key, value in holder.items():
                if type(value) is dict and key.rpartition("/")[2] in _USAGE:
                    yield value
    meta = result.get("_meta")
    if isinstance(meta, Mapping):
        yield meta


def _first(usage: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = usage.get(name)
        if type(value) is int and 0 <= value <= _MOST:
            return value
    return None


def _estimate(size_bytes: int) -> int:
    return -(-max(0, size_bytes) // _BYTES_PER_TOKEN)
