"""gRPC over HTTP/2 for the private sockets between the parts of a pod: a small server in few microseconds a call.

`wire` and `header_fields` know the octets (RFC 9113, RFC 7541), `heads` what
a request's headers may say, `messages` gRPC's own framing. `connection` is the
protocol: octets in, events and octets out, no sockets and no clock of its own;
behind it, `streams` knows who may say what and when, `inflow` takes streams of
requests and `sending` gives answers, each no faster than the other side takes
them. `server` puts it on a Unix socket with asyncio, `connected` runs handlers.

What it leaves out, on purpose: TLS, HTTP/1, push, priorities and compression.
It stands behind Envoy, on a socket in a directory of mode 0700; it is strict
and bounded nevertheless. Envoy brings the calls of all clients over one
connection, so what one stream does must cost the others nothing.
"""

from secure_mcp_grpc.http2.events import Limits
from secure_mcp_grpc.http2.messages import RpcError, Status
from secure_mcp_grpc.http2.rpc import Methods, Rpc, Streaming, Unary
from secure_mcp_grpc.http2.server import Server

__all__ = ["Limits", "Methods", "Rpc", "RpcError", "Server", "Status", "Streaming", "Unary"]
