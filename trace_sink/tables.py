"""Tables and columns that the sink writes; a row is a tuple in the order given here. Times are microseconds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["COLUMNS", "KEYS", "Row", "TableRow"]

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row on its way to a table. `values[0]` is its time; `digest` names a record that may be sent twice."""

    table: str
    values: Row
    size_bytes: int
    digest: bytes | None = None


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "requests": _names(
        "ts node request_id trace_id session_id identity spiffe_id user roles server rpc method tool "
        "outcome decision reason rule policy_version chain seq grpc_status http_status flags details "
        "duration_us upstream_us request_bytes response_bytes peer_address peer_fingerprint peer_serial "
        "tls_version"
    ),
    "decisions": _names(
        "ts chain seq kind identity spiffe_id user roles method tool decision reason rule policy_version "
        "args_digest request_id session_id peer_fingerprint prev hash record"
    ),
    "interactions": _names(
        "ts node request_id chain seq identity user server rpc method tool session_id protocol_version "
        "outcome error_code request_outcome grpc_status reason duration_us upstream_us request_bytes response_bytes "
        "notifications arguments finding request response payload_encoding trace_id span_id parent_span_id "
        "correlation_id hops resources digests_in digests_out tokens_in tokens_out tokens_source"
    ),
    "handshakes": _names("ts node peer_address failure claimed_id claimed_subject sni tls_version"),
    "dead_letters": _names("ts log_name node reason raw"),
}
"""Columns that are written; `batch_id` is added per batch and `inserted_at` by the store."""

KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "decisions": ("chain", "seq"),
    "interactions": ("ts", "request_id", "seq", "rpc"),
}
"""What tells one row from another in the tables whose records our senders may send twice."""
