"""Entries to rows: what is taken from where, and what hostile senders get."""

import json
import time
from typing import Any

import pytest
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2
from hypothesis import given
from hypothesis import strategies as st

from secure_mcp_grpc import headers
from trace_sink import rows, wire
from trace_sink.tables import COLUMNS

NOW_US = time.time_ns() // 1000
SQL = "'; DROP TABLE requests; --"


def source(log_name: str = headers.LOG_ENVOY_HTTP) -> rows.Source:
    return rows.Source(log_name, "envoy-1", NOW_US, "mcp.internal")


def http(uri: str = "", **decision: str) -> accesslog_pb2.HTTPAccessLogEntry:
    """An entry as Envoy writes it for a request with this decision, over a verified certificate with this URI."""
    entry = accesslog_pb2.HTTPAccessLogEntry()
    common = entry.common_properties
    common.start_time.FromMicroseconds(NOW_US)
    common.duration.FromMicroseconds(1500)
    common.time_to_first_upstream_tx_byte.FromMicroseconds(200)
    common.time_to_last_upstream_rx_byte.FromMicroseconds(1200)
    common.downstream_remote_address.socket_address.address = "10.0.0.9"
    common.downstream_remote_address.socket_address.port_value = 4711
    if uri:
        common.tls_properties.peer_certificate_properties.subject_alt_name.add().uri = uri
    for name, value in decision.items():
        common.metadata.filter_metadata[headers.EXT_AUTHZ_NAMESPACE].fields[name].string_value = value
    common.custom_tags["grpc_status"] = "0"
    entry.request.request_id = "r-1"
    entry.request.path = "/secure_mcp_grpc.v1.McpTransport/Call?x=1"
    entry.response.response_code.value = 200
    return entry


def record(log_name: str, text: str) -> Any:
    entry = accesslog_pb2.HTTPAccessLogEntry()
    entry.common_properties.custom_tags[headers.RECORD_TAG] = text
    return made(entry, log_name)


def made(entry: Any, log_name: str = headers.LOG_ENVOY_HTTP) -> Any:
    row = rows.row(entry, source(log_name))
    assert row is not None
    return row


def named(row: Any) -> dict[str, Any]:
    return dict(zip(COLUMNS[row.table], row.values, strict=True))


def test_request_row_holds_decision_times_and_sizes() -> None:
    """Ours: the contract in headers.EXT_AUTHZ_NAMESPACE."""
    entry = http(
        decision="allow", reason="permitted", subject="model-a", spiffe_id="spiffe://mcp.internal/model-a",
        roles="role:a,role:b", method="tools/call", tool="git_log", chain="c", seq="18446744073709551615",
    )  # fmt: skip
    row = named(made(entry))

    assert row["ts"] == NOW_US
    assert (row["identity"], row["roles"], row["tool"]) == ("model-a", ["role:a", "role:b"], "git_log")
    assert (row["outcome"], row["seq"], row["grpc_status"]) == ("allowed", 2**64 - 1, 0)
    assert (row["duration_us"], row["upstream_us"]) == (1500, 1000)
    assert row["rpc"] == "/secure_mcp_grpc.v1.McpTransport/Call"
    assert row["peer_address"] == "10.0.0.9:4711"


def test_without_a_decision_the_certificate_names_the_identity() -> None:
    """Ours: without a decision the verified certificate names the caller."""
    row = named(made(http("spiffe://mcp.internal/model-b")))
    foreign = named(made(http("spiffe://other.org/model-b")))

    assert (row["identity"], row["spiffe_id"]) == ("model-b", "spiffe://mcp.internal/model-b")
    assert foreign["identity"] == "spiffe://other.org/model-b"


def test_certificate_with_two_uris_names_nobody() -> None:
    """Ours: design.md refuses certificates with several URI SANs."""
    entry = http("spiffe://mcp.internal/model-b")
    entry.common_properties.tls_properties.peer_certificate_properties.subject_alt_name.add().uri = "spiffe://x/y"

    assert named(made(entry))["identity"] == ""


def test_start_and_intervals_of_a_stream_make_no_row() -> None:
    """Ours: only the end is counted, or a long stream would be several requests."""
    entry = http()
    entry.common_properties.access_log_type = accesslog_pb2.DownstreamPeriodic

    assert rows.row(entry, source()) is None


def test_failed_handshake_is_a_claim() -> None:
    """Ours: design.md, the SAN in such an entry is a claim, not an identity."""
    entry = accesslog_pb2.TCPAccessLogEntry()
    common = entry.common_properties
    common.downstream_transport_failure_reason = "TLS_error:|268435581:SSL routines:CERTIFICATE_VERIFY_FAILED"
    common.tls_properties.peer_certificate_properties.subject_alt_name.add().uri = "spiffe://mcp.internal/admin"
    row = made(entry, headers.LOG_ENVOY_TCP)

    assert row.table == "handshakes"
    assert named(row)["claimed_id"] == "spiffe://mcp.internal/admin"
    assert "identity" not in COLUMNS["handshakes"]


def test_a_connection_refused_after_its_handshake_is_a_row() -> None:
    """Ours: Envoy's network RBAC filter refuses a certificate with two URI SANs after TLS itself is done."""
    entry = accesslog_pb2.TCPAccessLogEntry()
    common = entry.common_properties
    common.tls_properties.tls_version = accesslog_pb2.TLSProperties.TLSv1_3
    common.connection_termination_details = "rbac_access_denied_matched_policy[not_one_spiffe_id]"

    assert made(entry, headers.LOG_ENVOY_TCP).table == "handshakes"


def test_good_handshake_makes_no_row() -> None:
    """Ours: the table holds what failed."""
    entry = accesslog_pb2.TCPAccessLogEntry()
    entry.common_properties.tls_properties.tls_version = accesslog_pb2.TLSProperties.TLSv1_3

    assert rows.row(entry, source(headers.LOG_ENVOY_TCP)) is None


def test_decision_keeps_the_journal_line_byte_for_byte() -> None:
    """Ours: the hash chain is over these bytes."""
    line = '{ "chain":"c", "seq":7,"ts":"2026-11-20T21:40:00.123456Z" ,"decision":"deny","extra":"kept"}'
    row = record(headers.LOG_AUTHZ, line)

    assert row.table == "decisions"
    assert (named(row)["record"], named(row)["seq"], named(row)["decision"]) == (line, 7, "deny")


def test_interaction_of_an_older_bridge_is_still_read() -> None:
    """Ours: fields that it did not know are empty; those of a newer one are bounded."""
    old = named(record(headers.LOG_BRIDGE, '{"ts":"","request_id":"r","arguments":"{}"}'))
    more = {"trace_id": "t" * 9999, "hops": 1 << 40, "resources": ["u"] * 999, "tokens_in": -1, "digests_in": ["d"]}
    new = named(record(headers.LOG_BRIDGE, json.dumps({"ts": "", "request_id": "r", "response": "{}", **more})))

    assert (old["response"], old["trace_id"], old["resources"], old["tokens_in"]) == ("", "", [], 0)
    assert (new["response"], new["hops"], len(new["resources"]), new["tokens_in"]) == ("{}", 65535, 100, 0)
    assert (len(new["trace_id"]) <= rows.MAX_WORD_CHARS + 1, new["digests_in"]) == (True, ["d"])


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"chain":1}', '{"chain":"c","seq":-1,"ts":""}', "[" * 100_000, "\ufffd"]
)
@pytest.mark.parametrize("log_name", [headers.LOG_AUTHZ, headers.LOG_BRIDGE])
def test_record_that_is_none_becomes_a_dead_letter(text: str, log_name: str) -> None:
    """Ours: kept raw, with the reason."""
    row = record(log_name, text)

    assert row.table == "dead_letters"
    assert named(row)["reason"] in ("bad_record", "no_record")
    assert text.encode()[:100] in named(row)["raw"]


def test_unknown_log_becomes_a_dead_letter() -> None:
    """Ours: nothing that arrives disappears."""
    assert named(made(http(), "somebody.else"))["reason"] == "unknown_log"


def test_hostile_numbers_are_bounded() -> None:
    """Ours: negative durations, years in the far past, sequence numbers that are none."""
    entry = http(decision="allow", seq="--5")
    entry.common_properties.duration.seconds = -315_576_000_000
    entry.common_properties.start_time.seconds = -62_135_596_800
    entry.common_properties.custom_tags["grpc_status"] = "9" * 400
    entry.request.request_body_bytes = 2**64 - 1
    row = named(made(entry))

    assert (row["duration_us"], row["seq"], row["grpc_status"]) == (0, 0, -1)
    assert row["ts"] == NOW_US
    assert row["request_bytes"] == 2**64 - 1


def test_a_mebibyte_of_a_name_is_cut() -> None:
    """Ours: a LowCardinality dictionary is no place for it."""
    row = named(made(http(decision="deny", tool="x" * (1 << 20), method="y" * (1 << 20))))

    assert len(row["tool"]) <= rows.MAX_NAME_CHARS + 1
    assert len(row["method"]) <= rows.MAX_WORD_CHARS + 1


def broken(tag: bytes) -> bytes:
    """The entry of a deny whose tool has the bytes `tag`, which protobuf refuses to write."""
    entry = http(decision="deny", tool="@@@@")
    return entry.SerializeToString().replace(b"@@@@", tag)


def test_name_that_is_not_utf8_costs_no_other_entry() -> None:
    """Ours: design.md, "Parsing"; the name is kept, escaped."""
    message = als_pb2.StreamAccessLogsMessage()
    message.identifier.log_name = headers.LOG_ENVOY_HTTP
    message.identifier.node.id = "envoy-1"
    message.http_logs.log_entry.extend([http(decision="deny", tool=name) for name in ("good", "@@@@", "fine")])
    decoded = wire.decode(message.SerializeToString().replace(b"@@@@", b"\xff\xfeab"))

    assert (decoded.log_name, decoded.node, decoded.damaged) == (headers.LOG_ENVOY_HTTP, "envoy-1", [])
    assert [named(made(entry))["tool"] for entry in decoded.entries] == ["good", "\\xff\\xfeab", "fine"]


def test_entry_that_is_no_protobuf_is_kept_raw_and_costs_no_other() -> None:
    """Ours: kept as bytes."""
    good = http(decision="deny", tool="good").SerializeToString()
    bad = b"\x0a\xff\xff\xff\xff\x0f"
    entries = b"".join(b"\x0a" + bytes(wire._varint_bytes(len(raw))) + raw for raw in (good, bad, good))
    decoded = wire.decode(b"\x12" + bytes(wire._varint_bytes(len(entries))) + entries)

    assert len(decoded.entries) == 2
    assert [item.raw for item in decoded.damaged] == [bad]


@given(st.binary(max_size=400))
def test_no_bytes_make_decoding_fail(raw: bytes) -> None:
    """Ours: a sender cannot stop the sink."""
    decoded = wire.decode(raw)
    for entry in decoded.entries:
        for log_name in (headers.LOG_ENVOY_HTTP, headers.LOG_ENVOY_TCP, headers.LOG_AUTHZ, "x"):
            rows.row(entry, source(log_name))


@given(st.data())
def test_damaged_entries_never_raise(data: st.DataObject) -> None:
    """Ours: any byte of an entry may be anything."""
    raw = bytearray(broken(b"tool"))
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    message = b"\x12" + wire._varint_bytes(len(raw) + 1 + len(wire._varint_bytes(len(raw))))
    message += b"\x0a" + wire._varint_bytes(len(raw)) + bytes(raw)
    decoded = wire.decode(message)
    for entry in decoded.entries:
        row = rows.row(entry, source())
        assert row is None or len(row.values) == len(COLUMNS[row.table])


def test_sql_in_every_field_stays_text() -> None:
    """Ours: rows are data; see also the process test, which inserts them."""
    entry = http(**dict.fromkeys(("decision", "reason", "rule", "subject", "method", "tool", "chain"), SQL))
    assert named(made(entry))["tool"] == SQL
    interaction = record(headers.LOG_BRIDGE, json.dumps({"ts": SQL, "request_id": SQL, "tool": SQL, "arguments": SQL}))
    assert named(interaction)["arguments"] == SQL
