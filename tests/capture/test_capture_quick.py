"""The quick look writes what the whole walk would have written, and nothing that the walk would have hidden."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcp_bridge.capture import rules
from mcp_bridge.capture.keyed import Keyed
from mcp_bridge.capture.lineage import digests, may_hold_data
from mcp_bridge.capture.patterns import BUILT_IN, compile_patterns
from mcp_bridge.capture.rules import Rules, compile_fields
from mcp_bridge.capture.sanitize import Sanitizer

SANITIZER = Sanitizer(Rules(), Keyed(b"k" * 16))
PIECES = [
    *("password", "PassPhrase", "pwd=", "api_key", "to\u212aen", "pa\u017f\u017fword=abc", "token: abcdef", "secret"),
    *("4111 1111 1111 1111", "5500005555555559", "3782-822463-10005", "41111111", "a@b.example", "://u:pw12@h/"),
    *("eyJhbGciOiJIUzI1NiJ9.e30.x", "AKIAIOSFODNN7EXAMPLE", "ghp_abcdefghijklmnopqrst", "sk-abcdefghijklmnopqrst"),
    *("xoxb-1234567890-abc", "ya29.abcdefghijkl", "SG.abcdefghijklmnopqrs", "Bearer dGhpcyBpcyBh", "Cookie: a=bcdef"),
    *("-----BEGIN PRIVATE KEY-----\nMII\n", "data:image/png;base64,AAAA", "\ue000cut", "plain words", "a b", "4111"),
    *(
        "data",
        "blob",
        "uri",
        "image",
        "type",
        "text",
        '"',
        "\\",
        "\\u0070",
        "\n",
        "\u0001",
        "é",
        "{",
        "}",
        "[",
        ":",
        ",",
    ),
]
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=5).map("".join)
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | texts
cards = st.sampled_from([4111111111111111, -5500005555555559, 4111111111111111.0, 4.242e15, 5.9e13, 3e13, 6.1e12])
encoded = texts.map(lambda text: json.dumps({"a": text, "key" if "k" in text else "b": text}))
values = st.recursive(
    scalars | cards | encoded,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
nested = st.builds(lambda value, depth: _deep(value, depth), values, st.integers(0, 40))


def _deep(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


@given(values | nested, st.integers(1, 600))
@example({"type": "image", "data": "AAAA"}, 600)
@example({"uri": "x", "blob": "AAAA"}, 600)
@example({"text": json.dumps({"type": "audio", "data": "AAAA"})}, 600)
@example({"text": '{"\\u0070assword": "abcdefgh"}'}, 600)
@example({"n": 4111111111111111}, 600)
@example([5.4e18, -6.7e13, 2.03e17], 600)
@example({"": None}, 9)
@example({"name": "X-Api-Key", "value": "a"}, 600)
@example(["--password", "a"], 600)
@example({"card": "4111.1111.1111.1111"}, 600)
def test_quick_look_writes_what_the_walk_writes(value: Any, max_bytes: int) -> None:
    """Ours: the look saves work, and changes no record."""
    value = _received(value)
    written = SANITIZER.harmless(value, max_bytes)

    assert written is None or written == SANITIZER.text(value, max_bytes)


@given(values)
@example(["\\" * 20])
@example([["a" * 15 + '"']])
@example({"text": '["abcdefghijklmnopqrstu"]'})
def test_no_data_is_overlooked(value: Any) -> None:
    """Ours: what the quick look calls free of longer texts and files has no digests."""
    value = _received(value)
    written = SANITIZER.harmless(value, 10_000)

    assert may_hold_data(written) or digests(value, SANITIZER.keyed) == []


def test_every_secret_name_has_words_to_look_for() -> None:
    """Ours: a name that is added to the rules is found by the look, too."""
    for name in rules._SECRET_NAME.pattern.split("|"):
        assert any(word in name.replace("_?", "") for word in rules.SECRET_WORDS), name


@pytest.mark.parametrize("pattern", BUILT_IN, ids=lambda pattern: pattern.name)
def test_every_pattern_has_words_to_look_for(pattern: Any) -> None:
    """Ours: one without would make every message take the long way."""
    assert pattern.needles


@pytest.mark.parametrize(
    "hidden",
    [
        pytest.param(Rules(fields=compile_fields(("ssn",))), id="fields"),
        pytest.param(Rules(patterns=(*BUILT_IN, *compile_patterns([r"EMP-(\d+)"]))), id="patterns"),
    ],
)
def test_rules_that_no_word_tells_of_have_no_quick_look(hidden: Rules) -> None:
    """Ours: what a setting hides is found by walking."""
    assert Sanitizer(hidden, Keyed(b"k" * 16)).harmless({"ssn": "EMP-1"}, 600) is None


def test_ordinary_messages_need_one_look() -> None:
    """Ours: the quick way is the usual one."""
    result = {
        "content": [{"type": "text", "text": 'The answer is "4", see https://a.example/x?y=1.\n'}],
        "isError": False,
    }

    assert SANITIZER.harmless(result, 600) == msgspec.json.encode(result).decode()


def _received(value: Any) -> Any:
    """As a message brings it."""
    return msgspec.json.decode(msgspec.json.encode(value)) if _is_unicode(value) else json.loads(json.dumps(value))


def _is_unicode(value: Any) -> bool:
    try:
        msgspec.json.decode(msgspec.json.encode(value))
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError):
        return False
    return True
