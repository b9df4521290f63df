"""A fixed TCP address before servers that come and go: the suite starts one for each scenario, a bridge has one URL."""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

_CHUNK = 65536


class _Forward(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        host, port = server.target.read_text().split()
        try:
            there = socket.create_connection((host, int(port)), timeout=5)
        except OSError:
            return
        with there:
            there.settimeout(None)
            back = threading.Thread(target=_pump, args=(there, self.request), daemon=True)
            back.start()
            _pump(self.request, there)
            back.join()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, target: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.target = target


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            sink.sendall(data)
    for one in (source, sink):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def forwarding(target: Path) -> Iterator[int]:
    """A port of 127.0.0.1 whose new connections go to the `HOST PORT` that the file `target` holds at that time."""
    with _Server(target) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()
