"""Names that the parts agree on: headers between authz_service, Envoy and mcp_bridge, and the access logs' names."""

from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, unquote

__all__ = [
    "DECISION",
    "EXT_AUTHZ_NAMESPACE",
    "LOG_AUTHZ",
    "LOG_BRIDGE",
    "LOG_ENVOY_HTTP",
    "LOG_ENVOY_TCP",
    "MCP_FILTER_NAMESPACE",
    "RECORD_TAG",
    "REQUEST_ID",
    "ROLES",
    "SERVER",
    "SUBJECT",
    "TARGET",
    "TICKET",
    "USER",
    "USER_ROLES",
    "decode_list",
    "decode_value",
    "encode_list",
    "encode_value",
]

# authz_service → mcp_bridge. Envoy strips what a client sends under these names.
SUBJECT = "x-mcp-subject"
"""The caller: path of its SPIFFE ID in the first trust domain, the whole SPIFFE ID otherwise."""
USER = "x-mcp-user"
"""The user or agent a token speaks for; empty without a token."""
ROLES = "x-mcp-roles"
"""The subject's roles, comma-separated and sorted."""
USER_ROLES = "x-mcp-user-roles"
"""The user's roles, those of its token included; comma-separated and sorted."""
TARGET = "x-mcp-target"
"""What was authorized, as `secure_mcp_grpc.calls.target` writes it; nothing else may be executed."""
DECISION = "x-mcp-decision"
"""`chain:sequence` of the decision in authz_service's journal."""
TICKET = "x-mcp-ticket"
"""For what stays open (Session, Stream, Listen): whom authz_service let in, sealed by it. Shown to it again with
`PolicyQuery.Judge`; opaque to everybody else, and never logged."""

REQUEST_ID = "x-request-id"
"""Set by Envoy; the same in all three access logs."""

# mcp_bridge → Envoy (response header, logged and then removed).
SERVER = "x-mcp-server"
"""Name of the upstream MCP server that answered."""

EXT_AUTHZ_NAMESPACE = "envoy.filters.http.ext_authz"
"""Dynamic metadata namespace of a decision. Keys: decision (allow|deny), reason, rule, subject, spiffe_id, user,
roles (comma-separated), method, tool, session_id, policy_version, chain, seq (decimal string)."""

MCP_FILTER_NAMESPACE = "envoy.filters.http.mcp"
"""Dynamic metadata of what Envoy's own MCP filter read in a message that came over plain HTTP."""

# `identifier.log_name` of an access log stream.
LOG_ENVOY_HTTP = "mcp.envoy.http"
LOG_ENVOY_TCP = "mcp.envoy.tcp"
LOG_AUTHZ = "mcp.authz"
LOG_BRIDGE = "mcp.bridge"

RECORD_TAG = "record"
"""Custom tag of an authz or bridge entry that holds its JSON record (`secure_mcp_grpc.records`)."""

# Subjects and roles are text of other people's making; in headers they are visible ASCII, and come out as they went in.
_PLAIN: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")


def encode_value(value: str) -> str:
    """`value` as a header: percent-encoded (UTF-8) where it is not visible ASCII, and `%` itself."""
    return quote(value, safe=_PLAIN)


def decode_value(header: str) -> str:
    return unquote(header)


def encode_list(values: Iterable[str]) -> str:
    """`values` as one header, comma-separated; a comma within a value is encoded."""
    return ",".join(encode_value(value).replace(",", "%2C") for value in values)


def decode_list(header: str) -> tuple[str, ...]:
    return tuple(unquote(value) for value in header.split(",")) if header else ()
