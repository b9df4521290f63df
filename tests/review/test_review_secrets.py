"""Secrets that try to get into a record: written oddly, beside their names, in identifiers, in what a child says."""

import json
from typing import Any

import pytest

from mcp_bridge.capture.keyed import Keyed
from mcp_bridge.capture.rules import Rules, compile_fields
from mcp_bridge.capture.sanitize import Sanitizer

SECRET = "hunter2hunter2XYZ"
DODGES: dict[str, tuple[Any, str]] = {
    "name_and_value": ([{"name": "API_TOKEN", "value": SECRET}], SECRET),
    "key_and_value": ([{"key": "password", "value": SECRET}], SECRET),
    "pair": ([["Authorization", SECRET]], SECRET),
    "argv": (["mysql", "--password", SECRET], SECRET),
    "command": (f"mysql -u root --password {SECRET} db", SECRET),
    "command_quoted": (f'deploy --api-key "{SECRET}"', SECRET),
    "card_float": ({"n": 4111111111111111.0}, "411111"),
    "card_exponent": ({"n": 4.111111111111111e15}, "411111"),
    "card_negative": ({"n": -4111111111111111}, "411111"),
    "card_dots": ({"n": "4111.1111.1111.1111"}, "1111.1111"),
    "card_fullwidth": ({"n": "\uff14" + "\uff11" * 15}, "\uff11\uff11"),
    "card_zero_width": ({"n": "4111\u200b1111\u200b1111\u200b1111"}, "1111\u200b1111"),
    "token_zero_width": ("sk-abcd\u200befghijklmnopqrstuvwx", "efghijkl"),
    "token_half_zero_width": ("sk-abcdefghijklmnopqrst\u200buvwxyzuvwxyz", "uvwxyz"),
    "name_zero_width": ({"pass\u200bword": SECRET}, SECRET),
    "name_fullwidth": ({"\uff50\uff41\uff53\uff53\uff57\uff4f\uff52\uff44": SECRET}, SECRET),
    "name_long": ({"a" * 300 + "password": SECRET}, SECRET),
    "percent": (f"a=1&x=password%3D{SECRET}", SECRET),
    "entity": (f"password&#61;{SECRET}", SECRET),
    "element": (f"<db:password type='x'>{SECRET}</db:password>", SECRET),
    "arrow": (f"'password' => '{SECRET}'", SECRET),
    "scheme": (f"GET /\nAuthorization: Negotiate {SECRET}\n", SECRET),
    "signature": (f"https://b.example/x?X-Amz-Signature={SECRET}", SECRET),
    "url_long": (f"postgres://u:{SECRET * 20}@h/db", SECRET),
    "data_uri": (f"data:text/plain;password={SECRET};base64,AAAA", SECRET),
    "inner_surrogate": (f'{{"a":"\\ud800","pin":"{SECRET}"}}', SECRET),
    "inner_space": (f' \n{{"pin":"{SECRET}"}}', SECRET),
}


@pytest.mark.parametrize("name", DODGES)
def test_a_secret_written_oddly_is_not_recorded(name: str) -> None:
    """Issue 4: capture with sanitization: secrets, tokens, keys and cards, however somebody writes them."""
    value, part = DODGES[name]
    written = Sanitizer(Rules(fields=compile_fields(("pin",))), Keyed(b"k" * 16)).text({"v": value}, 4096)

    assert part not in written
    assert part not in json.dumps(json.loads(written), ensure_ascii=False)
    assert "[redacted:" in written


@pytest.mark.parametrize(
    "text",
    [
        "Gr\u00fc\u00dfe an 4 Leute \u2013 \u2460 und \uff21, \ud83d\udc69\u200d\ud83d\udcbb.",
        "usage: tool --tokens 5 --key-file x",
        "a < b and <p>tokens</p> on 1.2.3.4 at 2026.11.21",
        "the password of the day",
    ],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    """Ours: folding is for looking only; what holds no secret is written as it came."""
    text = text.encode("utf-16", "surrogatepass").decode("utf-16")
    assert json.loads(Sanitizer(Rules(), Keyed(b"k" * 16)).text({"v": text}, 4096)) == {"v": text}
