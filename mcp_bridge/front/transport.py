"""What a front's client says, as the messages of McpTransport: for both backends. Pure functions."""

from mcp_bridge.front.backend import Via
from mcp_bridge.front.messages import Notification, Request
from secure_mcp_grpc.v1 import mcp_transport_pb2 as pb

__all__ = ["notification_of", "reply_of", "request_of"]


def request_of(request: Request, via: Via) -> pb.Request:
    """2026-07-28: a request that declares its version belongs to no session."""
    return pb.Request(
        method=request.method,
        name=request.name,
        protocol_version=request.declared if isinstance(request.declared, str) else via.version,
        session_id="" if request.is_modern else via.session_id,
        id_json=request.id_json,
        params_json=request.params_json,
    )


def notification_of(notification: Notification, via: Via) -> pb.Notification:
    return pb.Notification(
        method=notification.method,
        protocol_version=via.version,
        session_id=via.session_id,
        params_json=notification.params_json,
    )


def reply_of(message: bytes, via: Via) -> pb.ReplyRequest:
    return pb.ReplyRequest(session_id=via.session_id, message_json=message)
