"""An HTTP/2 client without manners: it sends what no honest client would, and reports what came back."""

import select
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h2.config
import h2.connection
import h2.events

CALL = "/secure_mcp_grpc.v1.McpTransport/Call"
Headers = Sequence[tuple[str | bytes, str | bytes]]


@dataclass
class Answer:
    """What the peer said on the stream, and how it ended."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    reset: bool = False
    """The stream or the connection was closed instead of answered."""
    complete: bool = False

    @property
    def ended(self) -> bool:
        return self.reset or self.complete

    @property
    def grpc_status(self) -> int | None:
        return int(self.headers["grpc-status"]) if "grpc-status" in self.headers else None


def frame(message: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    """A gRPC message frame, which may lie."""
    return bytes([flag]) + (len(message) if length is None else length).to_bytes(4, "big") + message


def connect(address: str, identity: Path) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(identity / "ca.crt"))
    context.load_cert_chain(identity / "tls.crt", identity / "tls.key")
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    return context.wrap_socket(socket.create_connection((host, int(port)), 5), server_hostname="localhost")


def request(
    address: str,
    identity: Path,
    *,
    path: str | bytes = CALL,
    body: bytes = b"",
    headers: Headers = (),
    instead: Headers | None = None,
    end: bool = True,
    reset_after: bool = False,
    timeout_s: float = 8.0,
) -> Answer:
    """One request on a connection of its own.

    `headers` are added to those of an honest call, `instead` replaces them all. Without `end` the request stays open;
    with `reset_after` it is reset once it was sent.
    """
    config = h2.config.H2Configuration(
        client_side=True,
        header_encoding="utf-8",
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
        validate_inbound_headers=False,
    )
    connection = h2.connection.H2Connection(config)
    honest: Headers = (
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    )
    answer = Answer()
    with connect(address, identity) as stream:
        connection.initiate_connection()
        connection.send_headers(1, [*(honest if instead is None else instead), *headers], end_stream=end and not body)
        rest = memoryview(body)
        until = time.monotonic() + timeout_s
        while rest and not answer.ended:
            room = min(connection.local_flow_control_window(1), 16_000)
            connection.send_data(1, bytes(rest[:room]), end_stream=end and room >= len(rest)) if room else None
            rest = rest[room:]
            stream.sendall(connection.data_to_send())
            if rest and not connection.local_flow_control_window(1):
                _read(stream, connection, answer, until)
        stream.sendall(connection.data_to_send())
        if reset_after:
            connection.reset_stream(1)
            stream.sendall(connection.data_to_send())
            answer.reset = True
        while not answer.ended:
            _read(stream, connection, answer, until)
    return answer


def _read(stream: ssl.SSLSocket, connection: h2.connection.H2Connection, answer: Answer, until: float) -> None:
    """Take in what comes next."""
    ready = stream.pending() or select.select([stream], [], [], max(0.0, until - time.monotonic()))[0]
    assert ready, f"no answer in time: {answer}"
    try:
        data = stream.recv(65536)
    except (ConnectionError, ssl.SSLError):
        data = b""
    answer.reset |= not data
    for event in connection.receive_data(data) if data else ():
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            answer.headers |= {str(key): str(value) for key, value in event.headers}
        elif isinstance(event, h2.events.DataReceived):
            answer.body += event.data
            connection.acknowledge_received_data(event.flow_controlled_length, 1)
        elif isinstance(event, h2.events.ConnectionTerminated):
            answer.reset = True
        elif isinstance(event, h2.events.StreamReset):
            answer.reset |= not answer.complete  # an answer before the request's end is followed by a reset
        elif isinstance(event, h2.events.StreamEnded):
            answer.complete = True
    stream.sendall(connection.data_to_send())
