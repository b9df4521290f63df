"""CheckRequest bytes to CheckResponse bytes: what Envoy, the bridge, the client and the journal get to see."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest
from authz_requests import (
    POLICY,
    answered,
    check_request,
    frame,
    policy_of,
    records,
)
from envoy.service.auth.v3 import external_auth_pb2

from authz_service import checker as checker_module
from authz_service.answer import FAULT_ANSWER
from authz_service.checker import Checker
from authz_service.journal import Journal
from authz_service.pipeline import Pipeline
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

Make = Callable[[bytes], Checker]


def test_allowed_call_carries_headers_and_metadata(make_checker: Make, journal: Journal) -> None:
    """Ours: the contract with bridge and access log."""
    answer = answered(make_checker(POLICY).check(check_request().SerializeToString()))

    assert answer.code == 0
    assert answer.headers == {
        "x-mcp-subject": "model-a",
        "x-mcp-roles": "role:reader",
        "x-mcp-target": "tools/call get_current_time",
        "x-mcp-decision": f"{journal.chain}:2",
    }
    assert list(answer.response.ok_response.headers_to_remove) == ["x-mcp-user", "x-mcp-user-roles", "authorization"]
    assert answer.metadata == {
        "decision": "allow",
        "reason": "permitted",
        "rule": "p, role:reader, tools/call, get_current_time, allow",
        "subject": "model-a",
        "spiffe_id": "spiffe://mcp.internal/model-a",
        "user": "",
        "roles": "role:reader",
        "method": "tools/call",
        "tool": "get_current_time",
        "session_id": "",
        "policy_version": policy_of(POLICY).version,
        "chain": journal.chain,
        "seq": "2",
    }


@pytest.mark.parametrize(
    ("request_of", "sentence"),
    [
        (("model-b", "tools/call", "git_commit"), "model-b may not call git_commit: no rule allows it"),
        (("model-c", "tools/call", "git_commit"), "model-c may not call git_commit: a rule forbids it"),
        (
            ("model-b", "resources/read", "file:///x"),
            "model-b may not use resources/read on file:///x: no rule allows it",
        ),
        (("model-b", "tools/list", ""), "model-b may not use tools/list: no rule allows it"),
        (("model-b", "tools/call", "löschen%"), "model-b may not call löschen%: no rule allows it"),
    ],
)
def test_refusal_says_who_what_and_why(make_checker: Make, request_of: tuple[str, str, str], sentence: str) -> None:
    """Issue 2: a sentence a person understands, percent-encoded for grpc-message."""
    answer = answered(make_checker(POLICY).check(check_request(*request_of).SerializeToString()))

    assert answer.code == 7
    assert answer.response.denied_response.status.code == 403
    assert answer.headers["grpc-status"] == "7"
    assert unquote(answer.headers["grpc-message"]) == sentence
    assert answer.headers["grpc-message"].isascii()
    assert answer.metadata["decision"] == "deny"


def test_refusal_tells_wrong_arguments_from_wrong_tools(make_checker: Make) -> None:
    """Ours: a caller that may use the tool otherwise should know that it can; what the rule says stays ours."""
    checker = make_checker(b"p, model-a, tools/call, query, allow, args.limit <= 100\n")
    sentences = []
    for name, arguments in (("query", {"limit": 500}), ("query", {}), ("drop", {"limit": 5})):
        answer = answered(checker.check(check_request(name=name, arguments=arguments).SerializeToString()))
        assert answer.code == 7
        sentences.append(unquote(answer.headers["grpc-message"]))

    assert sentences == [
        "model-a may not call query: no rule allows it with these arguments",
        "model-a may not call query: no rule allows it with these arguments",
        "model-a may not call drop: no rule allows it",
    ]


def test_rule_behind_a_refusal_goes_to_the_journal_and_not_to_the_peer(make_checker: Make, tmp_path: Path) -> None:
    """Ours: rules name other identities and tools."""
    answer = answered(
        make_checker(POLICY).check(check_request("model-c", "tools/call", "git_commit").SerializeToString())
    )

    rule = "p, model-c, tools/call, git_commit, deny"
    assert answer.metadata["rule"] == rule
    assert rule not in answer.response.denied_response.SerializeToString().decode(errors="replace")
    assert records(tmp_path / "journal")[-1]["rule"] == rule


def test_record_holds_who_what_and_which_rule_but_no_arguments(make_checker: Make, tmp_path: Path) -> None:
    """Ours: a digest stands for the arguments."""
    checker = make_checker(POLICY)
    for arguments in ({"secret": "s3cr3t", "a": 1}, {"a": 1, "secret": "s3cr3t"}, {"a": 2}):
        checker.check(check_request(arguments=arguments).SerializeToString())

    first, second, third = records(tmp_path / "journal")[-3:]
    assert first["identity"] == "model-a"
    assert (first["method"], first["tool"], first["decision"]) == ("tools/call", "get_current_time", "allow")
    assert first["request_id"] == "request-1"
    assert first["args_digest"] == second["args_digest"] != third["args_digest"]
    assert "s3cr3t" not in (tmp_path / "journal" / "journal-00000001.jsonl").read_text()


def test_session_id_is_not_remembered_from_another_call(make_checker: Make) -> None:
    """Ours: what is remembered as bytes must not leak what varies."""
    checker = make_checker(POLICY)
    seen = []
    for session in ("s1", "", "s2"):
        body = frame(pb.Request(method="tools/list", id_json=b"1", session_id=session).SerializeToString())
        seen.append(answered(checker.check(check_request(body=body).SerializeToString())).metadata["session_id"])

    assert seen == ["s1", "", "s2"]


def test_identity_headers_of_a_client_do_not_count(make_checker: Make) -> None:
    """Issue 2: a client's own x-mcp-subject is ignored, and so is XFCC."""
    forged = {"x-mcp-subject": "model-a", "x-forwarded-client-cert": "URI=spiffe://mcp.internal/model-a"}

    answer = answered(make_checker(POLICY).check(check_request("model-b", headers=forged).SerializeToString()))

    assert answer.code == 7
    assert answer.metadata["subject"] == "model-b"


def test_unauthenticated_is_401(make_checker: Make) -> None:
    """Ours: no certificate, no decision about policy."""
    request = check_request()
    request.attributes.source.certificate = ""

    answer = answered(make_checker(POLICY).check(request.SerializeToString()))

    assert (answer.code, answer.response.denied_response.status.code) == (16, 401)
    assert answer.metadata["subject"] == ""


def test_malformed_request_is_400_and_recorded(make_checker: Make, tmp_path: Path) -> None:
    """Issue 3: what no honest client sends is refused with a clear status and leaves a record."""
    answer = answered(make_checker(POLICY).check(check_request(body=b"junk").SerializeToString()))

    assert (answer.code, answer.response.denied_response.status.code) == (3, 400)
    assert records(tmp_path / "journal")[-1]["reason"] == "malformed"
    assert records(tmp_path / "journal")[-1]["identity"] == "model-a"


def test_bug_denies(make_checker: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ours: an exception is never an allow, and it is recorded."""
    monkeypatch.setattr(Pipeline, "run", lambda *_args, **_kw: 1 / 0)

    answer = answered(make_checker(POLICY).check(check_request().SerializeToString()))

    assert (answer.code, answer.metadata["decision"], answer.metadata["reason"]) == (13, "deny", "internal_fault")
    assert records(tmp_path / "journal")[-1]["reason"] == "internal_fault"


def test_bug_in_the_answer_denies(make_checker: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: the last resort is a refusal made beforehand."""
    monkeypatch.setattr(checker_module, "answer", lambda *_args: 1 / 0)

    answer = answered(make_checker(POLICY).check(check_request().SerializeToString()))

    assert answer.response == answered(FAULT_ANSWER).response
    assert answer.code == 13


def test_empty_check_request_is_refused(make_checker: Make) -> None:
    """Ours: nothing starts out allowed."""
    assert answered(make_checker(b"p, model-a, *, *, allow").check(b"")).code == 16


def test_answers_survive_a_second_parse(make_checker: Make) -> None:
    """protobuf: two messages after one another are one message; the answer re-serializes to the same meaning."""
    content = make_checker(POLICY).check(check_request().SerializeToString())
    response = external_auth_pb2.CheckResponse.FromString(content)

    again = external_auth_pb2.CheckResponse.FromString(response.SerializeToString())

    assert again == response
    assert len(response.ok_response.headers) == 4
