"""Every question that the dashboard asks the store: constant SQL with bound parameters.

No value is ever written into a statement: values travel as ClickHouse query
parameters (`{name:Type}`). Each query asks for one row more than it shows, so
that the store module can tell a cut answer from a complete one.
"""

from dataclasses import dataclass
from typing import Final

from dashboard.window import Filters, Window

__all__ = [
    "ACTIVITY",
    "ALL",
    "CHOICES",
    "FINDINGS",
    "FLOWS",
    "HANDSHAKES",
    "HANDSHAKE_TIMELINE",
    "LIMITS",
    "PING",
    "REASONS",
    "REFUSALS",
    "SUMMARY",
    "TIMELINE",
    "TOOLS",
    "Parameters",
    "Query",
    "parameters",
]

type_of_value = int | list[str]
Parameters = dict[str, type_of_value]


@dataclass(frozen=True, slots=True)
class Query:
    """A statement that ends in `LIMIT {max_rows:UInt32}`, with its name in metrics and the rows it shows at most.

    `columns` are its columns' names, space-separated: an answer without rows comes without them.
    """

    name: str
    columns: str
    sql: str
    max_rows: int


def parameters(window: Window, filters: Filters) -> Parameters:
    """Values for every query of this module; a query uses those that its statement names."""
    return {
        "start_us": window.start_us,
        "end_us": window.end_us,
        "previous_us": window.previous_us,
        "bucket_s": window.bucket_s,
        "identities": list(filters.identities),
        "servers": list(filters.servers),
        "methods": list(filters.methods),
        "tools": list(filters.tools),
        "outcomes": list(filters.outcomes),
    }


_SPAN: Final = """
    ts >= fromUnixTimestamp64Micro({start_us:Int64}, 'UTC')
    AND ts < fromUnixTimestamp64Micro({end_us:Int64}, 'UTC')
"""
_KEPT: Final = """
    (empty({identities:Array(String)}) OR has({identities:Array(String)}, identity))
    AND (empty({servers:Array(String)}) OR has({servers:Array(String)}, server))
    AND (empty({methods:Array(String)}) OR has({methods:Array(String)}, method))
    AND (empty({tools:Array(String)}) OR has({tools:Array(String)}, tool))
    AND (empty({outcomes:Array(String)}) OR has({outcomes:Array(String)}, outcome))
"""

_STANDING: Final = "('grpc:session', 'grpc:listen', 'subscriptions/listen')"
"""Streams that last as long as their client likes: no latency."""

_RULE: Final = "if(t.rule = '', d.rule, t.rule) AS rule"
_DECISIONS_OF_FRAMES: Final = f"""
    LEFT ANY JOIN (
        SELECT chain, seq, toString(rule) AS rule, toString(spiffe_id) AS spiffe_id
        FROM decisions
        WHERE decision = 'deny' AND position(request_id, '/') > 0 AND {_SPAN}
    ) AS d ON t.chain = d.chain AND t.seq = d.seq
"""  # noqa: S608
"""The bridge, which records frames, is not told the rule by which one was refused; the journal has it."""

PING: Final = Query("ping", "up", "SELECT 1 AS up LIMIT {max_rows:UInt32}", 1)

ACTIVITY: Final = Query(
    "activity",
    "source stored latest",
    """
    SELECT 'requests' AS source, count() AS stored, max(ts) AS latest FROM requests
    UNION ALL
    SELECT 'interactions' AS source, count() AS stored, max(ts) AS latest FROM interactions
    UNION ALL
    SELECT 'handshakes' AS source, count() AS stored, max(ts) AS latest FROM handshakes
    LIMIT {max_rows:UInt32}
    """,
    3,
)
"""How much is stored at all, and when the latest of it happened: tells an empty store from an empty window."""

SUMMARY: Final = Query(
    "summary",
    "current requests allowed denied limited error unavailable cancelled public "
    "identities tools request_bytes response_bytes duration_us",
    f"""
    SELECT
        ts >= fromUnixTimestamp64Micro({{start_us:Int64}}, 'UTC') AS current,
        count() AS requests,
        countIf(outcome = 'allowed') AS allowed,
        countIf(outcome = 'denied') AS denied,
        countIf(outcome = 'limited') AS limited,
        countIf(outcome = 'error') AS error,
        countIf(outcome = 'unavailable') AS unavailable,
        countIf(outcome = 'cancelled') AS cancelled,
        countIf(outcome = 'public') AS public,
        uniqExactIf(identity, identity != '') AS identities,
        uniqExactIf(tool, method = 'tools/call' AND tool != '') AS tools,
        sum(request_bytes) AS request_bytes,
        sum(response_bytes) AS response_bytes,
        quantilesIf(0.5, 0.95, 0.99)(duration_us, outcome = 'allowed' AND method NOT IN {_STANDING})
            AS duration_us
    FROM traffic
    WHERE ts >= fromUnixTimestamp64Micro({{previous_us:Int64}}, 'UTC')
        AND ts < fromUnixTimestamp64Micro({{end_us:Int64}}, 'UTC')
        AND {_KEPT}
    GROUP BY current
    ORDER BY current DESC
    LIMIT {{max_rows:UInt32}}
    """,  # noqa: S608 - constants of this module only
    2,
)

TIMELINE: Final = Query(
    "timeline",
    "bucket outcome requests",
    f"""
    SELECT
        intDiv(toUnixTimestamp(ts), {{bucket_s:UInt32}}) * {{bucket_s:UInt32}} AS bucket,
        outcome,
        count() AS requests
    FROM traffic
    WHERE {_SPAN} AND {_KEPT}
    GROUP BY bucket, outcome
    ORDER BY bucket, outcome
    LIMIT {{max_rows:UInt32}}
    """,  # noqa: S608
    2000,
)

TOOLS: Final = Query(
    "tools",
    "method tool requests allowed refused failed duration_us",
    f"""
    SELECT
        method,
        tool,
        count() AS requests,
        countIf(outcome = 'allowed') AS allowed,
        countIf(outcome IN ('denied', 'limited')) AS refused,
        countIf(outcome IN ('error', 'unavailable', 'cancelled')) AS failed,
        quantilesIf(0.5, 0.95)(duration_us, outcome = 'allowed') AS duration_us
    FROM traffic
    WHERE {_SPAN} AND {_KEPT}
    GROUP BY method, tool
    ORDER BY requests DESC, method, tool
    LIMIT {{max_rows:UInt32}}
    """,  # noqa: S608
    100,
)

FLOWS: Final = Query(
    "flows",
    "identity method tool outcome calls bytes",
    f"""
    SELECT
        identity, method, tool, outcome,
        count() AS calls,
        sum(request_bytes + response_bytes) AS bytes
    FROM traffic
    WHERE {_SPAN} AND {_KEPT}
    GROUP BY identity, method, tool, outcome
    ORDER BY calls DESC, identity, method, tool, outcome
    LIMIT {{max_rows:UInt32}}
    """,  # noqa: S608
    1000,
)

REASONS: Final = Query(
    "reasons",
    "identity method tool reason rule requests latest",
    f"""
    SELECT identity, method, tool, reason, {_RULE}, count() AS requests, max(t.ts) AS latest
    FROM (SELECT * FROM traffic WHERE outcome = 'denied' AND {_SPAN} AND {_KEPT}) AS t
    {_DECISIONS_OF_FRAMES}
    GROUP BY identity, method, tool, reason, rule
    ORDER BY requests DESC, identity, method, tool, reason, rule
    LIMIT {{max_rows:UInt32}}
    """,  # noqa: S608
    200,
)

LIMITS: Final = Query(
    "limits",
    "identity method tool details requests earliest latest",
    f"""
    SELECT
        identity, method, tool, if(reason = 'quota_exceeded', reason, details) AS details,
        count() AS requests, min(ts) AS earliest, max(ts) AS latest
    FROM traffic
    WHERE outcome = 'limited' AND {_SPAN} AND {_KEPT}
    GROUP BY identity, method, tool, details
    ORDER BY requests DESC, identity, method, tool, details
    LIMIT {{max_rows:UInt32}}
    """,  # noqa: S608
    200,
)

REFUSALS: Final = Query(
    "refusals",
    "ts outcome identity user method tool reason rule grpc_status peer_address spiffe_id request_id",
    f"""
    SELECT
        t.ts AS ts, outcome, identity, user, method, tool, reason, {_RULE}, grpc_status, peer_address,
        if(t.spiffe_id = '', d.spiffe_id, t.spiffe_id) AS spiffe_id, request_id
    FROM (
        SELECT * FROM traffic
        WHERE outcome IN ('denied', 'limited') AND {_SPAN} AND {_KEPT}
        ORDER BY ts DESC
        LIMIT {{max_rows:UInt32}}
    ) AS t
    {_DECISIONS_OF_FRAMES}
    ORDER BY ts DESC
    LIMIT {{max_rows:UInt32}}
    """,  # noqa: S608
    200,
)

HANDSHAKES: Final = Query(
    "handshakes",
    "ts failure claimed_id claimed_subject sni tls_version peer_address",
    f"""
    SELECT ts, failure, claimed_id, claimed_subject, sni, tls_version, peer_address
    FROM handshakes
    WHERE {_SPAN}
    ORDER BY ts DESC
    LIMIT {{max_rows:UInt32}}
    """,  # noqa: S608
    200,
)

HANDSHAKE_TIMELINE: Final = Query(
    "handshake_timeline",
    "bucket handshakes",
    f"""
    SELECT intDiv(toUnixTimestamp(ts), {{bucket_s:UInt32}}) * {{bucket_s:UInt32}} AS bucket, count() AS handshakes
    FROM handshakes
    WHERE {_SPAN}
    GROUP BY bucket
    ORDER BY bucket
    LIMIT {{max_rows:UInt32}}
    """,  # noqa: S608
    2000,
)

FINDINGS: Final = Query(
    "findings",
    "finding identity server method tool outcome requests latest",
    f"""
    SELECT
        finding, identity, server, method, tool, request_outcome AS outcome, count() AS requests, max(ts) AS latest
    FROM interactions
    WHERE finding != '' AND {_SPAN} AND {_KEPT.replace(", outcome)", ", request_outcome)")}
    GROUP BY finding, identity, server, method, tool, outcome
    ORDER BY latest DESC, finding, identity, server, method, tool, outcome
    LIMIT {{max_rows:UInt32}}
    """,  # noqa: S608
    200,
)
"""What the bridge's guards found in tools, arguments and results; the payloads themselves are never asked for."""

EVENTS: Final = Query(
    "events",
    "ts kind reason rule identity user policy_version chain",
    f"""
    SELECT ts, kind, reason, rule, identity, user, policy_version, chain
    FROM decisions
    WHERE kind NOT IN ('decision', 'anchor') AND {_SPAN}
    ORDER BY ts DESC
    LIMIT {{max_rows:UInt32}}
    """,  # noqa: S608
    200,
)
"""What happened to authz_service itself: starts, policies loaded and refused, revocations, gaps in its journal."""

CHOICES: Final = Query(
    "choices",
    "identities servers methods tools",
    f"""
    SELECT
        arraySort(groupUniqArray(200)(toString(identity))) AS identities,
        arraySort(groupUniqArray(200)(toString(server))) AS servers,
        arraySort(groupUniqArray(200)(toString(method))) AS methods,
        arraySort(groupUniqArray(200)(tool)) AS tools
    FROM traffic
    WHERE {_SPAN}
    LIMIT {{max_rows:UInt32}}
    """,  # noqa: S608
    1,
)
"""What the filters offer: up to 200 values each."""

ALL: Final = (
    PING,
    ACTIVITY,
    SUMMARY,
    TIMELINE,
    TOOLS,
    FLOWS,
    REASONS,
    LIMITS,
    REFUSALS,
    HANDSHAKES,
    HANDSHAKE_TIMELINE,
    FINDINGS,
    EVENTS,
    CHOICES,
)
