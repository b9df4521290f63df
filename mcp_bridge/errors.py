"""What can go wrong on the way to an upstream, as the gRPC status a peer sees.

What a JSON-RPC peer could answer is not an error here: it travels as a message.
"""

import grpc

__all__ = [
    "HopError",
    "NotStarted",
    "malformed",
    "overloaded",
    "session_unknown",
    "timed_out",
    "too_large",
    "unavailable",
]


class HopError(Exception):
    """A hop failed: `code` and one sentence, both fit for the peer.

    `details` is a serialized `google.rpc.Status`, for the trailer `grpc-status-details-bin`.
    `reason` is for the record: the stable code of why authz_service, or a limit of rates, refused.
    """

    def __init__(self, code: grpc.StatusCode, sentence: str, details: bytes = b"", *, reason: str = "") -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence
        self.details = details
        self.reason = reason


class NotStarted(HopError):
    """The MCP server's program did not begin to run, whatever was asked of it."""

    def __init__(self, server: str) -> None:
        super().__init__(grpc.StatusCode.UNAVAILABLE, f"the MCP server {server} cannot be started")


def unavailable(sentence: str) -> HopError:
    return HopError(grpc.StatusCode.UNAVAILABLE, sentence)


def timed_out(sentence: str) -> HopError:
    return HopError(grpc.StatusCode.DEADLINE_EXCEEDED, sentence)


def session_unknown() -> HopError:
    """Also for a session of somebody else: whether it exists is nobody else's business."""
    return HopError(grpc.StatusCode.NOT_FOUND, "no such session: it ended or was never opened; initialize again")


def malformed(sentence: str) -> HopError:
    return HopError(grpc.StatusCode.INVALID_ARGUMENT, sentence)


def too_large(what: str, limit_bytes: int) -> HopError:
    return HopError(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{what} is larger than the limit of {limit_bytes} bytes")


def overloaded(sentence: str) -> HopError:
    return HopError(grpc.StatusCode.RESOURCE_EXHAUSTED, sentence)
