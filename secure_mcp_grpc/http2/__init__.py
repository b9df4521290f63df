"""gRPC over HTTP/2 for the private sockets between the parts of a pod: a small server in few microseconds a call.

`wire` and `hpack_blocks` know the octets (RFC 9113, RFC 7541), `heads` what a
request's headers may say, `messages` gRPC's own framing. `connection` is the
protocol: octets in, events and octets out, no sockets and no clock of its own.
`server` puts it on a Unix socket with asyncio.

What it leaves out, on purpose: TLS, HTTP/1, push, priorities, compression and
request streams. It stands behind Envoy, on a socket in a directory of mode
0700; it is strict and bounded nevertheless.
"""

from secure_mcp_grpc.http2.connection import Limits
from secure_mcp_grpc.http2.messages import RpcError, Status
from secure_mcp_grpc.http2.server import Server, Streaming, Unary

__all__ = ["Limits", "RpcError", "Server", "Status", "Streaming", "Unary"]
