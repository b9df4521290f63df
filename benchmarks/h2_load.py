"""A load generator that costs little itself: gRPC calls as ready-made HTTP/2 frames on a blocking socket."""

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

from secure_mcp_grpc import certs
from secure_mcp_grpc.http2 import wire
from secure_mcp_grpc.http2.messages import TRAILERS_OK, prefixed
from secure_mcp_grpc.http2.wire import FRAME_HEADER, FrameType, Setting

__all__ = ["Load", "over_mutual_tls", "over_unix_socket"]

_LAST_ID = 2**31 - 1


class Load:
    """One connection that makes the same unary call again and again."""

    def __init__(self, connection: socket.socket, path: str, message: bytes) -> None:
        self._socket = connection
        self._head = _request_block(path)
        self._body = prefixed(message)
        self._next_id = 1
        self._input = b""
        self._good: set[bytes] = set()
        settings = {Setting.HEADER_TABLE_SIZE: 0, Setting.INITIAL_WINDOW_SIZE: wire.MAX_WINDOW}
        self._socket.sendall(wire.PREFACE + wire.settings(settings) + wire.window_update(0, wire.MAX_WINDOW - 65_535))

    def latencies(self, count: int) -> list[float]:
        """Seconds that each of `count` calls took, one after the other."""
        taken = []
        for _ in range(count):
            request = self._request()
            start = time.perf_counter()
            self._socket.sendall(request)
            while not self._answers():
                pass
            taken.append(time.perf_counter() - start)
        return taken

    def throughput(self, count: int, concurrency: int) -> float:
        """Calls per second, `concurrency` of them at any time."""
        start = time.perf_counter()
        self._socket.sendall(b"".join(self._request() for _ in range(concurrency)))
        sent, done = concurrency, 0
        while done < count:
            answered = self._answers()
            done += answered
            more = min(answered, count - sent)
            if more > 0:
                self._socket.sendall(b"".join(self._request() for _ in range(more)))
                sent += more
        return count / (time.perf_counter() - start)

    def _request(self) -> bytes:
        stream_id, self._next_id = self._next_id, self._next_id + 2
        if stream_id > _LAST_ID:
            raise RuntimeError("the connection has no streams left")
        frames = [wire.frame(FrameType.HEADERS, wire.FLAG_END_HEADERS, stream_id, self._head)]
        for at in range(0, len(self._body), wire.MAX_FRAME_SIZE):
            last = at + wire.MAX_FRAME_SIZE >= len(self._body)
            piece = self._body[at : at + wire.MAX_FRAME_SIZE]
            frames.append(wire.frame(FrameType.DATA, wire.FLAG_END_STREAM if last else 0, stream_id, piece))
        return b"".join(frames)

    def _answers(self) -> int:
        """How many calls the next octets end; raises RuntimeError for one that failed."""
        received = self._socket.recv(262_144)
        if not received:
            raise RuntimeError("the connection was closed")
        data = self._input + received
        position = done = 0
        while len(data) - position >= FRAME_HEADER.size:
            high, low, kind, flags, _ = FRAME_HEADER.unpack_from(data, position)
            following = position + FRAME_HEADER.size + (high << 16 | low)
            if following > len(data):
                break
            done += self._ends(kind, flags, data[position + FRAME_HEADER.size : following])
            position = following
        self._input = data[position:]
        return done

    def _ends(self, kind: int, flags: int, payload: bytes) -> bool:
        if kind == FrameType.SETTINGS and not flags & wire.FLAG_ACK:
            self._socket.sendall(wire.frame(FrameType.SETTINGS, wire.FLAG_ACK, 0))
        elif kind == FrameType.PING and not flags & wire.FLAG_ACK:
            self._socket.sendall(wire.frame(FrameType.PING, wire.FLAG_ACK, 0, payload))
        elif kind in (FrameType.RST_STREAM, FrameType.GOAWAY):
            raise RuntimeError(f"{FrameType(kind).name}: {payload!r}")
        elif kind == FrameType.HEADERS and flags & wire.FLAG_END_STREAM:
            self._check(payload)
            return True
        return False

    def _check(self, block: bytes) -> None:
        """Trailers are seldom new."""
        if block in self._good or block == TRAILERS_OK:
            return
        from hpack import Decoder

        fields = dict(Decoder().decode(block, raw=True))
        if fields.get(b"grpc-status") != b"0":
            raise RuntimeError(f"the call failed: {fields}")
        if len(self._good) < 1000:
            self._good.add(block)


def _request_block(path: str) -> bytes:
    """Without state: it begins by saying so (RFC 7541, 4.2), and can be sent again and again."""
    from hpack import Encoder

    encoder = Encoder()
    encoder.header_table_size = 0
    fields = (
        *((":method", "POST"), (":scheme", "https"), (":path", path), (":authority", "localhost")),
        *(("te", "trailers"), ("content-type", "application/grpc"), ("grpc-timeout", "5S")),
    )
    return bytes(encoder.encode(fields))


@contextlib.contextmanager
def over_mutual_tls(port: int, identity: Path, path: str, message: bytes) -> Iterator[Load]:
    """Calls to Envoy on loopback, as the workload whose certificate is in `identity`."""
    context = ssl.create_default_context(cafile=str(identity / certs.CA_CRT))
    context.load_cert_chain(identity / certs.TLS_CRT, identity / certs.TLS_KEY)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield Load(connection, path, message)


@contextlib.contextmanager
def over_unix_socket(address: Path, path: str, message: bytes) -> Iterator[Load]:
    """Calls to a service on its own socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(address))
        yield Load(connection, path, message)
