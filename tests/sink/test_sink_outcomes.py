"""The one word for how a request ended, case by case."""

import pytest
from envoy.data.accesslog.v3 import accesslog_pb2
from hypothesis import given
from hypothesis import strategies as st

from trace_sink.outcomes import FLAGS, OUTCOMES, outcome, outcome_of_interaction

CASES = [
    # decision, grpc, http, flags, details, outcome
    ("allow", 0, 200, "", "via_upstream", "allowed"),
    ("allow", -1, 200, "", "via_upstream", "allowed"),
    ("allow", 0, 200, "DI", "via_upstream", "allowed"),
    ("deny", 7, 200, "UAEX", "ext_authz_denied", "denied"),
    ("deny", 16, 200, "UAEX", "ext_authz_denied", "denied"),
    ("deny", 3, 200, "UAEX", "ext_authz_denied", "denied"),
    ("deny", 8, 200, "UAEX", "ext_authz_denied", "denied"),
    ("deny", -1, 0, "DC", "downstream_remote_disconnect", "denied"),
    ("", 7, 200, "", "rbac_access_denied_matched_policy[none]", "denied"),
    ("", 8, 200, "RL", "local_rate_limited", "limited"),
    ("", -1, 429, "RL", "local_rate_limited", "limited"),
    ("allow", 8, 200, "RL", "local_rate_limited", "limited"),
    ("allow", 8, 200, "", "local_rate_limited", "limited"),
    ("allow", 8, 200, "", "via_upstream", "error"),
    ("allow", 7, 200, "", "via_upstream", "denied"),
    ("allow", 16, 200, "", "via_upstream", "denied"),
    # Plain HTTP has no gRPC status.
    ("deny", -1, 403, "UAEX", "ext_authz_denied", "denied"),
    ("deny", -1, 400, "UAEX", "ext_authz_denied", "denied"),
    ("", -1, 503, "UAEX", "ext_authz_error", "unavailable"),
    ("allow", -1, 202, "", "via_upstream", "allowed"),
    ("allow", -1, 403, "", "via_upstream", "denied"),
    ("allow", -1, 401, "", "via_upstream", "denied"),
    ("allow", -1, 404, "", "via_upstream", "error"),
    ("allow", -1, 503, "UF", "upstream_reset_before_response_started{connection_failure}", "unavailable"),
    ("", -1, 405, "", "direct_response", "error"),
    ("allow", 7, 200, "DR", "downstream_remote_reset", "cancelled"),
    ("", -1, 200, "", "direct_response", "public"),
    ("", 12, 200, "", "direct_response", "error"),
    ("", -1, 404, "", "direct_response", "error"),
    ("", 14, 200, "UAEX", "ext_authz_error", "unavailable"),
    ("", 14, 503, "UAEX", "ext_authz_error", "unavailable"),
    ("", 7, 200, "UAEX", "ext_authz_denied", "unavailable"),
    ("allow", 14, 503, "UF", "upstream_reset_before_response_started{connection_failure}", "unavailable"),
    ("allow", 14, 503, "UH", "no_healthy_upstream", "unavailable"),
    ("allow", 14, 503, "UF,URX", "upstream_reset_before_response_started", "unavailable"),
    ("allow", 14, 503, "UO", "upstream_reset_before_response_started{overflow}", "unavailable"),
    ("allow", 14, 503, "NC", "cluster_not_found", "unavailable"),
    ("allow", 14, 200, "UC", "upstream_reset_after_response_started{connection_termination}", "unavailable"),
    ("allow", 13, 200, "UR", "upstream_reset_after_response_started{remote_reset}", "unavailable"),
    ("", 14, 503, "OM", "overload", "unavailable"),
    ("", -1, 503, "", "", "unavailable"),
    ("allow", 14, 200, "", "via_upstream", "unavailable"),
    ("allow", -1, 200, "DC", "downstream_remote_disconnect", "cancelled"),
    ("allow", 0, 200, "DR", "downstream_remote_reset", "cancelled"),
    ("", -1, 0, "DC", "downstream_remote_disconnect", "cancelled"),
    ("allow", 1, 200, "", "via_upstream", "cancelled"),
    ("allow", 4, 504, "UT", "response_timeout", "error"),
    ("allow", 4, 200, "DT", "duration_timeout", "error"),
    ("allow", 4, 200, "UMSDR", "upstream_max_stream_duration_reached", "error"),
    ("allow", 4, 200, "SI", "stream_idle_timeout", "error"),
    ("allow", 0, 200, "LR", "local_reset", "error"),
    ("allow", 0, 200, "FI", "fault_filter_abort", "error"),
    ("allow", 13, 502, "UPE", "upstream_protocol_error", "error"),
    ("allow", 5, 200, "", "via_upstream", "error"),
    ("allow", 13, 200, "", "via_upstream", "error"),
    ("", 12, 404, "NR", "route_not_found", "error"),
    ("", -1, 400, "DPE", "http2.violation.of.messaging.rule", "error"),
    ("", 3, 400, "IH", "invalid_header", "error"),
    ("", 0, 200, "", "via_upstream", "error"),
]


@pytest.mark.parametrize(("decision", "grpc_status", "http_status", "flags", "details", "expected"), CASES)
def test_outcome(decision: str, grpc_status: int, http_status: int, flags: str, details: str, expected: str) -> None:
    """Ours: the table above."""
    found = outcome(
        decision=decision,
        grpc_status=grpc_status,
        http_status=http_status,
        flags=flags.split(",") if flags else [],
        details=details,
    )

    assert found == expected


@pytest.mark.parametrize(("method", "expected"), [("grpc:session", "allowed"), ("tools/call", "cancelled")])
def test_leaving_is_how_a_standing_stream_ends(method: str, expected: str) -> None:
    """Ours: or every client of a session would end as a failure. Not where nobody allowed it."""

    def left(decision: str, flag: str) -> str:
        return outcome(
            decision=decision, grpc_status=1, http_status=200, flags=[flag] if flag else [], details="", method=method
        )

    assert [left("allow", flag) for flag in ("DR", "DC", "")] == [expected] * 3
    assert left("", "DR") == "cancelled"
    assert outcome_of_interaction(ended="cancelled", reason="", grpc_status=1, method=method) == expected


def test_call_over_a_quota_is_limited_like_one_over_a_rate() -> None:
    """Ours: who limits, Envoy or authz_service, is a matter of settings."""

    def denied_for(reason: str) -> str:
        details = "ext_authz_denied"
        return outcome(decision="deny", reason=reason, grpc_status=8, http_status=200, flags=["UAEX"], details=details)

    assert denied_for("quota_exceeded") == "limited"
    assert denied_for("too_large") == "denied"


INTERACTIONS = [
    # ended, reason, grpc, outcome
    ("ok", "", 0, "allowed"),
    ("tool_error", "", 0, "allowed"),
    ("mcp_error", "", 0, "allowed"),
    ("ok", "", -1, "allowed"),
    ("cancelled", "", 1, "cancelled"),
    ("cancelled", "", -1, "cancelled"),
    ("refused", "not_permitted", 7, "denied"),
    ("refused", "malformed", 3, "denied"),
    ("refused", "token_expired", 16, "denied"),
    ("refused", "revoked", 7, "denied"),
    ("refused", "", 7, "denied"),
    ("refused", "", 3, "error"),
    ("refused", "", -1, "error"),
    ("refused", "quota_exceeded", 8, "limited"),
    ("refused", "rate_limited", 8, "limited"),
    ("failed", "", 8, "error"),
    ("failed", "", 14, "unavailable"),
    ("failed", "stale_ticket", 14, "unavailable"),
    ("failed", "", 4, "error"),
    ("failed", "", 13, "error"),
    ("", "", 0, "error"),
]


@pytest.mark.parametrize(("ended", "reason", "grpc_status", "expected"), INTERACTIONS)
def test_outcome_of_what_the_bridge_recorded(ended: str, reason: str, grpc_status: int, expected: str) -> None:
    """Issue 4: a frame counts as its own call would have."""
    assert outcome_of_interaction(ended=ended, reason=reason, grpc_status=grpc_status) == expected


def test_every_flag_of_envoy_has_a_name() -> None:
    """Envoy: ResponseFlags; `unauthorized_details` is a message and named UAEX."""
    fields = {field.name for field in accesslog_pb2.ResponseFlags.DESCRIPTOR.fields}

    assert fields - set(FLAGS) == {"unauthorized_details"}


@given(
    st.sampled_from(["", "deny", "nonsense"]), st.integers(-1, 16), st.integers(0, 600),
    st.lists(st.sampled_from([*FLAGS.values(), "UAEX"])), st.text(max_size=30),
)  # fmt: skip
def test_nothing_is_allowed_without_a_decision(
    decision: str, grpc_status: int, http_status: int, flags: list[str], details: str
) -> None:
    """Ours: no input is ever counted as allowed by mistake."""
    found = outcome(decision=decision, grpc_status=grpc_status, http_status=http_status, flags=flags, details=details)

    assert found in OUTCOMES
    assert found != "allowed"
