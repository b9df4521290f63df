"""Revocations as values: how they are written, matched and merged."""

import itertools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.identity import Identity
from authz_service.revocations.entry import (
    Damaged,
    Entry,
    Kind,
    canonical,
    decode,
    decode_all,
    encode,
    encode_all,
    merged,
)
from authz_service.revocations.in_force import InForce
from secure_mcp_grpc.authenticators import Principal
from secure_mcp_grpc.errors import UserError

NOW_US = 1_790_000_000_000_000
FINGERPRINT = "ab" * 32


def entry(kind: Kind, value: str, **fields: object) -> Entry:
    return msgspec.structs.replace(Entry(kind=kind, value=canonical(kind, value), at_us=NOW_US), **fields)


def identity(subject: str = "model-a", fingerprint: str = "00" * 32, serial: str = "0abc") -> Identity:
    spiffe_id = subject if "://" in subject else f"spiffe://mcp.internal/{subject}"
    return Identity(subject, spiffe_id, fingerprint, serial, float("inf"))


def principal(subject: str = "user:corp:alice", *actors: str, jti: str = "t1") -> Principal:
    return Principal(subject, "corp", actors=actors, token_id=jti)


@pytest.mark.parametrize(
    ("revoked", "who"),
    [
        (("identity", "model-a"), identity()),
        (("identity", "model-a"), identity(fingerprint="11" * 32, serial="77")),
        (("identity", "model-a"), identity("Model-A")),
        (("identity", "MODEL-A"), identity()),
        (("identity", " model-a "), identity()),
        (("identity", "spiffe://mcp.internal/model-a"), identity()),
        (("identity", "SPIFFE://MCP.internal/model-a"), identity()),
        (("identity", "spiffe://partner.example/x/y"), identity("spiffe://partner.example/x/y")),
        (("certificate", FINGERPRINT), identity(fingerprint=FINGERPRINT)),
        (("certificate", ":".join(["AB"] * 32)), identity(fingerprint=FINGERPRINT)),
        (("certificate", f"sha256:{FINGERPRINT}"), identity(fingerprint=FINGERPRINT)),
        (("certificate", "abc"), identity()),
        (("certificate", "0ABC"), identity()),
        (("certificate", "00:0a:bc"), identity()),
        (("certificate", "0x0abc"), identity()),
        (("user", "user:corp:alice"), principal()),
        (("user", "USER:corp:Alice"), principal()),
        (("user", "user:corp:alice"), principal("user:corp:ALICE")),
        (("user", "user:corp:a:b"), principal("user:corp:a:b")),
        (("token", "t1"), principal()),
        (("user", "user:corp:bot"), principal("user:corp:alice", "user:corp:agent", "user:corp:bot")),
        (("user", "user:corp:bot"), principal("user:corp:alice", "bot")),
        (("identity", "model-a"), principal("user:corp:alice", "model-a")),
        (("identity", "model-a"), principal("user:corp:alice", "user:corp:spiffe://mcp.internal/model-a")),
        (("identity", "Model-A"), principal("user:corp:spiffe://mcp.internal/model-a")),
        (("identity", "spiffe://b.example/x"), principal("user:corp:alice", "https://idp#spiffe://b.example/x")),
        (("user", "https://idp.example#Bob"), principal("user:corp:alice", "https://idp.example#bob")),
        (("identity", "spiffe://mcp.internal/model-a"), principal("user:corp:alice", "spiffe://mcp.internal/model-a")),
    ],
)
def test_what_is_revoked_is_found(revoked: tuple[Kind, str], who: Identity | Principal) -> None:
    """Issue 3: identity with a new certificate, case, leading zeros, colons, actors of a delegation: none escapes."""
    in_force = InForce([entry(*revoked)], ["mcp.internal"])
    found = in_force.revoked(
        who if isinstance(who, Identity) else None, who if isinstance(who, Principal) else None, NOW_US
    )

    assert found is not None
    assert found.kind == revoked[0]


@pytest.mark.parametrize(
    ("revoked", "who"),
    [
        (("identity", "model-a"), identity("model-ab")),
        (("identity", "model-a"), identity("team/model-a")),
        (("identity", "model-a"), identity("spiffe://partner.example/model-a")),
        (("certificate", "abc"), identity(serial="0abc00")),
        (("certificate", "abc"), identity(fingerprint="abc".rjust(64, "0"), serial="01")),
        (("user", "user:corp:alice"), principal("user:other:alice")),
        (("token", "t1"), principal(jti="T1")),
        (("identity", "model-a"), principal("user:corp:model-a")),
        (("identity", "model-a"), principal("user:corp:spiffe://partner.example/model-a")),
        (("token", "t1"), principal(jti="")),
    ],
)
def test_others_are_not_touched(revoked: tuple[Kind, str], who: Identity | Principal) -> None:
    """Ours: a revocation concerns what it names."""
    in_force = InForce([entry(*revoked)], ["mcp.internal"])
    found = in_force.revoked(
        who if isinstance(who, Identity) else None, who if isinstance(who, Principal) else None, NOW_US
    )

    assert found is None


def test_a_token_of_one_issuer_leaves_the_others_alone() -> None:
    """Issue 3: `jti` is unique for its issuer only (RFC 7519, 4.1.7)."""
    in_force = InForce([entry("token", "t1", issuer="corp")])

    assert in_force.revoked(None, principal(), NOW_US) is not None
    assert in_force.revoked(None, Principal("user:x:alice", "x", token_id="t1"), NOW_US) is None


def test_an_end_ends_it() -> None:
    """Issue 3, with expiry: to the microsecond."""
    in_force = InForce([entry("identity", "model-a", until_us=NOW_US + 1)])

    assert in_force.revoked(identity(), None, NOW_US) is not None
    assert in_force.revoked(identity(), None, NOW_US + 1) is None


def test_quarantine_and_revocation_are_two_things() -> None:
    """Ours: releasing one who is also revoked does not bring it back."""
    revoked, kept = entry("identity", "model-a"), entry("identity", "model-a", quarantine=True)
    known = {one.id: one for one in (revoked, kept)}
    known |= merged(known, [msgspec.structs.replace(kept, lifted=True, at_us=NOW_US + 1)])
    in_force = InForce(known.values())

    assert in_force.revoked(identity(), None, NOW_US) is not None
    assert in_force.quarantined(identity(), None, NOW_US) is None


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("certificate", "xyz", "fingerprint"),
        ("certificate", "000", "fingerprint"),
        ("certificate", "a" * 41, "fingerprint"),
        ("user", "alice", "user:<issuer>:<sub>"),
        ("user", "user:corp:", "user:<issuer>:<sub>"),
        ("identity", "", "printable"),
        ("identity", "a//b", "SPIFFE"),
        ("identity", "../a", "SPIFFE"),
        ("identity", "model-*", "SPIFFE"),
        ("identity", "user:corp:alice", "SPIFFE"),
        ("identity", "spiffe://mcp.internal", "spiffe://"),
        ("token", "a\x1bb", "printable"),
    ],
)
def test_what_could_never_match_is_refused(kind: Kind, value: str, expected: str) -> None:
    """Ours: a revocation that silently has no effect is worse than none."""
    with pytest.raises(UserError, match=expected):
        canonical(kind, value)


names = st.sampled_from(["model-a", "model-b"])
entries = st.builds(
    Entry,
    kind=st.just("identity"),
    value=names,
    quarantine=st.booleans(),
    lifted=st.booleans(),
    at_us=st.integers(1, 3),
    until_us=st.integers(0, 2),
    reason=st.sampled_from(["", "x"]),
)


@settings(deadline=None)
@given(st.lists(entries, max_size=4), st.lists(entries, max_size=3))
def test_copies_merge_to_the_same_in_any_order(first: list[Entry], second: list[Entry]) -> None:
    """Ours: files, Redis and memory agree in the end, whoever hears of what first."""
    whole = [*first, *second]
    expected = merged({}, whole)
    for order in itertools.islice(itertools.permutations(whole), 24):
        known: dict[str, Entry] = {}
        for one in order:
            known |= merged(known, [one])
        assert known == expected
    assert merged(expected, whole) == {}


@settings(deadline=None)
@given(st.lists(entries, unique_by=lambda one: one.id))
def test_the_file_holds_what_was_written(whole: list[Entry]) -> None:
    """Ours: round trip."""
    assert sorted(decode_all(encode_all(whole), "file"), key=encode) == sorted(whole, key=encode)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "not valid JSON"),
        (b"[]", "not a list of revocations"),
        (b'{"format":2,"entries":[]}', "not a list of revocations"),
        (b'{"format":1}', "not a list of revocations"),
        (encode_all([entry("identity", "a")])[:-20], "not valid JSON"),
        (
            b'{"format":1,"entries":[{"kind":"identity","value":"A","at_us":1}]}',
            "entry 1: identity 'A' must be written",
        ),
        (b'{"format":1,"entries":[{"kind":"identity","value":"a","at_us":1,"lfted":true}]}', "lfted"),
        (b'{"format":1,"entries":[{"kind":"identity","value":"a","at_us":0}]}', "microseconds"),
        (b'{"format":1,"entries":[{"kind":"token","value":"a","at_us":1,"quarantine":true}]}', "only identities"),
        (b'{"format":1,"entries":[{"kind":"group","value":"a","at_us":1}]}', "group"),
    ],
)
def test_a_damaged_list_is_named_and_not_half_read(text: bytes, expected: str) -> None:
    """Ours: an entry that cannot be read must not vanish silently."""
    with pytest.raises(Damaged, match=expected) as raised:
        decode_all(text, "revocations.json")
    assert str(raised.value).startswith("revocations.json")


@settings(deadline=None)
@given(st.binary(max_size=60) | st.text().map(str.encode))
def test_nothing_random_is_an_entry(text: bytes) -> None:
    """Ours: whatever Redis holds, reading it ends in `Damaged` at worst."""
    with pytest.raises(Damaged):
        decode(text, "field")
