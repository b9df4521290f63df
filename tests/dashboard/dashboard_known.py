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
