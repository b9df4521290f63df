"""The quota step: what counts against what, and what the caller is told."""

import asyncio
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from authz_service.case import Case
from authz_service.identity import Identity
from authz_service.quotas.local import LocalQuotas
from authz_service.quotas.quota import Quota
from authz_service.quotas.settings import QuotaSettings
from authz_service.quotas.takes import Counted
from authz_service.shared_state import SharedStateLost
from authz_service.steps.quota import QuotaStep
from authz_service.verdict import FAULT, Code, Deny
from secure_mcp_grpc.authenticators import Principal
from secure_mcp_grpc.calls import McpCall
from secure_mcp_grpc.errors import UserError

MINUTE = 60_000_000


def case(
    subject: str = "model-a", method: str = "tools/call", name: str = "git_commit", user: str = "", jti: str = ""
) -> Case:
    made = Case(None, 1_790_000_000.0, policy=None)  # type: ignore[arg-type] # no step here asks policy
    if subject:
        made.identity = Identity(subject, f"spiffe://mcp.internal/{subject}", "ab" * 32, "0abc", float("inf"))
    if user:
        made.principal = Principal(user, "corp", token_id=jti)
    made.call = McpCall(method, name, {})
    return made


def counters(quota: Quota, *cases: Case) -> list[str]:
    counted = Counted([quota])
    return [take.key for one in cases for take in counted.takes(one)]


@pytest.mark.parametrize(
    ("by", "same", "other"),
    [
        ("identity", case(name="git_status"), case("model-b")),
        ("identity_tool", case(user="user:corp:alice"), case(name="git_status")),
    ],
)
def test_what_shares_a_counter(by: Any, same: Case, other: Case) -> None:
    """Issue 3: per identity; per identity and tool."""
    one, two, three = counters(Quota("q", by, 1, MINUTE), case(), same, other)

    assert one == two != three


def test_users_and_tokens() -> None:
    """Issue 3: per user, per token; a token without `jti` counts as its user, and no token against neither."""
    alice, again = case(user="user:corp:alice", jti="t1"), case("model-b", user="user:corp:alice", jti="t2")
    nameless = case(user="user:corp:alice")
    by_user, by_token = Quota("u", "user", 1, MINUTE), Quota("t", "token", 1, MINUTE)

    assert len(set(counters(by_user, alice, again, nameless))) == 1
    assert len(set(counters(by_token, alice, again, nameless))) == 3
    assert counters(by_user, case()) == counters(by_token, case()) == []
    assert len(set(counters(Quota("i", "identity", 1, MINUTE), case("", user="user:corp:alice")))) == 1


def test_patterns_choose_what_counts() -> None:
    """Ours: tools/call by default; methods, tools and identities by pattern."""
    default = Quota("q", "identity", 1, MINUTE)
    narrow = Quota("q", "identity", 1, MINUTE, ("resources/*",), ("file:*",), ("team/*",))

    assert counters(default, case(method="tools/list", name="")) == []
    assert counters(narrow, case(), case("team/a"), case("team/a", "resources/read", "http://x")) == []
    assert len(counters(narrow, case("team/a", "resources/read", "file:///x"))) == 1


texts = st.text(max_size=8) | st.sampled_from(["a", "a:b", "a%3Ab", "b", ":", "%", "\n", "tools/call"])


@settings(deadline=None)
@given(st.tuples(texts, texts, texts), st.tuples(texts, texts, texts))
@example(("a", "b:c", "d"), ("a:b", "c", "d"))
@example(("a", "b", "c%3Ad"), ("a", "b", "c:d"))
def test_no_two_share_a_key_by_accident(one: tuple[str, str, str], two: tuple[str, str, str]) -> None:
    """Ours: no choice of names lets one spend another's quota."""
    quota = Quota("q", "identity_tool", 1, MINUTE, ("*",))
    first, second = counters(quota, case(*one)), counters(quota, case(*two))
    if one[0] and two[0]:
        assert (first == second) == (one == two)
        assert max(map(len, first + second)) <= 300


def test_long_names_have_short_keys() -> None:
    """Ours: what a client writes does not fill Redis."""
    quota = Quota("q", "identity_tool", 1, MINUTE)
    one, two = counters(quota, case(name="x" * 2000), case(name="x" * 1999 + "y"))

    assert len(one) < 100
    assert one != two


def test_the_sentence_says_what_and_when() -> None:
    """Issue 3: RESOURCE_EXHAUSTED with a retry hint; the name of the quota goes to the journal."""
    now_us = [0]
    quota = Quota("commits", "identity_tool", 1, MINUTE)
    step = QuotaStep([quota], LocalQuotas(100, lambda: now_us[0]).take)
    first = step.judge(case())
    now_us[0] += 51 * 1_000_000 + 1
    second = step.judge(case())

    assert first is None
    assert second == Deny(
        Code.RESOURCE_EXHAUSTED,
        "quota_exceeded",
        "model-a has used up its quota of 1 call per 60 s for git_commit; try again in 12 s",
        "quota commits",
        12,
    )


def test_a_request_without_a_call_is_a_fault() -> None:
    """Ours: a chain in the wrong order refuses."""
    blank = case()
    blank.call = None

    assert QuotaStep([Quota("q", "identity", 1, MINUTE)], LocalQuotas(100).take).judge(blank) is FAULT


async def test_a_lost_state_is_a_refusal() -> None:
    """Issue 3: refuse instead, at once or after a wait."""

    def lost(_: object) -> None:
        raise SharedStateLost

    async def later(_: object) -> None:
        await asyncio.sleep(0)
        raise SharedStateLost

    quotas = [Quota("q", "identity", 1, MINUTE)]
    at_once = QuotaStep(quotas, lost).judge(case())
    waited = QuotaStep(quotas, later).judge(case())
    assert isinstance(at_once, Deny)
    assert not isinstance(waited, Deny | None)

    assert at_once.code == Code.UNAVAILABLE
    assert await waited == at_once


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("commits identity_tool 100", "NAME BY LIMIT/SECONDS"),
        ("commits tool 100/60", "identity_tool"),
        ("commits identity 0/60", "greater than or equal to 1"),
        ("commits identity 5/0.01", "greater than or equal to 0.1"),
        ("a identity 5/60, a user 5/60", "two quotas are called a"),
        ("bad:name identity 5/60", "pattern"),
    ],
)
def test_a_quota_that_cannot_be_kept_stops_the_start(text: str, expected: str) -> None:
    """Ours: one line that names variable and value."""
    with pytest.raises(UserError, match=expected) as raised:
        QuotaSettings.load({"MCP_AUTHZ_QUOTAS": text})
    assert str(raised.value).startswith("MCP_AUTHZ_QUOTAS")


def test_quotas_as_text() -> None:
    """Ours: the short form, for a variable."""
    loaded = QuotaSettings.load({"MCP_AUTHZ_QUOTAS": "all identity 600/60, commits identity_tool 5/0.5 git_*"})
    quotas = [spec.quota() for spec in loaded.quotas]

    assert [(quota.name, quota.by, quota.limit, quota.window_us) for quota in quotas] == [
        ("all", "identity", 600, MINUTE),
        ("commits", "identity_tool", 5, 500_000),
    ]
    assert quotas[1].tools == ("git_*",)
