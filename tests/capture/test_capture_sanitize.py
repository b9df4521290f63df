"""What is written down of JSON values: no secret, bounded, followable under the key."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_bridge.capture.keyed import Keyed
from mcp_bridge.capture.patterns import BUILT_IN, card_digits, compile_patterns
from mcp_bridge.capture.prefix import read_prefix
from mcp_bridge.capture.rules import Rules, compile_fields, compile_paths, start
from mcp_bridge.capture.sanitize import DEEP, MARGIN_CHARS, Sanitizer

PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEAqwertyuiop\nzxcvbnm\n-----END RSA PRIVATE KEY-----"
SECRETS = {
    "card": "4111 1111 1111 1111",
    "card_plain": "5500005555555559",
    "card_hyphens": "3782-822463-10005",
    "email": "alice.o'neil+tag@mail.example.org",
    "email_idn": "jürgen@bücher.example",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl",
    "pem": PEM,
    "aws": "AKIAIOSFODNN7EXAMPLE",
    "github": "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "vendor": "sk-proj-abcdefghijklmnopqrstuvwx",
    "slack": "xoxb-1234567890-abcdefghij",
}
CORES = {name: value for name, value in SECRETS.items() if name not in ("email", "pem")} | {
    "email": "neil+tag@mail.example.org",
    "pem": "MIIEowIBAAKCAQEAqwertyuiop",
}
"""What must not be found; of an address the part that is one by itself."""
IN_TEXT = {
    "bearer": ("Authorization: Bearer {}", "dGhpcyBpcyBhIHRva2Vu"),
    "basic": ("curl -H 'authorization: basic {}'", "dXNlcjpwYXNzd29yZA=="),
    "pair": ("db_password={} host=x", "hunter2hunter2"),
    "quoted": ('the "client_secret": "{}" was set', "a long pass phrase"),
    "single": ("password: '{}'", 'with space and " quote'),
    "escaped": ('log: "{{\\"api_key\\": \\"{}\\"}}"', "k 1 2 3"),
    "url": ("postgres://user:{}@db.internal/x", "s3cr3t-pw"),
    "query": ("https://api.example/v1?access_token={}&page=2", "tok123456789"),
    "cookie": ("Set-Cookie: {}; Path=/", "sid=abc123def; theme=dark"),
}


def sanitizer(key: bytes = b"k" * 16, **rules: Any) -> Sanitizer:
    return Sanitizer(Rules(**rules), Keyed(key))


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("around", ["{}", "see {} there", "x\n{}\ny", "({}),"])
def test_secret_in_text_is_replaced_by_its_hash(name: str, around: str) -> None:
    """Issue 4: secrets, tokens, keys, card and e-mail patterns by default."""
    written = sanitizer().text({"note": around.format(SECRETS[name])}, 4096)

    assert CORES[name] not in json.loads(written)["note"]
    assert "[redacted:" in written


@pytest.mark.parametrize("name", IN_TEXT)
@pytest.mark.parametrize("wrap", [lambda text: text, lambda text: json.dumps({"log": text})])
def test_secret_named_by_the_text_around_it_is_replaced(name: str, wrap: Any) -> None:
    """Issue 4: also where only the words before it tell, and in JSON inside of text."""
    template, secret = IN_TEXT[name]
    written = sanitizer().text({"note": wrap(template.format(secret))}, 4096)

    assert secret not in written
    assert secret not in json.loads(written)["note"]


def test_ordinary_text_stays() -> None:
    """Ours: what is no secret is kept word for word, or the record would be of no use."""
    value = {
        "text": "The basic information: 3 tokens, total tokens: 1523, keyboard; see a@b or 2026-11-21 10:00:00.",
        "numbers": [1, 1732178399000, 4111111111111112, 2.5, True, None, 2**70],
        "url": "https://example.org/a?b=c#d",
        "phone": "0049 170 1234567 and order 1234-5678",
    }
    assert json.loads(sanitizer().text(value, 4096)) == value


def test_cards_are_checked_by_their_digits() -> None:
    """Issue 4: card numbers (Luhn-checked), also as numbers and after other digits."""
    assert card_digits("4111111111111111")
    assert not card_digits("4111111111111112")
    written = sanitizer().text({"n": 4111111111111111, "t": "on 2024 4111 1111 1111 1111 paid"}, 4096)

    tag = json.loads(written)["n"]
    assert "4111" not in written
    assert json.loads(written)["t"].startswith("on 2024 [redacted:")
    assert tag != ""


def test_names_hide_their_values_at_any_depth() -> None:
    """Issue 4: field names to redact; those that speak of secrets always are."""
    value = {"a": 1, "API_Key": "k", "deep": [{"Password": {"x": "p"}}], "authorization": ["t"], "PIN": "1234"}
    written = json.loads(sanitizer(fields=compile_fields(("pin", "*_code"))).text(value, 2048))

    assert written["a"] == 1
    assert all(
        str(one).startswith("[redacted:")
        for one in (written["API_Key"], written["deep"][0]["Password"], written["authorization"], written["PIN"])
    )


def test_paths_hide_what_they_lead_to() -> None:
    """Issue 4: JSON paths."""
    paths = compile_paths(["$.params.arguments.user.ssn", "$.result.rows[*].iban", "$.result['odd name'][1]"])
    one = sanitizer(paths=paths)
    result = {"rows": [{"iban": "DE1", "n": 1}, {"iban": "DE2"}], "odd name": ["keep", "hide"], "iban": "kept"}
    arguments = {"user": {"ssn": "1-2-3", "name": "x"}, "ssn": "kept"}

    found = json.loads(one.text(result, 4096, start(paths, "result")))
    asked = json.loads(one.text(arguments, 4096, start(paths, "params", "arguments")))

    assert "DE1" not in str(found)
    assert "DE2" not in str(found)
    assert (found["odd name"][0], "hide" in str(found), found["iban"]) == ("keep", False, "kept")
    assert (asked["user"]["name"], asked["ssn"], "1-2-3" in str(asked)) == ("x", "kept", False)


@pytest.mark.parametrize("path", ["x", "$", "$.other", "$.params..x", "$.params[?(@.a)]", "$.params." + "a." * 40])
def test_paths_that_are_none_are_refused(path: str) -> None:
    """Ours: a path that would hide nothing must not look as if it did."""
    with pytest.raises(ValueError, match=r"must|has something"):
        compile_paths([path])


def test_equal_secrets_have_equal_hashes_under_one_key_only() -> None:
    """Issue 4: hashes under a key, so that equal values can be followed, but not read."""
    text = {"a": "mail bob@example.com", "token": "bob@example.com", "b": "to bob@example.com now"}
    tags = {part for part in sanitizer().text(text, 4096).replace('"', " ").split() if part.startswith("[redacted:")}
    others = sanitizer(b"another key 1234").text(text, 4096)

    assert len(tags) == 1
    assert tags.pop() not in others


def test_files_are_their_size_and_digest() -> None:
    """Issue 4: images, audio and blobs are not written down."""
    value = {
        "content": [
            {"type": "image", "data": "aGVsbG8=", "mimeType": "image/png"},
            {"type": "resource", "resource": {"uri": "file:///a", "blob": "aGVsbG8="}},
            {"type": "text", "text": "data:image/png;base64,aGVsbG8="},
        ]
    }
    written = sanitizer().text(value, 4096)

    assert "aGVsbG8" not in written
    assert written.count("[5 bytes sha256:2cf24dba5fb0a30e]") == 3


def test_patterns_of_the_settings_hide_their_group() -> None:
    """Issue 4: patterns."""
    one = sanitizer(patterns=(*BUILT_IN, *compile_patterns([r"case (\d{4})", r"(?i)project\s+\w+"])))

    assert one.text({"t": "in case 1234 of PROJECT Falcon"}, 4096).count("[redacted:") == 2
    assert "in case [redacted:" in one.text({"t": "in case 1234"}, 4096)


@pytest.mark.parametrize("pattern", ["(", "a" * 501, "x*", r"(?=a)b", r"(a)\1"])
def test_patterns_that_cannot_be_used_are_refused(pattern: str) -> None:
    """Ours: at the start, in words."""
    with pytest.raises(ValueError, match=r"pattern|regular|empty"):
        compile_patterns([pattern])


HOSTILE = (
    *("eyJ", "a@", "4111 ", "4111-", "2222 222 ", "9", "bearer ", "password=", "key: ", "-----BEGIN PRIVATE KEY"),
    *(
        "://a:",
        "\\",
        '\\"',
        "{[",
        "[",
        '{"a":',
        'token:\\"',
        "sk-",
        "cookie: ",
        "a.",
        "authorization: basic ",
        '"key":"',
    ),
)


@pytest.mark.parametrize("piece", HOSTILE)
def test_no_text_makes_the_work_long(piece: str) -> None:
    """Ours: 1 MiB of whatever repeats badly costs what the size asked for costs, not what its own size does."""
    one = sanitizer(patterns=(*BUILT_IN, *compile_patterns(["(a+)+b"])))
    text = piece * (1_048_576 // len(piece))
    began = time.process_time()
    for value in ({"t": text}, [text[:4000]] * 50, {text: 1}):
        assert len(one.text(value, 4096).encode()) <= 4096

    assert time.process_time() - began < 1.0


def test_deep_and_long_values_cost_little() -> None:
    """Ours: the work is bounded by what is kept."""
    deep: Any = []
    for _ in range(500):
        deep = [deep]
    one = sanitizer()

    assert DEEP in one.text({"deep": deep}, 2048)
    assert len(one.text({"long": "x" * 1_000_000, "more": ["y"] * 100_000}, 100)) == 100
    assert one.text({"lone": "\ud800"}, 100) == '{"lone":"\\ud800"}'
    assert one.text({}, 100) == ""


plain = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=10)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)
planted_text = st.builds(
    lambda name, before, after: (name, f"{before} {SECRETS[name]} {after}"),
    st.sampled_from(sorted(SECRETS)),
    st.text(st.characters(exclude_characters="QXZJ"), max_size=30),
    st.text(st.characters(exclude_characters="QXZJ"), max_size=30),
)
planted_name = st.tuples(
    st.sampled_from(("password", "Api-Key", "x_token", "SECRET", "pin")), st.text("QXZJ", min_size=12, max_size=20)
)


@settings(deadline=None, max_examples=300)
@given(
    plain, st.lists(planted_text, max_size=3), st.lists(planted_name, max_size=3), st.integers(0, 600), st.booleans()
)
def test_planted_secrets_are_never_written(
    value: Any, texts: list[tuple[str, str]], named: list[tuple[str, str]], max_bytes: int, inner: bool
) -> None:
    """Issue 4: for any JSON; what is written is bounded, and is JSON where it was not cut."""
    document: Any = {"v": value, "t": [text for _, text in texts], "n": [{name: secret} for name, secret in named]}
    if inner:
        document = {"content": [{"type": "text", "text": json.dumps(document)}]}
    one = sanitizer(fields=compile_fields(("pin",)))
    for limit in (max_bytes, 1 << 20):
        written = one.text(document, limit)

        assert len(written.encode("utf-8", "surrogatepass")) <= limit
        for secret in [CORES[name] for name, _ in texts] + [secret for _, secret in named]:
            assert secret not in written
            assert json.dumps(secret)[1:-1] not in written
    assert isinstance(json.loads(written), dict)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(sorted(SECRETS)), st.integers(0, 3000), st.integers(1, 3000))
def test_no_part_of_a_secret_is_left_at_the_cut(name: str, at: int, max_bytes: int) -> None:
    """Ours: a secret that is cut in the middle would no longer be known for one."""
    text = "w " * (at // 2) + PEM + " " + "\u00e4 " * 40 + SECRETS[name] + " y" * 3000
    written = sanitizer().text({"t": text}, max_bytes)

    assert CORES[name][: len(CORES[name]) // 2] not in written
    assert "MIIEow" not in written


@settings(deadline=None, max_examples=200)
@given(plain, st.integers(1, 400))
def test_prefix_of_json_is_read_as_far_as_it_goes(value: Any, size: int) -> None:
    """Ours: of an answer too long to be read whole the beginning is."""
    text = json.dumps({"result": value, "z": "end"}).encode()
    found = read_prefix(text, size)

    assert found is None or isinstance(found, dict)
    if size >= len('{"result":') + 1:
        assert found is not None


def test_prefix_leaves_out_the_end_of_a_cut_text() -> None:
    """Ours: it may be half a secret."""
    text = json.dumps({"result": {"content": [{"type": "text", "text": "w" * 3000 + SECRETS["jwt"]}]}}).encode()
    cut_at = text.index(b"eyJ") + 5
    one = sanitizer()

    written = one.text(read_prefix(text, cut_at)["result"], 1 << 20, is_prefix=True)

    assert "eyJ" not in written
    assert "w" * (3000 - MARGIN_CHARS) in written
    with pytest.raises(ValueError, match="column"):
        json.loads(written)
