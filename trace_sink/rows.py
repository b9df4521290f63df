"""Access log entries to rows. Pure: entry in, rows out; nothing here raises for what a sender sent.

Rows of `requests` take the identity from the decision in the entry's metadata,
or, where none was made, from the verified client certificate; rows of
`handshakes` hold claims only.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import TypeAlias, TypeGuard, TypeVar

import msgspec
from envoy.config.core.v3 import address_pb2
from envoy.data.accesslog.v3 import accesslog_pb2
from google.protobuf.duration_pb2 import Duration

from secure_mcp_grpc import headers, spiffe
from secure_mcp_grpc.records import DecisionRecord, InteractionRecord
from trace_sink.outcomes import FLAGS, outcome, outcome_of_interaction
from trace_sink.tables import Row, TableRow

__all__ = ["Source", "dead_letter", "row"]

MAX_NAME_CHARS = 4096
MAX_WORD_CHARS = 512
MAX_RAW_BYTES = 1 << 20
MAX_LISTED = 100
_CLOCK_WINDOW_US = 7 * 86_400 * 1_000_000
"""A sender's clock that is further off than this is not believed: one insert must not touch a hundred days."""

_U64, _U32, _U16 = (1 << 64) - 1, (1 << 32) - 1, (1 << 16) - 1
_I32, _I16 = (1 << 31) - 1, (1 << 15) - 1
_DECISION = msgspec.json.Decoder(DecisionRecord)
_INTERACTION = msgspec.json.Decoder(InteractionRecord)
_DECIMAL = re.compile(r"-?[0-9]{1,20}")
_TLS = {0: "", 1: "TLSv1", 2: "TLSv1.1", 3: "TLSv1.2", 4: "TLSv1.3"}
_FINAL_TYPES = frozenset({0, 3, 6})
"""AccessLogType: not set, and the end of a connection or stream; the others are its start and its intervals."""

Http: TypeAlias = accesslog_pb2.HTTPAccessLogEntry
Tcp: TypeAlias = accesslog_pb2.TCPAccessLogEntry
Record = TypeVar("Record", DecisionRecord, InteractionRecord)


@dataclass(frozen=True, slots=True)
class Source:
    """Where an entry comes from and when it came. `trust_domain` is the one whose identities have short names."""

    log_name: str
    node: str
    received_us: int
    trust_domain: str


def row(entry: Http | Tcp, source: Source) -> TableRow | None:
    """The row for `entry`: of its own table, or of `dead_letters`; None for an entry that says nothing new.

    Says nothing new: the start and the intervals of a stream, whose end is
    logged too, and a connection whose handshake did not fail.
    """
    if not _is_tcp(entry):
        match source.log_name:
            case headers.LOG_ENVOY_HTTP:
                return _request(entry, source)
            case headers.LOG_AUTHZ:
                return _decision(entry, source)
            case headers.LOG_BRIDGE:
                return _interaction(entry, source)
    elif source.log_name == headers.LOG_ENVOY_TCP:
        return _handshake(entry, source)
    return dead_letter(entry.SerializeToString(), "unknown_log", source)


def dead_letter(raw: bytes, reason: str, source: Source) -> TableRow:
    """Keep what could not be understood, up to a mebibyte of it."""
    values = (source.received_us, _word(source.log_name), _word(source.node), reason, raw[:MAX_RAW_BYTES])
    return TableRow("dead_letters", values, len(raw))


def _is_tcp(entry: Http | Tcp) -> TypeGuard[Tcp]:
    return bool(entry.DESCRIPTOR.name == "TCPAccessLogEntry")


def _request(entry: Http, source: Source) -> TableRow | None:
    common, request, response = entry.common_properties, entry.request, entry.response
    if common.intermediate_log_entry or common.access_log_type not in _FINAL_TYPES:
        return None
    decision = _decision_metadata(common)
    tags = common.custom_tags
    spiffe_id = decision.get("spiffe_id") or _verified_id(common)
    identity = decision.get("subject") or spiffe.subject(spiffe_id, (source.trust_domain,))
    grpc_status = _int(tags.get("grpc_status", ""), -1, _I16, -1)
    flags = _flags(common.response_flags)
    details = response.response_code_details
    http_status = min(response.response_code.value, _U16)
    values: Row = (
        _time(common, source),
        _word(source.node),
        _name(request.request_id),
        _trace_id(tags.get("traceparent", "")),
        _name(decision.get("session_id", "")),
        _word(identity),
        _word(spiffe_id),
        _word(decision.get("user", "")),
        [_word(role) for role in decision.get("roles", "").split(",") if role][:100],
        _word(_tag(tags, "server")),
        _word(request.path.partition("?")[0]),
        _word(decision.get("method", "")),
        _name(decision.get("tool", "")),
        outcome(
            decision=decision.get("decision", ""),
            reason=decision.get("reason", ""),
            grpc_status=grpc_status,
            http_status=http_status,
            flags=flags,
            details=details,
            method=decision.get("method", ""),
        ),
        _word(decision.get("decision", "")),
        _word(decision.get("reason", "")),
        _word(decision.get("rule", "")),
        _word(decision.get("policy_version", "")),
        _word(decision.get("chain", "")),
        _int(decision.get("seq", ""), 0, _U64, 0),
        grpc_status,
        http_status,
        ",".join(flags),
        _word(details),
        _micros(common.duration if common.HasField("duration") else common.time_to_last_downstream_tx_byte),
        max(0, _micros(common.time_to_last_upstream_rx_byte) - _micros(common.time_to_first_upstream_tx_byte)),
        request.request_body_bytes,
        response.response_body_bytes,
        _address(common.downstream_remote_address),
        _name(_tag(tags, "peer_fingerprint")),
        _name(_tag(tags, "peer_serial")),
        _TLS.get(common.tls_properties.tls_version, ""),
    )
    return TableRow("requests", values, entry.ByteSize())


def _decision(entry: Http, source: Source) -> TableRow:
    text = entry.common_properties.custom_tags.get(headers.RECORD_TAG, "")
    record = _record(_DECISION, text)
    if record is None or not 0 <= record.seq <= _U64:
        return dead_letter(entry.SerializeToString(), "bad_record" if text else "no_record", source)
    values: Row = (
        _record_time(record.ts, entry, source),
        _word(record.chain),
        record.seq,
        _word(record.kind),
        _word(record.identity),
        _word(record.spiffe_id),
        _word(record.user),
        [_word(role) for role in record.roles],
        _word(record.method),
        _name(record.tool),
        _word(record.decision),
        _word(record.reason),
        _word(record.rule),
        _word(record.policy_version),
        _name(record.args_digest),
        _name(record.request_id),
        _name(record.session_id),
        _name(record.peer_fingerprint),
        _name(record.prev),
        _name(record.hash),
        text,
    )
    return TableRow("decisions", values, len(text), _digest(text))


def _interaction(entry: Http, source: Source) -> TableRow:
    text = entry.common_properties.custom_tags.get(headers.RECORD_TAG, "")
    record = _record(_INTERACTION, text)
    if record is None:
        return dead_letter(entry.SerializeToString(), "bad_record" if text else "no_record", source)
    values: Row = (
        _record_time(record.ts, entry, source),
        _word(source.node),
        _name(record.request_id),
        _word(record.chain),
        _within(record.seq, 0, _U64),
        _word(record.identity),
        _word(record.user),
        _word(record.server),
        _word(record.rpc),
        _word(record.method),
        _name(record.tool),
        _name(record.session_id),
        _word(record.protocol_version),
        _word(record.outcome),
        _within(record.error_code, -_I32 - 1, _I32),
        outcome_of_interaction(
            ended=record.outcome, reason=record.reason, grpc_status=record.grpc_status, method=record.method
        ),
        _within(record.grpc_status, -1, _I16),
        _word(record.reason),
        _within(record.duration_us, 0, _U64),
        _within(record.upstream_us, 0, _U64),
        _within(record.request_bytes, 0, _U64),
        _within(record.response_bytes, 0, _U64),
        _within(record.notifications, 0, _U32),
        record.arguments,
        _word(record.finding),
        record.request,
        record.response,
        _word(record.payload_encoding),
        _word(record.trace_id),
        _word(record.span_id),
        _word(record.parent_span_id),
        _word(record.correlation_id),
        _within(record.hops, 0, _U16),
        [_name(uri) for uri in record.resources[:MAX_LISTED]],
        [_word(digest) for digest in record.digests_in[:MAX_LISTED]],
        [_word(digest) for digest in record.digests_out[:MAX_LISTED]],
        _within(record.tokens_in, 0, _U64),
        _within(record.tokens_out, 0, _U64),
        _word(record.tokens_source),
    )
    return TableRow("interactions", values, len(text), _digest(text))


def _handshake(entry: Tcp, source: Source) -> TableRow | None:
    common = entry.common_properties
    tls = common.tls_properties
    # Envoy's network filters refuse after TLS is done: then the reason stands in the details.
    failure = common.downstream_transport_failure_reason or common.connection_termination_details
    if not failure:
        if tls.tls_version:
            return None
        failure = "the connection ended before the handshake"
    peer = tls.peer_certificate_properties
    values: Row = (
        _time(common, source),
        _word(source.node),
        _address(common.downstream_remote_address),
        _name(failure),
        _name(",".join(_uris(peer))),
        _name(peer.subject),
        _name(tls.tls_sni_hostname),
        _TLS.get(tls.tls_version, ""),
    )
    return TableRow("handshakes", values, entry.ByteSize())


def _decision_metadata(common: accesslog_pb2.AccessLogCommon) -> Mapping[str, str]:
    if headers.EXT_AUTHZ_NAMESPACE not in common.metadata.filter_metadata:
        return {}
    fields = common.metadata.filter_metadata[headers.EXT_AUTHZ_NAMESPACE].fields
    return {name: value.string_value for name, value in fields.items()}


def _verified_id(common: accesslog_pb2.AccessLogCommon) -> str:
    """The URI SAN of the client certificate, which TLS verified before any HTTP; none if there are several."""
    uris = _uris(common.tls_properties.peer_certificate_properties)
    return uris[0] if len(uris) == 1 else ""


def _uris(certificate: accesslog_pb2.TLSProperties.CertificateProperties) -> list[str]:
    return [name.uri for name in certificate.subject_alt_name if name.WhichOneof("san") == "uri"]


def _flags(flags: accesslog_pb2.ResponseFlags) -> list[str]:
    named = [FLAGS.get(field.name) or "UAEX" for field, _ in flags.ListFields()]
    return sorted(named)


def _record(decoder: msgspec.json.Decoder[Record], text: str) -> Record | None:
    try:
        return decoder.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def _record_time(text: str, entry: Http, source: Source) -> int:
    try:
        stamp = datetime.fromisoformat(text)
    except ValueError:
        return _time(entry.common_properties, source)
    if stamp.tzinfo is None:
        return _time(entry.common_properties, source)
    return _believed(int(stamp.timestamp()) * 1_000_000 + stamp.microsecond, source)


def _time(common: accesslog_pb2.AccessLogCommon, source: Source) -> int:
    start = common.start_time
    return _believed(start.seconds * 1_000_000 + start.nanos // 1000, source)


def _believed(time_us: int, source: Source) -> int:
    return time_us if abs(time_us - source.received_us) <= _CLOCK_WINDOW_US else source.received_us


def _micros(duration: Duration) -> int:
    return _within(duration.seconds * 1_000_000 + duration.nanos // 1000, 0, _U64)


def _address(address: address_pb2.Address) -> str:
    if address.WhichOneof("address") == "socket_address":
        host = address.socket_address.address
        port = address.socket_address.port_value
        return _name(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    return _name(address.pipe.path)


def _trace_id(traceparent: str) -> str:
    """The trace id of a W3C traceparent (`version-traceid-parentid-flags`)."""
    parts = traceparent.split("-")
    return parts[1] if len(parts) >= 4 and len(parts[1]) == 32 else ""


def _tag(tags: Mapping[str, str], name: str) -> str:
    """Envoy writes `-` for a value that is not there."""
    value = tags.get(name, "")
    return "" if value == "-" else value


def _int(text: str, least: int, most: int, default: int) -> int:
    """Envoy formats the numbers of a Struct and of tags as decimal text."""
    if not _DECIMAL.fullmatch(text):
        return default
    value = int(text)
    return value if least <= value <= most else default


def _within(value: int, least: int, most: int) -> int:
    return max(least, min(value, most))


def _name(text: str) -> str:
    return text if len(text) <= MAX_NAME_CHARS else f"{text[:MAX_NAME_CHARS]}…"


def _word(text: str) -> str:
    return text if len(text) <= MAX_WORD_CHARS else f"{text[:MAX_WORD_CHARS]}…"


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()
