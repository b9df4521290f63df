"""Hypothesis strategies: requests that Envoy could send, and some that it could not."""

from typing import Any

from authz_requests import CERTIFICATES, certificate, check_request
from hypothesis import strategies as st

__all__ = ["REQUESTS", "build"]

_TEXT = st.text(max_size=30)
REQUESTS = st.builds(
    dict,
    certificate=st.sampled_from([*CERTIFICATES.values(), certificate(), "", "junk"]) | _TEXT,
    principal=st.sampled_from(["spiffe://mcp.internal/model-a", "spiffe://mcp.internal/model-b", ""]) | _TEXT,
    path=st.sampled_from(
        [
            "/secure_mcp_grpc.v1.McpTransport/Call",
            "/secure_mcp_grpc.v1.McpTransport/Notify",
            "/model_context_protocol.Mcp/CallTool",
        ]
    )
    | _TEXT,
    body=st.sampled_from([check_request().attributes.request.http.raw_body])
    | st.binary(max_size=60)
    | st.binary(max_size=60).map(lambda text: b"\0" + len(text).to_bytes(4, "big") + text),
    headers=st.dictionaries(
        st.sampled_from(["content-type", "x-request-id", "x-mcp-subject", "authorization"]), _TEXT, max_size=3
    ),
)


def build(parts: dict[str, Any]) -> bytes:
    """The serialized CheckRequest that `parts`, drawn from `REQUESTS`, describe."""
    request = check_request(path=parts["path"], body=parts["body"])
    request.attributes.source.certificate = parts["certificate"]
    request.attributes.source.principal = parts["principal"]
    request.attributes.request.http.headers.update(parts["headers"])
    return request.SerializeToString()
