"""Rows whose totals are known: one hour of one day, written down as counts."""

from typing import Final
from uuid import UUID

FROM: Final = "2026-03-04T10:00"
TO: Final = "2026-03-04T11:00"
SCRIPT: Final = "<script>alert(1)</script>"
BATCH: Final = str(UUID(int=7))

COUNTS: Final = [
    # identity, method, tool, outcome, reason, rule, rows
    ("model-a", "tools/call", "get_current_time", "allowed", "permitted", "role:reader", 1200),
    ("model-a", "tools/list", "", "allowed", "permitted", "role:reader", 21),
    ("model-b", "tools/call", "git_status", "allowed", "permitted", "role:writer", 40),
    ("model-b", "tools/call", "git_commit", "denied", "not_permitted", "", 18),
    ("model-b", "tools/call", "git_log", "error", "permitted", "role:writer", 4),
    ("model-c", "tools/call", "git_commit", "denied", "denied_by_rule", "p, model-c, tools/call, git_commit, deny", 9),
    ("model-c", "tools/call", SCRIPT, "denied", "not_permitted", "", 3),
    ("model-c", "tools/call", "get_current_time", "limited", "", "", 25),
    ("model-c", "", "", "limited", "", "", 14),
    ("model-a", "tools/call", "o'clock\\n", "unavailable", "", "", 2),
    ("", "tools/call", "get_current_time", "cancelled", "", "", 1),
]
REQUESTS: Final = sum(row[-1] for row in COUNTS)
REQUEST_BYTES: Final = 100
RESPONSE_BYTES: Final = 1000
CLAIM: Final = "spiffe://mcp.internal/model-a"
HANDSHAKES: Final = 5


def total(*outcomes: str) -> int:
    return sum(row[-1] for row in COUNTS if row[3] in outcomes)


def requests() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for identity, method, tool, outcome, reason, rule, count in COUNTS:
        for _ in range(count):
            place = len(rows)
            rows.append(
                row(
                    f"2026-03-04 10:{place % 60:02}:{place // 60 % 60:02}.{place:06}",
                    identity=identity,
                    method=method,
                    tool=tool,
                    outcome=outcome,
                    reason=reason,
                    rule=rule,
                )
            )
    return rows


def row(ts: str, **values: object) -> dict[str, object]:
    """A request; allowed ones took 2,000 microseconds."""
    return {
        "ts": ts,
        "node": "test",
        "request_id": f"r-{ts}",
        "server": "time",
        "grpc_status": {"allowed": 0, "denied": 7, "limited": 8}.get(str(values["outcome"]), 14),
        "duration_us": 2000,
        "request_bytes": REQUEST_BYTES,
        "response_bytes": RESPONSE_BYTES if values["outcome"] == "allowed" else 0,
        "peer_address": "127.0.0.1:40000",
        "batch_id": BATCH,
        **values,
    }


def handshakes() -> list[dict[str, object]]:
    return [
        {
            "ts": f"2026-03-04 10:3{place}:00.000000",
            "node": "test",
            "peer_address": "127.0.0.1:50000",
            "failure": "CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate",
            "claimed_id": CLAIM,
            "claimed_subject": "CN=<b>model-a</b>",
            "batch_id": BATCH,
        }
        for place in range(HANDSHAKES)
    ]


def decisions() -> list[dict[str, object]]:
    """A refused policy, a revocation, and two records that are no events."""
    records = (
        ("policy", "refused", "policy.csv:3: the last field is allow or deny, not 'permit'", ""),
        ("revocation", "revoked", "revoked identity model-b", "model-b"),
        ("decision", "permitted", "", "model-a"),
        ("anchor", "", "{}", ""),
    )
    return [
        {
            "ts": f"2026-03-04 10:4{place}:00.000000",
            "chain": "test-1",
            "seq": place + 1,
            "kind": kind,
            "reason": reason,
            "rule": rule,
            "identity": identity,
            "batch_id": BATCH,
        }
        for place, (kind, reason, rule, identity) in enumerate(records)
    ]


PIPELINED: Final = {"from": "2026-03-06T10:00", "to": "2026-03-06T11:00"}
FRAMES: Final = 9
RULE: Final = "p, model-b, tools/call, git_commit, deny"


def interactions() -> list[dict[str, object]]:
    """A call that the bridge refused: Envoy's entry of it is among the requests."""
    return [
        _interaction(
            "r-1", "2026-03-04 10:05:00", "refused", "denied", 7, rpc="Call", tool=SCRIPT, finding="tool_drift"
        )
    ]


def pipelined() -> dict[str, list[dict[str, object]]]:
    """Two sessions: `s1`, and `s2`, of which Envoy's entry and the decision of a refused frame were lost."""
    rest: dict[str, object] = {"identity": "model-b", "reason": "permitted", "rule": "p, model-b, grpc:*, *, allow"}
    session = row("2026-03-06 10:01:00", method="grpc:session", tool="", outcome="allowed", decision="allow", **rest)
    ended = row("2026-03-06 10:02:00", method="grpc:listen", tool="", outcome="denied", decision="allow", **rest)
    interactions = [
        _interaction("s1", "2026-03-06 10:01:00", "ok", "allowed", 0, method="grpc:session", tool=""),
        _interaction("s1/1", "2026-03-06 10:01:01", "ok", "allowed", 0, seq=10),
        _interaction("s1/2", "2026-03-06 10:01:02", "refused", "denied", 7, seq=11, tool="git_commit",
                     reason="denied_by_rule"),
        _interaction("s1/3", "2026-03-06 10:01:03", "refused", "limited", 8, reason="rate_limited"),
        _interaction("s1/4", "2026-03-06 10:01:04", "cancelled", "cancelled", 1, seq=12),
        _interaction("s1/5", "2026-03-06 10:01:05", "refused", "denied", 7, seq=13, tool=SCRIPT, finding="tool_drift"),
        _interaction("s1/6", "2026-03-06 10:01:06", "failed", "error", 4, seq=14),
        _interaction("s1/7", "2026-03-06 10:01:07", "tool_error", "allowed", 0, seq=15),
        _interaction("s2/1", "2026-03-06 10:03:01", "mcp_error", "allowed", 0, seq=16),
        _interaction("s2/2", "2026-03-06 10:03:02", "refused", "denied", 7, seq=17, reason="not_permitted"),
    ]  # fmt: skip
    decisions = [
        {"ts": f"2026-03-06 10:01:0{seq - 10}", "chain": "c", "seq": seq, "kind": "decision",
         "request_id": f"s1/{seq - 9}", "decision": decision, "rule": rule, "spiffe_id": CLAIM, "batch_id": BATCH}
        for seq, decision, rule in ((10, "allow", "p, model-b, *, *, allow"), (11, "deny", RULE), (13, "allow", "p"))
    ]  # fmt: skip
    requests = [
        {**session, "request_id": "s1", "duration_us": 60_000_000, "request_bytes": 70_000, "spiffe_id": CLAIM},
        {**ended, "request_id": "r-ended", "request_bytes": 0, "spiffe_id": CLAIM},
    ]
    return {"requests": requests, "interactions": interactions, "decisions": decisions}


def _interaction(
    request_id: str, ts: str, outcome: str, request_outcome: str, grpc_status: int, **values: object
) -> dict[str, object]:
    return {
        "ts": ts,
        "request_id": request_id,
        "identity": "model-a" if "rpc" in values else "model-b",
        "server": "time",
        "rpc": "Session",
        "method": "tools/call",
        "tool": "git_status",
        "chain": "c" if values.get("seq") else "",
        "outcome": outcome,
        "request_outcome": request_outcome,
        "grpc_status": grpc_status,
        "duration_us": 2000,
        "request_bytes": REQUEST_BYTES,
        "batch_id": BATCH,
        **values,
    }
