"""gRPC status codes as an MCP application sees them."""

import grpc

from mcp_bridge.client.status import error_of


def test_a_stream_that_was_reset_is_unavailable() -> None:
    """Issue: kill -9 the bridge: clear UNAVAILABLE, also for the call whose answer had begun."""
    error = error_of(grpc.StatusCode.INTERNAL, "Stream removed (RST_STREAM (Received RST_STREAM with error code 2))")

    assert error["data"] == {"grpcStatus": "UNAVAILABLE"}
    assert "RST_STREAM" not in error["message"]


def test_a_fault_that_a_server_reports_stays_one() -> None:
    """Ours: INTERNAL means a bug, and its sentence is the server's."""
    error = error_of(grpc.StatusCode.INTERNAL, "the bridge failed; its log says more")

    assert error["data"] == {"grpcStatus": "INTERNAL"}
    assert error["message"] == "the bridge failed; its log says more"
